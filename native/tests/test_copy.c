/* test_copy.c - the copy loop against a model that copies one unit after the other. */
#include "tables.h"

typedef struct expected {
    uint64_t *places, *stored;
    size_t units;
    uint64_t end;
} expected;

static uint64_t up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static bool all_zero(const uint8_t *at, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        if (at[i] != 0)
            return false;
    return true;
}

static bool holes_only(const source *s, uint64_t start, uint64_t stop)
{
    for (size_t i = 0; i < s->count; i++) {
        const dfmt_row *row = &s->rows[i];
        if (row->guest_off < stop && row->guest_off + row->length > start && row->kind != DFMT_HOLE)
            return false;
    }
    return true;
}

static uint64_t le(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* What file and places must be. Frames are the codec's business: `got` says how long they are, and they must decode. */
static uint8_t *model(const source *s, const dfmt_placement *p, uint64_t first, const uint8_t *file, uint64_t file_len,
                      const uint64_t *got, expected *e)
{
    uint8_t *want = must_alloc(file_len), *unit = must_alloc(p->unit), *decoded = must_alloc(p->unit);
    uint64_t end = first, group = UINT64_MAX;
    for (uint64_t at = 0, i = 0; at < s->size; at += p->unit, i++) {
        uint64_t length = s->size - at < p->unit ? s->size - at : p->unit;
        memset(unit, 0, p->unit);
        memcpy(unit, s->guest + at, length);
        if (p->fixed) {
            CHECK(p->base + at + length <= file_len);
            memcpy(want + p->base + at, unit, length);
            continue;
        }
        bool zero = all_zero(unit, length);
        if (zero && (p->zeroes == DFMT_ZEROES_SKIP || holes_only(s, at, at + length)))
            continue;
        if (zero && p->zeroes == DFMT_ZEROES_TELL) {
            e->places[i] = DFMT_ZERO_PLACE;
            continue;
        }
        if (p->group_units != 0 && group != UINT64_MAX && group != i / p->group_units)
            end = up(end, p->frame_align) + p->group_room;
        group = p->group_units != 0 ? i / p->group_units : 0;
        e->stored[i] = p->unit;
        bool plain = p->codec == DFMT_NONE || (p->allow_plain && got[i] == p->unit);
        if (plain) {
            e->places[i] = up(end + p->prefix_len, p->align);
            end = e->places[i] + p->unit;
            memset(want + e->places[i] - p->prefix_len, (int)p->prefix_byte, p->prefix_len);
            memcpy(want + e->places[i], unit, length);
        } else {
            e->stored[i] = got[i];
            CHECK(!p->allow_plain || got[i] < p->unit);
            uint64_t marker = up(end, p->frame_align);
            e->places[i] = marker + (p->marker ? 12 : 0);
            end = up(e->places[i] + got[i], p->frame_align);
            CHECK(end <= file_len);
            if (p->marker) {
                SAME(le(file + marker, 8), at / 512);
                SAME(le(file + marker + 8, 4), got[i]);
            }
            SAME(dfmt_decode((int)p->codec, file + e->places[i], got[i], decoded, p->unit, NULL), DFMT_OK);
            CHECK(memcmp(decoded, unit, p->unit) == 0);
            memcpy(want + marker, file + marker, e->places[i] + got[i] - marker);
        }
    }
    if (p->group_units != 0 && group != UINT64_MAX)
        end = up(end, p->frame_align) + p->group_room;
    e->end = end;
    free(unit);
    free(decoded);
    return want;
}

static dfmt_placement any_placement(uint64_t size)
{
    static const uint32_t aligns[] = {1, 512, 4096, 65536};
    dfmt_placement p = {.unit = UINT64_C(512) << random_below(13), .align = 1, .frame_align = 1, .window_bits = 15,
                        .guest_size = size};
    uint64_t what = random_below(3);
    if (what == 0) {
        p.fixed = 1;
        p.base = random_below(3) * 1000;
    } else if (what == 1) {
        p.align = aligns[random_below(4)];
        p.prefix_len = (uint32_t)(random_below(2) * (random_below(p.unit / 512) * 512 + 512));
        p.prefix_byte = 0xff;
    } else {
        int codec = any_codec();
        p.codec = (uint32_t)codec;
        p.frame_align = random_below(2) == 0 ? 512 : 1;
        p.align = aligns[random_below(3)];
        p.marker = (uint32_t)random_below(2);
        p.allow_plain = (uint32_t)random_below(2);
        p.window_bits = random_below(2) == 0 && dfmt_can_encode(codec, 0, 12) ? 12 : 15;
    }
    if (!p.fixed && random_below(2) == 0) {
        p.group_units = 1 + random_below(20);
        p.group_room = 512 * random_below(9);
    }
    p.fingerprint = p.unit >= 65536;
    p.zeroes = (uint32_t)random_below(3);
    p.adopt = (uint32_t)random_below(2);
    return p;
}

/* Run it in tables of some units each, and compare all there is. */
static uint64_t one_copy(const source *s, const dfmt_placement *p, int threads, uint64_t first)
{
    int target = new_file();
    size_t units = (s->size + p->unit - 1) / p->unit;
    expected got = {must_alloc(units * 8), must_alloc(units * 8), units, 0};
    expected want = {must_alloc(units * 8), must_alloc(units * 8), units, 0};
    dfmt_row *rows = must_alloc(MOST_ROWS * sizeof(dfmt_row));
    dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), s->fds, FILES, target, p, first, threads);
    CHECK(copy != NULL);
    uint64_t per_run = 1 + random_below(units);
    for (uint64_t from = 0; from < units; from += per_run) {
        uint64_t to = from + per_run < units ? from + per_run : units;
        uint64_t stop = to * p->unit < s->size ? to * p->unit : s->size;
        size_t count = cut_rows(s, from * p->unit, stop, rows);
        dfmt_error err = {0};
        int code = dfmt_copy_run(copy, rows, count, p->fixed ? NULL : got.places + from,
                                 p->fixed ? NULL : got.stored + from, to - from, &err);
        SAME(code, DFMT_OK);
    }
    dfmt_copy_finish(copy);
    got.end = dfmt_copy_end(copy);
    uint64_t fingerprint = dfmt_copy_fingerprint(copy);
    uint64_t stored = 0;
    for (size_t i = 0; i < s->count; i++)
        stored += s->rows[i].kind <= DFMT_ENCODED ? s->rows[i].length : 0;
    SAME(dfmt_copy_progress(copy), stored);
    dfmt_copy_free(copy);

    uint64_t file_len = (p->fixed ? p->base + s->size : got.end) + p->unit;
    uint64_t written = (uint64_t)lseek(target, 0, SEEK_END);
    CHECK(p->fixed ? written <= p->base + s->size : true);
    CHECK(ftruncate(target, (off_t)file_len) == 0);
    uint8_t *file = must_alloc(file_len);
    SAME(dfmt_pread(dfmt_io_posix(), target, file, file_len, 0, NULL), DFMT_OK);
    uint8_t *wanted = model(s, p, first, file, file_len, got.stored, &want);
    if (!p->fixed) {
        SAME(got.end, want.end);
        CHECK(memcmp(got.places, want.places, units * 8) == 0);
        CHECK(memcmp(got.stored, want.stored, units * 8) == 0);
    }
    CHECK(memcmp(file, wanted, file_len) == 0);
    free(file);
    free(wanted);
    free(rows);
    free(got.places), free(got.stored), free(want.places), free(want.stored);
    close(target);
    return fingerprint;
}

