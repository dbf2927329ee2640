"""A digest of what the guest sees, equal across formats (TM-1201).

The disk is cut into leaves of 1 MiB, the last one filled up with zeroes, and hashed as a tree:

    leaf  = SHA-256(0x00 ‖ 1 MiB)          node = SHA-256(0x01 ‖ left ‖ right)
    digest = SHA-256("diskfmt-digest-1" ‖ size as u64 little-endian ‖ top)

The tree splits n leaves at the largest power of two below n, as RFC 6962 §2.1 does. A subtree of zero leaves has a
constant digest, so a hole costs nothing.
"""

import hashlib
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Final, TypeVar

from diskfmt import engine
from diskfmt.disk import Disk
from diskfmt.units import MIB, ceil_div

LEAF: Final = MIB
_BLOCK_LEAVES: Final = 8
_TAG: Final = b"diskfmt-digest-1"

Result = TypeVar("Result")


class _Tree:
    """The digests of complete subtrees from left to right: (height, digest), heights strictly falling."""

    def __init__(self) -> None:
        self._count = 0
        self._stack: list[tuple[int, bytes]] = []
        self._zero = [_leaf(bytes(LEAF))]

    def zero(self, height: int) -> bytes:
        """The digest of 2^height zero leaves."""
        while len(self._zero) <= height:
            self._zero.append(_node(self._zero[-1], self._zero[-1]))
        return self._zero[height]

    def append(self, height: int, digest: bytes) -> None:
        """Add a subtree of 2^height leaves; the number of leaves so far is a multiple of that."""
        self._count += 1 << height
        while self._stack and self._stack[-1][0] == height:
            digest = _node(self._stack.pop()[1], digest)
            height += 1
        self._stack.append((height, digest))

    def append_zeroes(self, leaves: int) -> None:
        """Add zero leaves in the largest subtrees that fit."""
        while leaves:
            height = leaves.bit_length() - 1
            if self._count:
                height = min(height, (self._count & -self._count).bit_length() - 1)
            self.append(height, self.zero(height))
            leaves -= 1 << height

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return self._count

    def top(self) -> bytes:
        """The digest of the whole tree."""
        if not self._stack:
            return hashlib.sha256(b"").digest()
        digest = self._stack[-1][1]
        for _, left in reversed(self._stack[:-1]):
            digest = _node(left, digest)
        return digest


def _leaf(data: bytes | bytearray | memoryview) -> bytes:
    state = hashlib.sha256(b"\x00")
    state.update(data)
    return state.digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def stored_blocks(disk: Disk, block: int) -> Iterator[int]:
    """The indices, ascending, of blocks of `block` bytes in which some file stores a byte."""
    from diskfmt import extents

    for rows in extents.chunks(disk.extents(), unit=block, max_units=1):
        yield int(rows[0]["guest_off"]) // block


def fingerprint_bytes(fingerprint: int, size: int) -> bytes:
    """32 bytes from the engine's fingerprint of the content and the size of the disk: for ids, not for proof."""
    return hashlib.sha256(b"diskfmt-id" + fingerprint.to_bytes(8, "little") + size.to_bytes(8, "little")).digest()


def guest_digest(
    disk: Disk, *, threads: int, size: int | None = None, progress: Callable[[int], None] | None = None
) -> str:
    """The digest as hex text. `progress` is told the bytes that were read.

    `size`, not below that of the disk, gives the digest of the disk filled up with zeroes to it.
    Raises what reading the disk raises.
    """
    size = disk.size if size is None else size
    block = _BLOCK_LEAVES * LEAF
    tree = _Tree()
    zero = tree.zero(0)

    def hash_block(index: int) -> list[bytes]:
        data = bytearray(min(block, disk.size - index * block))
        disk.read_into(index * block, data)
        data.extend(bytes(-len(data) % LEAF))
        view = memoryview(data)
        leaves = (view[at : at + LEAF] for at in range(0, len(data), LEAF))
        return [zero if engine.is_zero(leaf) else _leaf(leaf) for leaf in leaves]

    done = 0
    for index, leaves in ordered_map(hash_block, stored_blocks(disk, block), threads=threads):
        tree.append_zeroes(index * _BLOCK_LEAVES - tree.count)
        for digest in leaves:
            tree.append(0, digest)
        done += len(leaves) * LEAF
        if progress is not None:
            progress(done)
    tree.append_zeroes(ceil_div(size, LEAF) - tree.count)
    return hashlib.sha256(_TAG + size.to_bytes(8, "little") + tree.top()).hexdigest()


def ordered_map(
    function: Callable[[int], Result], indices: Iterator[int], *, threads: int
) -> Iterator[tuple[int, Result]]:
    """Pairs (index, function(index)) in the order of the indices, computed by `threads` threads, few at a time."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[int, Future[Result]]] = deque()
        try:
            for index in indices:
                waiting.append((index, pool.submit(function, index)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def first_difference(
    one: Disk, other: Disk, *, threads: int, progress: Callable[[int], None] | None = None
) -> int | None:
    """The first guest offset at which two disks differ, or None. The shorter one counts as filled up with zeroes.

    Raises what reading the disks raises.
    """
    block = _BLOCK_LEAVES * LEAF
    size = max(one.size, other.size)

    def compare_block(index: int) -> int | None:
        start = index * block
        length = min(block, size - start)
        left, right = (_padded(disk, start, length) for disk in (one, other))
        if left == right:
            return None
        return next(start + at for at in range(length) if left[at] != right[at])

    indices = _distinct(heapq.merge(stored_blocks(one, block), stored_blocks(other, block)))
    for index, place in ordered_map(compare_block, indices, threads=threads):
        if place is not None:
            return place
        if progress is not None:
            progress(min(size, (index + 1) * block))
    return None


def _padded(disk: Disk, start: int, length: int) -> bytearray:
    data = bytearray(max(0, min(length, disk.size - start)))
    if data:
        disk.read_into(start, data)
    data.extend(bytes(length - len(data)))
    return data


def _distinct(indices: Iterable[int]) -> Iterator[int]:
    return (index for index, _ in groupby(indices))
