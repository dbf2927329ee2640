"""Which blocks a file has. Source: ext4 doc, "The Contents of inode.i_block"."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Final

from diskfmt.guest.base import BudgetError, DamagedError
from diskfmt.guest.ext.crc import crc32c
from diskfmt.guest.ext.inodes import HAS_EXTENTS, Blocks, Inode

_HEADER: Final = Struct("<HHHHI")
_INDEX: Final = Struct("<IIHH")
_LEAF: Final = Struct("<IHHI")
_MAGIC: Final = 0xF30A
_MAX_LEVEL: Final = 5
_MAX_NODES: Final = 65536  # tree blocks visited for one request
_UNWRITTEN: Final = 32768
_DIRECT: Final = 12


@dataclass(frozen=True, slots=True)
class Run:
    """`count` blocks of the file from `first` on; `place` None: they read as zero."""

    first: int
    place: int | None
    count: int


def runs(blocks: Blocks, inode: Inode, first: int, count: int, *, checked: bool) -> Iterator[Run]:
    """The blocks [first, first + count) of a file, in order and without gaps. `checked`: tree blocks have checksums.

    Raises:
        DamagedError: a tree that makes no sense or whose checksum is wrong.
        BudgetError: a tree of too many blocks.

    """
    found = _extents(blocks, inode, first, first + count, checked) if inode.flags & HAS_EXTENTS else None
    at, stop = first, first + count
    for run in found if found is not None else _mapped(blocks, inode, first, count):
        start, end = max(run.first, at), min(run.first + run.count, stop)
        if start >= end:
            continue
        if start > at:
            yield Run(at, None, start - at)
        yield Run(start, run.place if run.place is None else run.place + start - run.first, end - start)
        at = end
    if at < stop:
        yield Run(at, None, stop - at)


def _extents(blocks: Blocks, inode: Inode, first: int, stop: int, checked: bool) -> Iterator[Run]:
    """Extents that touch [first, stop). Each level is one less deep than the one above, so there are no loops."""
    todo: list[tuple[bytes, int | None, int]] = [(inode.body, None, 0)]
    visited = 0
    last = -1
    while todo:
        node, depth, least = todo.pop()
        magic, entries, room, level, _ = _HEADER.unpack_from(node)
        wanted = level <= _MAX_LEVEL if depth is None else level == depth
        if magic != _MAGIC or not wanted or entries > room or room > (len(node) - _HEADER.size) // 12:
            raise DamagedError(f"extent tree of inode {inode.number} makes no sense")
        if depth is not None and checked:
            tail = _HEADER.size + 12 * room
            if crc32c(node[:tail], inode.seed) != int.from_bytes(node[tail : tail + 4], "little"):
                raise DamagedError(f"checksum of an extent block of inode {inode.number} is wrong")
        body = node[_HEADER.size : _HEADER.size + 12 * entries]
        if level == 0:
            for start, length, high, low in _LEAF.iter_unpack(body):
                real = length - _UNWRITTEN if length > _UNWRITTEN else length
                if start < max(least, last) or real == 0:
                    raise DamagedError(f"extents of inode {inode.number} are not in order")
                last = start + real
                if start < stop and last > first:
                    yield Run(start, None if length > _UNWRITTEN else high << 32 | low, real)
            continue
        children = [(start, high << 32 | low) for start, low, high, _ in _INDEX.iter_unpack(body)]
        starts = [start for start, _ in children]
        if any(a >= b for a, b in pairwise(starts)) or (starts and starts[0] < least):
            raise DamagedError(f"extents of inode {inode.number} are not in order")
        for position in reversed(range(len(children))):
            start, place = children[position]
            end = starts[position + 1] if position + 1 < len(starts) else stop
            if start < stop and end > first:
                visited += 1
                if visited > _MAX_NODES:
                    raise BudgetError(f"extent tree of inode {inode.number} is too large")
                todo.append((blocks.read(place), level - 1, start))


def _mapped(blocks: Blocks, inode: Inode, first: int, count: int) -> Iterator[Run]:
    """Runs of a block map: 12 direct blocks, then one, two and three levels of tables."""
    run: Run | None = None
    tables: dict[int, tuple[int, memoryview]] = {}  # of each level, the last one used
    for block in range(first, first + count):
        place = _place(blocks, inode, block, tables) or None
        if run is not None and (
            (place is None and run.place is None) or (run.place is not None and place == run.place + run.count)
        ):
            run = Run(run.first, run.place, run.count + 1)
            continue
        if run is not None:
            yield run
        run = Run(block, place, 1)
    if run is not None:
        yield run


def _place(blocks: Blocks, inode: Inode, block: int, tables: dict[int, tuple[int, memoryview]]) -> int:
    """The block of the file system that holds a block of the file; 0 for a hole."""
    body = inode.body
    if block < _DIRECT:
        return int.from_bytes(body[4 * block : 4 * block + 4], "little")
    block -= _DIRECT
    per_table = blocks.size // 4
    for levels in (1, 2, 3):
        if block >= per_table**levels:
            block -= per_table**levels
            continue
        at = 4 * (_DIRECT + levels - 1)
        place = int.from_bytes(body[at : at + 4], "little")
        for level in range(levels - 1, -1, -1):
            if place == 0:
                return 0
            known = tables.get(level)
            if known is None or known[0] != place:
                raw = blocks.read(place)
                known = tables[level] = (place, memoryview(raw))
            slot = block // per_table**level % per_table
            place = int.from_bytes(known[1][4 * slot : 4 * slot + 4], "little")
        return place
    raise DamagedError(f"inode {inode.number} is larger than a block map can be")
