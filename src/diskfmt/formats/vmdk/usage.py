"""Which parts of a file are in use, collected over a walk: what overlaps, and what nothing uses."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.extents import U64
from diskfmt.formats.vmdk.sparse import COPY_AGAIN
from diskfmt.units import SECTOR, format_size

# A run of sectors is one number: its first sector above these bits, its length below. A file of 64 TiB has 2^37.
_LENGTH_BITS: Final = np.uint64(27)
_LENGTH_MASK: Final = np.uint64((1 << 27) - 1)


@dataclass(slots=True, kw_only=True)
class Usage:
    """The used sectors of a file as runs; neighbours that come together are one. Too many: none are kept.

    `end` is where the last one ends (bytes).
    """

    limit: int
    runs: list[U64] = field(default_factory=list)
    count: int = 0
    end: int = 0

    @property
    def many(self) -> bool:
        """Whether there are too many to keep."""
        return self.count > self.limit

    def add(self, begin: U64, end: U64) -> None:
        """Keep ranges of the file (bytes)."""
        if not len(begin):
            return
        self.end = max(self.end, int(end.max()))
        first, behind = begin // np.uint64(SECTOR), (end + np.uint64(SECTOR - 1)) // np.uint64(SECTOR)
        order = np.argsort(first, kind="stable")
        first, behind = first.take(order), behind.take(order)
        heads = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), first[1:] != behind[:-1])))
        tails = np.concatenate((heads[1:], [len(first)])) - 1
        first, behind = _cut(first.take(heads), behind.take(tails))
        self.count += len(first)
        if self.many:
            self.runs.clear()
        else:
            self.runs.append(first << _LENGTH_BITS | (behind - first))

    def judge(self, *, start: int, stop: int, unit: int) -> Iterator[Finding]:
        """Overlaps; and whether `unit` bytes or more of [start, stop) are unused: smaller gaps are alignment."""
        if self.many:
            yield Finding(
                reason=Reason.OVERLAP,
                severity=Severity.NOTE,
                message=f"{self.count} runs of grains are too many to compare all their places",
                remedy="check --deep compares more",
            )
            return
        runs = np.sort(np.concatenate(self.runs))
        first = runs >> _LENGTH_BITS
        behind = first + (runs & _LENGTH_MASK)
        overlap = np.flatnonzero(first[1:] < behind[:-1])
        if len(overlap):
            yield Finding(
                reason=Reason.OVERLAP,
                severity=Severity.ERROR,
                message="two grains or tables are stored in the same place",
                offset=int(first[overlap[0] + 1]) * SECTOR,
                remedy=COPY_AGAIN,
            )
            return
        ends = np.concatenate((first[1:], np.array([stop // SECTOR], np.uint64)))
        starts = np.maximum(behind, np.uint64(start // SECTOR))
        gaps = np.where(ends > starts, ends - starts, np.uint64(0)) * np.uint64(SECTOR)
        wide = gaps >= max(unit, SECTOR)
        leaked = int(gaps[wide].sum())
        if leaked:
            yield Finding(
                reason=Reason.LEAKED,
                severity=Severity.NOTE,
                message=f"{format_size(leaked)} of the file belong to no grain",
                offset=int(starts[int(np.argmax(wide))]) * SECTOR,
            )


def _cut(first: U64, behind: U64) -> tuple[U64, U64]:
    """The same runs, none longer than its bits can say."""
    most = _LENGTH_MASK
    pieces = np.maximum((behind - first + most - np.uint64(1)) // most, np.uint64(1)).astype(np.intp)
    if len(pieces) == int(pieces.sum()):
        return first, behind
    index = np.repeat(np.arange(len(first)), pieces)
    number = np.arange(len(index)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = first.take(index) + number.astype(np.uint64) * most
    return starts, np.minimum(starts + most, behind.take(index))
