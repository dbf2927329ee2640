/* isal.c - a place in memory for a stream of ISA-L.
 *
 * The assembly of ISA-L's levels 1 and 2 (seen in 2.30; its newer sources read the same) forgets to load a register
 * before it hashes bytes 2 to 5 of a frame. The register still holds the address of the stream, so what is hashed is
 * bits 16 to 47 of that address: byte 2 is found under a wrong hash, another one in each thread and each run. Every
 * frame is sound, but one in some thousands has other matches, and the same input would not give the same file.
 *
 * The hash is the CRC-32C of these 32 bits, cut to at most 16 bits. So all streams are put where that is 0. One place
 * in 65,536 is; mapping fails where something lies there already, and then the next one is tried.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <stdlib.h>

#if DFMT_ISAL_PLACES

#include <sys/mman.h>

/* Where the kernel and the sanitizers let programs have memory: some 2^24 places of 64 KiB. */
#define FIRST_PLACE UINT32_C(0x7e800000)
#define LAST_PLACE UINT32_C(0x7fff0000)

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0 /* then the address is a wish, and what came of it is looked at */
#endif

static uint32_t hash(uint32_t value)
{
    for (int bit = 0; bit < 32; bit++)
        value = (value >> 1) ^ (UINT32_C(0x82f63b78) & (0U - (value & 1)));
    return value & 0xffff;
}

void *dfmt_isal_stream_new(size_t size)
{
    /* The hash is linear: from one place to the next it changes by that of the bits that change. */
    uint32_t change[32];
    for (int i = 0; i < 32; i++)
        change[i] = hash((uint32_t)((UINT64_C(2) << i) - 1));
    uint32_t now = hash(FIRST_PLACE);
    for (uint32_t place = FIRST_PLACE; place < LAST_PLACE; now ^= change[__builtin_ctz(~place)], place++) {
        if (now != 0)
            continue;
        void *wanted = (void *)(uintptr_t)((uint64_t)place << 16);
        void *got = mmap(wanted, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == wanted)
            return got;
        if (got != MAP_FAILED)
            munmap(got, size);
    }
    return NULL;
}

void dfmt_isal_stream_free(void *stream, size_t size)
{
    if (stream != NULL)
        munmap(stream, size);
}

#else

void *dfmt_isal_stream_new(size_t size)
{
    return calloc(1, size);
}

void dfmt_isal_stream_free(void *stream, size_t size)
{
    (void)size;
    free(stream);
}

#endif
