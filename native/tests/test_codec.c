/* test_codec.c - frames round trip at every level, and nothing but whole frames decodes. */
#include "testing.h"

#include "internal.h"

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

/* No distance is above the window: what qcow2 asks for. */
static void window_holds(int codec, int window, size_t size, size_t length)
{
    const uint8_t *in = codec == DFMT_ZLIB ? frame + 2 : frame;
    dfmt_walk walk;
    CHECK(dfmt_deflate_walk(in, size - (codec == DFMT_ZLIB ? 6 : 0), length, 1U << window, &walk));
    SAME(walk.used, size - (codec == DFMT_ZLIB ? 6 : 0));
    SAME(walk.made, length);
#if HAVE_ZLIB
    if (length == 4097 || (length == UNIT && window == 12)) /* slow */
        CHECK(window_is_enough(in, size, window));
#endif
}

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
            for (int content = 0; content < 4; content++) {
                for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                    size_t length = lengths[i];
                    if (length > UNIT && (level > 3 || window % 3 != 0))
                        continue; /* the slow levels have shown it with shorter ones */
                    if (content == 3 && length != 4097 && length != UNIT)
                        continue; /* it is about windows */
                    memset(plain, 0, length);
                    if (content == 1)
                        fill_text(plain, length);
                    if (content == 2)
                        fill_random(plain, length);
                    if (content == 3)
                        fill_repeats(plain, length);
                    size_t size = encode(codec, level, window, plain, length);
                    SAME(dfmt_decode(codec, frame, size, out, length, NULL), DFMT_OK);
                    CHECK(memcmp(out, plain, length) == 0);
                    if (codec != DFMT_ZSTD)
                        window_holds(codec, window, size, length);
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

/* One raw block in a frame by hand (RFC 8878). Returns its length. */
static size_t zstd_by_hand(uint8_t descriptor, uint8_t window, const uint8_t *id, size_t id_len, size_t length)
{
    size_t at = 0;
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    memcpy(frame, magic, 4), at += 4;
    frame[at++] = descriptor;
    frame[at++] = window;
    memcpy(frame + at, id, id_len), at += id_len;
    uint32_t block = (uint32_t)length << 3 | 1;
    for (int i = 0; i < 3; i++)
        frame[at++] = (uint8_t)(block >> (8 * i));
    memcpy(frame + at, plain, length);
    return at + length;
}

static void zstd_limits(void)
{
    if (!dfmt_can_decode(DFMT_ZSTD))
        return;
    enum { LENGTH = 1000 };
    static const uint8_t no_id[] = {0, 0, 0, 0}, id[] = {7, 0, 0, 0};
    fill_text(plain, LENGTH);
    expect(DFMT_OK, DFMT_ZSTD, zstd_by_hand(0, 0, no_id, 0, LENGTH), LENGTH);
    expect(DFMT_OK, DFMT_ZSTD, zstd_by_hand(0, 11 << 3, no_id, 0, LENGTH), LENGTH); /* 2 MiB */
    expect(DFMT_E_DATA, DFMT_ZSTD, zstd_by_hand(0, 11 << 3 | 1, no_id, 0, LENGTH), LENGTH);
    expect(DFMT_E_DATA, DFMT_ZSTD, zstd_by_hand(0, 12 << 3, no_id, 0, LENGTH), LENGTH);
    expect(DFMT_E_DATA, DFMT_ZSTD, zstd_by_hand(0, 0xff, no_id, 0, LENGTH), LENGTH);
    for (uint8_t size = 1; size <= 3; size++) { /* a dictionary that is none, and one */
        expect(DFMT_OK, DFMT_ZSTD, zstd_by_hand(size, 0, no_id, size == 3 ? 4 : size, LENGTH), LENGTH);
        expect(DFMT_E_DATA, DFMT_ZSTD, zstd_by_hand(size, 0, id, size == 3 ? 4 : size, LENGTH), LENGTH);
    }
    for (size_t cut = 0; cut < 9; cut++)
        expect(DFMT_E_DATA, DFMT_ZSTD, (zstd_by_hand(0, 0, no_id, 0, LENGTH), cut), LENGTH);
}

/* A stream that is complete is enough, however the file ends: inside its last sector, or directly behind it. */
static void streams_that_end_early(int codec)
{
    for (int round = 0; round < 150; round++) {
        size_t length = round % 2 == 0 ? UNIT : 512 << random_below(8);
        if (round % 3 == 0)
            fill_text(plain, length);
        else if (round % 3 == 1)
            fill_repeats(plain, length);
        else
            fill_random(plain, length);
        size_t size = encode(codec, 0, 15, plain, length), sector = (size + 511) / 512 * 512;
        fill_random(frame + size, sector - size);
        expect(DFMT_OK, codec, size, length);
        expect(DFMT_OK, codec, sector, length);
        expect(DFMT_OK, codec, size + random_below(sector - size + 1), length);
        expect(DFMT_E_DATA, codec, size - 1, length);
    }
}

#if HAVE_ZLIB
/* The largest window there is: a match over 32 KiB. */
static void full_window(int codec)
{
    size_t length = 2 * 32768, size = room;
    fill_random(plain, 32768);
    memcpy(plain + 32768, plain, 32768);
    z_stream z = {.next_in = plain, .avail_in = (uInt)length, .next_out = frame, .avail_out = (uInt)room};
    SAME(deflateInit2(&z, 9, Z_DEFLATED, codec == DFMT_ZLIB ? 15 : -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    SAME(deflate(&z, Z_FINISH), Z_STREAM_END);
    size = z.total_out;
    deflateEnd(&z);
    /* zlib itself looks back 32,768 - 262 bytes; a stream by hand does more: a stored block, then one match. */
    expect(DFMT_OK, codec, size, length);
    size_t at = 0;
    if (codec == DFMT_ZLIB)
        frame[at++] = 0x78, frame[at++] = 0x01;
    static const uint8_t stored[] = {0, 0x00, 0x80, 0xff, 0x7f};
    memcpy(frame + at, stored, 5), at += 5;
    memcpy(frame + at, plain, 32768), at += 32768;
    /* Final fixed block: length 258 (code 11000101), distance 32,768 (11101, 13 bits of 1), end. */
    static const uint8_t match[] = {0x1b, 0xbd, 0xff, 0x1f, 0x00};
    memcpy(frame + at, match, sizeof(match)), at += sizeof(match);
    length = 32768 + 258;
    memcpy(plain + 32768, plain, 258);
    if (codec == DFMT_ZLIB) {
        uint32_t sum = dfmt_adler32(plain, length);
        for (int i = 3; i >= 0; i--)
            frame[at++] = (uint8_t)(sum >> (8 * i));
    }
    CHECK(codec == DFMT_ZLIB || window_is_enough(frame, at, 15));
    CHECK(codec == DFMT_ZLIB || !window_is_enough(frame, at, 14));
    expect(DFMT_OK, codec, at, length);
}
#endif

#if HAVE_ISAL && DFMT_ISAL_PLACES
static uint32_t crc32c(uint32_t value)
{
    for (int bit = 0; bit < 32; bit++)
        value = value >> 1 ^ (value & 1 ? 0x82f63b78 : 0);
    return value;
}

/* isal.c: bytes 2 to 5 are found again if their hash is that of the place of the stream, which is 0 for all. */
static void fast_levels_depend_on_no_address(void)
{
    enum { ENCODERS = 7, LENGTH = 2000, AGAIN = 150 };
    uint32_t value = 0x01020304;
    while ((crc32c(value) & 0xffff) != 0)
        value++;
    for (size_t i = 0; i < LENGTH; i++)
        plain[i] = (uint8_t)(64 + random_below(64)); /* worth more than a stored block, but nothing comes again */
    memcpy(plain + 2, &value, 4);
    memcpy(plain + AGAIN, &value, 4);
    for (int level = 1; level <= 2; level++) {
        dfmt_encoder *encoders[ENCODERS];
        size_t first = 0;
        for (int i = 0; i < ENCODERS; i++) {
            SAME(dfmt_encoder_new(dfmt_io_posix(), DFMT_DEFLATE, level, 12, &encoders[i]), DFMT_OK);
            size_t made = dfmt_encoder_run(encoders[i], plain, LENGTH, i == 0 ? frame : out, room);
            dfmt_walk walk;
            CHECK(dfmt_deflate_walk(i == 0 ? frame : out, made, LENGTH, 4096, &walk));
            SAME(walk.distance, AGAIN - 2);
            first = i == 0 ? made : first;
            CHECK(made == first && memcmp(frame, i == 0 ? frame : out, made) == 0);
        }
        for (int i = 0; i < ENCODERS; i++)
            dfmt_encoder_free(dfmt_io_posix(), encoders[i]);
    }
}
#endif

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
    CHECK(dfmt_adler32((const uint8_t *)"123456789", 9) == 0x091e01de);
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
        streams_that_end_early(codec);
#if HAVE_ZLIB
        if (codec != DFMT_ZSTD)
            full_window(codec);
#endif
    }
#if HAVE_ISAL && DFMT_ISAL_PLACES
    fast_levels_depend_on_no_address();
#endif
    zstd_limits();
    several_zstd_frames();
    frames_of_unknown_length();
    free(plain);
    free(frame);
    free(out);
    printf(" edges: passed\n");
    return 0;
}
