/* zero.h - the implementations of the zero test. Those of other machines do not exist in a build. */
#ifndef DFMT_ZERO_H
#define DFMT_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool dfmt_zero_portable(const uint8_t *at, size_t length);
#if defined(__x86_64__)
bool dfmt_zero_avx2(const uint8_t *at, size_t length);
bool dfmt_zero_avx512(const uint8_t *at, size_t length);
#elif defined(__aarch64__)
bool dfmt_zero_neon(const uint8_t *at, size_t length);
#endif

#endif
