/* test_io.c - the loops around system calls: short transfers, EINTR, the end of a file; gather; runs of sparse files. */
#include "testing.h"

#include <fcntl.h>
#include <sys/stat.h>

/* A table that never does all that it is asked, and is interrupted every third time. */
typedef struct nagging {
    dfmt_io io;
    unsigned calls;
    size_t most;
} nagging;

static ssize_t nagging_pread(void *ctx, int fd, void *buffer, size_t length, uint64_t offset)
{
    nagging *n = ctx;
    if (++n->calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return pread(fd, buffer, length < n->most ? length : n->most, (off_t)offset);
}

static ssize_t nagging_pwrite(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset)
{
    nagging *n = ctx;
    if (++n->calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return pwrite(fd, buffer, length < n->most ? length : n->most, (off_t)offset);
}

static ssize_t write_nothing(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset)
{
    (void)ctx, (void)fd, (void)buffer, (void)length, (void)offset;
    return 0;
}

static int64_t cannot_seek(void *ctx, int fd, uint64_t offset, int whence)
{
    (void)ctx, (void)fd, (void)offset, (void)whence;
    errno = EINVAL;
    return -1;
}

static void transfers(void)
{
    enum { SIZE = 100000 };
    static uint8_t wrote[SIZE], got[SIZE];
    fill_random(wrote, SIZE);
    int fd = new_file();
    nagging n = {.io = *dfmt_io_posix(), .most = 777};
    n.io.ctx = &n;
    n.io.pread = nagging_pread;
    n.io.pwrite = nagging_pwrite;
    dfmt_error err = {0};
    SAME(dfmt_pwrite(&n.io, fd, wrote, SIZE, 1000, &err), DFMT_OK);
    SAME(dfmt_pread(&n.io, fd, got, SIZE, 1000, &err), DFMT_OK);
    CHECK(memcmp(wrote, got, SIZE) == 0);
    SAME(dfmt_pread(&n.io, fd, got, 0, UINT64_C(1) << 40, &err), DFMT_OK);

    SAME(dfmt_pread(&n.io, fd, got, SIZE, 1001, &err), DFMT_E_EOF);
    SAME(err.code, DFMT_E_EOF);
    SAME(err.host_off, SIZE + 1000);
    SAME(err.sys_errno, 0);
    SAME(dfmt_pread(dfmt_io_posix(), fd, got, 1, UINT64_C(1) << 40, &err), DFMT_E_EOF);
    SAME(dfmt_pread(dfmt_io_posix(), fd, got, 1, UINT64_MAX, &err), DFMT_E_READ);
    SAME(err.sys_errno, EINVAL);
    SAME(dfmt_pread(dfmt_io_posix(), -1, got, 1, 5, &err), DFMT_E_READ);
    SAME(err.sys_errno, EBADF);
    SAME(err.host_off, 5);
    SAME(dfmt_pwrite(dfmt_io_posix(), -1, got, 1, 7, &err), DFMT_E_WRITE);
    SAME(err.file_id, DFMT_TARGET);
    SAME(dfmt_pread(dfmt_io_posix(), -1, got, 1, 5, NULL), DFMT_E_READ);
    n.io.pwrite = write_nothing; /* no progress must not become no end */
    SAME(dfmt_pwrite(&n.io, fd, got, 1, 7, &err), DFMT_E_WRITE);
    SAME(err.sys_errno, EIO);

    SAME(dfmt_ftruncate(dfmt_io_posix(), fd, 12345, &err), DFMT_OK);
    struct stat info;
    CHECK(fstat(fd, &info) == 0 && info.st_size == 12345);
    SAME(dfmt_fsync(dfmt_io_posix(), fd, &err), DFMT_OK);
    CHECK(dfmt_filesystem(fd) != 0);
    SAME(dfmt_close(dfmt_io_posix(), fd, &err), DFMT_OK);
    SAME(dfmt_close(dfmt_io_posix(), fd, &err), DFMT_E_WRITE);
    SAME(dfmt_filesystem(-1), 0);
}

static void gather(void)
{
    enum { SIZE = 3 << 20 };
    uint8_t *wrote = must_alloc(SIZE), *got = must_alloc(SIZE);
    fill_random(wrote, SIZE);
    int fd = new_file();
    dfmt_error err = {0};
    SAME(dfmt_pwrite(dfmt_io_posix(), fd, wrote, SIZE, 0, &err), DFMT_OK);
    dfmt_io *count = dfmt_io_faulty_new(DFMT_OP_PREAD, 0, DFMT_FAULT_ERRNO, 0, 0);
    enum { N = 3000 };
    static uint64_t offsets[N];
    for (size_t i = 0; i < N; i++)
        offsets[i] = i % 7 < 4 && i > 0 ? offsets[i - 1] + 600 : random_below(SIZE - 8000);
    SAME(dfmt_gather(count, fd, offsets, N, 600, got, SIZE, &err), DFMT_OK);
    for (size_t i = 0; i < N; i++)
        CHECK(memcmp(got + i * 600, wrote + offsets[i], 600) == 0);
    CHECK(dfmt_io_faulty_count(count, DFMT_OP_PREAD) < N / 2); /* neighbours are read at once */
    for (size_t i = 0; i < 4; i++)
        offsets[i] = i << 19;
    SAME(dfmt_gather(count, fd, offsets, 4, 1 << 19, got, SIZE, &err), DFMT_OK);
    CHECK(memcmp(got, wrote, 4 << 19) == 0);

    SAME(dfmt_gather(count, fd, offsets, 0, 600, got, 0, &err), DFMT_OK);
    SAME(dfmt_gather(count, fd, offsets, 2, 600, got, 1199, &err), DFMT_E_ARG);
    SAME(dfmt_gather(count, fd, offsets, SIZE_MAX / 2, 600, got, SIZE, &err), DFMT_E_ARG);
    for (size_t i = 0; i < 5; i++)
        offsets[i] = SIZE - 1500 + i * 600; /* the third ends behind the file */
    SAME(dfmt_gather(count, fd, offsets, 5, 600, got, SIZE, &err), DFMT_E_EOF);
    SAME(err.host_off, offsets[2]);
    offsets[0] = UINT64_MAX - 599; /* the next one is at 0 */
    offsets[1] = 0;
    SAME(dfmt_gather(count, fd, offsets, 2, 600, got, SIZE, &err), DFMT_E_READ);
    SAME(err.host_off, offsets[0]);
    dfmt_io_faulty_free(count);
    close(fd);
    free(wrote);
    free(got);
}

static void runs(void)
{
    int fd = new_file();
    static uint8_t page[65536];
    fill_random(page, sizeof(page));
    CHECK(ftruncate(fd, 64 << 20) == 0);
    for (uint64_t i = 0; i < 10; i++)
        SAME(dfmt_pwrite(dfmt_io_posix(), fd, page, sizeof(page), (2 * i + 1) << 20, NULL), DFMT_OK);
    size_t found;
    uint64_t next, out[40];
    dfmt_error err = {0};
    SAME(dfmt_data_runs(dfmt_io_posix(), fd, 0, 64 << 20, out, 20, &found, &next, &err), DFMT_OK);
    SAME(next, 64 << 20);
    uint64_t covered = 0;
    bool sparse = found == 10; /* some file systems say less */
    for (size_t i = 0; i < found; i++)
        covered += out[2 * i + 1];
    CHECK(covered >= 10 * sizeof(page));
    if (sparse) {
        for (uint64_t i = 0; i < 10; i++)
            CHECK(out[2 * i] == (2 * i + 1) << 20 && out[2 * i + 1] == sizeof(page));
        /* In pieces of three, from one call to the next. */
        uint64_t at = 0;
        size_t sum = 0;
        while (at < 64 << 20) {
            SAME(dfmt_data_runs(dfmt_io_posix(), fd, at, 64 << 20, out, 3, &found, &at, &err), DFMT_OK);
            CHECK(found <= 3);
            sum += found;
        }
        SAME(sum, 10);
        /* A range that cuts runs. */
        SAME(dfmt_data_runs(dfmt_io_posix(), fd, (1 << 20) + 4096, (3 << 20) + 4096, out, 3, &found, &next, &err), 0);
        SAME(found, 2);
        SAME(out[0], (1 << 20) + 4096);
        SAME(out[1], sizeof(page) - 4096);
        SAME(out[2], 3 << 20);
        SAME(out[3], 4096);
        SAME(next, (3 << 20) + 4096);
    }
    SAME(dfmt_data_runs(dfmt_io_posix(), fd, 60 << 20, 64 << 20, out, 3, &found, &next, &err), DFMT_OK);
    CHECK(next == 64 << 20 && (found == 0 || !sparse));
    SAME(dfmt_data_runs(dfmt_io_posix(), fd, 5, 5, out, 3, &found, &next, &err), DFMT_OK);
    CHECK(found == 0 && next == 5);
    SAME(dfmt_data_runs(dfmt_io_posix(), fd, 65 << 20, 70 << 20, out, 3, &found, &next, &err), DFMT_OK);
    CHECK(found == 0 && next == 70 << 20); /* behind the end */
    dfmt_io blind = *dfmt_io_posix();
    blind.seek = cannot_seek;
    SAME(dfmt_data_runs(&blind, fd, 100, 1000, out, 3, &found, &next, &err), DFMT_OK);
    CHECK(found == 1 && out[0] == 100 && out[1] == 900 && next == 1000);
    SAME(dfmt_data_runs(dfmt_io_posix(), -1, 100, 1000, out, 3, &found, &next, &err), DFMT_E_READ);
    SAME(err.sys_errno, EBADF);
    close(fd);
}

static void make(int dir, const char *name, const char *text)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void renames(void)
{
    char name[] = "/tmp/dfmt-dir-XXXXXX";
    CHECK(mkdtemp(name) != NULL);
    int dir = open(name, O_RDONLY | O_DIRECTORY);
    dfmt_error err = {0};
    make(dir, "a", "a");
    make(dir, "b", "bb");
    SAME(dfmt_rename(dfmt_io_posix(), dir, "a", "b", 0, &err), DFMT_E_WRITE);
    SAME(err.sys_errno, EEXIST);
    struct stat info;
    CHECK(fstatat(dir, "b", &info, 0) == 0 && info.st_size == 2);
    SAME(dfmt_rename(dfmt_io_posix(), dir, "a", "c", 0, &err), DFMT_OK);
    CHECK(fstatat(dir, "a", &info, 0) != 0 && fstatat(dir, "c", &info, 0) == 0);
    SAME(dfmt_rename(dfmt_io_posix(), dir, "c", "b", 1, &err), DFMT_OK);
    CHECK(fstatat(dir, "b", &info, 0) == 0 && info.st_size == 1);
    SAME(dfmt_rename(dfmt_io_posix(), dir, "c", "b", 1, &err), DFMT_E_WRITE);
    SAME(err.sys_errno, ENOENT);
    unlinkat(dir, "b", 0);
    close(dir);
    CHECK(rmdir(name) == 0);
}

static void faults(void)
{
    uint8_t byte[2] = {1, 2};
    int fd = new_file();
    dfmt_error err = {0};
    dfmt_io *io = dfmt_io_faulty_new(DFMT_OP_PWRITE, 2, DFMT_FAULT_ERRNO, ENOSPC, 0);
    SAME(dfmt_pwrite(io, fd, byte, 2, 0, &err), DFMT_OK);
    SAME(dfmt_pwrite(io, fd, byte, 2, 0, &err), DFMT_E_WRITE);
    SAME(err.sys_errno, ENOSPC);
    SAME(dfmt_pwrite(io, fd, byte, 2, 0, &err), DFMT_OK);
    SAME(dfmt_io_faulty_count(io, DFMT_OP_PWRITE), 3);
    SAME(dfmt_io_faulty_count(io, DFMT_OP_PREAD), 0);
    SAME(dfmt_io_faulty_count(io, 99), 0);
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_FSYNC, 1, DFMT_FAULT_ERRNO, EIO, 1);
    SAME(dfmt_fsync(io, fd, &err), DFMT_E_WRITE);
    SAME(dfmt_fsync(io, fd, &err), DFMT_E_WRITE);
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_FTRUNCATE, 1, DFMT_FAULT_ERRNO, EINTR, 0);
    SAME(dfmt_ftruncate(io, fd, 1, &err), DFMT_OK); /* tried again */
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_PWRITE, 1, DFMT_FAULT_LIE, 0, 0);
    SAME(dfmt_pwrite(io, fd, byte, 2, 100, &err), DFMT_OK);
    SAME(dfmt_pread(io, fd, byte, 2, 100, &err), DFMT_E_EOF);
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_PREAD, 1, DFMT_FAULT_SHORT, 0, 1);
    SAME(dfmt_pwrite(io, fd, byte, 2, 0, &err), DFMT_OK);
    SAME(dfmt_pread(io, fd, byte, 2, 0, &err), DFMT_OK);
    SAME(dfmt_io_faulty_count(io, DFMT_OP_PREAD), 2);
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_CLOSE, 1, DFMT_FAULT_ERRNO, EIO, 0);
    SAME(dfmt_close(io, fd, &err), DFMT_E_WRITE);
    CHECK(fcntl(fd, F_GETFD) < 0); /* closed nevertheless, as the kernel does */
    dfmt_io_faulty_free(io);
    io = dfmt_io_faulty_new(DFMT_OP_RENAME, 1, DFMT_FAULT_ERRNO, EACCES, 0);
    SAME(dfmt_rename(io, AT_FDCWD, "/nowhere/a", "/nowhere/b", 0, &err), DFMT_E_WRITE);
    SAME(err.sys_errno, EACCES);
    dfmt_io_faulty_free(io);
}

int main(void)
{
    transfers();
    gather();
    runs();
    renames();
    faults();
    printf("system calls: transfers, gather, data runs, renames, faults: passed\n");
    return 0;
}
