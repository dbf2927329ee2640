/* zero_avx512.c - zero test, 256 bytes a step. Compiled with -mavx512f, called only where the processor has it. */
#include "zero.h"

#if defined(__x86_64__)
#include <immintrin.h>

static inline bool any_bit(const uint8_t *at)
{
    __m512i a = _mm512_or_si512(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64));
    __m512i b = _mm512_or_si512(_mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192));
    a = _mm512_or_si512(a, b);
    return _mm512_test_epi64_mask(a, a) != 0;
}

#define ZERO_NAME dfmt_zero_avx512
#define ZERO_WIDTH 256
#define ZERO_STEP(at) any_bit(at)
#include "zero_impl.h"
#else
typedef int dfmt_zero_avx512_not_here; /* a translation unit is never empty */
#endif
