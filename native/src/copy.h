/* copy.h - what the files of the copy loop share; copy.c tells how it works. */
#ifndef DFMT_COPY_H
#define DFMT_COPY_H

#include "internal.h"

#include <pthread.h>

#define PIECE (UINT64_C(64) << 10) /* granularity of the fingerprint; batches start and end on it */
#define MARKER 12
#define NO_UNIT UINT64_MAX

enum slot_state { FREE, BUSY, READY, PLACED, WRITING };

/* One unit, or the part of one unit, in a batch. */
typedef struct part {
    uint64_t place;  /* where its data goes; 0: nowhere */
    uint32_t frame;  /* encoded: length of the frame in the slot's `encoded` */
    uint32_t at;     /* encoded: where that frame (or its marker) starts there */
    bool zero;       /* not stored */
    bool adopted;    /* the frame is one of the source */
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
    uint64_t adopted; /* frames */

    atomic_uint_fast64_t progress;
    atomic_int cancelled;
    atomic_int allocates; /* the file system can be asked for blocks */
    uint64_t write_behind; /* step; 0: not at all */
    uint64_t handed_over;  /* the kernel was told to store the target up to here */
};

static inline bool is_encoding(const dfmt_copy *copy) { return copy->p.codec != DFMT_NONE; }

/* The piece of the guest that one part covers. */
static inline uint64_t part_size(const dfmt_copy *copy) { return dfmt_min(copy->p.unit, copy->batch); }

/* copy_batch.c: read, decode, look for zeroes, encode; no lock held. */
int dfmt_batch_make(dfmt_copy *copy, dfmt_reader *reader, dfmt_encoder *encoder, slot *s);

/* copy_place.c: hand out the places of a batch, whose turn it is, under the lock. */
void dfmt_batch_place(dfmt_copy *copy, slot *s);
/* After the last batch of a run: the units that are not stored, but read as zero. */
void dfmt_tell_zeroes(dfmt_copy *copy);
/* Add the room behind the last group. */
void dfmt_leave_group(dfmt_copy *copy);

/* copy_write.c: write a batch that has its places; one thread at a time, no lock held. */
int dfmt_batch_write(dfmt_copy *copy, slot *s);
/* Ask for the blocks of a range that is about to be written: fresh pages of an allocated range cost half. Only an
 * optimisation: a file system that cannot, or has no room for the reserve, is written without. False: it has
 * not; s->error says if that is more than a lack of it. */
bool dfmt_allocate(dfmt_copy *copy, slot *s, int mode, uint64_t from, uint64_t length);
/* Appended small units have no holes between them, so blocks are reserved far ahead. */
bool dfmt_reserves_ahead(const dfmt_copy *copy);

#endif
