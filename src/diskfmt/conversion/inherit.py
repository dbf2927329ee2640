"""What an output that is a difference to another image (`-B`) leaves to it.

    rows of the source ─► which of them the image below shows too ─► HOLE where a whole unit is, else as they are

Two ways to know what is shared, neither of which compares data: the image below is one of the source's own chain, then
all that comes from it or from behind it; otherwise what both maps call zero.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diskfmt.disk import Disk
from diskfmt.extents import ROW, Kind, Rows, clip, keep, merge, split
from diskfmt.units import align_down

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """The image below an output, open; `depth`: where it is in the source's chain, None if it is not."""

    below: Disk
    depth: int | None


def inheritance(source: Disk, below: Disk) -> Inheritance:
    """Where `below` is in the chain of `source`.

    The same file is not enough: read at another snapshot, or as another format, it is another disk.
    """
    wanted = below.files[0].identity
    for depth, layer in enumerate(source.layers):
        found = layer.files[0].identity
        same = (found.device, found.inode) == (wanted.device, wanted.inode)
        if same and layer.format is below.format and layer.image.header == below.image.header:
            return Inheritance(below=below, depth=depth)
    return Inheritance(below=below, depth=None)


def own_rows(source: Disk, shared: Inheritance, *, start: int, stop: int, unit: int) -> Iterator[Rows]:
    """Windows of the source's rows in [start, stop), HOLE in units that the image below shows too.

    `start` is a multiple of `unit` (bytes). HOLE means shared: what is a hole in all of the source's chain, and not
    shared, is ZERO here.
    """
    for rows in _aligned(_marked(source, shared, start, stop), unit):
        yield _round(rows, unit)


def _marked(source: Disk, shared: Inheritance, start: int, stop: int) -> Iterator[Rows]:
    """The rows, marked by what is shared."""
    windows = source.extents(start, stop)
    if shared.depth is not None:
        for rows in windows:
            yield _mark(rows, rows["depth"] >= shared.depth)
        return
    end = min(stop, shared.below.size)
    for rows, below in _beside(windows, shared.below.extents(start, end)):
        yield _mark(rows, _is_zero(rows) & _is_zero(below))


def _aligned(windows: Iterable[Rows], unit: int) -> Iterator[Rows]:
    """The same rows in windows that end on multiples of `unit`, the last one where it ends."""
    pending = np.zeros(0, ROW)
    for window in windows:
        pending = np.concatenate((pending, window)) if len(pending) else window
        start, end = int(pending[0]["guest_off"]), int(pending[-1]["guest_off"]) + int(pending[-1]["length"])
        cut = align_down(end, unit)
        if cut > start:
            yield clip(pending, start, cut)
            pending = clip(pending, cut, end)
    if len(pending):
        yield pending


def _round(rows: Rows, unit: int) -> Rows:
    """HOLE where whole units are shared; what is shared of the other units stays as it is."""
    own = rows[rows["depth"] == 0]
    size = np.uint64(unit)
    first = own["guest_off"] // size * size
    last = (own["guest_off"] + own["length"] + size - np.uint64(1)) // size * size
    heads = np.concatenate((first[:1] == first[:1], first[1:] > last[:-1]))
    starts, ends = first[heads], last[np.roll(heads, -1)]
    parts = keep(rows, starts, ends)
    parts["depth"] = 0
    return merge(parts)


def _is_zero(rows: Rows) -> Bools:
    zero: Bools = rows["kind"] >= Kind.ZERO
    return zero


def _mark(rows: Rows, same: Bools) -> Rows:
    """The rows with `depth` 1 where they are shared, else 0; no HOLE is left."""
    marked = rows.copy()
    marked["kind"] = np.minimum(rows["kind"], np.uint8(Kind.ZERO))
    marked["depth"] = same
    return marked


def _beside(rows: Iterable[Rows], below: Iterable[Rows]) -> Iterator[tuple[Rows, Rows]]:
    """Both tables in pieces that start and end at the same places; behind the end of `below` it is zero."""
    waiting = iter(below)
    under = np.zeros(0, ROW)
    under_end = -1
    for window in rows:
        start = int(window[0]["guest_off"])
        end = int(window[-1]["guest_off"]) + int(window[-1]["length"])
        while start < end:
            if start >= under_end:
                under = next(waiting, _zero_row(start, end))
                under_end = int(under[-1]["guest_off"]) + int(under[-1]["length"])
            stop = min(end, under_end)
            one, other = clip(window, start, stop), clip(under, start, stop)
            starts = np.union1d(one["guest_off"], other["guest_off"])
            yield split(one, starts), split(other, starts)
            start = stop


def _zero_row(start: int, stop: int) -> Rows:
    rows = np.zeros(1, ROW)
    rows["guest_off"], rows["length"], rows["kind"] = start, stop - start, Kind.ZERO
    return rows
