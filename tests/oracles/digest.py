"""The digest of a guest disk that all oracles share: cheap on sparse disks, blind to how zeroes are stored."""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK = 64 << 10
_STEP = 16 * BLOCK
_ZERO = bytes(BLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDigest:
    """What a reader saw: size in bytes, and the `nz64k` digest of the corpus.

    `nz64k` is the SHA-256 over, for each 64 KiB block with a byte that is not zero, in order: the index of the
    block (u64 little-endian) and the SHA-256 of the block, the last one padded with zeroes.
    """

    size: int
    nz64k: str


def digest_blocks(size: int, chunks: Iterable[tuple[int, bytes]]) -> GuestDigest:
    """The digest of a disk of `size` bytes from (offset, bytes) chunks.

    Chunks start at multiples of `BLOCK`, come in ascending order, and are whole blocks except at the end of the
    disk. What no chunk mentions is zero.
    """
    total = hashlib.sha256()
    for offset, data in chunks:
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            if len(block) < BLOCK:
                block = block.ljust(BLOCK, b"\0")
            if block != _ZERO:
                total.update(struct.pack("<Q", (offset + at) // BLOCK))
                total.update(hashlib.sha256(block).digest())
    return GuestDigest(size=size, nz64k=total.hexdigest())


def digest_file(path: str, size: int | None = None) -> GuestDigest:
    """The digest of the bytes of a (sparse) file: the guest disk of a raw image.

    `size`: only so many bytes (a fixed VHD carries its footer behind the disk).
    """
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size if size is None else size
        return digest_blocks(end, _stored(file.fileno(), end))


def _stored(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are not holes, in whole blocks."""
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole up to the end
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        start = max(at, data // BLOCK * BLOCK)
        at = min(size, -(-hole // BLOCK) * BLOCK)
        for offset in range(start, at, _STEP):
            yield offset, os.pread(fd, min(_STEP, at - offset), offset)
