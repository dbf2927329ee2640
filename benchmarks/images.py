"""Disks shaped like those of real machines, from a seed.

A quarter of the stored data is text, a quarter is records like those of programs and databases, a quarter mixes
both with zero runs between, an eighth is noise (packed archives), the rest is zeroes and small numbers. It lies
in runs of 4 KiB to 8 MiB with gaps between, as a file system that has been in use leaves it. Together it compresses
about three times with zlib, as the root of a Debian system does.
"""

import os
import shutil
import subprocess
from typing import Final

import numpy as np

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SEED: Final = 20261124

_WORDS: Final = 4096
_MBR: Final = bytes.fromhex("80202100 83feffff 00080000")


def _text(rng: np.random.Generator, length: int, words: list[bytes]) -> bytes:
    picks = np.minimum(rng.zipf(1.25, length // 5), _WORDS) - 1
    return b" ".join(words[pick] for pick in picks)[:length].ljust(length, b"\n")


def _records(rng: np.random.Generator, length: int) -> bytes:
    """64-byte records: a counter, a few fields of little variety, one hash."""
    count = length // 64 + 1
    table = np.zeros((count, 16), "<u4")
    table[:, 0] = np.arange(count)
    table[:, 1:9] = rng.integers(0, 40, (count, 8))
    table[:, 9] = 0x7FFE0000 + rng.integers(0, 1 << 12, count)
    table[:, 12:14] = rng.integers(0, 1 << 32, (count, 2), dtype=np.uint32)
    return table.tobytes()[:length]


def _sparse_words(rng: np.random.Generator, length: int) -> bytes:
    words = np.where(rng.random(length // 4 + 1) < 0.25, rng.integers(0, 1 << 16, length // 4 + 1), 0)
    return words.astype("<u4").tobytes()[:length]


def content(rng: np.random.Generator, length: int, words: list[bytes]) -> bytes:
    """`length` bytes of one kind of data."""
    kind = rng.random()
    if kind < 0.25:
        return _text(rng, length, words)
    if kind < 0.5:
        return _records(rng, length)
    if kind < 0.625:
        return rng.bytes(length)
    if kind < 0.75:
        return _sparse_words(rng, length)
    half = length // 2 // 4096 * 4096
    return _text(rng, half, words) + bytes(half // 4) + _records(rng, length - half - half // 4)


def make_disk(path: str, *, data_mib: int, size_mib: int, seed: int = SEED) -> None:
    """Write a sparse raw disk of `size_mib` with `data_mib` of stored data to `path`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    words = [rng.integers(97, 123, int(n), dtype=np.uint8).tobytes() for n in rng.integers(2, 12, _WORDS)]
    left, at, size = data_mib * MIB, MIB, size_mib * MIB
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(446)
        file.write(_MBR + (size // 512 - 2048).to_bytes(4, "little"))
        file.seek(510)
        file.write(b"\x55\xaa")
        while left > 0:
            length = min(left, int(2 ** rng.uniform(12, 23)) // 4096 * 4096)
            gap = int(rng.exponential((size - at - left) / max(1.0, left / MIB))) // 4096 * 4096
            at = min(at + gap, size - left)
            file.seek(at)
            file.write(content(rng, length, words))
            at += length
            left -= length


def make_tree_disk(path: str, tree: str, *, size_mib: int) -> None:
    """Write a raw disk of `size_mib` with an ext4 file system that holds a copy of the directory `tree`.

    Raises:
        RuntimeError: mke2fs is missing.

    """
    if shutil.which("mke2fs") is None:
        raise RuntimeError("mke2fs is missing: install e2fsprogs")
    with open(path, "wb") as file:
        file.truncate(size_mib * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, path], check=True)


def stored_mib(path: str) -> int:
    """MiB that a file occupies."""
    return os.stat(path).st_blocks * 512 // MIB
