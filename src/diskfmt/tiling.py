"""What each byte of an image's files is for: regions that tile a file from its first byte to its last.

    the format's regions, the stored rows of the map ─► one kind for each byte ─► what is left: leaked or slack

Where two kinds claim a byte the more telling one wins, in the order of `PRIORITY`.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.disk import Disk
from diskfmt.errors import LimitError, Reason
from diskfmt.kinds import Kind
from diskfmt.results import Region

PRIORITY: Final = ("header", "table", "data", "bitmap", "snapshot", "preallocated", "hole", "leaked")
MAX_INTERVALS: Final = 1 << 23  # 128 MiB
_COMPACT: Final = 1 << 20

Intervals = npt.NDArray[np.uint64]
"""Shape (n, 2): start and end of each, in bytes."""


def tile(disk: Disk) -> Iterator[Region]:
    """The regions of the files of the image itself (not of those below it), file by file, without gap.

    Raises:
        CorruptError, IOFailedError: as walking the map does.
        LimitError: LIMIT_METADATA, the file is too scattered.

    """
    layer = disk.layers[0]
    claims: dict[tuple[int, str], _Union] = defaultdict(_Union)
    for found in layer.format.regions(layer.image, layer.files):
        claims[found.file_id, found.kind].add(found.offsets, found.lengths)
    for rows in Disk([layer]).alone().extents():
        stored = rows[rows["kind"] <= Kind.ENCODED]
        for file_id in np.unique(stored["file_id"]).tolist():
            own = stored[stored["file_id"] == file_id]
            claims[file_id, "data"].add(own["host_off"], own["host_len"])
    unit = layer.image.unit or 0
    for file_id, file in enumerate(layer.files):
        kinds = {kind: claims[file_id, kind].intervals() for kind in PRIORITY if (file_id, kind) in claims}
        for start, end, kind in _paint(kinds, file.size, unit):
            yield Region(filename=file.path, start=start, length=end - start, kind=kind)


class _Union:
    """Intervals, kept merged."""

    def __init__(self) -> None:
        self._parts: list[Intervals] = []
        self._count = 0

    def add(self, offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]) -> None:
        part = np.stack((offsets, offsets + lengths), axis=1)
        self._parts.append(_merged(part[part[:, 0] < part[:, 1]]))
        self._count += len(self._parts[-1])
        if self._count > _COMPACT:
            self._count = len(self.intervals())
            if self._count > MAX_INTERVALS:
                raise LimitError("the file is too scattered to be drawn", reason=Reason.LIMIT_METADATA)

    def intervals(self) -> Intervals:
        """Sorted, apart from each other."""
        self._parts = [_merged(np.concatenate(self._parts))]
        return self._parts[0]


def _merged(intervals: Intervals) -> Intervals:
    if len(intervals) < 2:
        return intervals
    order = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(order[:, 1])
    heads = np.concatenate(([True], order[1:, 0] > reach[:-1]))
    return np.stack((order[heads, 0], reach[np.concatenate((heads[1:], [True]))]), axis=1)


def _paint(kinds: dict[str, Intervals], size: int, unit: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of the tiles of a file."""
    if not size:
        return
    marks = [np.array([0, size], np.uint64), *(intervals.ravel() for intervals in kinds.values())]
    bounds = np.unique(np.minimum(np.concatenate(marks), np.uint64(size)))
    starts = bounds[:-1]
    names = [*kinds, "leaked", "slack"]
    painted = np.full(len(starts), len(kinds), np.uint8)
    for number in reversed(range(len(kinds))):
        intervals = kinds[names[number]]
        if not len(intervals):
            continue
        at = np.searchsorted(intervals[:, 0], starts, side="right").astype(np.intp) - 1
        painted[(at >= 0) & (starts < intervals[at, 1])] = number
    heads = np.flatnonzero(np.concatenate(([True], painted[1:] != painted[:-1])))
    firsts, ends = starts[heads], np.append(starts[heads[1:]], np.uint64(size))
    colours = painted[heads]
    # What no claim covers: a whole unit could have been used, less is what alignment leaves.
    colours[(colours == len(kinds)) & ((ends - firsts < max(unit, 1)) | (unit == 0))] += 1
    for first in range(0, len(heads), 4096):  # a Python object for each takes twenty times its room
        some = slice(first, first + 4096)
        for start, end, colour in zip(firsts[some].tolist(), ends[some].tolist(), colours[some].tolist(), strict=True):
            yield start, end, names[colour]
