/* internal.h - what the engine's own files share. Nothing here is part of the interface. */
#ifndef DFMT_INTERNAL_H
#define DFMT_INTERNAL_H

#include "dfmt.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

/* A frame is at most one unit of its source: 2 MiB in qcow2, 1 MiB in VMDK. Stored it is at most twice that. */
#define DFMT_MAX_FRAME (UINT32_C(4) << 20)
#define DFMT_MAX_STORED_FRAME (2 * (uint64_t)DFMT_MAX_FRAME)
/* What a zstd frame may ask its reader to remember: no unit is larger. */
#define DFMT_MAX_ZSTD_WINDOW (UINT64_C(2) << 20)

/* Fill `err` (may be NULL) and return `code`. */
int dfmt_fail(dfmt_error *err, int code, int sys_errno, uint64_t host_off, uint64_t guest_off, uint32_t file_id);

static inline uint64_t dfmt_align_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
static inline uint64_t dfmt_min(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t dfmt_max(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Little-endian loads and stores at any address. */
static inline uint64_t dfmt_load_le(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | at[i];
    return value;
}

static inline void dfmt_store_le32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static inline void dfmt_store_le64(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* ---- decode.c, encode.c: the working memory of one thread ------------------------------------------------------ */

typedef struct dfmt_decoder dfmt_decoder;
typedef struct dfmt_encoder dfmt_encoder;

dfmt_decoder *dfmt_decoder_new(const dfmt_io *io);
void dfmt_decoder_free(const dfmt_io *io, dfmt_decoder *decoder);
/* DFMT_OK (then *used bytes of `in` are the frame), DFMT_E_DATA, DFMT_E_CODEC or DFMT_E_NOMEM. */
int dfmt_decoder_run(dfmt_decoder *decoder, int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
                     size_t *used);
/* All zstd frames at the start of `in`; *in_len, *out_len: what there is in, what was used and made out. */
int dfmt_decoder_frames(dfmt_decoder *decoder, const uint8_t *in, size_t *in_len, uint8_t *out, size_t *out_len);
/* Are these bytes nothing but zstd frames that need no dictionary and no window above DFMT_MAX_ZSTD_WINDOW? */
bool dfmt_zstd_frames_are_plain(const uint8_t *in, size_t in_len);

/* *made is NULL unless DFMT_OK comes back; else DFMT_E_NOMEM, or DFMT_E_CODEC: no such codec or level in this build. */
int dfmt_encoder_new(const dfmt_io *io, int codec, int level, int window_bits, dfmt_encoder **made);
void dfmt_encoder_free(const dfmt_io *io, dfmt_encoder *encoder);
/* Bytes that it holds, as far as that shows by now. */
size_t dfmt_encoder_memory(const dfmt_encoder *encoder);
/* Bytes of the frame, or 0 if it does not fit into `room` or the codec failed. */
size_t dfmt_encoder_run(dfmt_encoder *encoder, const uint8_t *in, size_t in_len, uint8_t *out, size_t room);

uint32_t dfmt_crc32(const uint8_t *data, size_t length);
uint32_t dfmt_adler32(const uint8_t *data, size_t length);

/* ---- isal.c: where a stream of ISA-L lies -------------------------------------------------------------------- */

/* 1: levels 1 and 2 of ISA-L give the same frames in a stream from here; 0: only level 3 does. */
#if defined(__x86_64__) && defined(__linux__)
#define DFMT_ISAL_PLACES 1
#else
#define DFMT_ISAL_PLACES 0
#endif

/* `size` bytes that are zero, for one stream; NULL: there is no memory, or no place. */
void *dfmt_isal_stream_new(size_t size);
void dfmt_isal_stream_free(void *stream, size_t size);

/* ---- deflate_walk.c: what a stream is made of, without making it --------------------------------------------- */

typedef struct dfmt_walk {
    size_t used;       /* bytes of the stream */
    uint64_t made;     /* bytes that it decodes to */
    uint32_t distance; /* the largest of a match; 0: there is none */
} dfmt_walk;

/* Follow a raw deflate stream at the start of `in`. False: it is none that every reader takes, makes more than `most`
 * bytes, looks back further than `furthest`, or is cut into senselessly many blocks. */
bool dfmt_deflate_walk(const uint8_t *in, size_t in_len, uint64_t most, uint32_t furthest, dfmt_walk *walk);

/* ---- adopt.c: frames that need not be made anew -------------------------------------------------------------- */

/* `in` is exactly one frame, which was decoded to `plain` [unit]. If its content can stand in a target with these
 * numbers, put it into `out` and return its length; 0: encode anew. */
size_t dfmt_adopt(const dfmt_placement *p, int codec, const uint8_t *in, size_t in_len, const uint8_t *plain,
                  uint8_t *out, size_t room);

/* ---- fill.c: guest bytes of a table into memory --------------------------------------------------------------- */

/* What one reading thread owns. */
typedef struct dfmt_reader {
    const dfmt_io *io;
    const int *fds;
    size_t fd_count;
    const atomic_int *cancelled; /* or NULL */
    dfmt_decoder *decoder;
    uint8_t *in; /* stored bytes of several frames: [in_start, in_start + in_len) of file in_file */
    size_t in_room;
    size_t in_len;
    uint64_t in_start;
    uint32_t in_file;
    uint8_t *frame; /* one decoded frame, of which a row wants only a part */
    size_t frame_room;
    dfmt_row frame_of; /* a row of that frame; frame_len 0: none */
    size_t frame_used; /* its stored bytes */
    const dfmt_row *last; /* the row that was decoded last; NULL: none since dfmt_fill() began */
    size_t last_used;
} dfmt_reader;

int dfmt_reader_init(dfmt_reader *reader, const dfmt_io *io, const int *fds, size_t fd_count,
                     const atomic_int *cancelled);
void dfmt_reader_free(dfmt_reader *reader);
/* Bytes that a reader of frames of at most `frame` decoded bytes needs. */
uint64_t dfmt_reader_memory(uint64_t frame);

/* Guest bytes [start, stop) of the table from row `first` on; *stored counts those that came from a file. Frames are
 * read ahead of their use up to guest byte `ahead`. */
int dfmt_fill(dfmt_reader *reader, const dfmt_row *rows, size_t count, size_t first, uint64_t start, uint64_t stop,
              uint64_t ahead, uint8_t *out, uint64_t *stored, dfmt_error *err);
/* The stored bytes of the frame of `row`, without what lies behind it, if that row was the last that was decoded. NULL:
 * it was not. Until the next dfmt_fill(). */
const uint8_t *dfmt_reader_frame(const dfmt_reader *reader, const dfmt_row *row, size_t *length);

/* Is the table one that the engine can run? */
int dfmt_rows_check(const dfmt_row *rows, size_t count, size_t fd_count, dfmt_error *err);

#endif
