/* fuzz_rows.c - any table over a small file, read and copied with any numbers. Nothing may be touched outside its
 * buffer, copying must say what reading says, and two threads what one says.
 *
 * Input: 32 bytes of numbers, a byte that says how many rows, 48 bytes each, the content of the file. */
#define _GNU_SOURCE
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NUMBERS = 32, MOST_ROWS = 64, MOST_GUEST = 1 << 23 };

static const uint8_t *file_bytes;
static size_t file_len;

static ssize_t memory_pread(void *ctx, int fd, void *buffer, size_t length, uint64_t offset)
{
    (void)ctx, (void)fd;
    if (offset >= file_len)
        return 0;
    if (length > file_len - offset)
        length = file_len - offset;
    memcpy(buffer, file_bytes + offset, length);
    return (ssize_t)length;
}

/* The written file, as a sum that does not depend on how the writes were cut or ordered. */
typedef struct sink {
    dfmt_io io;
    atomic_uint_fast64_t sum;
} sink;

static ssize_t sink_pwrite(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset)
{
    sink *s = ctx;
    (void)fd;
    const uint8_t *at = buffer;
    uint64_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum += at[i] * ((offset + i) * UINT64_C(0x9e3779b97f4a7c15) | 1);
    atomic_fetch_add(&s->sum, sum);
    return (ssize_t)length;
}

static int sink_fallocate(void *ctx, int fd, int mode, uint64_t offset, uint64_t length)
{
    (void)ctx, (void)fd, (void)mode, (void)offset, (void)length;
    return 0;
}

typedef struct result {
    int code;
    uint64_t adopted, end, fingerprint, sum, guest_off;
    uint64_t *places;
} result;

static result copy(const dfmt_placement *p, const dfmt_row *rows, size_t count, uint64_t first, int threads)
{
    sink s = {.io = *dfmt_io_posix()};
    s.io.ctx = &s;
    s.io.pread = memory_pread;
    s.io.pwrite = sink_pwrite;
    s.io.fallocate = sink_fallocate;
    static const int fds[2] = {0, 0};
    result r = {.code = -1};
    dfmt_copy *c = dfmt_copy_new(&s.io, fds, 2, 0, p, first, threads);
    if (c == NULL)
        return r;
    uint64_t span = rows[count - 1].guest_off + rows[count - 1].length - rows[0].guest_off;
    size_t units = span <= MOST_GUEST ? (span + p->unit - 1) / p->unit : 1; /* 1: refused before it is used */
    r.places = calloc(2 * units + 1, sizeof(uint64_t));
    dfmt_error err = {0};
    r.code = dfmt_copy_run(c, rows, count, r.places, r.places + units, units, &err);
    dfmt_copy_finish(c);
    r.adopted = dfmt_copy_adopted(c);
    r.end = dfmt_copy_end(c);
    r.fingerprint = dfmt_copy_fingerprint(c);
    r.sum = atomic_load(&s.sum);
    r.guest_off = err.guest_off;
    dfmt_copy_free(c);
    if (r.code != err.code)
        abort();
    return r;
}

static uint32_t le32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < NUMBERS + 1)
        return -1;
    size_t count = data[NUMBERS] % MOST_ROWS + 1;
    const uint8_t *n = data;
    data += NUMBERS + 1;
    size -= NUMBERS + 1;
    if (size < count * sizeof(dfmt_row))
        return -1;
    dfmt_row *rows = malloc(count * sizeof(dfmt_row));
    memcpy(rows, data, count * sizeof(dfmt_row));
    file_bytes = data + count * sizeof(dfmt_row);
    file_len = size - count * sizeof(dfmt_row);
    /* Most tables would fail the first check: make one that does not, unless the input asks for it as it is. */
    bool raw = n[31] % 8 == 0;
    uint64_t at = rows[0].guest_off & ~UINT64_C(0x1ffff);
    if (!raw) {
        at &= 0xffffffff;
        for (size_t i = 0; i < count; i++) {
            dfmt_row *r = &rows[i];
            r->guest_off = at;
            r->length = r->length % 300000 + 1;
            r->file_id %= 2;
            r->kind = (uint8_t)(r->kind % 4 + 1);
            r->codec = (uint8_t)(r->codec % 4);
            if (n[30] % 2 == 0)
                r->host_off %= file_len + 1;
            if (r->kind == DFMT_DATA)
                r->host_len = r->length;
            if (r->kind == DFMT_ENCODED) {
                r->host_len = r->host_len % 200000 + 1;
                r->frame_skip %= 100000;
                r->frame_len = r->frame_skip + (uint32_t)r->length + r->frame_len % 3;
            }
            at += r->length;
        }
    } else {
        at = rows[count - 1].guest_off + rows[count - 1].length;
    }
    uint64_t start = rows[0].guest_off, span = at - start;
    int read_code = DFMT_E_ARG;
    static const int fds[2] = {0, 0};
    dfmt_io io = *dfmt_io_posix();
    io.pread = memory_pread;
    if (span <= MOST_GUEST) {
        uint8_t *out = malloc(span + 1);
        read_code = dfmt_read(&io, fds, 2, rows, count, start, span, out, NULL);
        if (read_code == DFMT_OK && span > 3) {
            uint8_t *part = malloc(span);
            uint64_t from = le32(n + 20) % span, length = le32(n + 24) % (span - from);
            if (dfmt_read(&io, fds, 2, rows, count, start + from, length, part, NULL) != DFMT_OK ||
                memcmp(part, out + from, length) != 0)
                abort();
            free(part);
        }
        free(out);
    } else {
        dfmt_error err;
        if (dfmt_rows_check(rows, count, 2, &err) == DFMT_OK) { /* too much work to copy here */
            free(rows);
            return 0;
        }
    }
    dfmt_placement p = {.unit = UINT64_C(512) << (n[0] % 14), .base = le32(n + 1), .fixed = n[5] % 2,
                        .align = UINT32_C(1) << (n[6] % 17), .frame_align = UINT32_C(1) << (n[7] % 13),
                        .codec = n[5] % 2 == 0 && n[8] % 3 == 0 ? n[9] % 4 : DFMT_NONE, .level = n[10] % 2,
                        .window_bits = 9 + n[11] % 7, .allow_plain = n[12] % 2,
                        .prefix_len = n[13] % 2 * (n[14] + 1U), .prefix_byte = n[15], .marker = n[16] % 2,
                        .group_units = n[17], .group_room = 2U * n[18], .guest_size = start + span,
                        .fingerprint = n[0] % 14 >= 7, .zeroes = n[28] % 3, .adopt = n[29] % 2};
    if (p.codec != DFMT_NONE)
        p.prefix_len = 0;
    result one = copy(&p, rows, count, 512 + n[19], 1);
    result two = copy(&p, rows, count, 512 + n[19], 2);
    if (one.code != two.code || one.guest_off != two.guest_off)
        abort();
    if (one.code == DFMT_OK && (one.end != two.end || one.fingerprint != two.fingerprint || one.sum != two.sum ||
                                one.adopted != two.adopted))
        abort();
    if (read_code == DFMT_OK && one.code != DFMT_OK && one.code != DFMT_E_CODEC && one.code != -1 &&
        start % p.unit == 0)
        abort();
    if (one.code == DFMT_OK && read_code != DFMT_OK)
        abort();
    free(one.places);
    free(two.places);
    free(rows);
    return 0;
}
