/*
 * dfmt.h - the whole interface of the diskfmt engine, and its manual.
 *
 * The engine moves guest bytes. It knows rows (where bytes are), units (pieces of a target), codecs, prefixes and
 * alignment; it knows no disk format. A conversion is: rows x placement -> places.
 *
 *     rows ──► next batch ──► pread ──► decode ──► zero? ──► encode ──► place (in guest order) ──► pwrite
 *              (one lock)      └────────── N threads, no lock ──────┘     (same lock)              no lock
 *
 * Rules for every function:
 * - offsets and lengths are bytes, unsigned, 64 bit; every pointer comes with its length;
 * - nothing is printed, nothing aborts; a function that can fail returns DFMT_OK or a code, and fills `err`;
 * - memory is allocated in sizes that the caller's numbers bound (batch, unit), never in sizes read from a file;
 * - file descriptors belong to the caller; no path is ever handled;
 * - functions may be called from several threads at once, except on the same dfmt_copy;
 * - all system calls go through a `dfmt_io` table.
 *
 * Compressed output is deterministic for one build on one machine: the same unit and level give the same frame,
 * whatever the threads. It is not promised to be the same across library versions; never compare it with a golden file.
 */
#ifndef DFMT_H
#define DFMT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The Python binding reads everything between the two cffi marks. */
/* cffi: begin */

#define DFMT_ABI 3

/* ---- errors ---------------------------------------------------------------------------------------------- */

enum {
    DFMT_OK = 0,
    DFMT_E_READ = 1,      /* a read failed: sys_errno                                             */
    DFMT_E_WRITE = 2,     /* a write, allocation or flush of a file failed: sys_errno             */
    DFMT_E_EOF = 3,       /* a file ended inside a range that was promised to be there            */
    DFMT_E_DATA = 4,      /* a frame does not decode to exactly its length                        */
    DFMT_E_NOMEM = 5,
    DFMT_E_CANCELLED = 6, /* dfmt_copy_cancel() was called                                        */
    DFMT_E_ARG = 7,       /* numbers that make no sense: a bug of the caller                      */
    DFMT_E_CODEC = 8      /* this build has no such codec, or the codec failed for no reason of the data */
};

typedef struct dfmt_error {
    int32_t code;
    int32_t sys_errno;
    uint64_t host_off;
    uint64_t guest_off;
    uint32_t file_id; /* index into the files of the source; DFMT_TARGET for the target */
    uint32_t reserved;
} dfmt_error;

#define DFMT_TARGET 0xffffffff

/* ---- rows ------------------------------------------------------------------------------------------------ */

enum { DFMT_DATA = 1, DFMT_ENCODED = 2, DFMT_ZERO = 3, DFMT_HOLE = 4 };

enum { DFMT_NONE = 0, DFMT_DEFLATE = 1, DFMT_ZLIB = 2, DFMT_ZSTD = 3 };

/* One run of guest bytes. Tables are sorted by guest_off, gap-free, lengths above zero. 48 bytes. */
typedef struct dfmt_row {
    uint64_t guest_off;
    uint64_t length;
    uint64_t host_off;
    uint64_t host_len;
    uint32_t frame_len;
    uint32_t frame_skip;
    uint16_t file_id;
    uint8_t kind;
    uint8_t codec;
    uint32_t depth; /* which image of a chain says so; not used here */
} dfmt_row;

/* ---- system calls ---------------------------------------------------------------------------------------- */

typedef struct dfmt_io dfmt_io;

enum {
    DFMT_OP_PREAD = 0,
    DFMT_OP_PWRITE = 1,
    DFMT_OP_FSYNC = 2,
    DFMT_OP_FTRUNCATE = 3,
    DFMT_OP_FALLOCATE = 4,
    DFMT_OP_SEEK = 5,
    DFMT_OP_RENAME = 6,
    DFMT_OP_CLOSE = 7,
    DFMT_OP_MALLOC = 8,
    DFMT_OP_WRITE_BEHIND = 9,
    DFMT_OPS = 10
};

/* What a faulty table does at the chosen call. */
enum {
    DFMT_FAULT_ERRNO = 0, /* fail with the errno                                                */
    DFMT_FAULT_SHORT = 1, /* transfer half of what was asked (reads and writes)                 */
    DFMT_FAULT_LIE = 2    /* report success, do nothing (writes, fsync)                         */
};

/* The real system. One static table, never freed. */
const dfmt_io *dfmt_io_posix(void);

/* The real system, except that call number `nth` (from 1) of operation `op` misbehaves; with `sticky` each later
 * one too. NULL if there is no memory. */
dfmt_io *dfmt_io_faulty_new(int op, uint64_t nth, int how, int sys_errno, int sticky);
void dfmt_io_faulty_free(dfmt_io *io);
/* How many calls of `op` a faulty table has seen. */
uint64_t dfmt_io_faulty_count(const dfmt_io *io, int op);

