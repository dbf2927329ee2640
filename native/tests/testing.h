/* testing.h - the little that the C tests share. Each test is one program: it says what passed, and ends with 0. */
#ifndef DFMT_TESTING_H
#define DFMT_TESTING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "dfmt.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The same with two numbers, which are printed. */
#define SAME(a, b)                                                                                                     \
    do {                                                                                                               \
        unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);                                 \
        if (a_ != b_) {                                                                                                \
            fprintf(stderr, "%s:%d: %s is %llu, %s is %llu\n", __FILE__, __LINE__, #a, a_, #b, b_);                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* A repeatable source of numbers (xorshift64*). */
static uint64_t random_state = UINT64_C(0x9e3779b97f4a7c15);

static inline uint64_t random_u64(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint64_t random_below(uint64_t limit)
{
    return random_u64() % limit;
}

/* Bytes that do not compress. */
static inline void fill_random(uint8_t *at, size_t length)
{
    for (size_t i = 0; i < length; i++)
        at[i] = (uint8_t)(random_u64() >> 32);
}

/* Bytes that do. */
static inline void fill_text(uint8_t *at, size_t length)
{
    for (size_t i = 0; i < length; i++)
        at[i] = (uint8_t)("the quick brown fox jumps over the lazy dog "[(i + (i >> 9) * 7) % 44] + (random_below(9) == 0));
}

/* Noise that repeats itself, from all distances up to 32 KiB. */
static inline void fill_repeats(uint8_t *at, size_t length)
{
    fill_random(at, length);
    for (size_t i = 300; i + 300 < length; i += 150 + random_below(300)) {
        size_t back = 1 + random_below(i < 32768 ? i : 32768), run = 3 + random_below(258);
        for (size_t k = 0; k < run && i + k < length; k++)
            at[i + k] = at[i + k - back];
    }
}

/* Memory that ends at a page that nobody may touch. */
typedef struct guarded {
    uint8_t *base;
    size_t mapped;
    uint8_t *end;
} guarded;

static inline guarded guarded_new(size_t length)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guarded g = {.mapped = (length + page - 1) / page * page + page};
    g.base = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(g.base != MAP_FAILED);
    g.end = g.base + g.mapped - page;
    CHECK(mprotect(g.end, page, PROT_NONE) == 0);
    return g;
}

static inline void guarded_free(guarded g)
{
    munmap(g.base, g.mapped);
}

/* A file without a name. */
static inline int new_file(void)
{
    const char *dir = getenv("TMPDIR");
    char name[4096];
    snprintf(name, sizeof(name), "%s/dfmt-test-XXXXXX", dir != NULL ? dir : "/tmp");
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    unlink(name);
    return fd;
}

#if HAVE_ZLIB
#include <zlib.h>

/* Does zlib inflate a raw stream with a window of 2^bits? It forgives distances into what one call has put out, so each
 * call may put out one byte only. */
static inline bool window_is_enough(const uint8_t *in, size_t in_len, int bits)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)in_len};
    CHECK(inflateInit2(&z, -bits) == Z_OK);
    int code = Z_OK;
    while (code == Z_OK) {
        uint8_t byte;
        z.next_out = &byte;
        z.avail_out = 1;
        code = inflate(&z, Z_NO_FLUSH);
    }
    inflateEnd(&z);
    return code == Z_STREAM_END;
}
#endif

static inline void *must_alloc(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);
    CHECK(memory != NULL);
    return memory;
}

#endif
