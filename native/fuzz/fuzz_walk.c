/* fuzz_walk.c - any bytes as a deflate stream: what the walk takes decodes to as many bytes, from as many bytes, and is
 * taken with any limit that its largest distance keeps. Input: log2 of the most bytes, limit of the distance (2 bytes), stream. */
#include "internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MOST_OUT = 1 << 21, HEAD = 3 };
    static uint8_t out[MOST_OUT + 1];
    static dfmt_decoder *kept;
    if (kept == NULL)
        kept = dfmt_decoder_new(dfmt_io_posix());
    if (size < HEAD)
        return -1;
    uint64_t most = UINT64_C(1) << (data[0] % 22);
    uint32_t furthest = (data[1] | (uint32_t)data[2] << 8) % 32768 + 1;
    /* A copy of its own, so that the sanitizer sees its end. */
    size_t in_len = size - HEAD;
    uint8_t *in = malloc(in_len + 1);
    if (in == NULL)
        abort();
    memcpy(in, data + HEAD, in_len);
    in = realloc(in, in_len > 0 ? in_len : 1);
    dfmt_walk all, near;
    bool good = dfmt_deflate_walk(in, in_len, most, 32768, &all);
    bool is_near = dfmt_deflate_walk(in, in_len, most, furthest, &near);
    if (is_near != (good && all.distance <= furthest))
        abort();
    if (is_near && (near.used != all.used || near.made != all.made || near.distance != all.distance))
        abort();
    if (good) {
        size_t used = 0;
        if (all.used > in_len || all.made > most || all.distance > all.made)
            abort();
        if (dfmt_decoder_run(kept, DFMT_DEFLATE, in, all.used, out, all.made, &used) != DFMT_OK || used != all.used)
            abort();
    }
    free(in);
    return 0;
}
