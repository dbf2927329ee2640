/* io_faulty.c - the real system with one fault in it, so that tests can fail the n-th call of anything. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

typedef struct faulty {
    dfmt_io io; /* first: the table that callers hold is the whole record */
    const dfmt_io *real;
    int op;
    int how;
    int sys_errno;
    int sticky;
    uint64_t nth;
    atomic_uint_fast64_t count[DFMT_OPS];
} faulty;

/* Count a call; is it the one? */
static bool strikes(faulty *f, int op)
{
    uint64_t number = atomic_fetch_add(&f->count[op], 1) + 1;
    return op == f->op && (number == f->nth || (f->sticky && number > f->nth));
}

static int refuse(const faulty *f)
{
    errno = f->sys_errno;
    return -1;
}

static ssize_t faulty_pread(void *ctx, int fd, void *buffer, size_t length, uint64_t offset)
{
    faulty *f = ctx;
    if (strikes(f, DFMT_OP_PREAD)) {
        if (f->how == DFMT_FAULT_ERRNO)
            return refuse(f);
        if (f->how == DFMT_FAULT_SHORT && length > 1)
            length /= 2;
    }
    return f->real->pread(f->real->ctx, fd, buffer, length, offset);
}

static ssize_t faulty_pwrite(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset)
{
    faulty *f = ctx;
    if (strikes(f, DFMT_OP_PWRITE)) {
        if (f->how == DFMT_FAULT_ERRNO)
            return refuse(f);
        if (f->how == DFMT_FAULT_LIE)
            return (ssize_t)length;
        if (length > 1)
            length /= 2;
    }
    return f->real->pwrite(f->real->ctx, fd, buffer, length, offset);
}

static int faulty_fsync(void *ctx, int fd)
{
    faulty *f = ctx;
    if (strikes(f, DFMT_OP_FSYNC))
        return f->how == DFMT_FAULT_LIE ? 0 : refuse(f);
    return f->real->fsync(f->real->ctx, fd);
}

static int faulty_ftruncate(void *ctx, int fd, uint64_t length)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_FTRUNCATE) ? refuse(f) : f->real->ftruncate(f->real->ctx, fd, length);
}

static int faulty_fallocate(void *ctx, int fd, int mode, uint64_t offset, uint64_t length)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_FALLOCATE) ? refuse(f) : f->real->fallocate(f->real->ctx, fd, mode, offset, length);
}

static int faulty_write_behind(void *ctx, int fd, uint64_t offset, uint64_t length)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_WRITE_BEHIND) ? refuse(f) : f->real->write_behind(f->real->ctx, fd, offset, length);
}

static int64_t faulty_seek(void *ctx, int fd, uint64_t offset, int whence)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_SEEK) ? refuse(f) : f->real->seek(f->real->ctx, fd, offset, whence);
}

static int faulty_rename(void *ctx, int dir_fd, const char *from, const char *to, int replace)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_RENAME) ? refuse(f) : f->real->rename(f->real->ctx, dir_fd, from, to, replace);
}

/* Like the kernel: the descriptor is closed even when an error is reported. */
static int faulty_close(void *ctx, int fd)
{
    faulty *f = ctx;
    bool strike = strikes(f, DFMT_OP_CLOSE);
    int result = f->real->close(f->real->ctx, fd);
    return strike ? refuse(f) : result;
}

static void *faulty_malloc(void *ctx, size_t size)
{
    faulty *f = ctx;
    return strikes(f, DFMT_OP_MALLOC) ? NULL : f->real->malloc(f->real->ctx, size);
}

static void faulty_free(void *ctx, void *memory)
{
    faulty *f = ctx;
    f->real->free(f->real->ctx, memory);
}

dfmt_io *dfmt_io_faulty_new(int op, uint64_t nth, int how, int sys_errno, int sticky)
{
    faulty *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return NULL;
    f->io = (dfmt_io){
        .ctx = f,
        .pread = faulty_pread,
        .pwrite = faulty_pwrite,
        .fsync = faulty_fsync,
        .ftruncate = faulty_ftruncate,
        .fallocate = faulty_fallocate,
        .write_behind = faulty_write_behind,
        .seek = faulty_seek,
        .rename = faulty_rename,
        .close = faulty_close,
        .malloc = faulty_malloc,
        .free = faulty_free,
    };
    f->real = dfmt_io_posix();
    f->op = op;
    f->nth = nth;
    f->how = how;
    f->sys_errno = sys_errno;
    f->sticky = sticky;
    return &f->io;
}

void dfmt_io_faulty_free(dfmt_io *io)
{
    free(io);
}

uint64_t dfmt_io_faulty_count(const dfmt_io *io, int op)
{
    const faulty *f = io->ctx;
    return op >= 0 && op < DFMT_OPS ? atomic_load(&((faulty *)(uintptr_t)f)->count[op]) : 0;
}
