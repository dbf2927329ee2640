/* encode.c - the bytes of one unit into a frame. */
#include "internal.h"
#include "libraries.h"

#include <limits.h>
#include <stdlib.h>

struct dfmt_encoder {
    int codec;
    int level;
    int window_bits;
#if HAVE_LIBDEFLATE
    struct libdeflate_compressor *deflate;
#endif
#if HAVE_ISAL
    struct isal_zstream *isal;
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

#if HAVE_ISAL
#define ISAL_MAX_LEVEL 3

static bool isal_open(dfmt_encoder *encoder)
{
    static const uint32_t sizes[] = {0, ISAL_DEF_LVL1_DEFAULT, ISAL_DEF_LVL2_DEFAULT, ISAL_DEF_LVL3_DEFAULT};
    if (!DFMT_ISAL_PLACES)
        encoder->level = ISAL_MAX_LEVEL;
    encoder->isal_size = sizes[encoder->level];
    encoder->isal_memory = malloc(encoder->isal_size);
    encoder->isal = dfmt_isal_stream_new(sizeof(*encoder->isal));
    return encoder->isal_memory != NULL && encoder->isal != NULL;
}

static size_t isal_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    struct isal_zstream *stream = encoder->isal;
    isal_deflate_stateless_init(stream);
    stream->level = (uint32_t)encoder->level;
    stream->level_buf = encoder->isal_memory;
    stream->level_buf_size = encoder->isal_size;
    stream->hist_bits = (uint16_t)encoder->window_bits;
    stream->gzip_flag = encoder->codec == DFMT_ZLIB ? IGZIP_ZLIB : IGZIP_DEFLATE;
    stream->end_of_stream = 1;
    stream->flush = NO_FLUSH;
    stream->next_in = (uint8_t *)(uintptr_t)in;
    stream->avail_in = (uint32_t)in_len;
    stream->next_out = out;
    stream->avail_out = (uint32_t)dfmt_min(room, UINT32_MAX);
    return isal_deflate_stateless(stream) == COMP_OK ? stream->total_out : 0;
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

/* ISA-L's level 2 takes a twentieth more time than its level 1, and makes one per cent less. */
#define FAST_LEVEL (HAVE_ISAL ? 2 : 1)

/* Which library serves a deflate level: the table at the top of this file. False: none. */
static bool deflate_open(dfmt_encoder *encoder)
{
    if (encoder->level == 0)
        encoder->level = FAST_LEVEL;
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
    dfmt_isal_stream_free(encoder->isal, sizeof(*encoder->isal));
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
    if (encoder->isal != NULL)
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

