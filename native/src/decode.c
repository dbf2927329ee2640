/* decode.c - one stored frame into the bytes of its unit. */
#include "internal.h"
#include "libraries.h"

#include <limits.h>

struct dfmt_decoder {
#if HAVE_LIBDEFLATE
    struct libdeflate_decompressor *inflate;
#endif
#if HAVE_ZSTD
    ZSTD_DCtx *zstd;
#endif
    char unused;
};

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
                         size_t out_len, size_t *used)
{
    if (decoder->inflate == NULL)
        decoder->inflate = libdeflate_alloc_decompressor();
    if (decoder->inflate == NULL)
        return DFMT_E_NOMEM;
    size_t made = 0;
    enum libdeflate_result result =
        wrapped ? libdeflate_zlib_decompress_ex(decoder->inflate, in, in_len, out, out_len, used, &made)
                : libdeflate_deflate_decompress_ex(decoder->inflate, in, in_len, out, out_len, used, &made);
    return result == LIBDEFLATE_SUCCESS && made == out_len ? DFMT_OK : DFMT_E_DATA;
}
#elif HAVE_ZLIB
static int inflate_frame(dfmt_decoder *decoder, bool wrapped, const uint8_t *in, size_t in_len, uint8_t *out,
                         size_t out_len, size_t *used)
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
    *used = in_len - stream.avail_in;
    return result == Z_STREAM_END && stream.avail_out == 0 ? DFMT_OK : DFMT_E_DATA;
}
#endif

#if HAVE_ZSTD
/* RFC 8878, section 3.1.1.1: is it a frame of today's format that a decoder with a window of `most_window` bytes and no
 * dictionary reads? (A libzstd may also know the formats of zstd's first years, which no disk image holds.) */
static bool is_plain_zstd_frame(const uint8_t *in, size_t in_len, uint64_t most_window)
{
    static const uint8_t id_sizes[] = {0, 1, 2, 4}, content_sizes[] = {0, 2, 4, 8};
    if (in_len < 5 || dfmt_load_le(in, 4) != ZSTD_MAGICNUMBER)
        return false;
    uint8_t descriptor = in[4];
    bool single = descriptor & 0x20; /* the content is the window */
    size_t id_size = id_sizes[descriptor & 3];
    size_t content_size = single && descriptor >> 6 == 0 ? 1 : content_sizes[descriptor >> 6];
    size_t at = single ? 5 : 6;
    if (in_len < at + id_size + content_size)
        return false;
    uint64_t window;
    if (single) {
        window = dfmt_load_le(in + at + id_size, content_size) + (content_size == 2 ? 256 : 0);
    } else {
        uint64_t base = UINT64_C(1) << (10 + (in[5] >> 3));
        window = base + base / 8 * (in[5] & 7);
    }
    return window <= most_window && dfmt_load_le(in + at, id_size) == 0;
}

static bool is_skippable_zstd_frame(const uint8_t *in, size_t in_len)
{
    return in_len >= 8 && (dfmt_load_le(in, 4) & 0xfffffff0U) == ZSTD_MAGIC_SKIPPABLE_START;
}

/* A unit may be several frames, and bytes that belong to no frame may follow the last one. */
static int unzstd_frames(dfmt_decoder *decoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
                         size_t *used)
{
    if (decoder->zstd == NULL)
        decoder->zstd = ZSTD_createDCtx();
    if (decoder->zstd == NULL)
        return DFMT_E_NOMEM;
    size_t at = 0;
    while (out_len > 0) {
        bool known = is_plain_zstd_frame(in + at, in_len - at, DFMT_MAX_ZSTD_WINDOW) ||
                     is_skippable_zstd_frame(in + at, in_len - at);
        size_t frame = known ? ZSTD_findFrameCompressedSize(in + at, in_len - at) : 0;
        if (ZSTD_isError(frame) || frame == 0)
            return DFMT_E_DATA;
        size_t made = ZSTD_decompressDCtx(decoder->zstd, out, out_len, in + at, frame);
        if (ZSTD_isError(made))
            return DFMT_E_DATA;
        at += frame;
        out += made;
        out_len -= made;
    }
    *used = at;
    return DFMT_OK;
}
#endif

int dfmt_decoder_frames(dfmt_decoder *decoder, const uint8_t *in, size_t *in_len, uint8_t *out, size_t *out_len)
{
#if HAVE_ZSTD
    if (decoder->zstd == NULL)
        decoder->zstd = ZSTD_createDCtx();
    if (decoder->zstd == NULL)
        return DFMT_E_NOMEM;
    size_t at = 0, made = 0;
    /* The whole output is at hand, so that a wide window takes no memory. */
    while (is_plain_zstd_frame(in + at, *in_len - at, UINT64_MAX) || is_skippable_zstd_frame(in + at, *in_len - at)) {
        size_t frame = ZSTD_findFrameCompressedSize(in + at, *in_len - at);
        if (ZSTD_isError(frame))
            return DFMT_E_DATA;
        size_t more = ZSTD_decompressDCtx(decoder->zstd, out + made, *out_len - made, in + at, frame);
        if (ZSTD_isError(more))
            return DFMT_E_DATA;
        at += frame;
        made += more;
    }
    *in_len = at;
    *out_len = made;
    return at > 0 ? DFMT_OK : DFMT_E_DATA;
#else
    (void)decoder, (void)in, (void)in_len, (void)out, (void)out_len;
    return DFMT_E_CODEC;
#endif
}

bool dfmt_zstd_frames_are_plain(const uint8_t *in, size_t in_len)
{
#if HAVE_ZSTD
    while (in_len > 0) {
        size_t frame =
            is_plain_zstd_frame(in, in_len, DFMT_MAX_ZSTD_WINDOW) ? ZSTD_findFrameCompressedSize(in, in_len) : 0;
        if (ZSTD_isError(frame) || frame == 0)
            return false;
        in += frame;
        in_len -= frame;
    }
    return true;
#else
    (void)in, (void)in_len;
    return false;
#endif
}

int dfmt_decoder_run(dfmt_decoder *decoder, int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
                     size_t *used)
{
    (void)decoder, (void)in, (void)in_len, (void)out, (void)out_len, (void)used;
    switch (codec) {
#if HAVE_INFLATE
    case DFMT_DEFLATE:
    case DFMT_ZLIB:
        return inflate_frame(decoder, codec == DFMT_ZLIB, in, in_len, out, out_len, used);
#endif
#if HAVE_ZSTD
    case DFMT_ZSTD:
        return unzstd_frames(decoder, in, in_len, out, out_len, used);
#endif
    default:
        return DFMT_E_CODEC;
    }
}
