"""A file of any size as parts whose clusters are looked at one part at a time, so that memory is bounded."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.extents import U64
from diskfmt.formats.qcow2.walk import Use

BUDGET: Final = 1 << 23  # clusters of a part
MAX_PARTS: Final = 64  # parts that are looked at: 32 TiB of a file with clusters of 64 KiB

Indices = npt.NDArray[np.int64]


class Parts:
    """Which parts of a file with `clusters` clusters there is something to know of: a file may be mostly hole."""

    def __init__(self, cluster_size: int, clusters: int, described: U64) -> None:
        """Begin with `described`: clusters that the refcount blocks tell of."""
        self._size = np.uint64(cluster_size)
        self._count = clusters
        self._touched: set[int] = set()
        self._add(described)

    def _add(self, clusters: U64) -> None:
        inside = clusters[clusters < np.uint64(self._count)]
        if not len(inside):
            return
        low, high = int(inside.min()) // BUDGET, int(inside.max()) // BUDGET
        if high - low < 2:  # as nearly always: both are there
            self._touched |= {low, high}
        else:
            self._touched.update(np.unique(inside // np.uint64(BUDGET)).tolist())

    def see(self, use: Use) -> None:
        """Take note of what the first walk meets."""
        if use.file_id or not len(use.offsets):
            return
        first, last = _clusters(use, self._size)
        self._add(first)
        self._add(last)
        if len(first) == 1:  # only a range that is alone may be long
            low, high = int(first[0]) // BUDGET, min(int(last[0]), self._count - 1) // BUDGET
            self._touched.update(range(low, high + 1)[: MAX_PARTS + 1])

    @property
    def first(self) -> range:
        """The part that the first walk looks at."""
        return range(min(BUDGET, self._count))

    @property
    def too_many(self) -> bool:
        """Whether there are more than can be looked at."""
        return len(self._touched) > MAX_PARTS

    def rest(self) -> Iterator[range]:
        """The parts that further walks look at, none if there are too many."""
        if not self.too_many:
            for part in sorted(self._touched - {0}):
                yield range(part * BUDGET, min((part + 1) * BUDGET, self._count))


def _clusters(use: Use, size: np.uint64) -> tuple[U64, U64]:
    """The first and the last cluster of each range."""
    return use.offsets // size, (use.offsets + np.maximum(use.lengths, np.uint64(1)) - np.uint64(1)) // size


def touched(use: Use, cluster_size: int, part: range) -> tuple[Indices, Indices]:
    """Clusters of `part`, counted from its start, once for each range that touches them, and which range that is."""
    first, last = (column.astype(np.int64) for column in _clusters(use, np.uint64(cluster_size)))
    first, last = np.maximum(first, part.start) - part.start, np.minimum(last, part.stop - 1) - part.start
    ranges = np.flatnonzero((first <= last) & (use.lengths != 0))
    first = first[ranges]
    counts = last[ranges] - first + 1
    if (counts == 1).all():
        return first, ranges
    before = np.cumsum(counts) - counts
    return np.repeat(first - before, counts) + np.arange(int(counts.sum())), np.repeat(ranges, counts)