/* The operations that Python needs, through the same table. Reads and writes loop over short transfers and EINTR;
 * a read that meets the end of the file early is DFMT_E_EOF. */
int dfmt_pread(const dfmt_io *io, int fd, void *buffer, size_t length, uint64_t offset, dfmt_error *err);
int dfmt_pwrite(const dfmt_io *io, int fd, const void *buffer, size_t length, uint64_t offset, dfmt_error *err);
int dfmt_fsync(const dfmt_io *io, int fd, dfmt_error *err);
int dfmt_ftruncate(const dfmt_io *io, int fd, uint64_t length, dfmt_error *err);
int dfmt_close(const dfmt_io *io, int fd, dfmt_error *err);
/* Rename inside one directory; without `replace` an existing target is EEXIST. */
int dfmt_rename(const dfmt_io *io, int dir_fd, const char *from, const char *to, int replace, dfmt_error *err);

/* Read `count` pieces of `size` bytes each, at `offsets`, into out[count * size]. On failure err->host_off is the
 * offset of the piece. */
int dfmt_gather(const dfmt_io *io, int fd, const uint64_t *offsets, size_t count, size_t size, uint8_t *out,
                size_t out_len, dfmt_error *err);

/* The runs of a sparse file that the file system says are stored, inside [start, stop): pairs (offset, length) into
 * out[2 * max]. *found is their number; *next is where to go on, `stop` when done. A file system that cannot say
 * reports one run. */
int dfmt_data_runs(const dfmt_io *io, int fd, uint64_t start, uint64_t stop, uint64_t *out, size_t max, size_t *found,
                   uint64_t *next, dfmt_error *err);

/* The type of the file system (statfs f_type), or 0. */
uint64_t dfmt_filesystem(int fd);

/* ---- codecs ---------------------------------------------------------------------------------------------- */

/* One line, e.g. "inflate: libdeflate 1.14, deflate: isa-l 2.30.0 + zlib 1.2.13, zstd: libzstd 1.5.4". */
const char *dfmt_codecs(void);
/* Can this build decode the codec; encode with this level (0: the codec's fast default) and window? */
int dfmt_can_decode(int codec);
int dfmt_can_encode(int codec, int level, int window_bits);

/* Decode one frame to exactly out_len bytes. Bytes behind the end of the stream are allowed. */
int dfmt_decode(int codec, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len, dfmt_error *err);

/* Decode the zstd frames at the start of `in`, whatever their length. *in_len, *out_len: what there is in, what was used
 * out; bytes that belong to no frame are left. DFMT_E_DATA: no frame, a damaged one, or one that needs more room. */
int dfmt_decode_frames(const uint8_t *in, size_t *in_len, uint8_t *out, size_t *out_len, dfmt_error *err);

/* Encode `in`. *out_len: room in, bytes out. Room below dfmt_encode_bound() may end in DFMT_E_ARG.
 * `window_bits` (9..15) bounds match distances of deflate. */
int dfmt_encode(int codec, int level, int window_bits, const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len,
                dfmt_error *err);
size_t dfmt_encode_bound(int codec, size_t in_len);

/* ---- zero test ------------------------------------------------------------------------------------------- */

int dfmt_is_zero(const void *buffer, size_t length);
/* Name of the implementation chosen for this machine; with `force` (a name, or NULL for the best) choose it, for
 * tests. NULL if this machine or build has no such implementation. */
const char *dfmt_zero_implementation(const char *force);

/* ---- reading --------------------------------------------------------------------------------------------- */

/* Guest bytes [start, start + length) of a table into out. Zero and hole rows give zeroes. */
int dfmt_read(const dfmt_io *io, const int *fds, size_t fd_count, const dfmt_row *rows, size_t row_count,
              uint64_t start, size_t length, uint8_t *out, dfmt_error *err);

/* ---- copying --------------------------------------------------------------------------------------------- */

