/* test_faults.c - the n-th call of everything fails: the error says so, and nothing leaks (under ASan). */
#include "tables.h"

#include <pthread.h>

typedef struct job {
    source s;
    dfmt_placement p;
    int threads;
    uint64_t *places, *stored;
    size_t units;
} job;

static int run(const dfmt_io *io, const job *j, int target, dfmt_error *err)
{
    dfmt_copy *copy = dfmt_copy_new(io, j->s.fds, FILES, target, &j->p, 512, j->threads);
    if (copy != NULL)
        dfmt_copy_write_behind(copy, 1);
    if (copy == NULL)
        return DFMT_E_NOMEM;
    int code = dfmt_copy_run(copy, j->s.rows, j->s.count, j->places, j->stored, j->units, err);
    dfmt_copy_free(copy);
    return code;
}

static job new_job(int codec, uint64_t unit, int threads)
{
    job j = {.s = source_new(2 << 20, 60000, 30000), .threads = threads};
    j.p = (dfmt_placement){.unit = unit, .align = 512, .frame_align = 512, .codec = (uint32_t)codec, .window_bits = 15,
                           .guest_size = j.s.size, .allow_plain = 1};
    j.units = (j.s.size + unit - 1) / unit;
    j.places = must_alloc(j.units * 8);
    j.stored = must_alloc(j.units * 8);
    return j;
}

static void free_job(job *j)
{
    source_free(&j->s);
    free(j->places);
    free(j->stored);
}

/* The number of calls of `op` that the job makes when all is well. */
static uint64_t calls(const job *j, int op)
{
    dfmt_io *io = dfmt_io_faulty_new(op, 0, DFMT_FAULT_ERRNO, EIO, 0);
    int target = new_file();
    SAME(run(io, j, target, NULL), DFMT_OK);
    close(target);
    uint64_t count = dfmt_io_faulty_count(io, op);
    dfmt_io_faulty_free(io);
    return count;
}

/* Each call of `op` once, then with all that follow. */
static uint64_t fail_each(const job *j, int op, int how, int number, int code)
{
    uint64_t count = calls(j, op), tried = 0;
    for (uint64_t nth = 1; nth <= count; nth += 1 + nth / 8) {
        for (int sticky = 0; sticky < 2; sticky++) {
            dfmt_io *io = dfmt_io_faulty_new(op, nth, how, number, sticky);
            int target = new_file();
            dfmt_error err = {0};
            int got = run(io, j, target, &err);
            /* With threads the number of calls may differ by a few. */
            if (dfmt_io_faulty_count(io, op) >= nth) {
                /* Frames are read ahead; such a read may fail and be tried again for the frame that is needed. */
                if (op != DFMT_OP_PREAD || sticky || got != DFMT_OK)
                    SAME(got, code);
                if (got != DFMT_OK && op != DFMT_OP_MALLOC) {
                    SAME(err.code, code);
                    SAME(err.sys_errno, how == DFMT_FAULT_ERRNO ? number : 0);
                    CHECK(err.guest_off < j->s.size);
                    CHECK((err.file_id == DFMT_TARGET) == (op != DFMT_OP_PREAD));
                }
            }
            tried++;
            close(target);
            dfmt_io_faulty_free(io);
        }
    }
    return tried;
}

static void reading_fails(void)
{
    uint8_t *out = must_alloc(2 << 20);
    source s = source_new(2 << 20, 60000, 30000);
    for (int op = 0; op <= DFMT_OP_MALLOC; op += DFMT_OP_MALLOC) {
        dfmt_io *io = dfmt_io_faulty_new(op, 0, DFMT_FAULT_ERRNO, EIO, 0);
        SAME(dfmt_read(io, s.fds, FILES, s.rows, s.count, 0, s.size, out, NULL), DFMT_OK);
        uint64_t count = dfmt_io_faulty_count(io, op);
        dfmt_io_faulty_free(io);
        CHECK(count > 0);
        for (uint64_t nth = 1; nth <= count; nth++) {
            dfmt_error err = {0};
            io = dfmt_io_faulty_new(op, nth, DFMT_FAULT_ERRNO, EIO, 1);
            SAME(dfmt_read(io, s.fds, FILES, s.rows, s.count, 0, s.size, out, &err),
                 op == DFMT_OP_PREAD ? DFMT_E_READ : DFMT_E_NOMEM);
            SAME(err.code, op == DFMT_OP_PREAD ? DFMT_E_READ : DFMT_E_NOMEM);
            dfmt_io_faulty_free(io);
        }
    }
    source_free(&s);
    free(out);
}

