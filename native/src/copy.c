/* copy.c - the copy loop: rows x placement -> places.
 *
 * The guest is cut into batches. Each batch lives in a slot of a small ring and goes through these states:
 *
 *     FREE ─► BUSY ─────────────► READY ─► PLACED ─► (write) ─► FREE
 *             read, decode, zero  waits    has its places
 *             test, encode        its turn
 *
 * Threads take whatever is to do: first a placed slot to write, then a new batch to read. The one lock covers the
 * choice and the hand-out of places, which happens strictly in guest order: so the output does not depend on threads.
 * One thread at a time writes: Linux locks the inode for each buffered write, and who waits for it there only spins.
 * A unit larger than a batch (VHD block, 2 MiB cluster) gets its place with its first batch that is not zero; the
 * file is new, so the batches of that unit that are zero need not be written.
 *
 * copy_batch.c makes a batch, copy_place.c hands out its places, copy_write.c writes it.
 */
#define _GNU_SOURCE
#include "copy.h"

#define BATCH (UINT64_C(512) << 10)
#define MAX_THREADS 64
#define MAX_UNIT (UINT64_C(256) << 20)
#define RING_MEMORY (UINT64_C(128) << 20) /* the slots stay below, whatever the number of threads */
#define WORKER_MEMORY (UINT64_C(64) << 20) /* so do the buffers of all threads, or there are fewer threads */
#define MAX_OFFSET (UINT64_C(1) << 62) /* sums of a few of them do not wrap around */

/* ---- the threads ----------------------------------------------------------------------------------------------- */

/* Must the engine look at the units of a row? */
static bool is_wanted(const dfmt_copy *copy, const dfmt_row *row)
{
    bool stores_zeroes = copy->p.zeroes == DFMT_ZEROES_STORE && !copy->p.fixed;
    return row->kind <= (stores_zeroes ? DFMT_ZERO : DFMT_ENCODED);
}

/* Give the slot the next batch that holds a row that is wanted. False: there is none. */
static bool next_batch(dfmt_copy *copy, slot *s)
{
    while (copy->next_row < copy->row_count) {
        const dfmt_row *row = &copy->rows[copy->next_row];
        if (is_wanted(copy, row) && row->guest_off + row->length > copy->position)
            break;
        copy->next_row++;
    }
    if (copy->next_row == copy->row_count)
        return false;
    uint64_t first = dfmt_max(copy->position, copy->rows[copy->next_row].guest_off);
    uint64_t grain = dfmt_max(PIECE, dfmt_min(copy->p.unit, copy->batch));
    s->start = dfmt_max(copy->position, first / grain * grain);
    s->stop = dfmt_min(first / copy->batch * copy->batch + copy->batch, copy->stop);
    /* Rows between position and the first wanted one are not needed, but one may reach into the batch. */
    s->first_row = copy->next_row;
    while (s->first_row > 0 && copy->rows[s->first_row].guest_off > s->start)
        s->first_row--;
    copy->position = s->stop;
    s->ticket = copy->next_ticket++;
    s->stored = 0;
    s->error = (dfmt_error){0};
    s->state = BUSY;
    return true;
}

static slot *find(const dfmt_copy *copy, enum slot_state state)
{
    slot *found = NULL;
    for (size_t i = 0; i < copy->slot_count; i++) {
        slot *s = &copy->slots[i];
        if (s->state == state && (found == NULL || s->ticket < found->ticket))
            found = s;
    }
    return found;
}

static bool any_busy(const dfmt_copy *copy)
{
    for (size_t i = 0; i < copy->slot_count; i++)
        if (copy->slots[i].state != FREE)
            return true;
    return false;
}

/* Failed slots keep their error and leave the ring; the lowest ticket speaks for the run. */
static void fail_slot(dfmt_copy *copy, slot *s, dfmt_error *first, uint64_t *first_ticket)
{
    copy->failed = true;
    if (s->ticket < *first_ticket) {
        *first_ticket = s->ticket;
        *first = s->error;
    }
}

/* Hand out places to all slots whose turn it is, whoever filled them. */
static void take_turns(dfmt_copy *copy, dfmt_error *first, uint64_t *first_ticket)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < copy->slot_count; i++) {
            slot *s = &copy->slots[i];
            if (s->state == READY && s->ticket == copy->turn) {
                copy->turn++;
                moved = true;
                if (copy->failed) {
                    s->state = FREE;
                    continue;
                }
                dfmt_batch_place(copy, s);
                if (s->error.code != DFMT_OK)
                    fail_slot(copy, s, first, first_ticket);
            }
        }
    }
}