static void random_copies(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        source s = source_new(512 * (1 + random_below(9000)), 1 << (11 + round % 9), 1 << (12 + round % 10));
        uint64_t fingerprint = 0;
        for (int i = 0; i < 4; i++) {
            dfmt_placement p = any_placement(s.size);
            uint64_t seen = one_copy(&s, &p, 1 + (round + i) % 4, 512 + random_below(5000));
            if (p.fingerprint) {
                CHECK(fingerprint == 0 || fingerprint == seen); /* of the content, not of the way */
                fingerprint = seen;
            }
        }
        source_free(&s);
    }
}

static void numbers_that_make_no_sense(void)
{
    int fds[1] = {new_file()};
    const dfmt_placement good = {.unit = 65536, .align = 1, .frame_align = 1, .guest_size = 1 << 20};
    dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), fds, 1, -1, &good, 512, 1);
    CHECK(copy != NULL);
    dfmt_row row = {.length = 65536, .kind = DFMT_ZERO};
    uint64_t places[2] = {7, 7}, stored[2] = {7, 7};
    dfmt_error err = {0};
    SAME(dfmt_copy_run(copy, &row, 0, NULL, NULL, 0, &err), DFMT_OK);
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 2, &err), DFMT_E_ARG);
    SAME(dfmt_copy_run(copy, &row, 1, places, NULL, 1, &err), DFMT_E_ARG);
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 1, &err), DFMT_OK);
    CHECK(places[0] == 0 && stored[0] == 0 && places[1] == 7);
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 1, &err), DFMT_E_ARG); /* not ascending */
    row.guest_off = 65536 + 512;
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 1, &err), DFMT_E_ARG); /* not on a unit */
    row.guest_off = (1 << 20) - 65536;
    row.length = 65537;
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 2, &err), DFMT_E_ARG); /* behind the end */
    row.length = 0;
    SAME(dfmt_copy_run(copy, &row, 1, places, stored, 1, &err), DFMT_E_ARG);
    SAME(dfmt_copy_set_end(copy, 511), DFMT_E_ARG);
    SAME(dfmt_copy_set_end(copy, 1000), DFMT_OK);
    SAME(dfmt_copy_end(copy), 1000);
    dfmt_copy_free(copy);
    dfmt_copy_free(NULL);