/* The numbers that describe a target. */
typedef struct dfmt_placement {
    uint64_t unit;         /* guest bytes per unit, a power of two, 512 .. 256 MiB                              */
    uint64_t base;         /* fixed: host offset of guest byte 0                                                */
    uint32_t fixed;        /* 1: a guest byte's place is base + its offset; 0: units are appended               */
    uint32_t align;        /* appended plain units: alignment of the data                                       */
    uint32_t frame_align;  /* encoded units: alignment of the frame, or of its marker                           */
    uint32_t codec;        /* DFMT_NONE: units are stored plain                                                 */
    int32_t level;         /* 0: the codec's fast default                                                       */
    uint32_t window_bits;  /* deflate, zlib                                                                     */
    uint32_t allow_plain;  /* 1: a unit whose frame is not smaller than the unit is stored plain                */
    uint32_t prefix_len;   /* plain units: bytes of prefix_byte directly before the data (VHD sector bitmap)    */
    uint32_t prefix_byte;
    uint32_t marker;       /* 1: frames are preceded by LBA (u64 LE, sectors) and frame length (u32 LE)         */
    uint64_t group_units;  /* 0, or: after the last stored unit of each group of so many units …                */
    uint64_t group_room;   /* … so many bytes are left free, from a multiple of frame_align                     */
    uint64_t guest_size;   /* bytes of the guest disk: the last unit may end behind it                          */
    uint32_t fingerprint;  /* 1: keep a fingerprint of the content (units of 64 KiB and more)                   */
    uint32_t zeroes;       /* appended: what becomes of units that read as zero: DFMT_ZEROES_…                  */
    uint32_t adopt;        /* 1: a frame of the source that is a whole unit in the same codec is not made anew  */
    uint32_t reserved;
} dfmt_placement;

/* A unit that is all zero, and of which some row says anything but HOLE. (A unit of holes alone is never stored.) */
enum {
    DFMT_ZEROES_SKIP = 0, /* not stored, place 0, as a hole                                             */
    DFMT_ZEROES_TELL = 1, /* not stored, place DFMT_ZERO_PLACE                                          */
    DFMT_ZEROES_STORE = 2 /* stored like any other; what is plain may be a hole of the target's file    */
};

#define DFMT_ZERO_PLACE 1

typedef struct dfmt_copy dfmt_copy;

/* target_fd -1: everything happens but the writes (to measure). NULL if there is no memory or the numbers make no
 * sense. `threads` 1..64. */
dfmt_copy *dfmt_copy_new(const dfmt_io *io, const int *fds, size_t fd_count, int target_fd,
                         const dfmt_placement *placement, uint64_t end, int threads);
void dfmt_copy_free(dfmt_copy *copy);

/* Copy the units of a table. rows[0] starts on a multiple of the unit. For unit i from there, places[i] becomes the
 * host offset of its data (behind prefix or marker; 0 or DFMT_ZERO_PLACE: not stored), stored[i] its stored bytes
 * (equal to the unit: plain; otherwise the length of its frame). A fixed placement takes NULL for both. Returns when
 * everything is written, or the first error in guest order is known. Tables come in ascending order. */
int dfmt_copy_run(dfmt_copy *copy, const dfmt_row *rows, size_t row_count, uint64_t *places, uint64_t *stored,
                  size_t units, dfmt_error *err);

/* End of the target's used part; settable between runs, when tables were written there. */
uint64_t dfmt_copy_end(const dfmt_copy *copy);
int dfmt_copy_set_end(dfmt_copy *copy, uint64_t end);
/* Add the room after a group that is still owed. Call after the last run, before dfmt_copy_end(). */
void dfmt_copy_finish(dfmt_copy *copy);
/* 64 bits that depend on the guest's non-zero bytes and their offsets, not on rows, threads or placement. */
uint64_t dfmt_copy_fingerprint(const dfmt_copy *copy);

/* How many frames of the source were kept as they are. Each was decoded all the same: no damaged one is handed on. What
 * is kept: deflate and zlib, also one as the other, with match distances inside the window of the placement and in
 * codes that every reader takes; zstd without a dictionary and with a window of at most 2 MiB. */
uint64_t dfmt_copy_adopted(const dfmt_copy *copy);

/* Before the first run: have the kernel start to store what is written, each time that `step` bytes of the target are
 * done (0: not at all). For outputs that are flushed at the end, which then takes less. */
void dfmt_copy_write_behind(dfmt_copy *copy, uint64_t step);

/* From any thread, at any time: stored guest bytes done; stop soon. */
uint64_t dfmt_copy_progress(const dfmt_copy *copy);
void dfmt_copy_cancel(dfmt_copy *copy);

/* cffi: end */

/* The table itself. `ctx` is handed to every call; results are as in POSIX, errors in errno. */
struct dfmt_io {
    void *ctx;
    ssize_t (*pread)(void *ctx, int fd, void *buffer, size_t length, uint64_t offset);
    ssize_t (*pwrite)(void *ctx, int fd, const void *buffer, size_t length, uint64_t offset);
    int (*fsync)(void *ctx, int fd);
    int (*ftruncate)(void *ctx, int fd, uint64_t length);
    int (*fallocate)(void *ctx, int fd, int mode, uint64_t offset, uint64_t length);
    int (*write_behind)(void *ctx, int fd, uint64_t offset, uint64_t length);
    int64_t (*seek)(void *ctx, int fd, uint64_t offset, int whence);
    int (*rename)(void *ctx, int dir_fd, const char *from, const char *to, int replace);
    int (*close)(void *ctx, int fd);
    void *(*malloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *memory);
};

#endif
