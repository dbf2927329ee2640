/* tables.h - random sources for tests: files, a table over them, and the guest bytes that the table means. */
#ifndef DFMT_TABLES_H
#define DFMT_TABLES_H

#include "testing.h"

enum { FILES = 3, MOST_ROWS = 4096 };

typedef struct source {
    int fds[FILES];
    uint64_t ends[FILES];
    uint8_t *guest;
    uint64_t size;
    dfmt_row *rows;
    size_t count;
} source;

static inline void put(source *s, int file, const uint8_t *data, size_t length)
{
    SAME(dfmt_pwrite(dfmt_io_posix(), s->fds[file], data, length, s->ends[file], NULL), DFMT_OK);
    s->ends[file] += length;
}

static inline void fill_any(uint8_t *at, size_t length)
{
    uint64_t what = random_below(4);
    if (what == 0)
        fill_random(at, length);
    else if (what == 1)
        fill_text(at, length);
    else if (what == 2 && length > 1) /* a lonely byte */
        at[random_below(length)] = 1;
}

static inline int any_codec(void)
{
    for (int tries = 0; tries < 8; tries++) {
        int codec = (int)(DFMT_DEFLATE + random_below(3));
        if (dfmt_can_encode(codec, 1, 15) && dfmt_can_decode(codec))
            return codec;
    }
    return DFMT_NONE;
}

/* Rows of one frame, some of which miss its ends. */
static inline void add_frame(source *s, uint64_t *at, uint64_t length, uint64_t most_frame, int file)
{
    int codec = any_codec();
    if (codec == DFMT_NONE)
        return;
    uint64_t frame_len = length + random_below(most_frame);
    if (random_below(2) == 0 || frame_len > most_frame)
        frame_len = length;
    uint64_t skip = random_below(frame_len - length + 1);
    uint8_t *plain = must_alloc(frame_len);
    fill_any(plain, frame_len);
    size_t stored = dfmt_encode_bound(codec, frame_len);
    uint8_t *frame = must_alloc(stored);
    SAME(dfmt_encode(codec, 1, 15, plain, frame_len, frame, &stored, NULL), DFMT_OK);
    dfmt_row row = {.guest_off = *at, .length = length, .host_off = s->ends[file], .host_len = stored,
                    .frame_len = (uint32_t)frame_len, .frame_skip = (uint32_t)skip, .file_id = (uint16_t)file,
                    .kind = DFMT_ENCODED, .codec = (uint8_t)codec};
    put(s, file, frame, stored);
    memcpy(s->guest + *at, plain + skip, length);
    free(plain);
    free(frame);
    /* Sometimes two rows say it, or the middle is missing. */
    if (length > 1024 && random_below(4) == 0) {
        uint64_t cut = 512 + random_below(length / 2);
        dfmt_row second = row;
        row.length = cut;
        second.guest_off += cut;
        second.frame_skip += (uint32_t)cut;
        second.length -= cut;
        s->rows[s->count++] = row;
        uint64_t gap = random_below(2) * (second.length < 512 ? second.length : 512);
        if (gap > 0) {
            memset(s->guest + second.guest_off, 0, gap);
            s->rows[s->count++] = (dfmt_row){.guest_off = second.guest_off, .length = gap, .kind = DFMT_ZERO};
            second.guest_off += gap;
            second.frame_skip += (uint32_t)gap;
            second.length -= gap;
        }
        if (second.length > 0)
            s->rows[s->count++] = second;
    } else {
        s->rows[s->count++] = row;
    }
    *at += length;
}

/* A disk of `size` bytes in rows of at most `most`, frames of at most `most_frame`. */
static inline source source_new(uint64_t size, uint64_t most, uint64_t most_frame)
{
    source s = {.size = size, .guest = must_alloc(size), .rows = must_alloc(MOST_ROWS * sizeof(dfmt_row))};
    for (int i = 0; i < FILES; i++) {
        s.fds[i] = new_file();
        s.ends[i] = random_below(5000);
    }
    for (uint64_t at = 0; at < size;) {
        CHECK(s.count < MOST_ROWS - 4);
        uint64_t length = 1 + random_below(most);
        if (random_below(3) != 0)
            length = (length + 511) / 512 * 512;
        if (length > size - at || s.count > MOST_ROWS - 8)
            length = size - at;
        int file = (int)random_below(FILES);
        if (random_below(3) == 0)
            s.ends[file] += random_below(3000);
        switch (random_below(5)) {
        case 0:
        case 1:
            fill_any(s.guest + at, length);
            s.rows[s.count++] = (dfmt_row){.guest_off = at, .length = length, .host_off = s.ends[file],
                                           .host_len = length, .file_id = (uint16_t)file, .kind = DFMT_DATA};
            put(&s, file, s.guest + at, length);
            at += length;
            break;
        case 2:
        case 3:
            add_frame(&s, &at, length < most_frame ? length : most_frame, most_frame, file);
            break;
        default:
            s.rows[s.count++] = (dfmt_row){
                .guest_off = at, .length = length, .kind = random_below(2) == 0 ? DFMT_ZERO : DFMT_HOLE};
            at += length;
        }
    }
    return s;
}

static inline void source_free(source *s)
{
    for (int i = 0; i < FILES; i++)
        close(s->fds[i]);
    free(s->guest);
    free(s->rows);
}

/* The part of a table in [start, stop). */
static inline size_t cut_rows(const source *s, uint64_t start, uint64_t stop, dfmt_row *out)
{
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++) {
        dfmt_row row = s->rows[i];
        uint64_t end = row.guest_off + row.length;
        if (end <= start || row.guest_off >= stop)
            continue;
        uint64_t head = row.guest_off < start ? start - row.guest_off : 0;
        uint64_t tail = end > stop ? end - stop : 0;
        row.guest_off += head;
        row.length -= head + tail;
        if (row.kind == DFMT_DATA) {
            row.host_off += head;
            row.host_len = row.length;
        } else if (row.kind == DFMT_ENCODED) {
            row.frame_skip += (uint32_t)head;
        }
        out[n++] = row;
    }
    return n;
}

#endif
