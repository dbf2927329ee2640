/* copy_write.c - put a batch into the target. */
#define _GNU_SOURCE
#include "copy.h"

#include <errno.h>
#include <fcntl.h>

#define PAGE UINT64_C(4096)        /* zero runs of this size and alignment become holes */

bool dfmt_allocate(dfmt_copy *copy, slot *s, int mode, uint64_t from, uint64_t length)
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

bool dfmt_reserves_ahead(const dfmt_copy *copy)
{
    return !copy->p.fixed && copy->p.unit <= PIECE;
}

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
        bool fresh = run - at >= PIECE && !dfmt_reserves_ahead(copy);
        if (fresh && !dfmt_allocate(copy, s, FALLOC_FL_KEEP_SIZE, offset + at, run - at) && s->error.code != DFMT_OK)
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

int dfmt_batch_write(dfmt_copy *copy, slot *s)
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

