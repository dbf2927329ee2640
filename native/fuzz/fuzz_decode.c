/* fuzz_decode.c - any bytes as a frame of any codec. The buffers end at unmapped pages, so that reads by assembler
 * (which no sanitizer sees) are caught too. Input: codec, log2 of the length, 2 bytes off that length, frame. */
#define _GNU_SOURCE
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *end_at_unmapped_page(size_t most)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t length = (most + page - 1) / page * page;
    uint8_t *base = mmap(NULL, length + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + length, page, PROT_NONE) != 0)
        abort();
    return base + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MOST_IN = 1 << 20, MOST_OUT = 1 << 18 };
    static uint8_t *in_end, *out_end;
    static dfmt_decoder *kept;
    if (in_end == NULL) {
        in_end = end_at_unmapped_page(MOST_IN);
        out_end = end_at_unmapped_page(MOST_OUT);
        kept = dfmt_decoder_new(dfmt_io_posix()); /* as a worker keeps it: one frame must not hurt the next */
    }
    if (size < 4 || size - 4 > MOST_IN)
        return -1;
    int codec = DFMT_DEFLATE + data[0] % 3;
    size_t out_len = ((size_t)1 << (data[1] % 18)) + (data[2] | (size_t)data[3] << 8);
    if (out_len > MOST_OUT)
        return -1;
    size_t in_len = size - 4;
    uint8_t *in = in_end - in_len;
    if (in_len > 0)
        memcpy(in, data + 4, in_len);
    size_t used = 0;
    int code = dfmt_decoder_run(kept, codec, in, in_len, out_end - out_len, out_len, &used);
    if (code == DFMT_OK && used > in_len)
        abort();
    if (code != DFMT_OK && code != DFMT_E_DATA && !(code == DFMT_E_CODEC && !dfmt_can_decode(codec)))
        abort();
    int again = dfmt_decode(codec, in, in_len, out_end - out_len, out_len, NULL);
    if (again != code)
        abort();
    return 0;
}
