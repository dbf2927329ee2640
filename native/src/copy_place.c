/* copy_place.c - where the units of a batch go; strictly in guest order, so that threads make no difference. */
#include "copy.h"

#define PREALLOCATE (UINT64_C(64) << 20)

void dfmt_leave_group(dfmt_copy *copy)
{
    if (copy->p.group_units != 0 && copy->group != NO_UNIT)
        copy->end = dfmt_align_up(copy->end, copy->p.frame_align) + copy->p.group_room;
    copy->group = NO_UNIT;
}

static void enter_group(dfmt_copy *copy, uint64_t unit_index)
{
    if (copy->p.group_units == 0)
        return;
    uint64_t group = unit_index / copy->p.group_units;
    if (copy->group != group)
        dfmt_leave_group(copy);
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
    copy->adopted += part->adopted;
    copy->places[index] = part->place;
    copy->stored[index] = part->frame != 0 ? part->frame : copy->p.unit;
}

/* The file grows with the reserve, so that whoever sets its final length gives back what was not needed; blocks behind
 * the end would stay if that length were larger. */
static void reserve_ahead(dfmt_copy *copy, slot *s)
{
    if (!dfmt_reserves_ahead(copy) || copy->end <= copy->allocated)
        return;
    uint64_t length = dfmt_max(copy->end - copy->allocated, PREALLOCATE);
    if (dfmt_allocate(copy, s, 0, copy->allocated, length))
        copy->allocated += length;
}

/* splitmix64's finaliser: every input bit reaches every output bit. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

void dfmt_batch_place(dfmt_copy *copy, slot *s)
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

void dfmt_tell_zeroes(dfmt_copy *copy)
{
    uint64_t unit = copy->p.unit, first = copy->start / unit, at = first;
    for (size_t i = 0; i < copy->row_count; i++) {
        const dfmt_row *row = &copy->rows[i];
        if (row->kind == DFMT_HOLE)
            continue;
        at = dfmt_max(at, row->guest_off / unit);
        for (; at * unit < row->guest_off + row->length; at++)
            if (copy->places[at - first] == 0)
                copy->places[at - first] = DFMT_ZERO_PLACE;
    }
}
