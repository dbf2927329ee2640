/* fill.c - guest bytes of a table into memory. */
#include "internal.h"

/* Frames lie close together: this much of the file is read at once for them. */
#define SPAN (UINT64_C(1) << 20)

int dfmt_rows_check(const dfmt_row *rows, size_t count, size_t fd_count, dfmt_error *err)
{
    uint64_t at = count > 0 ? rows[0].guest_off : 0;
    for (size_t i = 0; i < count; i++) {
        const dfmt_row *row = &rows[i];
        uint64_t end, host_end;
        bool good = row->guest_off == at && row->length > 0 &&
                    !__builtin_add_overflow(row->guest_off, row->length, &end) &&
                    !__builtin_add_overflow(row->host_off, row->host_len, &host_end);
        if (good && row->kind == DFMT_DATA)
            good = row->file_id < fd_count && row->host_len == row->length;
        else if (good && row->kind == DFMT_ENCODED)
            good = row->file_id < fd_count && row->host_len > 0 && row->host_len <= DFMT_MAX_STORED_FRAME &&
                   row->frame_len <= DFMT_MAX_FRAME && row->frame_skip <= row->frame_len &&
                   row->length <= row->frame_len - row->frame_skip;
        else if (good)
            good = row->kind == DFMT_ZERO || row->kind == DFMT_HOLE;
        if (!good)
            return dfmt_fail(err, DFMT_E_ARG, 0, row->host_off, row->guest_off, row->file_id);
        at = end;
    }
    return DFMT_OK;
}

int dfmt_reader_init(dfmt_reader *reader, const dfmt_io *io, const int *fds, size_t fd_count,
                     const atomic_int *cancelled)
{
    *reader = (dfmt_reader){.io = io, .fds = fds, .fd_count = fd_count, .cancelled = cancelled};
    reader->decoder = dfmt_decoder_new(io);
    return reader->decoder != NULL ? DFMT_OK : DFMT_E_NOMEM;
}

void dfmt_reader_free(dfmt_reader *reader)
{
    dfmt_decoder_free(reader->io, reader->decoder);
    reader->io->free(reader->io->ctx, reader->in);
    reader->io->free(reader->io->ctx, reader->frame);
}

uint64_t dfmt_reader_memory(uint64_t frame)
{
    return dfmt_max(SPAN, 2 * frame) + frame; /* stored frames, and one decoded */
}

static int reserve(const dfmt_io *io, uint8_t **buffer, size_t *room, size_t needed)
{
    if (*room >= needed)
        return DFMT_OK;
    io->free(io->ctx, *buffer);
    *room = 0;
    *buffer = io->malloc(io->ctx, needed);
    if (*buffer == NULL)
        return DFMT_E_NOMEM;
    *room = needed;
    return DFMT_OK;
}

/* Make the stored bytes of rows[i] available, and with one read those of the frames behind it. */
static int load_frames(dfmt_reader *reader, const dfmt_row *rows, size_t count, size_t i, uint64_t ahead,
                       dfmt_error *err)
{
    const dfmt_row *row = &rows[i];
    uint64_t end = row->host_off + row->host_len;
    if (reader->in_len > 0 && reader->in_file == row->file_id && row->host_off >= reader->in_start &&
        end <= reader->in_start + reader->in_len)
        return DFMT_OK;
    for (size_t j = i + 1; j < count && rows[j].kind == DFMT_ENCODED && rows[j].guest_off < ahead; j++) {
        uint64_t next_end = rows[j].host_off + rows[j].host_len;
        if (rows[j].file_id != row->file_id || rows[j].host_off < row->host_off || rows[j].host_off > end + 4096 ||
            next_end - row->host_off > SPAN)
            break;
        end = dfmt_max(end, next_end);
    }
    reader->in_len = 0;
    size_t length = end - row->host_off;
    if (reserve(reader->io, &reader->in, &reader->in_room, dfmt_max(length, SPAN)) != DFMT_OK)
        return dfmt_fail(err, DFMT_E_NOMEM, 0, 0, row->guest_off, row->file_id);
    int fd = reader->fds[row->file_id];
    int code = dfmt_pread(reader->io, fd, reader->in, length, row->host_off, err);
    if (code != DFMT_OK && length > row->host_len) {
        /* What failed may be a later frame, or a gap that nobody needs: this row speaks only for its own bytes. */
        length = row->host_len;
        code = dfmt_pread(reader->io, fd, reader->in, length, row->host_off, err);
    }
    if (code != DFMT_OK)
        return code;
    reader->in_start = row->host_off;
    reader->in_len = length;
    reader->in_file = row->file_id;
    return DFMT_OK;
}

/* Rows are of the same frame only if all that describes it is equal: a hostile table may name one offset with
 * several lengths. */