#define REFUSED(change, end, threads)                                                                                  \
    do {                                                                                                               \
        dfmt_placement p = good;                                                                                       \
        change;                                                                                                        \
        CHECK(dfmt_copy_new(dfmt_io_posix(), fds, 1, -1, &p, end, threads) == NULL);                                   \
    } while (0)
    REFUSED((void)p, 512, 0);
    REFUSED((void)p, 512, 65);
    REFUSED((void)p, 0, 1); /* a place of 0 would say "not stored" */
    REFUSED((void)p, UINT64_MAX, 1);
    REFUSED(p.unit = 0, 512, 1);
    REFUSED(p.unit = 256, 512, 1);
    REFUSED(p.unit = 65537, 512, 1);
    REFUSED(p.unit = 1 << 29, 512, 1);
    REFUSED(p.align = 0, 512, 1);
    REFUSED(p.align = 3, 512, 1);
    REFUSED(p.frame_align = 0, 512, 1);
    REFUSED(p.prefix_len = 65537, 512, 1);
    REFUSED(p.prefix_byte = 256, 512, 1);
    REFUSED(p.guest_size = UINT64_MAX, 512, 1);
    REFUSED((p.fixed = 1, p.base = UINT64_MAX), 512, 1);
    REFUSED((p.codec = DFMT_ZLIB, p.fixed = 1), 512, 1);
    REFUSED((p.codec = DFMT_ZLIB, p.prefix_len = 512), 512, 1);
    REFUSED((p.codec = DFMT_ZLIB, p.unit = 8 << 20), 512, 1);
    REFUSED((p.codec = DFMT_ZLIB, p.frame_align = 1 << 20), 512, 1);
    REFUSED((p.fingerprint = 1, p.unit = 32768), 512, 1);
    REFUSED(p.zeroes = 3, 512, 1);
    REFUSED(p.zeroes = DFMT_ZEROES_TELL, DFMT_ZERO_PLACE, 1); /* where the first unit goes would say "zero" */
    REFUSED(p.adopt = 2, 512, 1);
    REFUSED((p.adopt = 1, p.window_bits = 16), 512, 1);
    close(fds[0]);
}

