/* test_adopt.c - frames of the source become frames of the target, byte for byte, where every reader takes them; where
 * not, they are made anew; damaged ones are never handed on. */
#include "testing.h"

#include "internal.h"

#if !HAVE_ZLIB
int main(void)
{
    printf("adopt: no zlib to make frames with\n");
    return 0;
}
#else
#include <zlib.h>

enum { UNIT = 65536, UNITS = 8, DISK = (UNITS - 1) * UNIT + 1000, ROOM = 1 << 20 };

/* What the units of the source are; the last one reaches behind the end of the disk. */
enum { TEXT, DISTANT, NOTHING, NOISE, TAILED, SPLIT, SHORT, LAST };

typedef struct disk {
    int fd;
    int codec;
    uint8_t guest[UNITS * UNIT];
    uint8_t file[ROOM];
    size_t end;
    size_t frames[UNITS]; /* exact length of each frame */
    dfmt_row rows[UNITS + 2];
    size_t count;
} disk;

/* `window`: 8 to 15 for matches over at most so far; zstd takes any. */
static size_t make_frame(int codec, int window, const uint8_t *plain, size_t length, uint8_t *out)
{
    if (codec == DFMT_ZSTD) {
        size_t size = dfmt_encode_bound(codec, length);
        SAME(dfmt_encode(codec, 1, 15, plain, length, out, &size, NULL), DFMT_OK);
        return size;
    }
    z_stream z = {.next_in = (Bytef *)(uintptr_t)plain, .avail_in = (uInt)length, .next_out = out, .avail_out = ROOM};
    SAME(deflateInit2(&z, 6, Z_DEFLATED, codec == DFMT_ZLIB ? window : -window, 9, Z_DEFAULT_STRATEGY), Z_OK);
    SAME(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = z.total_out;
    deflateEnd(&z);
    return size;
}

static disk *new_disk(int codec, int window, bool hidden)
{
    disk *d = must_alloc(sizeof(*d));
    d->codec = codec;
    d->end = 100;
    for (size_t unit = 0; unit < UNITS; unit++) {
        uint8_t *plain = d->guest + unit * UNIT;
        fill_text(plain, UNIT);
        if (unit == DISTANT) { /* the same noise again, 20,000 bytes later */
            fill_random(plain, UNIT);
            memcpy(plain + 20000, plain, 20000);
            memcpy(plain + 40000, plain, 20000);
        }
        if (unit == NOTHING)
            memset(plain, 0, UNIT);
        if (unit == NOISE)
            fill_random(plain, UNIT);
        uint64_t shown = unit == LAST ? DISK - LAST * UNIT : UNIT;
        if (!hidden)
            memset(plain + shown, 0, UNIT - shown);
        size_t size = make_frame(codec, unit == DISTANT ? 15 : window, plain, UNIT, d->file + d->end);
        d->frames[unit] = size;
        dfmt_row row = {.guest_off = unit * UNIT, .length = shown, .host_off = d->end, .host_len = size,
                        .frame_len = UNIT, .kind = DFMT_ENCODED, .codec = (uint8_t)codec};
        d->end += size;
        if (unit == TAILED) { /* rubbish up to the end of its sector */
            fill_random(d->file + d->end, 300);
            row.host_len += 300;
            d->end += 300;
        }
        if (unit == SPLIT) { /* two rows of one frame: not a unit as it is */
            row.length = UNIT / 2;
            d->rows[d->count++] = row;
            row.guest_off += UNIT / 2;
            row.frame_skip = UNIT / 2;
        }
        if (unit == SHORT) { /* half a frame, as long as what is shown of it */
            d->end -= size;
            size = make_frame(codec, window, plain, UNIT / 2, d->file + d->end);
            row.host_len = size;
            row.frame_len = UNIT / 2;
            row.length = UNIT / 2;
            d->end += size;
            d->rows[d->count++] = row;
            memset(plain + UNIT / 2, 0, UNIT / 2);
            row = (dfmt_row){.guest_off = unit * UNIT + UNIT / 2, .length = UNIT / 2, .kind = DFMT_HOLE};
        }
        d->rows[d->count++] = row;
        CHECK(d->count <= UNITS + 2);
    }
    d->fd = new_file();
    SAME(dfmt_pwrite(dfmt_io_posix(), d->fd, d->file, d->end, 0, NULL), DFMT_OK);
    return d;
}

static void free_disk(disk *d)
{
    close(d->fd);
    free(d);
}

typedef struct outcome {
    int code;
    uint64_t adopted, end, guest_off;
    uint64_t places[UNITS], stored[UNITS];
    uint8_t file[ROOM];
} outcome;

static outcome *run(const disk *d, dfmt_placement p, int threads)
{
    outcome *o = must_alloc(sizeof(*o));
    p.guest_size = DISK;
    int target = new_file();
    dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), &d->fd, 1, target, &p, 512, threads);
    CHECK(copy != NULL);
    dfmt_error err = {0};
    o->code = dfmt_copy_run(copy, d->rows, d->count, o->places, o->stored, UNITS, &err);
    o->guest_off = err.guest_off;
    o->adopted = dfmt_copy_adopted(copy);
    o->end = dfmt_copy_end(copy);
    dfmt_copy_free(copy);
    CHECK(o->end <= ROOM);
    CHECK(ftruncate(target, ROOM) == 0);
    SAME(dfmt_pread(dfmt_io_posix(), target, o->file, ROOM, 0, NULL), DFMT_OK);
    close(target);
    return o;
}

