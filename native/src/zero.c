/* zero.c - is a buffer all zero? The portable body, and the choice for this machine. */
#include "internal.h"
#include "zero.h"

static inline bool any_bit(const uint8_t *at)
{
    uint64_t v[8];
    memcpy(v, at, sizeof(v));
    return (v[0] | v[1] | v[2] | v[3] | v[4] | v[5] | v[6] | v[7]) != 0;
}

#define ZERO_NAME dfmt_zero_portable
#define ZERO_WIDTH 64
#define ZERO_STEP(at) any_bit(at)
#include "zero_impl.h"
#undef ZERO_NAME
#undef ZERO_WIDTH
#undef ZERO_STEP

#if defined(__aarch64__)
#include <arm_neon.h>

static inline bool any_bit_neon(const uint8_t *at)
{
    uint8x16_t a = vorrq_u8(vld1q_u8(at), vld1q_u8(at + 16));
    uint8x16_t b = vorrq_u8(vld1q_u8(at + 32), vld1q_u8(at + 48));
    return vmaxvq_u8(vorrq_u8(a, b)) != 0;
}

#define ZERO_NAME dfmt_zero_neon
#define ZERO_WIDTH 64
#define ZERO_STEP(at) any_bit_neon(at)
#include "zero_impl.h"
#endif

typedef struct implementation {
    const char *name;
    bool (*test)(const uint8_t *at, size_t length);
} implementation;

#if defined(__x86_64__)
static bool has_avx512(void) { return __builtin_cpu_supports("avx512f") != 0; }
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") != 0; }
#endif

/* The best implementation of this machine, or the one called `wanted` if it can run here. */
static const implementation *choose(const char *wanted)
{
#if defined(__x86_64__)
    static const implementation avx512 = {"avx512", dfmt_zero_avx512};
    static const implementation avx2 = {"avx2", dfmt_zero_avx2};
    if (has_avx512() && (wanted == NULL || strcmp(wanted, avx512.name) == 0))
        return &avx512;
    if (has_avx2() && (wanted == NULL || strcmp(wanted, avx2.name) == 0))
        return &avx2;
#elif defined(__aarch64__)
    static const implementation neon = {"neon", dfmt_zero_neon};
    if (wanted == NULL || strcmp(wanted, neon.name) == 0)
        return &neon;
#endif
    static const implementation portable = {"portable", dfmt_zero_portable};
    return wanted == NULL || strcmp(wanted, portable.name) == 0 ? &portable : NULL;
}

static _Atomic(const implementation *) chosen;

const char *dfmt_zero_implementation(const char *force)
{
    const implementation *found = choose(force);
    if (found == NULL)
        return NULL;
    atomic_store(&chosen, found);
    return found->name;
}

int dfmt_is_zero(const void *buffer, size_t length)
{
    const implementation *use = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (use == NULL) {
        use = choose(NULL);
        atomic_store(&chosen, use);
    }
    return use->test(buffer, length);
}
