/* zero_avx2.c - zero test, 128 bytes a step. Compiled with -mavx2, called only where the processor has it. */
#include "zero.h"

#if defined(__x86_64__)
#include <immintrin.h>

static inline bool any_bit(const uint8_t *at)
{
    const __m256i *v = (const __m256i *)(const void *)at;
    __m256i a = _mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1));
    __m256i b = _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3));
    a = _mm256_or_si256(a, b);
    return !_mm256_testz_si256(a, a);
}

#define ZERO_NAME dfmt_zero_avx2
#define ZERO_WIDTH 128
#define ZERO_STEP(at) any_bit(at)
#include "zero_impl.h"
#else
typedef int dfmt_zero_avx2_not_here; /* a translation unit is never empty */
#endif
