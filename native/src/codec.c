/* codec.c - one table of codecs over the libraries that this build has.
 *
 *            decode                         encode, levels 1-3       levels 4-9 (window < 15)   levels 4-12
 *   DEFLATE  libdeflate, else zlib          ISA-L, else zlib         zlib                       libdeflate
 *   ZLIB     libdeflate, else zlib          ISA-L, else libdeflate   zlib                       libdeflate
 *   ZSTD     libzstd                        libzstd, levels 1-22
 *
 * libdeflate has no way to bound its match distances, so a window below 32 KiB is ISA-L's or zlib's. Inflate always
 * accepts distances of 32 KiB.
 */
#include "internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

/* The build defines those that it found as 1. */
#ifndef HAVE_LIBDEFLATE
#define HAVE_LIBDEFLATE 0
#endif
#ifndef HAVE_ISAL
#define HAVE_ISAL 0
#endif
#ifndef HAVE_ZLIB
#define HAVE_ZLIB 0
#endif
#ifndef HAVE_ZSTD
#define HAVE_ZSTD 0
#endif

#if HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#if HAVE_ISAL
#include <isa-l.h>
#endif
#if HAVE_ZLIB
#include <zlib.h>
#endif
#if HAVE_ZSTD
#include <zstd.h>
#endif

#define HAVE_INFLATE (HAVE_LIBDEFLATE || HAVE_ZLIB)
#define FULL_WINDOW 15

struct dfmt_decoder {
#if HAVE_LIBDEFLATE
    struct libdeflate_decompressor *inflate;
#endif
#if HAVE_ZSTD
    ZSTD_DCtx *zstd;
#endif
    char unused;
};

struct dfmt_encoder {
    int codec;
    int level;
    int window_bits;
#if HAVE_LIBDEFLATE
    struct libdeflate_compressor *deflate;
#endif
#if HAVE_ISAL
    uint8_t *isal_memory;
    uint32_t isal_size;
#endif
#if HAVE_ZLIB
    z_stream *zlib;
#endif
#if HAVE_ZSTD
    ZSTD_CCtx *zstd;
#endif
};

/* ---- decoding ------------------------------------------------------------------------------------------------ */

dfmt_decoder *dfmt_decoder_new(const dfmt_io *io)
{
    dfmt_decoder *decoder = io->malloc(io->ctx, sizeof(*decoder));
    if (decoder != NULL)
        memset(decoder, 0, sizeof(*decoder));
    return decoder;
}

void dfmt_decoder_free(const dfmt_io *io, dfmt_decoder *decoder)
{
    if (decoder == NULL)
        return;
#if HAVE_LIBDEFLATE
    libdeflate_free_decompressor(decoder->inflate);
#endif
#if HAVE_ZSTD
    ZSTD_freeDCtx(decoder->zstd);
#endif
    io->free(io->ctx, decoder);
}

#if HAVE_LIBDEFLATE
static int inflate_frame(dfmt_decoder *decoder, bool wrapped, const uint8_t *in, size_t in_len, uint8_t *out,
                         size_t out_len)
{
    if (decoder->inflate == NULL)
        decoder->inflate = libdeflate_alloc_decompressor();
    if (decoder->inflate == NULL)
        return DFMT_E_NOMEM;
    size_t used, made = 0;
    enum libdeflate_result result =
        wrapped ? libdeflate_zlib_decompress_ex(decoder->inflate, in, in_len, out, out_len, &used, &made)
                : libdeflate_deflate_decompress_ex(decoder->inflate, in, in_len, out, out_len, &used, &made);
    return result == LIBDEFLATE_SUCCESS && made == out_len ? DFMT_OK : DFMT_E_DATA;
}
#elif HAVE_ZLIB
static int inflate_frame(dfmt_decoder *decoder, bool wrapped, const uint8_t *in, size_t in_len, uint8_t *out,
                         size_t out_len)
{
    (void)decoder;
    if (in_len > UINT_MAX || out_len > UINT_MAX)
        return DFMT_E_DATA;
    z_stream stream = {0};
    stream.next_in = (Bytef *)(uintptr_t)in;
    stream.avail_in = (uInt)in_len;
    stream.next_out = out;
    stream.avail_out = (uInt)out_len;
    if (inflateInit2(&stream, wrapped ? FULL_WINDOW : -FULL_WINDOW) != Z_OK)
        return DFMT_E_NOMEM;
    int result = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return result == Z_STREAM_END && stream.avail_out == 0 ? DFMT_OK : DFMT_E_DATA;
}
#endif

