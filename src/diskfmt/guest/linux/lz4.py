"""LZ4 in the kernel's old framing: what `lz4 -l` writes and an initramfs may be.

Sources: LZ4 block format description; lz4 frame format description, "Legacy frame"; lib/decompress_unlz4.c of Linux.
Python's standard library has no LZ4, and the decoder is small.
"""

from collections.abc import Iterator
from typing import Final

from diskfmt.guest.base import BudgetError, DamagedError

MAGIC: Final = b"\x02\x21\x4c\x18"
BLOCK: Final = 8 << 20
"""What one block decodes to at most."""
_MAX_BLOCKS: Final = 4096
_BOUND: Final = BLOCK + BLOCK // 255 + 16


def blocks(data: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """(decoded bytes, where the next block begins) of the legacy frame whose magic is at `start`.

    It ends with the file, or where no block can begin. Raises DamagedError.
    """
    at, made = start + len(MAGIC), 0
    while at + 4 <= len(data):
        if data.startswith(MAGIC, at):
            at += len(MAGIC)
            continue
        size = int.from_bytes(data[at : at + 4], "little")
        if size == 0 or size > _BOUND:
            return
        if at + 4 + size > len(data):
            raise DamagedError("an LZ4 block ends after the file", offset=at)
        made += 1
        if made > _MAX_BLOCKS:
            raise BudgetError(f"more than {_MAX_BLOCKS} LZ4 blocks", offset=at)
        decoded = block(data[at + 4 : at + 4 + size], BLOCK)
        at += 4 + size
        yield decoded, at


def block(source: bytes, limit: int) -> bytes:
    """What an LZ4 block decodes to. Raises DamagedError for one that is damaged or makes more than `limit` bytes."""
    out = bytearray()
    at, end = 0, len(source)
    try:
        while True:
            token = source[at]
            at += 1
            length = token >> 4
            if length == 15:
                while True:
                    more = source[at]
                    at += 1
                    length += more
                    if more != 255:
                        break
            if length:
                stop = at + length
                if stop > end or len(out) + length > limit:
                    raise DamagedError("LZ4 literals leave the block", offset=at)
                out += source[at:stop]
                at = stop
            if at == end:
                return bytes(out)
            distance = source[at] | source[at + 1] << 8
            at += 2
            length = token & 15
            if length == 15:
                while True:
                    more = source[at]
                    at += 1
                    length += more
                    if more != 255:
                        break
            length += 4
            have = len(out)
            if not 0 < distance <= have or have + length > limit:
                raise DamagedError("an LZ4 match leaves the block", offset=at)
            if distance >= length:
                begin = have - distance
                out += out[begin : begin + length]
            else:  # the match overlaps what it makes: the last bytes repeat
                piece = out[have - distance :]
                out += (piece * (length // distance + 1))[:length]
    except IndexError:
        raise DamagedError("an LZ4 block ends inside a sequence", offset=at) from None
