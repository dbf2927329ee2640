/* test_read.c - guest bytes of random tables; tables that make no sense; files that are shorter than they say. */
#include "tables.h"

static void random_reads(void)
{
    for (int round = 0; round < 12; round++) {
        source s = source_new(1 + random_below(3 << 20), 60000, 1 << (12 + round % 8));
        uint8_t *out = must_alloc(s.size + 1);
        SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, s.count, 0, s.size, out, NULL), DFMT_OK);
        CHECK(memcmp(out, s.guest, s.size) == 0);
        for (int i = 0; i < 60; i++) {
            uint64_t start = random_below(s.size);
            uint64_t length = random_below(i % 2 == 0 ? 3000 : s.size) % (s.size - start + 1);
            memset(out, 0xa5, length + 1);
            SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, s.count, start, length, out, NULL), DFMT_OK);
            CHECK(memcmp(out, s.guest + start, length) == 0 && out[length] == 0xa5);
        }
        dfmt_error err = {0};
        SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, s.count, s.size, 1, out, &err), DFMT_E_ARG);
        SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, s.count, UINT64_MAX, 2, out, &err), DFMT_E_ARG);
        SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, 0, 0, 1, out, &err), DFMT_E_ARG);
        SAME(dfmt_read(dfmt_io_posix(), s.fds, FILES, s.rows, 0, 7, 0, out, &err), DFMT_OK);
        free(out);
        source_free(&s);
    }
}

static void refuse(dfmt_row row, const char *why)
{
    static uint8_t out[4096];
    int fds[1] = {new_file()};
    CHECK(ftruncate(fds[0], 1 << 20) == 0);
    dfmt_error err = {0};
    int code = dfmt_read(dfmt_io_posix(), fds, 1, &row, 1, row.guest_off, 512, out, &err);
    if (code != DFMT_E_ARG) {
        fprintf(stderr, "%s: code %d\n", why, code);
        exit(1);
    }
    SAME(err.guest_off, row.guest_off);
    close(fds[0]);
}

static void hostile_rows(void)
{
    const dfmt_row data = {.length = 512, .host_off = 512, .host_len = 512, .kind = DFMT_DATA};
    const dfmt_row frame = {.length = 512, .host_off = 512, .host_len = 100, .frame_len = 1024, .kind = DFMT_ENCODED,
                            .codec = DFMT_ZLIB};
    dfmt_row r;
    r = data, r.length = r.host_len = 0, refuse(r, "empty");
    r = data, r.host_len = 511, refuse(r, "host_len");
    r = data, r.file_id = 1, refuse(r, "file_id");
    r = data, r.kind = 0, refuse(r, "kind 0");
    r = data, r.kind = 5, refuse(r, "kind 5");
    r = data, r.host_off = UINT64_MAX - 511, refuse(r, "host wraps");
    r = data, r.guest_off = UINT64_MAX - 511, refuse(r, "guest wraps");
    r = data, r.length = r.host_len = UINT64_MAX, refuse(r, "all wraps");
    r = frame, r.file_id = 1, refuse(r, "frame's file_id");
    r = frame, r.host_len = 0, refuse(r, "no frame");
    r = frame, r.host_len = (8 << 20) + 1, refuse(r, "long stored frame");
    r = frame, r.frame_len = (4 << 20) + 1, refuse(r, "long frame");
    r = frame, r.frame_len = 511, refuse(r, "short frame");
    r = frame, r.frame_skip = 513, refuse(r, "skip and length");
    r = frame, r.frame_skip = 1025, refuse(r, "skip");
    r = frame, r.frame_skip = UINT32_MAX, refuse(r, "large skip");
    r = frame, r.length = UINT64_MAX, refuse(r, "large length");
    r = frame, r.host_off = UINT64_MAX - 50, refuse(r, "frame wraps");

    static uint8_t out[2048];
    int fds[1] = {new_file()};
    CHECK(ftruncate(fds[0], 1 << 20) == 0);
    dfmt_error err = {0};
    dfmt_row gap[2] = {data, data};
    gap[1].guest_off = 1024;
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, gap, 2, 0, 512, out, &err), DFMT_E_ARG);
    SAME(err.guest_off, 1024);
    gap[1].guest_off = 256;
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, gap, 2, 0, 512, out, &err), DFMT_E_ARG);
    gap[1].guest_off = 512;
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, gap, 2, 0, 1024, out, &err), DFMT_OK);
    r = frame, r.codec = 9;
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, &r, 1, 0, 512, out, &err), DFMT_E_CODEC);
    close(fds[0]);
}

