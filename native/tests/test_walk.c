/* test_walk.c - the walk over deflate streams says what zlib says: length, content, largest distance. */
#include "testing.h"

#include "internal.h"

#if !HAVE_ZLIB
int main(void)
{
    printf("walk: no zlib to compare with\n");
    return 0;
}
#else

enum { MOST = 1 << 18, ROOM = 2 * MOST, ANY = 32768 };

static uint8_t plain[MOST], stream[ROOM];

static size_t deflated(int level, int bits, int memory, int strategy, size_t length)
{
    z_stream z = {.next_in = plain, .avail_in = (uInt)length, .next_out = stream, .avail_out = ROOM};
    SAME(deflateInit2(&z, level, Z_DEFLATED, -bits, memory, strategy), Z_OK);
    SAME(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = z.total_out;
    deflateEnd(&z);
    return size;
}

/* The largest distance is the one that decides which window zlib needs (256 bytes at least). */
static void window_is(const dfmt_walk *walk, size_t size)
{
    int bits = 8;
    while (1U << bits < walk->distance)
        bits++;
    CHECK(window_is_enough(stream, size, bits));
    CHECK(bits == 8 || !window_is_enough(stream, size, bits - 1));
}

static void fill_kind(int kind, size_t length)
{
    memset(plain, 0, length);
    if (kind == 1)
        fill_text(plain, length);
    if (kind == 2)
        fill_random(plain, length);
    if (kind == 3)
        fill_repeats(plain, length);
    if (kind == 4) /* few symbols: short and long codes */
        for (size_t i = 0; i < length; i++)
            plain[i] = (uint8_t)__builtin_ctzll(random_u64() | UINT64_C(1) << 40);
}

static void streams_of_zlib(void)
{
    static const size_t lengths[] = {1, 5, 300, 4096, 65536, MOST};
    int tried = 0;
    for (int kind = 0; kind < 5; kind++)
        for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++)
            for (int bits = 9; bits <= 15; bits++)
                for (int level = 0; level <= 9; level += 3)
                    for (int memory = 1; memory <= 9; memory += 4) {
                        int strategy = tried++ % 5; /* default, filtered, Huffman, runs, fixed codes */
                        size_t length = lengths[l];
                        if (length == MOST && bits < 15)
                            continue;
                        fill_kind(kind, length);
                        size_t size = deflated(level, bits, memory, strategy, length);
                        dfmt_walk walk;
                        guarded in = guarded_new(size);
                        uint8_t *at = in.end - size;
                        memcpy(at, stream, size);
                        bool blocks = dfmt_deflate_walk(at, size, length, ANY, &walk);
                        if (!blocks && memory == 1) { /* tiny blocks: more of them than anybody needs */
                            guarded_free(in);
                            continue;
                        }
                        CHECK(blocks);
                        SAME(walk.used, size);
                        SAME(walk.made, length);
                        CHECK(walk.distance <= 1U << bits);
                        if (tried % 197 == 0)
                            window_is(&walk, size);
                        if (walk.distance > 0) {
                            dfmt_walk again;
                            CHECK(dfmt_deflate_walk(at, size, length, walk.distance, &again));
                            CHECK(!dfmt_deflate_walk(at, size, length, walk.distance - 1, &again));
                        }
                        CHECK(!dfmt_deflate_walk(at, size, length - 1, ANY, &walk));
                        guarded_free(in);
                        CHECK(!dfmt_deflate_walk(stream, size - 1, length, ANY, &walk));
                        memset(stream + size, 0xff, 9); /* what follows is none of its business */
                        CHECK(dfmt_deflate_walk(stream, size + 9, length, ANY, &walk));
                        SAME(walk.used, size);
                    }
    printf("walk: %d streams of zlib,", tried);
}

/* A stream by hand: bits from the low end, codes of Huffman from the high end. */
static size_t bit_count;

static void put_bits(uint32_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++, bit_count++) {
        if (bit_count % 8 == 0)
            stream[bit_count / 8] = 0;
        stream[bit_count / 8] |= (uint8_t)((value >> i & 1) << bit_count % 8);
    }
}

static void put_code(uint32_t value, unsigned count)
{
    while (count-- > 0)
        put_bits(value >> count & 1, 1);
}

/* Fixed codes (RFC 1951, 3.2.6): `lead` literals, a match of length 3 at `distance` given as symbol and extra bits. */
static size_t one_match(unsigned lead, unsigned symbol, unsigned extra, unsigned extra_bits)
{
    bit_count = 0;
    put_bits(1, 1), put_bits(1, 2);
    for (unsigned i = 0; i < lead; i++)
        put_code(0x30 + 'a', 8);
    put_code(1, 7); /* length 3 */
    put_code(symbol, 5);
    put_bits(extra, extra_bits);
    put_code(0, 7);
    return (bit_count + 7) / 8;
}