typedef struct worker {
    dfmt_copy *copy;
    dfmt_reader reader;
    dfmt_encoder *encoder;
    dfmt_error error;
    uint64_t error_ticket;
    pthread_t thread;
    bool running;
} worker;

static void *work(void *argument)
{
    worker *w = argument;
    dfmt_copy *copy = w->copy;
    pthread_mutex_lock(&copy->lock);
    for (;;) {
        if (atomic_load_explicit(&copy->cancelled, memory_order_relaxed) && !copy->failed) {
            copy->failed = true;
            dfmt_fail(&w->error, DFMT_E_CANCELLED, 0, 0, copy->position, 0);
            w->error_ticket = copy->next_ticket;
            pthread_cond_broadcast(&copy->changed);
        }
        slot *s = copy->failed || find(copy, WRITING) != NULL ? NULL : find(copy, PLACED);
        if (s != NULL) {
            s->state = WRITING;
            pthread_mutex_unlock(&copy->lock);
            int code = dfmt_batch_write(copy, s);
            pthread_mutex_lock(&copy->lock);
            s->state = FREE;
            if (code != DFMT_OK)
                fail_slot(copy, s, &w->error, &w->error_ticket);
            else
                atomic_fetch_add_explicit(&copy->progress, s->stored, memory_order_relaxed);
            pthread_cond_broadcast(&copy->changed);
            continue;
        }
        s = copy->failed || copy->exhausted ? NULL : find(copy, FREE);
        if (s != NULL) {
            if (!next_batch(copy, s)) {
                copy->exhausted = true;
                pthread_cond_broadcast(&copy->changed);
                continue;
            }
            pthread_mutex_unlock(&copy->lock);
            int code = dfmt_batch_make(copy, &w->reader, w->encoder, s);
            pthread_mutex_lock(&copy->lock);
            s->state = READY;
            if (code != DFMT_OK)
                fail_slot(copy, s, &w->error, &w->error_ticket);
            take_turns(copy, &w->error, &w->error_ticket);
            pthread_cond_broadcast(&copy->changed);
            continue;
        }
        if (copy->failed || (copy->exhausted && !any_busy(copy)))
            break;
        pthread_cond_wait(&copy->changed, &copy->lock);
    }
    pthread_mutex_unlock(&copy->lock);
    return NULL;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static void free_slots(dfmt_copy *copy)
{
    for (size_t i = 0; i < copy->slot_count; i++) {
        slot *s = &copy->slots[i];
        copy->io->free(copy->io->ctx, s->data);
        copy->io->free(copy->io->ctx, s->encoded);
        copy->io->free(copy->io->ctx, s->parts);
        copy->io->free(copy->io->ctx, s->crcs);
        copy->io->free(copy->io->ctx, s->piece_zero);
    }
    copy->io->free(copy->io->ctx, copy->slots);
    copy->slots = NULL;
    copy->slot_count = 0;
}

/* The ring for batches of `batch` bytes: enough slots that nobody waits for the slowest batch alone. */
static int make_slots(dfmt_copy *copy, uint64_t batch)
{
    if (copy->slots != NULL && copy->batch == batch)
        return DFMT_OK;
    free_slots(copy);
    copy->batch = batch;
    const dfmt_io *io = copy->io;
    uint64_t parts = batch / part_size(copy);
    uint64_t pieces = batch / PIECE;
    uint64_t room = dfmt_encode_bound((int)copy->p.codec, copy->p.unit) + MARKER + copy->p.frame_align;
    uint64_t each = batch + (is_encoding(copy) ? parts * room : 0);
    size_t count = dfmt_max(2, dfmt_min(2 * (uint64_t)copy->threads + 1, RING_MEMORY / each));
    copy->slots = io->malloc(io->ctx, count * sizeof(slot));
    if (copy->slots == NULL)
        return DFMT_E_NOMEM;
    memset(copy->slots, 0, count * sizeof(slot));
    copy->slot_count = count;
    for (size_t i = 0; i < count; i++) {
        slot *s = &copy->slots[i];
        s->data = io->malloc(io->ctx, batch);
        s->parts = io->malloc(io->ctx, parts * sizeof(part));
        s->crcs = io->malloc(io->ctx, pieces * sizeof(uint32_t));
        s->piece_zero = io->malloc(io->ctx, pieces * sizeof(bool));
        s->encoded = is_encoding(copy) ? io->malloc(io->ctx, parts * room) : NULL;
        if (s->data == NULL || s->parts == NULL || s->crcs == NULL || s->piece_zero == NULL ||
            (is_encoding(copy) && s->encoded == NULL))
            return DFMT_E_NOMEM;
    }
    return DFMT_OK;
}

static uint64_t largest_frame(const dfmt_row *rows, size_t count)
{
    uint64_t frame = 0;
    for (size_t i = 0; i < count; i++)
        if (rows[i].kind == DFMT_ENCODED)
            frame = dfmt_max(frame, rows[i].frame_len);
    return frame;
}

/* A batch holds whole frames of the source, so that none is decoded twice, and whole units that are encoded. */
static uint64_t batch_size(const dfmt_copy *copy)
{
    uint64_t needed = dfmt_max(copy->frame, is_encoding(copy) ? copy->p.unit : 0);
    uint64_t batch = BATCH;
    while (batch < needed)
        batch *= 2;
    return batch;
}

static bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

static bool placement_makes_sense(const dfmt_placement *p, uint64_t end)
{
    if (!is_power_of_two(p->unit) || p->unit < 512 || p->unit > MAX_UNIT || !is_power_of_two(p->align) ||
        !is_power_of_two(p->frame_align) || p->prefix_len > p->unit || p->prefix_byte > 255)
        return false;
    if (p->codec != DFMT_NONE &&
        (p->unit > DFMT_MAX_FRAME || p->fixed || p->prefix_len != 0 || p->frame_align > p->unit))
        return false;
    if (p->guest_size > MAX_OFFSET || p->base > MAX_OFFSET || end > MAX_OFFSET)
        return false;
    if (!p->fixed && end <= (p->zeroes == DFMT_ZEROES_TELL ? DFMT_ZERO_PLACE : 0)) /* places that say "not stored" */
        return false;
    if (p->zeroes > DFMT_ZEROES_STORE || p->adopt > 1 || (p->adopt && (p->window_bits < 9 || p->window_bits > 15)))
        return false;
    return !p->fingerprint || p->unit >= PIECE;
}

dfmt_copy *dfmt_copy_new(const dfmt_io *io, const int *fds, size_t fd_count, int target_fd,
                         const dfmt_placement *placement, uint64_t end, int threads)
{
    if (threads < 1 || threads > MAX_THREADS || !placement_makes_sense(placement, end))
        return NULL;
    dfmt_copy *copy = io->malloc(io->ctx, sizeof(*copy));
    if (copy == NULL)
        return NULL;
    memset(copy, 0, sizeof(*copy));
    copy->io = io;
    copy->fds = fds;
    copy->fd_count = fd_count;
    copy->target = target_fd;
    copy->threads = threads;
    copy->p = *placement;
    copy->end = copy->allocated = end;
    atomic_init(&copy->allocates, target_fd >= 0);
    copy->open_unit = copy->group = NO_UNIT;
    if (pthread_mutex_init(&copy->lock, NULL) != 0) {
        io->free(io->ctx, copy);
        return NULL;
    }
    if (pthread_cond_init(&copy->changed, NULL) != 0) {
        pthread_mutex_destroy(&copy->lock);
        io->free(io->ctx, copy);
        return NULL;
    }
    return copy;
}

void dfmt_copy_free(dfmt_copy *copy)
{
    if (copy == NULL)
        return;
    free_slots(copy);
    pthread_cond_destroy(&copy->changed);
    pthread_mutex_destroy(&copy->lock);
    copy->io->free(copy->io->ctx, copy);
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

static int open_worker(dfmt_copy *copy, worker *w)
{
    w->copy = copy;
    w->error_ticket = UINT64_MAX;
    int code = dfmt_reader_init(&w->reader, copy->io, copy->fds, copy->fd_count, &copy->cancelled);
    if (code == DFMT_OK && is_encoding(copy))
        code = dfmt_encoder_new(copy->io, (int)copy->p.codec, copy->p.level, (int)copy->p.window_bits, &w->encoder);
    return code;
}

/* What a thread needs beside the slots. What zstd holds shows when it has seen one unit. */
static uint64_t worker_memory(const dfmt_copy *copy, const worker *w)
{
    uint64_t memory = copy->frame != 0 ? dfmt_reader_memory(copy->frame) : 0;
    if (w->encoder == NULL)
        return memory;
    if (copy->p.codec == DFMT_ZSTD) {
        slot *s = &copy->slots[0];
        memset(s->data, 0, copy->p.unit);
        (void)dfmt_encoder_run(w->encoder, s->data, copy->p.unit, s->encoded,
                               dfmt_encode_bound((int)copy->p.codec, copy->p.unit));
    }
    return memory + dfmt_encoder_memory(w->encoder);
}

static int run_workers(dfmt_copy *copy, worker *workers, dfmt_error *err)
{
    int code = DFMT_OK;
    int ready = 0;
    uint64_t each = 0;
    while (ready < copy->threads && code == DFMT_OK && (uint64_t)ready * each <= WORKER_MEMORY - each) {
        code = open_worker(copy, &workers[ready]);
        if (ready++ == 0 && code == DFMT_OK)
            each = dfmt_min(worker_memory(copy, &workers[0]), WORKER_MEMORY);
    }
    if (code == DFMT_OK) {
        /* A thread that cannot start is not missed: the others do its work. */
        for (int i = 1; i < ready && (size_t)i < copy->slot_count; i++)
            workers[i].running = pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0;
        work(&workers[0]);
        for (int i = 1; i < ready; i++)
            if (workers[i].running)
                pthread_join(workers[i].thread, NULL);
    } else {
        dfmt_fail(err, code, 0, 0, copy->start, DFMT_TARGET);
    }
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < ready; i++) {
        worker *w = &workers[i];
        if (w->error.code != DFMT_OK && w->error_ticket <= first) {
            first = w->error_ticket;
            code = w->error.code;
            if (err != NULL)
                *err = w->error;
        }
        dfmt_reader_free(&w->reader);
        dfmt_encoder_free(copy->io, w->encoder);
    }
    return code;
}

int dfmt_copy_run(dfmt_copy *copy, const dfmt_row *rows, size_t row_count, uint64_t *places, uint64_t *stored,
                  size_t units, dfmt_error *err)
{
    if (row_count == 0)
        return DFMT_OK;
    int code = dfmt_rows_check(rows, row_count, copy->fd_count, err);
    if (code != DFMT_OK)
        return code;
    copy->start = rows[0].guest_off;
    copy->stop = rows[row_count - 1].guest_off + rows[row_count - 1].length;
    uint64_t span = copy->stop - copy->start;
    if (copy->start % copy->p.unit != 0 || copy->start < copy->done || copy->stop > copy->p.guest_size ||
        (!copy->p.fixed && (places == NULL || stored == NULL || units != (span + copy->p.unit - 1) / copy->p.unit)))
        return dfmt_fail(err, DFMT_E_ARG, 0, 0, copy->start, 0);
    copy->frame = largest_frame(rows, row_count);
    if (make_slots(copy, batch_size(copy)) != DFMT_OK)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, copy->start, 0);
    if (!copy->p.fixed) {
        memset(places, 0, units * sizeof(*places));
        memset(stored, 0, units * sizeof(*stored));
    }
    copy->done = copy->stop;
    copy->rows = rows;
    copy->row_count = row_count;
    copy->places = places;
    copy->stored = stored;
    copy->position = copy->start;
    copy->next_row = 0;
    copy->next_ticket = copy->turn = 0;
    copy->exhausted = copy->failed = false;
    for (size_t i = 0; i < copy->slot_count; i++)
        copy->slots[i].state = FREE;
    worker workers[MAX_THREADS] = {0};
    code = run_workers(copy, workers, err);
    if (code == DFMT_OK && !copy->p.fixed && copy->p.zeroes == DFMT_ZEROES_TELL)
        dfmt_tell_zeroes(copy);
    return code;
}

uint64_t dfmt_copy_end(const dfmt_copy *copy)
{
    return copy->end;
}

int dfmt_copy_set_end(dfmt_copy *copy, uint64_t end)
{
    if (end < copy->end || end > MAX_OFFSET)
        return DFMT_E_ARG;
    copy->end = end;
    return DFMT_OK;
}

void dfmt_copy_finish(dfmt_copy *copy)
{
    dfmt_leave_group(copy);
}

uint64_t dfmt_copy_adopted(const dfmt_copy *copy)
{
    return copy->adopted;
}

uint64_t dfmt_copy_fingerprint(const dfmt_copy *copy)
{
    return copy->fingerprint;
}

uint64_t dfmt_copy_progress(const dfmt_copy *copy)
{
    return atomic_load_explicit(&((dfmt_copy *)(uintptr_t)copy)->progress, memory_order_relaxed);
}

void dfmt_copy_write_behind(dfmt_copy *copy, uint64_t step)
{
    copy->write_behind = dfmt_min(step, MAX_OFFSET);
}

void dfmt_copy_cancel(dfmt_copy *copy)
{
    atomic_store(&copy->cancelled, 1);
}
