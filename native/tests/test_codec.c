/* test_codec.c - frames round trip at every level, and nothing but whole frames decodes. */
#include "testing.h"

#include "internal.h"

#if HAVE_ZLIB
#include <zlib.h>
#endif

static const char *const names[] = {"none", "deflate", "zlib", "zstd"};
enum { UNIT = 65536 };

static uint8_t *plain, *frame, *out;
static size_t room;

static size_t encode(int codec, int level, int window, const uint8_t *in, size_t length)
{
    size_t size = dfmt_encode_bound(codec, length);
    CHECK(size <= room);
    SAME(dfmt_encode(codec, level, window, in, length, frame, &size, NULL), DFMT_OK);
    CHECK(size > 0 && size <= dfmt_encode_bound(codec, length));
    return size;
}

static void expect(int code, int codec, size_t in_len, size_t out_len)
{
    dfmt_error err = {0};
    /* Both buffers end at an unmapped page. */
    guarded in = guarded_new(in_len), to = guarded_new(out_len);
    memcpy(in.end - in_len, frame, in_len);
    SAME(dfmt_decode(codec, in.end - in_len, in_len, to.end - out_len, out_len, &err), code);
    SAME(err.code, code);
    if (code == DFMT_OK)
        CHECK(memcmp(to.end - out_len, plain, out_len) == 0);
    guarded_free(in);
    guarded_free(to);
}

#if HAVE_ZLIB
/* zlib refuses a distance beyond the window that it is given: the bound of qcow2. */
static void window_holds(int codec, int window, size_t size, size_t length)
{
    z_stream stream = {.next_in = frame, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)length};
    SAME(inflateInit2(&stream, codec == DFMT_ZLIB ? 15 : -window), Z_OK);
    SAME(inflate(&stream, Z_FINISH), Z_STREAM_END);
    inflateEnd(&stream);
    CHECK(memcmp(out, plain, length) == 0);
}
#endif

static int round_trips(int codec)
{
    int tried = 0;
    static const size_t lengths[] = {1, 511, 512, 4096, 4097, 32768, 65535, 65536, 200000, 1 << 20};
    for (int level = 0; level <= 22; level++) {
        for (int window = 9; window <= 15; window++) {
            if (!dfmt_can_encode(codec, level, window))
                continue;
            if (codec == DFMT_ZSTD && window != 15)
                continue; /* the window is deflate's */
            tried++;
            for (int content = 0; content < 3; content++) {
                for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                    size_t length = lengths[i];
                    if (length > UNIT && (level > 3 || window % 3 != 0))
                        continue; /* the slow levels have shown it with shorter ones */
                    memset(plain, 0, length);
                    if (content == 1)
                        fill_text(plain, length);
                    if (content == 2)
                        fill_random(plain, length);
                    size_t size = encode(codec, level, window, plain, length);
                    SAME(dfmt_decode(codec, frame, size, out, length, NULL), DFMT_OK);
                    CHECK(memcmp(out, plain, length) == 0);
#if HAVE_ZLIB
                    if (codec != DFMT_ZSTD)
                        window_holds(codec, window, size, length);
#endif
                }
            }
        }
    }
    return tried;
}