static bool same_frame(const dfmt_row *a, const dfmt_row *b)
{
    return a->host_off == b->host_off && a->host_len == b->host_len && a->frame_len == b->frame_len &&
           a->file_id == b->file_id && a->codec == b->codec;
}

static int decode_row(dfmt_reader *reader, const dfmt_row *row, uint64_t skip, uint64_t length, uint8_t *out,
                      dfmt_error *err)
{
    const uint8_t *in = reader->in + (row->host_off - reader->in_start);
    uint64_t in_frame = row->frame_skip + skip;
    int code;
    if (in_frame == 0 && length == row->frame_len) {
        code = dfmt_decoder_run(reader->decoder, row->codec, in, row->host_len, out, row->frame_len,
                                &reader->last_used);
    } else {
        code = DFMT_OK;
        if (!same_frame(&reader->frame_of, row)) {
            reader->frame_of.frame_len = 0;
            code = reserve(reader->io, &reader->frame, &reader->frame_room, row->frame_len);
            if (code == DFMT_OK)
                code = dfmt_decoder_run(reader->decoder, row->codec, in, row->host_len, reader->frame, row->frame_len,
                                        &reader->frame_used);
            if (code == DFMT_OK)
                reader->frame_of = *row;
        }
        if (code == DFMT_OK)
            memcpy(out, reader->frame + in_frame, length);
        reader->last_used = reader->frame_used;
    }
    reader->last = code == DFMT_OK ? row : NULL;
    return code == DFMT_OK ? DFMT_OK : dfmt_fail(err, code, 0, row->host_off, row->guest_off, row->file_id);
}

const uint8_t *dfmt_reader_frame(const dfmt_reader *reader, const dfmt_row *row, size_t *length)
{
    if (reader->last != row)
        return NULL;
    *length = reader->last_used;
    return reader->in + (row->host_off - reader->in_start);
}

int dfmt_fill(dfmt_reader *reader, const dfmt_row *rows, size_t count, size_t first, uint64_t start, uint64_t stop,
              uint64_t ahead, uint8_t *out, uint64_t *stored, dfmt_error *err)
{
    uint64_t at = start;
    *stored = 0;
    reader->last = NULL;
    for (size_t i = first; i < count && at < stop; i++) {
        const dfmt_row *row = &rows[i];
        uint64_t row_end = row->guest_off + row->length;
        if (row_end <= at)
            continue;
        if (reader->cancelled != NULL && atomic_load_explicit(reader->cancelled, memory_order_relaxed))
            return dfmt_fail(err, DFMT_E_CANCELLED, 0, 0, at, 0);
        uint64_t skip = at - row->guest_off;
        uint64_t length = dfmt_min(row_end, stop) - at;
        uint8_t *to = out + (at - start);
        int code = DFMT_OK;
        if (row->kind == DFMT_DATA) {
            code = dfmt_pread(reader->io, reader->fds[row->file_id], to, length, row->host_off + skip, err);
        } else if (row->kind == DFMT_ENCODED) {
            code = load_frames(reader, rows, count, i, ahead, err);
            if (code == DFMT_OK)
                code = decode_row(reader, row, skip, length, to, err);
        } else {
            memset(to, 0, length);
        }
        if (code != DFMT_OK) {
            if (err != NULL) { /* the file layer knows neither of these */
                err->guest_off = at;
                if (row->kind == DFMT_DATA)
                    err->guest_off += err->host_off - (row->host_off + skip);
                err->file_id = row->file_id;
            }
            return code;
        }
        if (row->kind <= DFMT_ENCODED)
            *stored += length;
        at += length;
    }
    return at == stop ? DFMT_OK : dfmt_fail(err, DFMT_E_ARG, 0, 0, at, 0);
}

int dfmt_read(const dfmt_io *io, const int *fds, size_t fd_count, const dfmt_row *rows, size_t row_count,
              uint64_t start, size_t length, uint8_t *out, dfmt_error *err)
{
    uint64_t stop, stored;
    if (__builtin_add_overflow(start, length, &stop) || (row_count > 0 && rows[0].guest_off > start))
        return dfmt_fail(err, DFMT_E_ARG, 0, 0, start, 0);
    int code = dfmt_rows_check(rows, row_count, fd_count, err);
    if (code != DFMT_OK)
        return code;
    dfmt_reader reader;
    code = dfmt_reader_init(&reader, io, fds, fd_count, NULL);
    if (code == DFMT_OK)
        code = dfmt_fill(&reader, rows, row_count, 0, start, stop, stop, out, &stored, err);
    else
        dfmt_fail(err, code, 0, 0, start, 0);
    dfmt_reader_free(&reader);
    return code;
}
