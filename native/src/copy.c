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
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#define BATCH (UINT64_C(512) << 10)
#define PIECE (UINT64_C(64) << 10) /* granularity of the fingerprint; batches start and end on it */
#define PAGE UINT64_C(4096)        /* zero runs of this size and alignment become holes */
#define MARKER 12
#define MAX_THREADS 64
#define MAX_UNIT (UINT64_C(256) << 20)
#define RING_MEMORY (UINT64_C(128) << 20) /* the slots stay below, whatever the number of threads */
#define WORKER_MEMORY (UINT64_C(64) << 20) /* so do the buffers of all threads, or there are fewer threads */
#define PREALLOCATE (UINT64_C(64) << 20)
#define NO_UNIT UINT64_MAX
#define MAX_OFFSET (UINT64_C(1) << 62) /* sums of a few of them do not wrap around */

enum slot_state { FREE, BUSY, READY, PLACED, WRITING };

/* One unit, or the part of one unit, in a batch. */
typedef struct part {
    uint64_t place;  /* where its data goes; 0: nowhere */
    uint32_t frame;  /* encoded: length of the frame in the slot's `encoded` */
    uint32_t at;     /* encoded: where that frame (or its marker) starts there */
    bool zero;
    bool opens;      /* the unit gets its place with this part: write the prefix */
} part;

typedef struct slot {
    enum slot_state state;
    uint64_t ticket;
    uint64_t start, stop; /* guest range */
    size_t first_row;
    uint64_t stored; /* of it came from a file */
    uint8_t *data;
    uint8_t *encoded;
    uint64_t encoded_len;
    part *parts;
    uint32_t *crcs; /* of each PIECE; only where the piece is not zero */
    bool *piece_zero;
    dfmt_error error;
} slot;

struct dfmt_copy {
    const dfmt_io *io;
    const int *fds;
    size_t fd_count;
    int target;
    int threads;
    dfmt_placement p;

    /* What one run works on; constant while it runs. */
    const dfmt_row *rows;
    size_t row_count;
    uint64_t start, stop;
    uint64_t batch; /* guest bytes of a batch: a power of two */
    uint64_t frame; /* the largest that is decoded; 0: none is */
    uint64_t done;  /* where the last run ended */
    uint64_t *places, *stored;

    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    slot *slots;
    size_t slot_count;
    uint64_t position; /* guest offset of the next batch */
    size_t next_row;
    uint64_t next_ticket, turn;
    bool exhausted, failed;
    uint64_t end;       /* of the target's used part */
    uint64_t allocated; /* the file system was asked for the blocks up to here */
    uint64_t open_unit, open_place; /* the unit that got its place last */
    uint64_t group;                 /* of the last stored unit, or NO_UNIT */
    uint64_t fingerprint;

    atomic_uint_fast64_t progress;
    atomic_int cancelled;
    atomic_int allocates; /* the file system can be asked for blocks */
    uint64_t write_behind; /* step; 0: not at all */
    uint64_t handed_over;  /* the kernel was told to store the target up to here */
};

static bool is_encoding(const dfmt_copy *copy) { return copy->p.codec != DFMT_NONE; }

/* The piece of the guest that one part covers. */
static uint64_t part_size(const dfmt_copy *copy) { return dfmt_min(copy->p.unit, copy->batch); }

/* ---- one batch, no lock held ----------------------------------------------------------------------------------- */

static void note_pieces(const dfmt_copy *copy, slot *s)
{
    for (uint64_t at = s->start, i = 0; at < s->stop; at += PIECE, i++) {
        uint64_t length = dfmt_min(PIECE, s->stop - at);
        const uint8_t *data = s->data + (at - s->start);
        s->piece_zero[i] = dfmt_is_zero(data, length);
        if (!s->piece_zero[i] && copy->p.fingerprint)
            s->crcs[i] = dfmt_crc32(data, length);
    }
}

