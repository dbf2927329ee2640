/* copy_batch.c - one batch: from rows to units that can be placed. */
#include "copy.h"

/* The row that holds guest byte `at`, which is not before that of `row`. */
static size_t row_at(const dfmt_copy *copy, size_t row, uint64_t at)
{
    while (copy->rows[row].guest_off + copy->rows[row].length <= at)
        row++;
    return row;
}

/* Does a row from `row` on say of [start, stop) anything but HOLE? */
static bool is_said(const dfmt_copy *copy, size_t row, uint64_t start, uint64_t stop)
{
    for (row = row_at(copy, row, start); row < copy->row_count && copy->rows[row].guest_off < stop; row++)
        if (copy->rows[row].kind != DFMT_HOLE)
            return true;
    return false;
}

/* What becomes of a part whose bytes are zero: nothing, unless zeroes are stored and it is not a hole alone. */
static bool is_left_out(const dfmt_copy *copy, size_t row, uint64_t start, uint64_t stop)
{
    return copy->p.fixed || copy->p.zeroes != DFMT_ZEROES_STORE || !is_said(copy, row, start, stop);
}

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

static bool is_zero_part(const slot *s, uint64_t at, uint64_t length)
{
    if (length % PIECE != 0)
        return dfmt_is_zero(s->data + (at - s->start), length);
    bool zero = true; /* known from the pieces */
    for (uint64_t piece = (at - s->start) / PIECE, n = length / PIECE; n > 0 && zero; n--)
        zero = s->piece_zero[piece++];
    return zero;
}

static int make_plain(dfmt_copy *copy, dfmt_reader *reader, slot *s)
{
    int code = dfmt_fill(reader, copy->rows, copy->row_count, s->first_row, s->start, s->stop, s->stop, s->data,
                         &s->stored, &s->error);
    if (code != DFMT_OK)
        return code;
    note_pieces(copy, s);
    uint64_t size = part_size(copy);
    size_t row = s->first_row;
    for (uint64_t at = s->start, i = 0; at < s->stop; at += size, i++) {
        uint64_t length = dfmt_min(size, s->stop - at);
        row = row_at(copy, row, at);
        bool zero = is_zero_part(s, at, length) && is_left_out(copy, row, at, at + length);
        s->parts[i] = (part){.zero = zero};
    }
    return DFMT_OK;
}

/* The frame that the reader just decoded, if the unit at `at` is all of it and it can be one of the target; else 0. */
static size_t adopt_frame(const dfmt_copy *copy, const dfmt_reader *reader, const dfmt_row *row, uint64_t at,
                          const uint8_t *data, uint8_t *to, size_t room)
{
    uint64_t length = dfmt_min(copy->p.unit, copy->p.guest_size - at);
    if (!copy->p.adopt || row->kind != DFMT_ENCODED || row->guest_off != at || row->length != length ||
        row->frame_skip != 0 || row->frame_len != copy->p.unit)
        return 0;
    size_t stored;
    const uint8_t *frame = dfmt_reader_frame(reader, row, &stored);
    if (frame == NULL)
        return 0;
    /* Behind the end of the disk a unit is zero; what a source hid there is not handed on. */
    if (length < copy->p.unit && !dfmt_is_zero(reader->frame + length, copy->p.unit - length))
        return 0;
    return dfmt_adopt(&copy->p, row->codec, frame, stored, data, to, room);
}

/* Marker, frame and padding; the frame lies behind the room for the marker already. */
static void append_frame(const dfmt_copy *copy, slot *s, part *part, uint64_t at, size_t frame)
{
    uint64_t lead = copy->p.marker ? MARKER : 0;
    uint8_t *to = s->encoded + s->encoded_len;
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

/* One unit after the other, while its bytes are in the cache and the reader has its frame. */
static int make_frames(dfmt_copy *copy, dfmt_reader *reader, dfmt_encoder *encoder, slot *s)
{
    uint64_t unit = copy->p.unit;
    uint64_t lead = copy->p.marker ? MARKER : 0;
    size_t bound = dfmt_encode_bound((int)copy->p.codec, unit);
    size_t row = s->first_row;
    s->encoded_len = 0;
    s->stored = 0;
    for (uint64_t at = s->start, i = 0; at < s->stop; at += unit, i++) {
        uint64_t stop = dfmt_min(at + unit, s->stop);
        uint8_t *data = s->data + (at - s->start);
        part *part = &s->parts[i];
        row = row_at(copy, row, at);
        uint64_t stored = 0;
        int code = dfmt_fill(reader, copy->rows, copy->row_count, row, at, stop, s->stop, data, &stored, &s->error);
        if (code != DFMT_OK)
            return code;
        s->stored += stored;
        *part = (struct part){.zero = dfmt_is_zero(data, stop - at) && is_left_out(copy, row, at, stop)};
        if (part->zero)
            continue;
        /* Units are encoded whole; what lies behind the end of the guest is zero. */
        memset(data + (stop - at), 0, at + unit - stop);
        uint8_t *to = s->encoded + s->encoded_len + lead;
        size_t frame = adopt_frame(copy, reader, &copy->rows[row], at, data, to, bound);
        part->adopted = frame != 0;
        if (frame == 0)
            frame = dfmt_encoder_run(encoder, data, unit, to, bound);
        if (frame == 0)
            return dfmt_fail(&s->error, DFMT_E_CODEC, 0, 0, at, DFMT_TARGET);
        if (copy->p.allow_plain && frame >= unit)
            part->adopted = false; /* stored plain: part->frame stays 0 */
        else
            append_frame(copy, s, part, at, frame);
    }
    note_pieces(copy, s);
    return DFMT_OK;
}

int dfmt_batch_make(dfmt_copy *copy, dfmt_reader *reader, dfmt_encoder *encoder, slot *s)
{
    return is_encoding(copy) ? make_frames(copy, reader, encoder, s) : make_plain(copy, reader, s);
}
