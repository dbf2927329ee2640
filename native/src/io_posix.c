/* io_posix.c - the real system calls, and the loops that every caller needs around them. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGED_FROM 65536

static ssize_t posix_pread(void *ctx, int fd, void *buffer, size_t length, uint64_t offset)
{
    (void)ctx;
    return pread(fd, buffer, length, (off_t)offset);
}

static ssize_t posix_pwrite(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset)
{
    (void)ctx;
    return pwrite(fd, buffer, length, (off_t)offset);
}

static int posix_fsync(void *ctx, int fd)
{
    (void)ctx;
    return fsync(fd);
}

static int posix_ftruncate(void *ctx, int fd, uint64_t length)
{
    (void)ctx;
    return ftruncate(fd, (off_t)length);
}

static int posix_fallocate_(void *ctx, int fd, int mode, uint64_t offset, uint64_t length)
{
    (void)ctx;
    return fallocate(fd, mode, (off_t)offset, (off_t)length);
}

static int posix_write_behind(void *ctx, int fd, uint64_t offset, uint64_t length)
{
    (void)ctx;
    return sync_file_range(fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

static int64_t posix_seek(void *ctx, int fd, uint64_t offset, int whence)
{
    (void)ctx;
    return lseek(fd, (off_t)offset, whence);
}

static int posix_rename(void *ctx, int dir_fd, const char *from, const char *to, int replace)
{
    (void)ctx;
    if (replace)
        return renameat(dir_fd, from, dir_fd, to);
    /* The libc wrapper is younger than the systems a wheel must run on. */
    if (syscall(SYS_renameat2, dir_fd, from, dir_fd, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    /* A file system without RENAME_NOREPLACE: a link refuses an existing name as well. */
    if (linkat(dir_fd, from, dir_fd, to, 0) != 0)
        return -1;
    return unlinkat(dir_fd, from, 0);
}

static int posix_close(void *ctx, int fd)
{
    (void)ctx;
    return close(fd);
}

/* Large buffers start on a page, and so on a cache line: on one AMD EPYC pread() from the page cache into memory 16
 * bytes behind a line, where malloc() may put it, ran at 2 GB/s, and at 6 to 7 GB/s with any multiple of 64. */
static void *posix_malloc(void *ctx, size_t size)
{
    (void)ctx;
    if (size < PAGED_FROM)
        return malloc(size);
    void *memory;
    return posix_memalign(&memory, 4096, size) == 0 ? memory : NULL;
}

static void posix_free(void *ctx, void *memory)
{
    (void)ctx;
    free(memory);
}

const dfmt_io *dfmt_io_posix(void)
{
    static const dfmt_io io = {
        .pread = posix_pread,
        .pwrite = posix_pwrite,
        .fsync = posix_fsync,
        .ftruncate = posix_ftruncate,
        .fallocate = posix_fallocate_,
        .write_behind = posix_write_behind,
        .seek = posix_seek,
        .rename = posix_rename,
        .close = posix_close,
        .malloc = posix_malloc,
        .free = posix_free,
    };
    return &io;
}

int dfmt_fail(dfmt_error *err, int code, int sys_errno, uint64_t host_off, uint64_t guest_off, uint32_t file_id)
{
    if (err != NULL)
        *err = (dfmt_error){
            .code = code, .sys_errno = sys_errno, .host_off = host_off, .guest_off = guest_off, .file_id = file_id};
    return code;
}

int dfmt_pread(const dfmt_io *io, int fd, void *buffer, size_t length, uint64_t offset, dfmt_error *err)
{
    uint8_t *at = buffer;
    while (length > 0) {
        ssize_t got = io->pread(io->ctx, fd, at, length, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return dfmt_fail(err, DFMT_E_READ, errno, offset, 0, 0);
        if (got == 0)
            return dfmt_fail(err, DFMT_E_EOF, 0, offset, 0, 0);
        at += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return DFMT_OK;
}

int dfmt_pwrite(const dfmt_io *io, int fd, const void *buffer, size_t length, uint64_t offset, dfmt_error *err)
{
    const uint8_t *at = buffer;
    while (length > 0) {
        ssize_t put = io->pwrite(io->ctx, fd, at, length, offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) /* 0 is no progress: POSIX knows no reason for it on a file */
            return dfmt_fail(err, DFMT_E_WRITE, put < 0 ? errno : EIO, offset, 0, DFMT_TARGET);
        at += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return DFMT_OK;
}

/* No retry, not even for EINTR: the kernel reports a lost write once, and says success the next time. */
int dfmt_fsync(const dfmt_io *io, int fd, dfmt_error *err)
{
    if (io->fsync(io->ctx, fd) != 0)
        return dfmt_fail(err, DFMT_E_WRITE, errno, 0, 0, DFMT_TARGET);
    return DFMT_OK;
}

int dfmt_ftruncate(const dfmt_io *io, int fd, uint64_t length, dfmt_error *err)
{
    while (io->ftruncate(io->ctx, fd, length) != 0)
        if (errno != EINTR)
            return dfmt_fail(err, DFMT_E_WRITE, errno, length, 0, DFMT_TARGET);
    return DFMT_OK;
}

/* On Linux the descriptor is gone whatever close() says: no retry. */
int dfmt_close(const dfmt_io *io, int fd, dfmt_error *err)
{
    if (io->close(io->ctx, fd) != 0)
        return dfmt_fail(err, DFMT_E_WRITE, errno, 0, 0, DFMT_TARGET);
    return DFMT_OK;
}

int dfmt_rename(const dfmt_io *io, int dir_fd, const char *from, const char *to, int replace, dfmt_error *err)
{
    if (io->rename(io->ctx, dir_fd, from, to, replace) != 0)
        return dfmt_fail(err, DFMT_E_WRITE, errno, 0, 0, DFMT_TARGET);
    return DFMT_OK;
}

int dfmt_gather(const dfmt_io *io, int fd, const uint64_t *offsets, size_t count, size_t size, uint8_t *out,
                size_t out_len, dfmt_error *err)
{
    size_t needed;
    if (__builtin_mul_overflow(count, size, &needed) || needed > out_len)
        return dfmt_fail(err, DFMT_E_ARG, 0, 0, 0, 0);
    for (size_t i = 0; i < count;) {
        /* Tables often lie one behind the other: read such a run at once. */
        size_t run = 1;
        while (i + run < count && offsets[i + run] == offsets[i] + run * size && run * size < (1U << 20))
            run++;
        int code = dfmt_pread(io, fd, out + i * size, run * size, offsets[i], err);
        if (code != DFMT_OK) {
            if (err != NULL) /* the piece, not the byte */
                err->host_off = offsets[i] + (err->host_off - offsets[i]) / size * size;
            return code;
        }
        i += run;
    }
    return DFMT_OK;
}

int dfmt_data_runs(const dfmt_io *io, int fd, uint64_t start, uint64_t stop, uint64_t *out, size_t max, size_t *found,
                   uint64_t *next, dfmt_error *err)
{
    *found = 0;
    while (start < stop && *found < max) {
        int64_t data = io->seek(io->ctx, fd, start, SEEK_DATA);
        if (data < 0 && errno == ENXIO) { /* nothing but a hole up to the end */
            start = stop;
            break;
        }
        if (data < 0 && errno != EINVAL && errno != EOPNOTSUPP)
            return dfmt_fail(err, DFMT_E_READ, errno, start, 0, 0);
        int64_t hole = data < 0 ? -1 : io->seek(io->ctx, fd, (uint64_t)data, SEEK_HOLE);
        if (hole < 0 && data >= 0 && errno != EINVAL && errno != EOPNOTSUPP)
            return dfmt_fail(err, DFMT_E_READ, errno, (uint64_t)data, 0, 0);
        uint64_t from = data < 0 ? start : (uint64_t)data;
        uint64_t to = hole <= data ? stop : dfmt_min((uint64_t)hole, stop);
        if (from >= stop) {
            start = stop;
            break;
        }
        out[2 * *found] = from;
        out[2 * *found + 1] = to - from;
        *found += 1;
        start = to;
    }
    *next = start;
    return DFMT_OK;
}

uint64_t dfmt_filesystem(int fd)
{
    struct statfs info;
    return fstatfs(fd, &info) == 0 ? (uint64_t)(unsigned long)info.f_type : 0;
}