#if HAVE_ZSTD
/* Frames of today's format, or skippable ones. A libzstd may also know the formats of its first years, whose
 * decoders nobody tests any more; no disk image holds them. */
static bool is_zstd_frame(const uint8_t *in, size_t in_len)
{
    if (in_len < 4)
        return false;
    uint32_t magic = in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
    return magic == ZSTD_MAGICNUMBER || (magic & 0xfffffff0U) == ZSTD_MAGIC_SKIPPABLE_START;
}

/* One frame of those that follow each other: `in` and `out` move on behind it. */
static int unzstd_frame(dfmt_decoder *decoder, const uint8_t **in, size_t *in_len, uint8_t **out, size_t *out_len)
{
    if (decoder->zstd == NULL)
        decoder->zstd = ZSTD_createDCtx();
    if (decoder->zstd == NULL)
        return DFMT_E_NOMEM;
    size_t frame = is_zstd_frame(*in, *in_len) ? ZSTD_findFrameCompressedSize(*in, *in_len) : 0;
    if (ZSTD_isError(frame) || frame == 0)
        return DFMT_E_DATA;
    size_t made = ZSTD_decompressDCtx(decoder->zstd, *out, *out_len, *in, frame);
    if (ZSTD_isError(made))
        return DFMT_E_DATA;
    *in += frame;
    *in_len -= frame;
    *out += made;
    *out_len -= made;
    return DFMT_OK;
}

/* A unit may be several frames, and bytes that belong to no frame may follow the last one. */
static int unzstd_frames(dfmt_decoder *decoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    int code = DFMT_OK;
    while (code == DFMT_OK && out_len > 0)
        code = unzstd_frame(decoder, &in, &in_len, &out, &out_len);
    return code;
}
#endif

int dfmt_decoder_run(dfmt_decoder *decoder, int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    (void)decoder, (void)in, (void)in_len, (void)out, (void)out_len;
    switch (codec) {
#if HAVE_INFLATE
    case DFMT_DEFLATE:
    case DFMT_ZLIB:
        return inflate_frame(decoder, codec == DFMT_ZLIB, in, in_len, out, out_len);
#endif
#if HAVE_ZSTD
    case DFMT_ZSTD:
        return unzstd_frames(decoder, in, in_len, out, out_len);
#endif
    default:
        return DFMT_E_CODEC;
    }
}

/* ---- encoding ------------------------------------------------------------------------------------------------ */

#if HAVE_ISAL
#define ISAL_MAX_LEVEL 3
/* The one level that is used, for 1, 2 and 3 alike. What ISA-L 2.30 makes at its levels 1 and 2 depends on the address
 * of its stream: the assembly for the last bytes of a frame takes other matches on another thread's stack, so that one
 * frame in a thousand differs from run to run. Levels 1 and 2 would be 1.6 times as fast. tests/differential holds it.
 */
#define ISAL_LEVEL 3

static bool isal_open(dfmt_encoder *encoder)
{
    encoder->isal_size = ISAL_DEF_LVL3_DEFAULT;
    encoder->isal_memory = malloc(encoder->isal_size);
    return encoder->isal_memory != NULL;
}

static size_t isal_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    struct isal_zstream stream;
    isal_deflate_stateless_init(&stream);
    stream.level = ISAL_LEVEL;
    stream.level_buf = encoder->isal_memory;
    stream.level_buf_size = encoder->isal_size;
    stream.hist_bits = (uint16_t)encoder->window_bits;
    stream.gzip_flag = encoder->codec == DFMT_ZLIB ? IGZIP_ZLIB : IGZIP_DEFLATE;
    stream.end_of_stream = 1;
    stream.flush = NO_FLUSH;
    stream.next_in = (uint8_t *)(uintptr_t)in;
    stream.avail_in = (uint32_t)in_len;
    stream.next_out = out;
    stream.avail_out = (uint32_t)dfmt_min(room, UINT32_MAX);
    return isal_deflate_stateless(&stream) == COMP_OK ? stream.total_out : 0;
}
#endif

#if HAVE_ZLIB
static bool zlib_open(dfmt_encoder *encoder)
{
    encoder->zlib = calloc(1, sizeof(*encoder->zlib));
    if (encoder->zlib == NULL)
        return false;
    int bits = encoder->codec == DFMT_ZLIB ? encoder->window_bits : -encoder->window_bits;
    if (deflateInit2(encoder->zlib, encoder->level, Z_DEFLATED, bits, 9, Z_DEFAULT_STRATEGY) == Z_OK)
        return true;
    free(encoder->zlib);
    encoder->zlib = NULL;
    return false;
}