/* Zeroes of rows, of files and of holes, in units smaller and larger than a batch. */
static void zero_units(void)
{
    enum { UNIT = 2 << 20, UNITS = 6 };
    int fds[1] = {new_file()};
    CHECK(ftruncate(fds[0], UNIT) == 0);
    const dfmt_row rows[] = {
        {.guest_off = 0, .length = UNIT, .kind = DFMT_HOLE},
        {.guest_off = UNIT, .length = UNIT, .kind = DFMT_ZERO},
        {.guest_off = 2 * UNIT, .length = UNIT, .host_len = UNIT, .kind = DFMT_DATA},
        {.guest_off = 3 * UNIT, .length = 2 * UNIT - 1, .kind = DFMT_HOLE},
        {.guest_off = 5 * UNIT - 1, .length = 1, .kind = DFMT_ZERO}, /* the last byte of the unit */
        {.guest_off = 5 * UNIT, .length = UNIT, .kind = DFMT_HOLE},
    };
    static const bool said[UNITS] = {false, true, true, false, true, false};
    for (uint32_t codec = DFMT_NONE; codec <= DFMT_ZLIB; codec += 2)
        for (uint32_t zeroes = DFMT_ZEROES_SKIP; zeroes <= DFMT_ZEROES_STORE; zeroes++)
            for (int threads = 1; threads <= 3; threads++) {
                if (!dfmt_can_encode((int)codec, 0, 15))
                    continue;
                dfmt_placement p = {.unit = UNIT, .align = 512, .frame_align = 1, .guest_size = UNITS * UNIT,
                                    .window_bits = 15, .codec = codec, .zeroes = zeroes};
                int target = new_file();
                dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), fds, 1, target, &p, 512, threads);
                uint64_t places[UNITS], stored[UNITS], place = 512;
                SAME(dfmt_copy_run(copy, rows, UNITS, places, stored, UNITS, NULL), DFMT_OK);
                for (int i = 0; i < UNITS; i++) {
                    if (zeroes == DFMT_ZEROES_STORE && said[i]) {
                        CHECK(places[i] >= place && stored[i] > 0 && (codec != DFMT_NONE || stored[i] == UNIT));
                        place = places[i] + stored[i];
                    } else {
                        SAME(places[i], zeroes == DFMT_ZEROES_TELL && said[i] ? DFMT_ZERO_PLACE : 0);
                        SAME(stored[i], 0);
                    }
                }
                CHECK(dfmt_copy_end(copy) >= place && dfmt_copy_end(copy) < place + 512);
                dfmt_copy_free(copy);
                close(target);
            }
    close(fds[0]);
}

/* A codec that is not there is said before anything is written. */
static void unknown_codec(void)
{
    int fds[1] = {new_file()};
    dfmt_placement p = {.unit = 65536, .align = 1, .frame_align = 1, .guest_size = 65536, .codec = 17};
    dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), fds, 1, -1, &p, 512, 2);
    dfmt_row row = {.length = 65536, .kind = DFMT_ZERO};
    uint64_t place, stored;
    dfmt_error err = {0};
    CHECK(copy != NULL);
    SAME(dfmt_copy_run(copy, &row, 1, &place, &stored, 1, &err), DFMT_E_CODEC);
    SAME(err.code, DFMT_E_CODEC);
    dfmt_copy_free(copy);
    close(fds[0]);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 15;
    numbers_that_make_no_sense();
    unknown_codec();
    zero_units();
    random_copies(rounds);
    printf("copy: %d random sources, 4 placements each: passed\n", rounds);
    return 0;
}
