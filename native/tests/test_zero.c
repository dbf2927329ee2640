/* test_zero.c - every implementation that this machine has, at every alignment, with one bit anywhere. */
#include "testing.h"

enum { LONGEST = 3 * 256 + 65 };

static void one_implementation(const char *name)
{
    guarded g = guarded_new(LONGEST + 256);
    /* Buffers that end at the unmapped page: every length is every alignment too. */
    for (size_t length = 0; length <= LONGEST; length++)
        CHECK(dfmt_is_zero(g.end - length, length));
    /* Buffers that start anywhere, with a neighbour on both sides that is not zero. */
    for (size_t shift = 0; shift < 65; shift++) {
        for (size_t length = 0; length <= LONGEST - 66; length += 1 + length / 70) {
            uint8_t *at = g.end - LONGEST + shift;
            at[-1] = at[length] = 0xff;
            CHECK(dfmt_is_zero(at, length));
            at[-1] = at[length] = 0;
        }
    }
    static const size_t lengths[] = {1, 7, 8, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, LONGEST};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint8_t *at = g.end - lengths[i];
        for (size_t bit = 0; bit < 8 * lengths[i]; bit++) {
            at[bit / 8] = (uint8_t)(1U << (bit % 8));
            CHECK(!dfmt_is_zero(at, lengths[i]));
            at[bit / 8] = 0;
        }
        CHECK(dfmt_is_zero(at, lengths[i]));
    }
    guarded_free(g);
    (void)name;
}

int main(void)
{
    static const char *const names[] = {"portable", "avx2", "avx512", "neon"};
    CHECK(dfmt_zero_implementation("there is no such one") == NULL);
    char tested[64] = "";
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *name = dfmt_zero_implementation(names[i]);
        if (name == NULL)
            continue;
        CHECK(strcmp(name, names[i]) == 0);
        one_implementation(name);
        strcat(strcat(tested, " "), name);
    }
    CHECK(dfmt_zero_implementation(NULL) != NULL);
    printf("zero test:%s: passed\n", tested);
    return 0;
}
