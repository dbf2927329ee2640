/* adopt.c - a frame of the source as a frame of the target.
 *
 * The frame was decoded already, so its data are sound and known. What is left to ask is whether every reader of the
 * target reads it: the window, no dictionary, nothing behind its end. In any doubt it is made anew.
 */
#include "internal.h"

enum { ZLIB_HEAD = 2, ZLIB_TAIL = 4 };

/* The raw deflate stream, which ends where `in` does. */
static bool deflate_fits(const dfmt_placement *p, const uint8_t *in, size_t in_len)
{
    dfmt_walk walk;
    return dfmt_deflate_walk(in, in_len, p->unit, UINT32_C(1) << p->window_bits, &walk) && walk.made == p->unit &&
           walk.used == in_len;
}

/* RFC 1950, section 2.2: deflate, and no dictionary. */
static bool is_zlib_head(const uint8_t *in)
{
    return (in[0] & 15) == 8 && in[0] >> 4 <= 7 && (in[0] * 256U + in[1]) % 31 == 0 && (in[1] & 0x20) == 0;
}

static size_t give(const uint8_t *in, size_t in_len, uint8_t *out, size_t room)
{
    if (in_len > room)
        return 0;
    memcpy(out, in, in_len);
    return in_len;
}

/* A zlib stream around a deflate stream. */
static size_t wrap(const dfmt_placement *p, const uint8_t *in, size_t in_len, const uint8_t *plain, uint8_t *out,
                   size_t room)
{
    if (in_len + ZLIB_HEAD + ZLIB_TAIL > room)
        return 0;
    unsigned head = ((p->window_bits - 8) << 4 | 8) << 8;
    head += 31 - head % 31;
    out[0] = (uint8_t)(head >> 8);
    out[1] = (uint8_t)head;
    memcpy(out + ZLIB_HEAD, in, in_len);
    uint32_t sum = dfmt_adler32(plain, p->unit);
    for (size_t i = 0; i < ZLIB_TAIL; i++)
        out[ZLIB_HEAD + in_len + i] = (uint8_t)(sum >> (24 - 8 * i));
    return ZLIB_HEAD + in_len + ZLIB_TAIL;
}

size_t dfmt_adopt(const dfmt_placement *p, int codec, const uint8_t *in, size_t in_len, const uint8_t *plain,
                  uint8_t *out, size_t room)
{
    if (in_len == 0 || in_len > room)
        return 0;
    if (codec == DFMT_ZSTD)
        return p->codec == DFMT_ZSTD && dfmt_zstd_frames_are_plain(in, in_len) ? give(in, in_len, out, room) : 0;
    if (codec == DFMT_DEFLATE && (p->codec == DFMT_DEFLATE || p->codec == DFMT_ZLIB)) {
        if (!deflate_fits(p, in, in_len))
            return 0;
        return p->codec == DFMT_DEFLATE ? give(in, in_len, out, room) : wrap(p, in, in_len, plain, out, room);
    }
    if (codec == DFMT_ZLIB && (p->codec == DFMT_DEFLATE || p->codec == DFMT_ZLIB)) {
        if (in_len <= ZLIB_HEAD + ZLIB_TAIL || !is_zlib_head(in))
            return 0;
        const uint8_t *body = in + ZLIB_HEAD;
        size_t body_len = in_len - ZLIB_HEAD - ZLIB_TAIL; /* the decoder has compared the checksum behind it */
        if (!deflate_fits(p, body, body_len))
            return 0;
        if (p->codec == DFMT_DEFLATE)
            return give(body, body_len, out, room);
        return (in[0] >> 4) + 8U <= p->window_bits ? give(in, in_len, out, room) : 0;
    }
    return 0;
}