/* What a target with these numbers says is the disk. */
static void is_the_disk(const disk *d, const dfmt_placement *p, const outcome *o)
{
    static uint8_t unit[UNIT];
    for (size_t i = 0; i < UNITS; i++) {
        size_t shown = i == LAST ? DISK - LAST * UNIT : UNIT;
        memset(unit, 0, UNIT);
        if (o->places[i] != 0 && o->stored[i] == UNIT && p->allow_plain)
            memcpy(unit, o->file + o->places[i], UNIT);
        else if (o->places[i] != 0)
            SAME(dfmt_decode((int)p->codec, o->file + o->places[i], o->stored[i], unit, UNIT, NULL), DFMT_OK);
        CHECK(memcmp(unit, d->guest + i * UNIT, shown) == 0);
        for (size_t k = shown; k < UNIT; k++)
            CHECK(unit[k] == 0); /* nothing hidden goes along */
    }
}

/* Is unit i of the target the frame of the source, between `head` and `tail` bytes that are its own? */
static bool is_kept(const disk *d, const outcome *o, size_t i, size_t strip_head, size_t strip_tail, size_t head,
                    size_t tail)
{
    const dfmt_row *row = NULL;
    for (size_t k = 0; k < d->count; k++)
        if (d->rows[k].guest_off == i * UNIT)
            row = &d->rows[k];
    size_t body = d->frames[i] - strip_head - strip_tail;
    return o->stored[i] == body + head + tail &&
           memcmp(o->file + o->places[i] + head, d->file + row->host_off + strip_head, body) == 0;
}

static void from_to(int codec, int target, int window, bool hidden)
{
    disk *d = new_disk(codec, window, hidden);
    for (int target_window = 12; target_window <= 15; target_window += 3)
        for (uint32_t plain = 0; plain < 2; plain++)
            for (uint32_t marker = plain ^ 1; marker < 2; marker++) {
                dfmt_placement p = {.unit = UNIT, .align = 512, .frame_align = marker ? 512 : 1, .marker = marker,
                                    .codec = (uint32_t)target, .window_bits = (uint32_t)target_window,
                                    .allow_plain = plain, .adopt = 1, .fingerprint = 1};
                outcome *first = run(d, p, 1);
                SAME(first->code, DFMT_OK);
                is_the_disk(d, &p, first);
                bool deflate = codec != DFMT_ZSTD;
                bool fits = (codec == DFMT_ZSTD) == (target == DFMT_ZSTD);
                /* A zlib header that asks for a larger window is not one of the target, whatever its matches are. */
                bool any = fits && (codec != DFMT_ZLIB || target != DFMT_ZLIB || window <= target_window);
                bool near = any && (!deflate || window <= target_window);
                bool far = fits && (!deflate || target_window == 15);
                size_t off = codec == DFMT_ZLIB && target == DFMT_DEFLATE;
                size_t on = codec == DFMT_DEFLATE && target == DFMT_ZLIB;
                SAME(is_kept(d, first, TEXT, 2 * off, 4 * off, 2 * on, 4 * on), near);
                SAME(is_kept(d, first, TAILED, 2 * off, 4 * off, 2 * on, 4 * on), near);
                SAME(is_kept(d, first, DISTANT, 2 * off, 4 * off, 2 * on, 4 * on), far);
                SAME(is_kept(d, first, LAST, 2 * off, 4 * off, 2 * on, 4 * on), any && !hidden);
                CHECK(first->places[NOTHING] == 0);
                SAME(first->adopted, 2 * near + far + (any && !hidden) + (any && !plain));
                outcome *other = run(d, p, 3);
                CHECK(memcmp(first, other, sizeof(*first)) == 0);
                free(other);
                p.adopt = 0;
                outcome *anew = run(d, p, 2);
                SAME(anew->adopted, 0);
                is_the_disk(d, &p, anew);
                free(anew);
                free(first);
            }
    free_disk(d);
}