static void distances_at_the_limit(void)
{
    dfmt_walk walk;
    for (unsigned bits = 9; bits <= 15; bits++) {
        /* 2^bits is the last distance of symbol 2 bits - 1; the next is the first of the symbol behind it. */
        unsigned extra_bits = bits - 2, limit = 1U << bits;
        size_t size = one_match(limit, 2 * bits - 1, (1U << extra_bits) - 1, extra_bits);
        CHECK(dfmt_deflate_walk(stream, size, limit + 3, limit, &walk));
        SAME(walk.distance, limit);
        SAME(walk.made, limit + 3);
        window_is(&walk, size);
        CHECK(!dfmt_deflate_walk(stream, size, limit + 3, limit - 1, &walk));
        size = one_match(limit - 1, 2 * bits - 1, (1U << extra_bits) - 1, extra_bits); /* before the first byte */
        CHECK(!dfmt_deflate_walk(stream, size, limit + 3, ANY, &walk));
        if (bits == 15)
            continue;
        size = one_match(limit + 1, 2 * bits, 0, bits - 1);
        CHECK(!dfmt_deflate_walk(stream, size, limit + 4, limit, &walk));
        CHECK(dfmt_deflate_walk(stream, size, limit + 4, limit + 1, &walk));
        SAME(walk.distance, limit + 1);
    }
    size_t size = one_match(40000, 30, 0, 0); /* no such distance */
    CHECK(!dfmt_deflate_walk(stream, size, 50000, ANY, &walk));
}

static void what_no_reader_takes(void)
{
    dfmt_walk walk;
    CHECK(!dfmt_deflate_walk(stream, 0, 100, ANY, &walk));
    bit_count = 0, put_bits(1, 1), put_bits(3, 2), put_bits(0, 30); /* block type 3 */
    CHECK(!dfmt_deflate_walk(stream, 4, 100, ANY, &walk));
    static const uint8_t stored[] = {1, 3, 0, 0xfc, 0xff, 'a', 'b', 'c'};
    CHECK(dfmt_deflate_walk(stored, 8, 3, ANY, &walk));
    SAME(walk.used, 8);
    SAME(walk.made, 3);
    CHECK(!dfmt_deflate_walk(stored, 7, 3, ANY, &walk));
    CHECK(!dfmt_deflate_walk(stored, 4, 3, ANY, &walk));
    static const uint8_t wrong[] = {1, 3, 0, 0xfd, 0xff, 'a', 'b', 'c'};
    CHECK(!dfmt_deflate_walk(wrong, 8, 3, ANY, &walk));
    bit_count = 0; /* empty blocks without end: cut off */
    for (int i = 0; i < 5000; i++)
        put_bits(0, 1), put_bits(1, 2), put_code(0, 7);
    put_bits(1, 1), put_bits(1, 2), put_code(0, 7);
    CHECK(!dfmt_deflate_walk(stream, (bit_count + 7) / 8, 65536, ANY, &walk));
    bit_count = 0, put_bits(1, 1), put_bits(2, 2), put_bits(30, 5), put_bits(0, 30); /* 287 lengths */
    CHECK(!dfmt_deflate_walk(stream, 8, 100, ANY, &walk));
    bit_count = 0, put_bits(1, 1), put_bits(2, 2), put_bits(0, 5), put_bits(30, 5), put_bits(0, 30); /* 31 distances */
    CHECK(!dfmt_deflate_walk(stream, 8, 100, ANY, &walk));
}

/* Any damage: false, or what zlib makes of it too. */
static void damage(void)
{
    static uint8_t out[MOST + 1];
    int same = 0;
    for (int round = 0; round < 2000; round++) {
        size_t length = 1 + random_below(20000);
        fill_kind(1 + round % 4, length);
        size_t size = deflated(1 + round % 9, 15, 8, round % 5, length);
        for (uint64_t flips = random_below(3); flips-- > 0;)
            stream[random_below(size > 100 && random_below(2) == 0 ? 100 : size)] ^= (uint8_t)(1U << random_below(8));
        dfmt_walk walk;
        guarded in = guarded_new(size);
        memcpy(in.end - size, stream, size);
        bool good = dfmt_deflate_walk(in.end - size, size, MOST, ANY, &walk);
        guarded_free(in);
        z_stream z = {.next_in = stream, .avail_in = (uInt)size, .next_out = out, .avail_out = MOST + 1};
        SAME(inflateInit2(&z, -15), Z_OK);
        int code = inflate(&z, Z_FINISH);
        CHECK(good == (code == Z_STREAM_END && z.total_out <= MOST));
        if (good) {
            SAME(walk.used, z.total_in);
            SAME(walk.made, z.total_out);
            same++;
        }
        inflateEnd(&z);
    }
    CHECK(same > 300);
}

int main(void)
{
    streams_of_zlib();
    distances_at_the_limit();
    what_no_reader_takes();
    damage();
    printf(" limits and damage: passed\n");
    return 0;
}
#endif