static void edges(int codec)
{
    fill_text(plain, UNIT);
    size_t size = encode(codec, 0, 15, plain, UNIT);
    expect(DFMT_OK, codec, size, UNIT);
    expect(DFMT_E_DATA, codec, size - 1, UNIT);
    expect(DFMT_E_DATA, codec, size / 2, UNIT);
    expect(DFMT_E_DATA, codec, 1, UNIT);
    expect(DFMT_E_DATA, codec, 0, UNIT);
    expect(DFMT_E_DATA, codec, size, UNIT - 1);
    expect(DFMT_E_DATA, codec, size, UNIT + 1);
    expect(DFMT_E_DATA, codec, size, 1);
    /* Whatever lies behind the frame up to the end of its sector. */
    fill_random(frame + size, 600);
    expect(DFMT_OK, codec, size + 1, UNIT);
    expect(DFMT_OK, codec, size + 511, UNIT);
    memset(frame + size, 0, 600);
    expect(DFMT_OK, codec, size + 600, UNIT);
    expect(DFMT_E_DATA, codec, size + 600, UNIT + 1);
    /* One bit wrong: an error, or other bytes - never a crash (deflate has no checksum). */
    for (int i = 0; i < 400; i++) {
        size_t bit = random_below(8 * size);
        frame[bit / 8] ^= (uint8_t)(1U << (bit % 8));
        int code = dfmt_decode(codec, frame, size, out, UNIT, NULL);
        CHECK(code == DFMT_OK || code == DFMT_E_DATA);
        if (codec == DFMT_ZLIB)
            CHECK(code == DFMT_E_DATA || memcmp(out, plain, UNIT) == 0);
        frame[bit / 8] ^= (uint8_t)(1U << (bit % 8));
    }
}

static void small_room(int codec)
{
    fill_random(plain, UNIT);
    for (size_t size = 1; size < UNIT; size += 1 + size / 3) {
        guarded g = guarded_new(size);
        size_t have = size;
        dfmt_error err = {0};
        SAME(dfmt_encode(codec, 0, 15, plain, UNIT, g.end - size, &have, &err), DFMT_E_ARG);
        SAME(err.code, DFMT_E_ARG);
        guarded_free(g);
    }
    size_t have = room;
    CHECK(dfmt_encode(codec, 0, 15, plain, (size_t)DFMT_MAX_FRAME + 1, frame, &have, NULL) != DFMT_OK);
}

static void several_zstd_frames(void)
{
    if (!dfmt_can_encode(DFMT_ZSTD, 0, 15) || !dfmt_can_decode(DFMT_ZSTD))
        return;
    fill_text(plain, UNIT);
    size_t half = dfmt_encode_bound(DFMT_ZSTD, UNIT / 2), rest = half, empty = 100;
    uint8_t *a = must_alloc(half), *b = must_alloc(rest), c[100];
    SAME(dfmt_encode(DFMT_ZSTD, 1, 15, plain, UNIT / 2, a, &half, NULL), DFMT_OK);
    SAME(dfmt_encode(DFMT_ZSTD, 1, 15, plain + UNIT / 2, UNIT / 2, b, &rest, NULL), DFMT_OK);
    static const uint8_t nothing[] = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00}; /* frame of no bytes */
    static const uint8_t skippable[] = {0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3};
    empty = sizeof(nothing);
    memcpy(c, nothing, empty);
    memcpy(frame, a, half);
    expect(DFMT_E_DATA, DFMT_ZSTD, half, UNIT); /* half a unit is not one */
    memcpy(frame + half, b, rest);
    expect(DFMT_OK, DFMT_ZSTD, half + rest, UNIT);
    expect(DFMT_OK, DFMT_ZSTD, half + rest, UNIT / 2); /* what follows is none of its business */
    expect(DFMT_E_DATA, DFMT_ZSTD, half + rest, UNIT / 2 + 1);
    expect(DFMT_E_DATA, DFMT_ZSTD, half + rest - 1, UNIT);
    size_t at = 0;
    memcpy(frame, skippable, sizeof(skippable));
    at += sizeof(skippable);
    memcpy(frame + at, c, empty);
    at += empty;
    memcpy(frame + at, a, half);
    at += half;
    memcpy(frame + at, skippable, sizeof(skippable));
    at += sizeof(skippable);
    memcpy(frame + at, b, rest);
    expect(DFMT_OK, DFMT_ZSTD, at + rest, UNIT);
    /* Frames of nothing must not keep the decoder busy or satisfied. */
    for (size_t i = 0; i < 1000; i++)
        memcpy(frame + i * sizeof(skippable), skippable, sizeof(skippable));
    expect(DFMT_E_DATA, DFMT_ZSTD, 1000 * sizeof(skippable), UNIT);
    /* A frame of the format's first years (version 0.7), which the library might know. */
    static const uint8_t legacy[] = {0x27, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0xc0, 0x00, 0x00};
    memcpy(frame, legacy, sizeof(legacy));
    expect(DFMT_E_DATA, DFMT_ZSTD, sizeof(legacy), UNIT);
    free(a);
    free(b);
}

