/* deflate_walk.c - follow the codes of a deflate stream without making its bytes.
 *
 * RFC 1951 throughout; where it is silent, what zlib accepts counts, because that is what most readers use: codes are
 * complete, except that a distance code may have one symbol or none; there are at most 286 lengths and 30 distances.
 * Whoever wants to hand a frame on asks here first. False means "make it anew", so rare things are simply refused.
 */
#include "internal.h"

enum { MAX_BITS = 15, LITERALS = 288, DISTANCES = 32, PRECODES = 19, END_OF_BLOCK = 256 };
enum { LITERAL_BITS = 11, DISTANCE_BITS = 9, PRECODE_BITS = 7 }; /* looked up at once; longer codes are rare */

/* What a symbol means: a literal, the end of the block, or a base and a number of extra bits. An entry of a table adds
 * the length of the code to both low bytes. 0: a longer code, or none. */
#define LITERAL UINT32_C(0x80000000)
#define END UINT32_C(0x00008000)
#define MEANS(base, extra) ((uint32_t)(base) << 16 | (uint32_t)(extra) << 8)
#define ENTRY(means, code_length) ((means) + (code_length)*UINT32_C(0x101))
#define CODE_LENGTH(entry) ((entry)&0x1f)
#define WHOLE_LENGTH(entry) (((entry) >> 8) & 0x3f) /* with the extra bits */
#define BASE(entry) (((entry) >> 16) & 0x7fff)

typedef struct code {
    uint16_t count[MAX_BITS + 1]; /* symbols of each length */
    uint16_t symbols[LITERALS];   /* in the order of their codes */
} code;

typedef struct tables {
    code literal, distance;
    uint32_t literal_table[1 << LITERAL_BITS];
    uint32_t distance_table[1 << DISTANCE_BITS];
    bool fixed; /* they hold the fixed codes */
} tables;

static uint32_t literal_meaning(unsigned symbol)
{
    static const uint16_t base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    if (symbol < END_OF_BLOCK)
        return LITERAL;
    if (symbol == END_OF_BLOCK)
        return END;
    return symbol < 286 ? MEANS(base[symbol - 257], extra[symbol - 257]) : 0;
}

static uint32_t distance_meaning(unsigned symbol)
{
    if (symbol >= 30)
        return 0;
    unsigned extra = symbol < 4 ? 0 : symbol / 2 - 1;
    return symbol < 4 ? MEANS(symbol + 1, 0) : MEANS(1 + ((2 + symbol % 2) << extra), extra);
}

static uint32_t precode_meaning(unsigned symbol)
{
    return MEANS(symbol + 1, 0); /* + 1: no meaning is 0 */
}

/* Codes are sent from their high end. */
static unsigned reversed(unsigned value, unsigned bits)
{
    value = (value & 0x5555) << 1 | (value >> 1 & 0x5555);
    value = (value & 0x3333) << 2 | (value >> 2 & 0x3333);
    value = (value & 0x0f0f) << 4 | (value >> 4 & 0x0f0f);
    value = (value & 0x00ff) << 8 | (value >> 8 & 0x00ff);
    return value >> (16 - bits);
}

/* Section 3.2.2: codes from lengths. `sparse`: one symbol or none is enough. */
static bool build(const uint8_t *lengths, unsigned symbols, bool sparse, uint32_t (*meaning)(unsigned), code *c,
                  uint32_t *table, unsigned table_bits)
{
    memset(c->count, 0, sizeof(c->count));
    for (unsigned i = 0; i < symbols; i++)
        c->count[lengths[i]]++;
    unsigned used = symbols - c->count[0];
    c->count[0] = 0;
    unsigned place[MAX_BITS + 2] = {0}, first[MAX_BITS + 2] = {0};
    int left = 1;
    for (unsigned bits = 1; bits <= MAX_BITS; bits++) {
        left = 2 * left - c->count[bits];
        if (left < 0)
            return false;
        place[bits + 1] = place[bits] + c->count[bits];
        first[bits + 1] = (first[bits] + c->count[bits]) << 1;
    }
    if (left > 0 && !(sparse && (used == 0 || (used == 1 && c->count[1] == 1))))
        return false;
    memset(table, 0, sizeof(*table) << table_bits);
    for (unsigned i = 0; i < symbols; i++) {
        unsigned bits = lengths[i];
        if (bits == 0)
            continue;
        c->symbols[place[bits]++] = (uint16_t)i;
        unsigned value = first[bits]++;
        uint32_t means = meaning(i);
        if (bits > table_bits || means == 0)
            continue;
        for (unsigned at = reversed(value, bits); at < 1U << table_bits; at += 1U << bits)
            table[at] = ENTRY(means, bits);
    }
    return true;
}

