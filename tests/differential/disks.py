"""Guest disks from a seed: the sizes sit on the edges of clusters, grains and blocks, the contents of machines."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECTOR = 512
PAGE = 4 << 10
GRAIN = 64 << 10  # of VMDK, and the default cluster of qcow2
BLOCK = 2 << 20  # of VHD, and the largest cluster of qcow2
MIB = 1 << 20

Writes = Iterator[tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A guest disk: its name says shape and size; equal specs give equal bytes."""

    shape: str
    size: int

    @property
    def name(self) -> str:
        """For test ids."""
        unit, rest = divmod(self.size, MIB)
        tail = f"+{rest // SECTOR}s" if rest else ""
        return f"{self.shape}-{unit}M{tail}"


def _text(rng: random.Random, length: int) -> bytes:
    """Bytes that compress to about a third: words, as in files of configuration and code."""
    words = [rng.randbytes(rng.randint(2, 9)).hex().encode() for _ in range(24)]
    out = bytearray()
    while len(out) < length:
        out += b" ".join(rng.choices(words, k=64)) + b"\n"
    return bytes(out[:length])


def _sparse(rng: random.Random, size: int) -> Writes:
    """Islands of text, noise and repeated bytes at any sector, between wide gaps; the last sector is used."""
    at = 0
    while at < size:
        length = min(size - at, SECTOR * rng.randint(1, 200))
        kind = rng.randrange(3)
        yield at, (_text(rng, length), rng.randbytes(length), rng.randbytes(1) * length)[kind]
        at += length + SECTOR * rng.choice((0, 1, 7, 64, 127, 128, 129, 1000, 4096, 9000))
    yield size - SECTOR, rng.randbytes(SECTOR)


def _full(rng: random.Random, size: int) -> Writes:
    """No zero sector anywhere: text and noise in turns."""
    for at in range(0, size, 96 << 10):
        length = min(96 << 10, size - at)
        yield at, _text(rng, length) if rng.random() < 0.6 else rng.randbytes(length)


def _alternating(rng: random.Random, size: int) -> Writes:
    """A page of data, a page of nothing: the worst case of every map."""
    for at in range(0, size, 2 * PAGE):
        yield at, rng.randbytes(16) * (min(PAGE, size - at) // 16)


def _edges(rng: random.Random, size: int) -> Writes:
    """One byte on each side of every unit boundary that exists, and the last byte of the disk."""
    for unit in (GRAIN, BLOCK):
        for at in range(unit, size, unit * 5):
            yield at - 1, b"\x01"
            yield at, b"\x02"
    yield size - 1, b"\x03"


def _zero(rng: random.Random, size: int) -> Writes:
    """Nothing at all."""
    yield from ()


def _written_zero(rng: random.Random, size: int) -> Writes:
    """Zeroes that are written, not left out, around a little data: a scan must find them."""
    yield 0, bytes(size)
    yield size // 2 // SECTOR * SECTOR, rng.randbytes(SECTOR)


_SHAPES: dict[str, Callable[[random.Random, int], Writes]] = {
    "sparse": _sparse,
    "full": _full,
    "alternating": _alternating,
    "edges": _edges,
    "zero": _zero,
    "written-zero": _written_zero,
}

DISKS: tuple[DiskSpec, ...] = (
    DiskSpec(shape="full", size=SECTOR),
    DiskSpec(shape="zero", size=SECTOR),
    DiskSpec(shape="full", size=3 * SECTOR),
    DiskSpec(shape="sparse", size=GRAIN - SECTOR),
    DiskSpec(shape="full", size=GRAIN),
    DiskSpec(shape="sparse", size=GRAIN + SECTOR),
    DiskSpec(shape="alternating", size=BLOCK - SECTOR),
    DiskSpec(shape="full", size=BLOCK),
    DiskSpec(shape="edges", size=BLOCK + SECTOR),
    DiskSpec(shape="sparse", size=5 * MIB + 7 * SECTOR),
    DiskSpec(shape="written-zero", size=4 * MIB),
    DiskSpec(shape="full", size=7 * MIB + SECTOR),
    DiskSpec(shape="zero", size=33 * MIB),
    DiskSpec(shape="sparse", size=33 * MIB),
    DiskSpec(shape="alternating", size=33 * MIB + 3 * SECTOR),
    DiskSpec(shape="edges", size=70 * MIB + SECTOR),
)


def write_disk(spec: DiskSpec, path: str) -> None:
    """Make the disk as a sparse raw file."""
    rng = random.Random(spec.name)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, spec.size)
        for offset, data in _SHAPES[spec.shape](rng, spec.size):
            os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