/* A damaged frame fails as it does when it is read; or it decodes to something, and that is what the target holds. */
static void damaged(int codec)
{
    disk *d = new_disk(codec, 12, false);
    dfmt_placement p = {.unit = UNIT, .align = 512, .frame_align = 1, .codec = (uint32_t)codec, .window_bits = 12,
                        .allow_plain = 1, .adopt = 1};
    int failed = 0;
    for (int round = 0; round < 60; round++) {
        const dfmt_row *row = &d->rows[TEXT];
        uint64_t at = row->host_off + random_below(d->frames[TEXT]);
        uint8_t good = d->file[at];
        d->file[at] ^= (uint8_t)(1U << random_below(8));
        SAME(dfmt_pwrite(dfmt_io_posix(), d->fd, d->file + at, 1, at, NULL), DFMT_OK);
        outcome *o = run(d, p, 2);
        static uint8_t out[UNIT];
        int code = dfmt_decode(codec, d->file + row->host_off, d->frames[TEXT], out, UNIT, NULL);
        SAME(o->code, code);
        if (code != DFMT_OK) {
            SAME(o->guest_off, TEXT * UNIT);
            failed++;
        } else {
            static uint8_t copied[UNIT];
            SAME(dfmt_decode(codec, o->file + o->places[TEXT], o->stored[TEXT], copied, UNIT, NULL), DFMT_OK);
            CHECK(memcmp(copied, out, UNIT) == 0);
        }
        free(o);
        d->file[at] = good;
        SAME(dfmt_pwrite(dfmt_io_posix(), d->fd, &good, 1, at, NULL), DFMT_OK);
    }
    CHECK(failed > 10);
    free_disk(d);
}

/* Frames of zstd that are decoded, but not handed on as they are. */
static void odd_zstd(void)
{
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2};
    static uint8_t frames[4][ROOM];
    size_t sizes[4];
    disk *d = new_disk(DFMT_ZSTD, 15, false);
    sizes[0] = sizeof(skippable) + make_frame(DFMT_ZSTD, 15, d->guest, UNIT, frames[0] + sizeof(skippable));
    memcpy(frames[0], skippable, sizeof(skippable));
    sizes[1] = make_frame(DFMT_ZSTD, 15, d->guest, UNIT / 2, frames[1]); /* two frames, one unit */
    sizes[1] += make_frame(DFMT_ZSTD, 15, d->guest + UNIT / 2, UNIT / 2, frames[1] + sizes[1]);
    sizes[2] = make_frame(DFMT_ZSTD, 15, d->guest, UNIT, frames[2]);
    /* A skippable frame behind the unit is no part of it. */
    memcpy(frames[2] + sizes[2], skippable, sizeof(skippable));
    sizes[3] = sizes[2] + sizeof(skippable);
    memcpy(frames[3], frames[2], sizes[3]);
    static const int kept[] = {0, 1, 1, 1};
    for (int i = 0; i < 4; i++) {
        int fd = new_file();
        SAME(dfmt_pwrite(dfmt_io_posix(), fd, frames[i], sizes[i], 0, NULL), DFMT_OK);
        dfmt_row row = {.length = UNIT, .host_len = sizes[i], .frame_len = UNIT, .kind = DFMT_ENCODED,
                        .codec = DFMT_ZSTD};
        dfmt_placement p = {.unit = UNIT, .align = 1, .frame_align = 1, .codec = DFMT_ZSTD, .window_bits = 15,
                            .guest_size = UNIT, .adopt = 1};
        dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), &fd, 1, -1, &p, 1, 1);
        uint64_t place, stored;
        SAME(dfmt_copy_run(copy, &row, 1, &place, &stored, 1, NULL), DFMT_OK);
        SAME(dfmt_copy_adopted(copy), kept[i]);
        if (i == 1 || i == 2)
            SAME(stored, sizes[i]);
        if (i == 3)
            SAME(stored, sizes[2]);
        dfmt_copy_free(copy);
        close(fd);
    }
    free_disk(d);
}

int main(void)
{
    for (int window = 12; window <= 15; window += 3)
        for (int codec = DFMT_DEFLATE; codec <= DFMT_ZSTD; codec++)
            for (int target = DFMT_DEFLATE; target <= DFMT_ZSTD; target++)
                if (dfmt_can_decode(codec) && dfmt_can_encode(codec, 1, 15) && dfmt_can_encode(target, 0, 12))
                    for (int hidden = 0; hidden < (window == 12 ? 2 : 1); hidden++)
                        from_to(codec, target, window, hidden);
    damaged(DFMT_DEFLATE);
    damaged(DFMT_ZLIB);
    if (dfmt_can_encode(DFMT_ZSTD, 1, 15)) {
        damaged(DFMT_ZSTD);
        odd_zstd();
    }
    printf("adopt: every pair of codecs, damage: passed\n");
    return 0;
}
#endif