static size_t zlib_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    z_stream *stream = encoder->zlib;
    if (deflateReset(stream) != Z_OK)
        return 0;
    stream->next_in = (Bytef *)(uintptr_t)in;
    stream->avail_in = (uInt)in_len;
    stream->next_out = out;
    stream->avail_out = (uInt)dfmt_min(room, UINT_MAX);
    return deflate(stream, Z_FINISH) == Z_STREAM_END ? stream->total_out : 0;
}
#endif

#if HAVE_LIBDEFLATE
static size_t libdeflate_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    return encoder->codec == DFMT_ZLIB ? libdeflate_zlib_compress(encoder->deflate, in, in_len, out, room)
                                       : libdeflate_deflate_compress(encoder->deflate, in, in_len, out, room);
}
#endif

/* Which library serves a deflate level: the table at the top of this file. False: none. */
static bool deflate_open(dfmt_encoder *encoder)
{
    if (encoder->level == 0)
        encoder->level = 1;
    if (encoder->level < 0 || encoder->level > 12 || encoder->window_bits < 9 || encoder->window_bits > FULL_WINDOW)
        return false;
#if HAVE_ISAL
    if (encoder->level <= ISAL_MAX_LEVEL)
        return isal_open(encoder);
#endif
#if HAVE_LIBDEFLATE
    if (encoder->window_bits == FULL_WINDOW) {
        encoder->deflate = libdeflate_alloc_compressor(encoder->level);
        return encoder->deflate != NULL;
    }
#endif
#if HAVE_ZLIB
    if (encoder->level <= 9)
        return zlib_open(encoder);
#endif
    return false;
}

int dfmt_encoder_new(const dfmt_io *io, int codec, int level, int window_bits, dfmt_encoder **made)
{
    *made = NULL;
    dfmt_encoder *encoder = io->malloc(io->ctx, sizeof(*encoder));
    if (encoder == NULL)
        return DFMT_E_NOMEM;
    memset(encoder, 0, sizeof(*encoder));
    encoder->codec = codec;
    encoder->level = level;
    encoder->window_bits = window_bits;
    bool open = false;
    if (codec == DFMT_DEFLATE || codec == DFMT_ZLIB)
        open = deflate_open(encoder);
#if HAVE_ZSTD
    if (codec == DFMT_ZSTD && level >= 0 && level <= 22) {
        encoder->zstd = ZSTD_createCCtx();
        open = encoder->zstd != NULL &&
               !ZSTD_isError(ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel,
                                                    level == 0 ? ZSTD_CLEVEL_DEFAULT : level));
    }
#endif
    if (open) {
        *made = encoder;
        return DFMT_OK;
    }
    dfmt_encoder_free(io, encoder);
    return DFMT_E_CODEC;
}

void dfmt_encoder_free(const dfmt_io *io, dfmt_encoder *encoder)
{
    if (encoder == NULL)
        return;
#if HAVE_LIBDEFLATE
    libdeflate_free_compressor(encoder->deflate);
#endif
#if HAVE_ISAL
    free(encoder->isal_memory);
#endif
#if HAVE_ZLIB
    if (encoder->zlib != NULL)
        deflateEnd(encoder->zlib);
    free(encoder->zlib);
#endif
#if HAVE_ZSTD
    ZSTD_freeCCtx(encoder->zstd);
#endif
    io->free(io->ctx, encoder);
}

size_t dfmt_encoder_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    if (in_len > DFMT_MAX_FRAME)
        return 0;
#if HAVE_ISAL
    if (encoder->isal_memory != NULL)
        return isal_run(encoder, in, in_len, out, room);
#endif
#if HAVE_LIBDEFLATE
    if (encoder->deflate != NULL)
        return libdeflate_run(encoder, in, in_len, out, room);
#endif
#if HAVE_ZLIB
    if (encoder->zlib != NULL)
        return zlib_run(encoder, in, in_len, out, room);
#endif
#if HAVE_ZSTD
    if (encoder->zstd != NULL) {
        size_t made = ZSTD_compress2(encoder->zstd, out, room, in, in_len);
        return ZSTD_isError(made) ? 0 : made;
    }
#endif
    (void)encoder, (void)in, (void)out, (void)room;
    return 0;
}

size_t dfmt_encoder_memory(const dfmt_encoder *encoder)
{
#if HAVE_ZSTD
    if (encoder->zstd != NULL)
        return ZSTD_sizeof_CCtx(encoder->zstd);
#endif
    return (encoder->level >= 10 ? 10U : 1U) << 20; /* libdeflate's slowest levels keep all matches of a block */
}