static int encode_parts(dfmt_copy *copy, dfmt_encoder *encoder, slot *s)
{
    uint64_t unit = copy->p.unit;
    uint64_t lead = copy->p.marker ? MARKER : 0;
    size_t bound = dfmt_encode_bound((int)copy->p.codec, unit);
    s->encoded_len = 0;
    for (uint64_t at = s->start, i = 0; at < s->stop; at += unit, i++) {
        part *part = &s->parts[i];
        if (part->zero)
            continue;
        /* Units are encoded whole; what lies behind the end of the guest is zero. */
        uint8_t *data = s->data + (at - s->start);
        uint8_t *to = s->encoded + s->encoded_len;
        size_t frame = dfmt_encoder_run(encoder, data, unit, to + lead, bound);
        if (frame == 0)
            return dfmt_fail(&s->error, DFMT_E_CODEC, 0, 0, at, DFMT_TARGET);
        if (copy->p.allow_plain && frame >= unit)
            continue; /* stored plain: frame stays 0 */
        if (lead) {
            dfmt_store_le64(to, at / 512);
            dfmt_store_le32(to + 8, (uint32_t)frame);
        }
        uint64_t end = dfmt_align_up(s->encoded_len + lead + frame, copy->p.frame_align);
        memset(to + lead + frame, 0, end - (s->encoded_len + lead + frame));
        part->frame = (uint32_t)frame;
        part->at = (uint32_t)s->encoded_len;
        s->encoded_len = end;
    }
    return DFMT_OK;
}

static int process(dfmt_copy *copy, dfmt_reader *reader, dfmt_encoder *encoder, slot *s)
{
    int code = dfmt_fill(reader, copy->rows, copy->row_count, s->first_row, s->start, s->stop, s->data, &s->stored,
                         &s->error);
    if (code != DFMT_OK)
        return code;
    note_pieces(copy, s);
    uint64_t size = part_size(copy);
    uint64_t padded = s->start + dfmt_align_up(s->stop - s->start, size);
    memset(s->data + (s->stop - s->start), 0, padded - s->stop);
    for (uint64_t at = s->start, i = 0; at < s->stop; at += size, i++) {
        uint64_t length = dfmt_min(size, s->stop - at);
        bool zero = true;
        if (length % PIECE == 0) { /* known from the pieces */
            for (uint64_t piece = (at - s->start) / PIECE, n = length / PIECE; n > 0 && zero; n--)
                zero = s->piece_zero[piece++];
        } else {
            zero = dfmt_is_zero(s->data + (at - s->start), length);
        }
        s->parts[i] = (part){.zero = zero};
    }
    return is_encoding(copy) ? encode_parts(copy, encoder, s) : DFMT_OK;
}

/* ---- places, under the lock ------------------------------------------------------------------------------------ */

static void enter_group(dfmt_copy *copy, uint64_t unit_index)
{
    if (copy->p.group_units == 0)
        return;
    uint64_t group = unit_index / copy->p.group_units;
    if (copy->group != NO_UNIT && copy->group != group)
        copy->end = dfmt_align_up(copy->end, copy->p.frame_align) + copy->p.group_room;
    copy->group = group;
}

static void place_part(dfmt_copy *copy, part *part, uint64_t unit_index)
{
    if (copy->open_unit == unit_index && copy->open_place != 0) {
        part->place = copy->open_place;
        return;
    }
    enter_group(copy, unit_index);
    if (part->frame != 0) {
        part->place = dfmt_align_up(copy->end, copy->p.frame_align) + (copy->p.marker ? MARKER : 0);
        copy->end = dfmt_align_up(part->place + part->frame, copy->p.frame_align);
    } else {
        part->place = dfmt_align_up(copy->end + copy->p.prefix_len, copy->p.align);
        copy->end = part->place + copy->p.unit;
    }
    part->opens = true;
    copy->open_unit = unit_index;
    copy->open_place = part->place;
    uint64_t index = unit_index - copy->start / copy->p.unit;
    copy->places[index] = part->place;
    copy->stored[index] = part->frame != 0 ? part->frame : copy->p.unit;
}

/* Ask for the blocks of a range that is about to be written: fresh pages of an allocated range cost half. Only an
 * optimisation: a file system that cannot, or has no room for the reserve, is written without. False: it has
 * not; s->error says if that is more than a lack of it. */
