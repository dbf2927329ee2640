/* codec.c - one frame at a time, and which codecs there are.
 *
 *            decode                    encode: level 0 to 3      level 4 and up, full window   and a smaller window
 *   DEFLATE  libdeflate, else zlib     ISA-L (0 is 2)            libdeflate, to 12             zlib, to 9
 *   ZLIB     libdeflate, else zlib     ISA-L (0 is 2)            libdeflate, to 12             zlib, to 9
 *   ZSTD     libzstd                   libzstd, to 22 (0 is its default)
 *
 * Without ISA-L its levels are as the others (0 is 1); without libdeflate or zlib the other of the two serves.
 * libdeflate has no way to bound its match distances, so a window below 32 KiB is ISA-L's or zlib's. Inflate always
 * accepts distances of 32 KiB.
 */
#include "internal.h"
#include "libraries.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

int dfmt_decode(int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len, dfmt_error *err)
{
    dfmt_decoder *decoder = dfmt_decoder_new(dfmt_io_posix());
    if (decoder == NULL)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, 0, 0);
    size_t used;
    int code = dfmt_decoder_run(decoder, codec, in, in_len, out, out_len, &used);
    dfmt_decoder_free(dfmt_io_posix(), decoder);
    return code == DFMT_OK ? DFMT_OK : dfmt_fail(err, code, 0, 0, 0, 0);
}

int dfmt_decode_frames(const uint8_t *in, size_t *in_len, uint8_t *out, size_t *out_len, dfmt_error *err)
{
    dfmt_decoder *decoder = dfmt_decoder_new(dfmt_io_posix());
    if (decoder == NULL)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, 0, 0);
    int code = dfmt_decoder_frames(decoder, in, in_len, out, out_len);
    dfmt_decoder_free(dfmt_io_posix(), decoder);
    return code == DFMT_OK ? DFMT_OK : dfmt_fail(err, code, 0, 0, 0, 0);
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

uint32_t dfmt_adler32(const uint8_t *data, size_t length)
{
#if HAVE_LIBDEFLATE
    return libdeflate_adler32(1, data, length);
#elif HAVE_ZLIB
    return (uint32_t)adler32(1, data, (uInt)length);
#else
    uint32_t low = 1, high = 0; /* RFC 1950, section 8.2 */
    for (size_t i = 0; i < length; i++) {
        low = (low + data[i]) % 65521;
        high = (high + low) % 65521;
    }
    return high << 16 | low;
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