/* Deflate grows data by 5 bytes per stored block of at least 16 KiB, zstd by 1/256; headers and checksums on top. */
size_t dfmt_encode_bound(int codec, size_t in_len)
{
    (void)codec;
    return in_len + in_len / 64 + 1024;
}

/* ---- one frame at a time, and what there is ------------------------------------------------------------------- */

int dfmt_decode(int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len, dfmt_error *err)
{
    dfmt_decoder *decoder = dfmt_decoder_new(dfmt_io_posix());
    if (decoder == NULL)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, 0, 0);
    int code = dfmt_decoder_run(decoder, codec, in, in_len, out, out_len);
    dfmt_decoder_free(dfmt_io_posix(), decoder);
    return code == DFMT_OK ? DFMT_OK : dfmt_fail(err, code, 0, 0, 0, 0);
}

int dfmt_decode_frames(const uint8_t *in, size_t *in_len, uint8_t *out, size_t *out_len, dfmt_error *err)
{
#if HAVE_ZSTD
    dfmt_decoder *decoder = dfmt_decoder_new(dfmt_io_posix());
    if (decoder == NULL)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, 0, 0);
    size_t left = *in_len, room = *out_len;
    int code;
    do
        code = unzstd_frame(decoder, &in, &left, &out, &room);
    while (code == DFMT_OK && is_zstd_frame(in, left));
    dfmt_decoder_free(dfmt_io_posix(), decoder);
    if (code != DFMT_OK)
        return dfmt_fail(err, code, 0, 0, 0, 0);
    *in_len -= left;
    *out_len -= room;
    return DFMT_OK;
#else
    (void)in, (void)in_len, (void)out, (void)out_len;
    return dfmt_fail(err, DFMT_E_CODEC, 0, 0, 0, 0);
#endif
}

int dfmt_encode(int codec, int level, int window_bits, const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len,
                dfmt_error *err)
{
    dfmt_encoder *encoder;
    int code = dfmt_encoder_new(dfmt_io_posix(), codec, level, window_bits, &encoder);
    if (code != DFMT_OK)
        return dfmt_fail(err, code, 0, 0, 0, 0);
    size_t made = dfmt_encoder_run(encoder, in, in_len, out, *out_len);
    dfmt_encoder_free(dfmt_io_posix(), encoder);
    if (made == 0)
        return dfmt_fail(err, DFMT_E_ARG, 0, 0, 0, 0);
    *out_len = made;
    return DFMT_OK;
}

int dfmt_can_decode(int codec)
{
    return codec == DFMT_NONE || ((codec == DFMT_DEFLATE || codec == DFMT_ZLIB) && HAVE_INFLATE) ||
           (codec == DFMT_ZSTD && HAVE_ZSTD);
}

int dfmt_can_encode(int codec, int level, int window_bits)
{
    if (codec == DFMT_NONE)
        return 1;
    dfmt_encoder *encoder;
    int code = dfmt_encoder_new(dfmt_io_posix(), codec, level, window_bits, &encoder);
    dfmt_encoder_free(dfmt_io_posix(), encoder);
    return code == DFMT_OK;
}

uint32_t dfmt_crc32(const uint8_t *data, size_t length)
{
#if HAVE_LIBDEFLATE
    return libdeflate_crc32(0, data, length);
#elif HAVE_ZLIB
    return (uint32_t)crc32(0, data, (uInt)length);
#else
    uint32_t crc = UINT32_MAX; /* reflected 0x04c11db7, bit by bit */
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (UINT32_C(0xedb88320) & (0U - (crc & 1)));
    }
    return ~crc;
#endif
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *dfmt_codecs(void)
{
    return "inflate: "
#if HAVE_LIBDEFLATE
           "libdeflate " LIBDEFLATE_VERSION_STRING
#elif HAVE_ZLIB
           "zlib " ZLIB_VERSION
#else
           "none"
#endif
           ", deflate: "
#if HAVE_ISAL
           "isa-l " TEXT(ISAL_MAJOR_VERSION) "." TEXT(ISAL_MINOR_VERSION) "." TEXT(ISAL_PATCH_VERSION)
#if HAVE_LIBDEFLATE || HAVE_ZLIB
           " + "
#endif
#endif
#if HAVE_LIBDEFLATE
           "libdeflate " LIBDEFLATE_VERSION_STRING
#if HAVE_ZLIB
           " + "
#endif
#endif
#if HAVE_ZLIB
           "zlib " ZLIB_VERSION
#endif
#if !HAVE_ISAL && !HAVE_LIBDEFLATE && !HAVE_ZLIB
           "none"
#endif
           ", zstd: "
#if HAVE_ZSTD
           "libzstd " ZSTD_VERSION_STRING;
#else
           "none";
#endif
}