static bool allocate(dfmt_copy *copy, slot *s, int mode, uint64_t from, uint64_t length)
{
    if (!atomic_load_explicit(&copy->allocates, memory_order_relaxed))
        return false;
    if (copy->io->fallocate(copy->io->ctx, copy->target, mode, from, length) == 0)
        return true;
    if (errno == EINTR)
        return false; /* the next one asks again */
    atomic_store_explicit(&copy->allocates, 0, memory_order_relaxed);
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL && errno != ENOSPC && errno != EFBIG &&
        errno != EDQUOT)
        dfmt_fail(&s->error, DFMT_E_WRITE, errno, from, s->start, DFMT_TARGET);
    return false;
}

/* Appended small units have no holes between them, so blocks are reserved far ahead. */
static bool reserves_ahead(const dfmt_copy *copy) { return !copy->p.fixed && copy->p.unit <= PIECE; }

/* The file grows with the reserve, so that whoever sets its final length gives back what was not needed; blocks behind
 * the end would stay if that length were larger. */
static void reserve_ahead(dfmt_copy *copy, slot *s)
{
    if (!reserves_ahead(copy) || copy->end <= copy->allocated)
        return;
    uint64_t length = dfmt_max(copy->end - copy->allocated, PREALLOCATE);
    if (allocate(copy, s, 0, copy->allocated, length))
        copy->allocated += length;
}

/* splitmix64's finaliser: every input bit reaches every output bit. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static void place(dfmt_copy *copy, slot *s)
{
    if (copy->p.fingerprint)
        for (uint64_t at = s->start, i = 0; at < s->stop; at += PIECE, i++)
            if (!s->piece_zero[i])
                copy->fingerprint = mix(copy->fingerprint + mix((at / PIECE) << 32 | s->crcs[i]) + 1);
    bool any = false;
    uint64_t size = part_size(copy);
    for (uint64_t at = s->start, i = 0; at < s->stop; at += size, i++) {
        if (s->parts[i].zero)
            continue;
        any = true;
        if (copy->p.fixed)
            s->parts[i].place = copy->p.base + at;
        else
            place_part(copy, &s->parts[i], at / copy->p.unit);
    }
    if (any)
        reserve_ahead(copy, s);
    s->state = any && s->error.code == DFMT_OK ? PLACED : FREE;
    if (s->state == FREE)
        atomic_fetch_add_explicit(&copy->progress, s->stored, memory_order_relaxed);
}

/* ---- writing, no lock held ------------------------------------------------------------------------------------- */

/* Writes ascend, and one thread at a time makes them. Only a hint: what fails on the way to the disk is told by fsync. */
static void store_behind(dfmt_copy *copy, uint64_t end)
{
    if (copy->write_behind == 0 || end < copy->handed_over + copy->write_behind)
        return;
    (void)copy->io->write_behind(copy->io->ctx, copy->target, copy->handed_over, end - copy->handed_over);
    copy->handed_over = end;
}

static int write_out(dfmt_copy *copy, slot *s, const uint8_t *data, uint64_t length, uint64_t offset)
{
    if (copy->target < 0)
        return DFMT_OK;
    int code = dfmt_pwrite(copy->io, copy->target, data, length, offset, &s->error);
    if (code != DFMT_OK)
        s->error.guest_off = s->start;
    else
        store_behind(copy, offset + length);
    return code;
}

/* Write what is not zero of [data, data + length), in runs of pages. */
static int write_runs(dfmt_copy *copy, slot *s, const uint8_t *data, uint64_t length, uint64_t offset)
{
    uint64_t at = 0;
    while (at < length) {
        uint64_t page = dfmt_min(PAGE - (offset + at) % PAGE, length - at);
        if (dfmt_is_zero(data + at, page)) {
            at += page;
            continue;
        }
        uint64_t run = at + page;
        while (run < length) {
            page = dfmt_min(PAGE, length - run);
            if (dfmt_is_zero(data + run, page))
                break;
            run += page;
        }
        bool fresh = run - at >= PIECE && !reserves_ahead(copy);
        if (fresh && !allocate(copy, s, FALLOC_FL_KEEP_SIZE, offset + at, run - at) && s->error.code != DFMT_OK)
            return s->error.code;
        int code = write_out(copy, s, data + at, run - at, offset + at);
        if (code != DFMT_OK)
            return code;
        at = run;
    }
    return DFMT_OK;
}

