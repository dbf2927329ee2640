/* zero_impl.h - the body of the zero test, compiled once for each instruction set.
 *
 * The includer defines ZERO_NAME, ZERO_WIDTH (bytes per step) and ZERO_STEP(at), which says whether the ZERO_WIDTH
 * bytes at `at` (any alignment) hold a bit. Most buffers that are not zero say so in their first bytes.
 */
bool ZERO_NAME(const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length;
    for (; (size_t)(end - at) >= ZERO_WIDTH; at += ZERO_WIDTH)
        if (ZERO_STEP(at))
            return false;
    for (; at < end; at++)
        if (*at != 0)
            return false;
    return true;
}