/* A code that is longer than the table is wide. 0: no code at all. */
static uint32_t long_code(const code *c, uint64_t word, uint32_t (*meaning)(unsigned))
{
    int value = 0, first = 0, at = 0;
    for (unsigned bits = 1; bits <= MAX_BITS; bits++) {
        value |= (int)(word & 1);
        word >>= 1;
        int count = c->count[bits];
        if (value - first < count) {
            uint32_t means = meaning(c->symbols[at + value - first]);
            return means != 0 ? ENTRY(means, bits) : 0;
        }
        at += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return 0;
}

/* ---- bits ---------------------------------------------------------------------------------------------------- */

/* The next `have` bits of the stream are the low ones of `word`. Behind the end of the input come zeroes, which
 * nothing may have used when the walk is over. */
typedef struct bits {
    const uint8_t *in;
    size_t length, at;
    uint64_t word;
    unsigned have;
} bits;

static inline uint64_t load_le64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

/* At least 56 bits. False: that is more than 8 bytes behind the end. */
static inline bool fill(bits *b)
{
    if (b->at + 8 <= b->length) {
        b->word |= load_le64(b->in + b->at) << b->have;
        b->at += (63 - b->have) >> 3;
        b->have |= 56;
        return true;
    }
    while (b->have < 56) {
        if (b->at >= b->length + 8)
            return false;
        if (b->at < b->length)
            b->word |= (uint64_t)b->in[b->at] << b->have;
        b->at++;
        b->have += 8;
    }
    return true;
}

static inline uint32_t take(bits *b, unsigned count)
{
    uint32_t value = (uint32_t)(b->word & ((UINT64_C(1) << count) - 1));
    b->word >>= count;
    b->have -= count;
    return value;
}

/* Where the stream goes on, its bits counted in whole bytes. */
static size_t position(const bits *b)
{
    return b->at - b->have / 8;
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */

static bool stored_block(bits *b, dfmt_walk *walk)
{
    size_t at = position(b);
    if (at > b->length || b->length - at < 4)
        return false;
    const uint8_t *head = b->in + at;
    uint32_t length = head[0] | (uint32_t)head[1] << 8, check = head[2] | (uint32_t)head[3] << 8;
    if (length != (check ^ 0xffff) || b->length - at - 4 < length)
        return false;
    *b = (bits){.in = b->in, .length = b->length, .at = at + 4 + length};
    walk->made += length;
    return true;
}

static bool fixed_codes(tables *t)
{
    if (t->fixed)
        return true;
    uint8_t lengths[LITERALS + DISTANCES];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    memset(lengths + LITERALS, 5, DISTANCES);
    t->fixed = true;
    return build(lengths, LITERALS, false, literal_meaning, &t->literal, t->literal_table, LITERAL_BITS) &&
           build(lengths + LITERALS, DISTANCES, false, distance_meaning, &t->distance, t->distance_table,
                 DISTANCE_BITS);
}

/* Section 3.2.7. */
static bool dynamic_codes(bits *b, tables *t)
{
    static const uint8_t order[PRECODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    t->fixed = false;
    if (!fill(b))
        return false;
    unsigned literals = take(b, 5) + 257, distances = take(b, 5) + 1, precodes = take(b, 4) + 4;
    if (literals > 286 || distances > 30)
        return false;
    uint8_t lengths[286 + 30] = {0}, small[PRECODES] = {0};
    for (unsigned i = 0; i < precodes; i++) {
        if (!fill(b))
            return false;
        small[order[i]] = (uint8_t)take(b, 3);
    }
    code precode;
    uint32_t table[1 << PRECODE_BITS];
    if (!build(small, PRECODES, false, precode_meaning, &precode, table, PRECODE_BITS))
        return false;
    for (unsigned i = 0; i < literals + distances;) {
        if (!fill(b))
            return false;
        uint32_t entry = table[b->word & ((1U << PRECODE_BITS) - 1)];
        take(b, CODE_LENGTH(entry));
        unsigned symbol = BASE(entry) - 1, repeat = 1;
        uint8_t value = 0;
        if (symbol < 16)
            value = (uint8_t)symbol;
        else if (symbol == 16 && i == 0)
            return false;
        else if (symbol == 16)
            value = lengths[i - 1], repeat = 3 + take(b, 2);
        else
            repeat = symbol == 17 ? 3 + take(b, 3) : 11 + take(b, 7);
        if (repeat > literals + distances - i)
            return false;
        memset(lengths + i, value, repeat);
        i += repeat;
    }
    return lengths[END_OF_BLOCK] != 0 &&
           build(lengths, literals, false, literal_meaning, &t->literal, t->literal_table, LITERAL_BITS) &&
           build(lengths + literals, distances, true, distance_meaning, &t->distance, t->distance_table, DISTANCE_BITS);
}

static inline uint32_t literal_at(const bits *b, const tables *t)
{
    return t->literal_table[b->word & ((1U << LITERAL_BITS) - 1)];
}

/* Base and extra bits of an entry, which the stream goes on behind. */
static inline uint32_t take_value(bits *b, uint32_t entry)
{
    return BASE(entry) + (take(b, WHOLE_LENGTH(entry)) >> CODE_LENGTH(entry));
}

static bool coded_block(bits *stream, const tables *t, uint32_t furthest, dfmt_walk *walk)
{
    bits b = *stream; /* in registers */
    uint64_t made = walk->made;
    uint32_t distance_seen = walk->distance;
    for (;;) {
        if (!fill(&b))
            return false;
        uint32_t entry = literal_at(&b, t);
        if (entry & LITERAL) { /* up to three of them from one word */
            take(&b, CODE_LENGTH(entry));
            made++;
            entry = literal_at(&b, t);
            if (entry & LITERAL) {
                take(&b, CODE_LENGTH(entry));
                made++;
                entry = literal_at(&b, t);
            }
            if (entry & LITERAL) {
                take(&b, CODE_LENGTH(entry));
                made++;
                continue;
            }
            if (!fill(&b)) /* what is looked up already stays where it is */
                return false;
        }
        if (entry == 0 && (entry = long_code(&t->literal, b.word, literal_meaning)) == 0)
            return false;
        uint32_t length = take_value(&b, entry);
        if (entry & LITERAL) {
            made++;
            continue;
        }
        if (entry & END)
            break;
        entry = t->distance_table[b.word & ((1U << DISTANCE_BITS) - 1)];
        if (entry == 0 && (entry = long_code(&t->distance, b.word, distance_meaning)) == 0)
            return false;
        uint32_t distance = take_value(&b, entry);
        if (distance > distance_seen) {
            if (distance > made || distance > furthest)
                return false;
            distance_seen = distance;
        }
        made += length;
    }
    walk->made = made;
    walk->distance = distance_seen;
    *stream = b;
    return true;
}

bool dfmt_deflate_walk(const uint8_t *in, size_t in_len, uint64_t most, uint32_t furthest, dfmt_walk *walk)
{
    /* Each block may cost two tables. Real encoders fill some thousand bytes before they start another. */
    uint64_t blocks_left = 16 + most / 512;
    bits b = {.in = in, .length = in_len};
    tables t;
    t.fixed = false;
    *walk = (dfmt_walk){0};
    for (bool last = false; !last;) {
        if (blocks_left-- == 0 || !fill(&b))
            return false;
        last = take(&b, 1);
        bool good = false;
        switch (take(&b, 2)) {
        case 0:
            good = stored_block(&b, walk);
            break;
        case 1:
            good = fixed_codes(&t) && coded_block(&b, &t, furthest, walk);
            break;
        case 2:
            good = dynamic_codes(&b, &t) && coded_block(&b, &t, furthest, walk);
            break;
        default:
            break;
        }
        if (!good || walk->made > most)
            return false;
    }
    walk->used = position(&b);
    return walk->used <= in_len;
}