/* Frames of a length that nobody knows: all of them, and where they end. */
static void frames_of_unknown_length(void)
{
    dfmt_error err = {0};
    size_t used = 10, made = UNIT;
    if (!dfmt_can_decode(DFMT_ZSTD)) {
        SAME(dfmt_decode_frames(frame, &used, out, &made, &err), DFMT_E_CODEC);
        return;
    }
    size_t first = encode(DFMT_ZSTD, 1, 15, plain, 5000);
    uint8_t *both = must_alloc(2 * room);
    memcpy(both, frame, first);
    size_t size = first + encode(DFMT_ZSTD, 1, 15, plain + 5000, 300);
    memcpy(both + first, frame, size - first);
    memcpy(both + size, "070701", 6);
    used = size + 6;
    SAME(dfmt_decode_frames(both, &used, out, &made, &err), DFMT_OK);
    SAME(used, size);
    SAME(made, 5300);
    CHECK(memcmp(out, plain, made) == 0);
    used = size;
    made = 5300; /* just enough */
    SAME(dfmt_decode_frames(both, &used, out, &made, &err), DFMT_OK);
    made = 5299;
    SAME(dfmt_decode_frames(both, &used, out, &made, &err), DFMT_E_DATA);
    SAME(err.code, DFMT_E_DATA);
    used = size - 1;
    made = UNIT;
    SAME(dfmt_decode_frames(both, &used, out, &made, &err), DFMT_E_DATA);
    used = 3;
    SAME(dfmt_decode_frames(both, &used, out, &made, &err), DFMT_E_DATA);
    free(both);
}

static void bad_numbers(void)
{
    dfmt_error err = {0};
    size_t have = room;
    CHECK(dfmt_can_decode(DFMT_NONE) && dfmt_can_encode(DFMT_NONE, 0, 15));
    CHECK(!dfmt_can_decode(4) && !dfmt_can_decode(-1));
    CHECK(!dfmt_can_encode(4, 0, 15) && !dfmt_can_encode(-1, 0, 15));
    for (int codec = DFMT_DEFLATE; codec <= DFMT_ZSTD; codec++) {
        CHECK(!dfmt_can_encode(codec, -1, 15) && !dfmt_can_encode(codec, 23, 15));
        SAME(dfmt_encode(codec, 99, 15, plain, 512, frame, &have, &err), DFMT_E_CODEC);
    }
    CHECK(!dfmt_can_encode(DFMT_DEFLATE, 1, 8) && !dfmt_can_encode(DFMT_DEFLATE, 1, 16));
    SAME(dfmt_decode(DFMT_NONE, frame, 1, out, 1, &err), DFMT_E_CODEC);
    SAME(dfmt_decode(77, frame, 1, out, 1, &err), DFMT_E_CODEC);
    CHECK(dfmt_crc32((const uint8_t *)"123456789", 9) == 0xcbf43926);
}

int main(void)
{
    room = dfmt_encode_bound(DFMT_ZSTD, DFMT_MAX_FRAME) + 4096;
    plain = must_alloc((size_t)DFMT_MAX_FRAME + 1);
    frame = must_alloc(room);
    out = must_alloc(room);
    bad_numbers();
    printf("codecs (%s):", dfmt_codecs());
    for (int codec = DFMT_DEFLATE; codec <= DFMT_ZSTD; codec++) {
        int tried = dfmt_can_decode(codec) ? round_trips(codec) : 0;
        printf(" %s %d settings,", names[codec], tried);
        if (tried == 0)
            continue;
        edges(codec);
        small_room(codec);
    }
    several_zstd_frames();
    frames_of_unknown_length();
    free(plain);
    free(frame);
    free(out);
    printf(" edges: passed\n");
    return 0;
}