/* It is a hint: the run goes on without, and the flush at the end tells what was lost. */
static void write_behind_fails(const job *j)
{
    CHECK(calls(j, DFMT_OP_WRITE_BEHIND) > 0);
    dfmt_io *io = dfmt_io_faulty_new(DFMT_OP_WRITE_BEHIND, 1, DFMT_FAULT_ERRNO, EIO, 1);
    int target = new_file();
    SAME(run(io, j, target, NULL), DFMT_OK);
    close(target);
    dfmt_io_faulty_free(io);
}

/* An optimisation that is not to be had is done without; any other error counts. */
static void allocation_fails(const job *j)
{
    static const int harmless[] = {EOPNOTSUPP, ENOSYS, EINVAL, ENOSPC, EFBIG, EDQUOT, EINTR};
    for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
        dfmt_io *io = dfmt_io_faulty_new(DFMT_OP_FALLOCATE, 1, DFMT_FAULT_ERRNO, harmless[i], 1);
        int target = new_file();
        dfmt_error err = {0};
        SAME(run(io, j, target, &err), DFMT_OK);
        close(target);
        dfmt_io_faulty_free(io);
    }
}

/* The error that counts is the first one of the guest, whatever the threads do. */
static void first_error_counts(void)
{
    enum { FRAMES = 400, UNIT = 65536 };
    int codec = any_codec();
    if (codec == DFMT_NONE)
        return;
    uint8_t *plain = must_alloc(UNIT), *frame = must_alloc(2 * UNIT);
    size_t stored = 2 * UNIT;
    fill_text(plain, UNIT);
    SAME(dfmt_encode(codec, 1, 15, plain, UNIT, frame, &stored, NULL), DFMT_OK);
    int fds[1] = {new_file()};
    static dfmt_row rows[FRAMES];
    for (uint64_t i = 0; i < FRAMES; i++) {
        rows[i] = (dfmt_row){.guest_off = i * UNIT, .length = UNIT, .host_off = i * (stored + 77), .host_len = stored,
                             .frame_len = UNIT, .kind = DFMT_ENCODED, .codec = (uint8_t)codec};
        SAME(dfmt_pwrite(dfmt_io_posix(), fds[0], frame, stored, rows[i].host_off, NULL), DFMT_OK);
    }
    memset(frame, 0xff, stored);
    for (int round = 0; round < 12; round++) {
        uint64_t first = FRAMES;
        for (int i = 0; i < 12; i++) {
            uint64_t bad = 20 + random_below(FRAMES - 20);
            if (round % 2 == 0 && i > 0)
                bad = first + i < FRAMES ? first + (uint64_t)i : first; /* neighbours, in different batches too */
            first = bad < first ? bad : first;
            SAME(dfmt_pwrite(dfmt_io_posix(), fds[0], frame, stored, rows[bad].host_off, NULL), DFMT_OK);
        }
        for (int threads = 1; threads <= 5; threads += 2) {
            dfmt_placement p = {.unit = UNIT, .align = 1, .frame_align = 1, .guest_size = FRAMES * UNIT, .fixed = 1};
            dfmt_copy *copy = dfmt_copy_new(dfmt_io_posix(), fds, 1, -1, &p, 0, threads);
            dfmt_error err = {0};
            SAME(dfmt_copy_run(copy, rows, FRAMES, NULL, NULL, 0, &err), DFMT_E_DATA);
            SAME(err.guest_off, first * UNIT);
            SAME(err.host_off, rows[first].host_off);
            dfmt_copy_free(copy);
        }
        size_t again = 2 * UNIT;
        SAME(dfmt_encode(codec, 1, 15, plain, UNIT, frame, &again, NULL), DFMT_OK);
        for (uint64_t i = 0; i < FRAMES; i++)
            SAME(dfmt_pwrite(dfmt_io_posix(), fds[0], frame, stored, rows[i].host_off, NULL), DFMT_OK);
        memset(frame, 0xff, stored);
    }
    close(fds[0]);
    free(plain);
    free(frame);
}