static int write_prefix(dfmt_copy *copy, slot *s, const part *part)
{
    uint8_t prefix[512];
    memset(prefix, (int)copy->p.prefix_byte, sizeof(prefix));
    for (uint64_t left = copy->p.prefix_len; left > 0;) {
        uint64_t length = dfmt_min(left, sizeof(prefix));
        int code = write_out(copy, s, prefix, length, part->place - left);
        if (code != DFMT_OK)
            return code;
        left -= length;
    }
    return DFMT_OK;
}

/* Where a part's bytes are in memory, where they go, and how many they are. */
typedef struct transfer {
    const uint8_t *from;
    uint64_t to, length;
} transfer;

static transfer transfer_of(const dfmt_copy *copy, const slot *s, uint64_t index)
{
    const part *part = &s->parts[index];
    if (part->frame != 0) {
        uint64_t lead = copy->p.marker ? MARKER : 0;
        return (transfer){s->encoded + part->at, part->place - lead,
                          dfmt_align_up(lead + part->frame, copy->p.frame_align)};
    }
    uint64_t size = part_size(copy);
    uint64_t at = s->start + index * size;
    uint64_t in_unit = copy->p.fixed ? 0 : at % copy->p.unit;
    return (transfer){s->data + index * size, part->place + in_unit, dfmt_min(size, s->stop - at)};
}

static int write_slot(dfmt_copy *copy, slot *s)
{
    uint64_t parts = (s->stop - s->start + part_size(copy) - 1) / part_size(copy);
    bool sparse = !is_encoding(copy) && copy->p.unit > PAGE;
    transfer run = {0};
    for (uint64_t i = 0; i <= parts; i++) {
        transfer next = {0};
        if (i < parts) {
            const part *part = &s->parts[i];
            if (part->zero)
                continue;
            next = transfer_of(copy, s, i);
            if (part->opens && copy->p.prefix_len != 0 && write_prefix(copy, s, part) != DFMT_OK)
                return s->error.code;
            if (run.length != 0 && run.from + run.length == next.from && run.to + run.length == next.to) {
                run.length += next.length;
                continue;
            }
        }
        int code = DFMT_OK;
        if (run.length != 0)
            code = sparse ? write_runs(copy, s, run.from, run.length, run.to)
                          : write_out(copy, s, run.from, run.length, run.to);
        if (code != DFMT_OK)
            return code;
        run = next;
    }
    return DFMT_OK;
}

/* ---- the threads ----------------------------------------------------------------------------------------------- */

/* Give the slot the next batch that holds a stored row. False: there is none. */
static bool next_batch(dfmt_copy *copy, slot *s)
{
    while (copy->next_row < copy->row_count) {
        const dfmt_row *row = &copy->rows[copy->next_row];
        if (row->kind <= DFMT_ENCODED && row->guest_off + row->length > copy->position)
            break;
        copy->next_row++;
    }
    if (copy->next_row == copy->row_count)
        return false;
    uint64_t first = dfmt_max(copy->position, copy->rows[copy->next_row].guest_off);
    uint64_t grain = dfmt_max(PIECE, dfmt_min(copy->p.unit, copy->batch));
    s->start = dfmt_max(copy->position, first / grain * grain);
    s->stop = dfmt_min(first / copy->batch * copy->batch + copy->batch, copy->stop);
    /* Rows between position and the first stored one are not needed, but one may reach into the batch. */
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
                place(copy, s);
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
            int code = write_slot(copy, s);
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
            int code = process(copy, &w->reader, w->encoder, s);
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
    if (!p->fixed && end == 0) /* a place of 0 says "not stored" */
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

/* What a thread needs beside the slots. What an encoder holds shows when it has seen one unit. */
static uint64_t worker_memory(const dfmt_copy *copy, const worker *w)
{
    uint64_t memory = copy->frame != 0 ? dfmt_reader_memory(copy->frame) : 0;
    if (w->encoder == NULL)
        return memory;
    slot *s = &copy->slots[0];
    memset(s->data, 0, copy->p.unit);
    (void)dfmt_encoder_run(w->encoder, s->data, copy->p.unit, s->encoded,
                           dfmt_encode_bound((int)copy->p.codec, copy->p.unit));
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
    return run_workers(copy, workers, err);
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
    if (copy->p.group_units != 0 && copy->group != NO_UNIT)
        copy->end = dfmt_align_up(copy->end, copy->p.frame_align) + copy->p.group_room;
    copy->group = NO_UNIT;
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