/* Two rows that name one offset with frames of different lengths: a frame kept for the next row must not be taken
 * for another one. */
static void one_offset_two_frames(void)
{
    int codec = any_codec();
    if (codec == DFMT_NONE)
        return;
    enum { SHORT = 4096, LONG = 1 << 20 };
    static uint8_t plain[SHORT], frame[3 * SHORT], *out;
    fill_text(plain, SHORT);
    size_t stored = sizeof(frame);
    SAME(dfmt_encode(codec, 1, 15, plain, SHORT, frame, &stored, NULL), DFMT_OK);
    int fds[1] = {new_file()};
    SAME(dfmt_pwrite(dfmt_io_posix(), fds[0], frame, sizeof(frame), 0, NULL), DFMT_OK);
    dfmt_row rows[2] = {
        {.length = 512, .host_len = stored, .frame_len = SHORT, .kind = DFMT_ENCODED, .codec = (uint8_t)codec},
        {.guest_off = 512, .length = LONG - 512, .host_len = stored, .frame_len = LONG, .frame_skip = 512,
         .kind = DFMT_ENCODED, .codec = (uint8_t)codec}};
    out = must_alloc(LONG);
    dfmt_error err = {0};
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, rows, 2, 0, LONG, out, &err), DFMT_E_DATA);
    SAME(err.guest_off, 512);
    rows[1] = rows[0];
    rows[1].guest_off = 512;
    rows[1].host_len++; /* another range of the file, the same frame: fine */
    SAME(dfmt_read(dfmt_io_posix(), fds, 1, rows, 2, 0, 1024, out, &err), DFMT_OK);
    free(out);
    close(fds[0]);
}

/* Errors name the place of what is missing, not where reading began. */
static void short_files(void)
{
    enum { SIZE = 300000 };
    uint8_t *out = must_alloc(SIZE);
    int fds[2] = {new_file(), new_file()};
    CHECK(ftruncate(fds[1], 100000) == 0);
    CHECK(ftruncate(fds[0], SIZE) == 0);
    dfmt_row rows[2] = {{.length = 1000, .host_len = 1000, .kind = DFMT_DATA},
                        {.guest_off = 1000, .length = SIZE - 1000, .host_off = 5000, .host_len = SIZE - 1000,
                         .file_id = 1, .kind = DFMT_DATA}};
    dfmt_error err = {0};
    SAME(dfmt_read(dfmt_io_posix(), fds, 2, rows, 2, 500, SIZE - 500, out, &err), DFMT_E_EOF);
    SAME(err.host_off, 100000);
    SAME(err.guest_off, 96000);
    SAME(err.file_id, 1);
    int codec = any_codec();
    if (codec != DFMT_NONE) {
        /* Three frames in a row, of which the file holds two: the first two are read all the same. */
        static uint8_t plain[4096], frame[3][8192];
        size_t stored[3], at = 0;
        int fd = new_file();
        dfmt_row three[3];
        for (int i = 0; i < 3; i++) {
            fill_text(plain, sizeof(plain));
            stored[i] = sizeof(frame[i]);
            SAME(dfmt_encode(codec, 1, 15, plain, sizeof(plain), frame[i], &stored[i], NULL), DFMT_OK);
            SAME(dfmt_pwrite(dfmt_io_posix(), fd, frame[i], stored[i], at, NULL), DFMT_OK);
            three[i] = (dfmt_row){.guest_off = (uint64_t)i * 4096, .length = 4096, .host_off = at,
                                  .host_len = stored[i], .frame_len = 4096, .kind = DFMT_ENCODED,
                                  .codec = (uint8_t)codec};
            at += stored[i];
        }
        CHECK(ftruncate(fd, (off_t)(at - 10)) == 0);
        SAME(dfmt_read(dfmt_io_posix(), &fd, 1, three, 3, 0, 8192, out, &err), DFMT_OK);
        SAME(dfmt_read(dfmt_io_posix(), &fd, 1, three, 3, 0, 3 * 4096, out, &err), DFMT_E_EOF);
        SAME(err.guest_off, 8192);
        SAME(err.host_off, at - 10);
        close(fd);
    }
    close(fds[0]);
    close(fds[1]);
    free(out);
}

int main(void)
{
    random_reads();
    hostile_rows();
    one_offset_two_frames();
    short_files();
    printf("reading: random tables, hostile rows, short files: passed\n");
    return 0;
}