/* ---- cancelling ------------------------------------------------------------------------------------------------ */

typedef struct slow {
    dfmt_io io;
    dfmt_copy *copy;
    uint64_t after; /* cancel at this many reads */
    pthread_mutex_t lock;
} slow;

static ssize_t slow_pread(void *ctx, int fd, void *buffer, size_t length, uint64_t offset)
{
    slow *w = ctx;
    pthread_mutex_lock(&w->lock);
    bool now = w->after > 0 && --w->after == 0;
    pthread_mutex_unlock(&w->lock);
    if (now)
        dfmt_copy_cancel(w->copy);
    return pread(fd, buffer, length, (off_t)offset);
}

static void cancelling(const job *j)
{
    for (int threads = 1; threads <= 4; threads++) {
        for (uint64_t after = 0; after < 40; after += 4) {
            slow w = {.io = *dfmt_io_posix(), .after = after, .lock = PTHREAD_MUTEX_INITIALIZER};
            w.io.ctx = &w;
            w.io.pread = slow_pread;
            int target = new_file();
            w.copy = dfmt_copy_new(&w.io, j->s.fds, FILES, target, &j->p, 512, threads);
            CHECK(w.copy != NULL);
            if (after == 0)
                dfmt_copy_cancel(w.copy); /* before it starts */
            dfmt_error err = {0};
            int code = dfmt_copy_run(w.copy, j->s.rows, j->s.count, j->places, j->stored, j->units, &err);
            SAME(code, DFMT_E_CANCELLED);
            SAME(err.code, DFMT_E_CANCELLED);
            SAME(dfmt_copy_run(w.copy, j->s.rows, 0, j->places, j->stored, 0, &err), DFMT_OK); /* nothing to do */
            dfmt_copy_free(w.copy);
            close(target);
        }
    }
}

int main(void)
{
    uint64_t tried = 0;
    int codec = any_codec();
    for (int threads = 1; threads <= 3; threads += 2) {
        job jobs[] = {new_job(DFMT_NONE, 4096, threads), new_job(codec, 65536, threads),
                      new_job(DFMT_NONE, 1 << 20, threads)};
        for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
            tried += fail_each(&jobs[i], DFMT_OP_PREAD, DFMT_FAULT_ERRNO, EIO, DFMT_E_READ);
            tried += fail_each(&jobs[i], DFMT_OP_PREAD, DFMT_FAULT_SHORT, 0, DFMT_OK);
            tried += fail_each(&jobs[i], DFMT_OP_PWRITE, DFMT_FAULT_ERRNO, ENOSPC, DFMT_E_WRITE);
            tried += fail_each(&jobs[i], DFMT_OP_PWRITE, DFMT_FAULT_SHORT, 0, DFMT_OK);
            tried += fail_each(&jobs[i], DFMT_OP_FALLOCATE, DFMT_FAULT_ERRNO, EIO, DFMT_E_WRITE);
            tried += fail_each(&jobs[i], DFMT_OP_MALLOC, DFMT_FAULT_ERRNO, 0, DFMT_E_NOMEM);
            allocation_fails(&jobs[i]);
            write_behind_fails(&jobs[i]);
        }
        cancelling(&jobs[0]);
        for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++)
            free_job(&jobs[i]);
    }
    reading_fails();
    first_error_counts();
    printf("faults: %llu calls made to fail, first error, cancel: passed\n", (unsigned long long)tried);
    return 0;
}
