"""How large a compressed output will be, from a sample of its units.

    map ─► units that may be stored ─► pairs of them, drawn by a hash, through the engine ─► mean size ─► the layout

What a unit takes depends on the one before it (a plain cluster behind a frame starts at the next multiple of its size),
so neighbours are drawn, and the second one of each pair is measured. The layout then does for all units what it does
for an output, so that tables are counted as they will be. The same image gives the same answer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine, extents
from diskfmt.disk import Disk
from diskfmt.extents import U64, Kind, Rows
from diskfmt.formats.base import Part
from diskfmt.units import align_up

BOUND: Final = 0.03  # of the size: what is asked of an estimate
_FIRST: Final = 2048  # pairs drawn at first, and
_GROWTH: Final = 2  # how much more if they differ too much
_SHARE: Final = 0.5  # of all: whoever draws more may as well compress everything
_Z: Final = 1.96  # normal quantile: 19 of 20 estimates keep to the bound
_WINDOW: Final = extents.WINDOW_ROWS

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes of an output; the true number is within `bound` bytes of `size`, 19 times of 20."""

    size: int
    bound: int


def estimate(disk: Disk, part: Part, *, threads: int) -> Estimate | None:
    """How large an output of one compressed part will be; None where a sample says too little to be worth it.

    Raises:
        DiskfmtError: as a conversion, for what is read.

    """
    unit = part.layout.placement.unit
    units = sum(int(np.count_nonzero(stored)) for _, stored in _windows(disk, part, unit))
    drawn = _FIRST
    while drawn < _SHARE * units / 2:
        sizes = _sample(disk, part, 2 * drawn / units, threads)
        if len(sizes) > 1:
            mean = float(sizes.mean())
            left = math.sqrt(1 - 2 * len(sizes) / units)  # of a finite number of pairs
            bound = _Z * units * float(sizes.std(ddof=1)) / math.sqrt(len(sizes)) * left
            if bound <= BOUND * units * mean:
                return Estimate(size=_laid_out(disk, part, mean), bound=math.ceil(bound))
        drawn *= _GROWTH
    return None


def _windows(disk: Disk, part: Part, unit: int) -> Iterator[tuple[Rows, Bools]]:
    """Tables of whole units of a part, with a mask, shape (units,): which of them a file stores something of."""
    for rows in extents.chunks(disk.extents(part.start, part.stop), unit=unit, max_units=_WINDOW):
        start = int(rows[0]["guest_off"])
        units = -(-(int(rows[-1]["guest_off"]) + int(rows[-1]["length"]) - start) // unit)
        stored = rows[rows["kind"] <= Kind.ENCODED]
        first = (stored["guest_off"] - np.uint64(start)) // np.uint64(unit)
        last = (stored["guest_off"] + stored["length"] - np.uint64(start + 1)) // np.uint64(unit)
        steps = np.zeros(units + 1, np.int64)
        np.add.at(steps, first.astype(np.int64), 1)
        np.add.at(steps, last.astype(np.int64) + 1, -1)
        yield rows, np.cumsum(steps[:-1]) > 0


def _sample(disk: Disk, part: Part, share: float, threads: int) -> npt.NDArray[np.float64]:
    """Bytes that the second unit of each drawn pair takes in the file: none where it turns out to be zero."""
    placement = part.layout.placement
    unit, seen = placement.unit, 0
    sizes: list[npt.NDArray[np.float64]] = []
    with engine.Copier(
        fds=disk.fds, paths=disk.paths, target_fd=-1, target_path="", placement=placement, threads=threads
    ) as copier:
        for rows, stored in _windows(disk, part, unit):
            number = seen + np.cumsum(stored) - 1
            seen += int(np.count_nonzero(stored))
            drawn = np.flatnonzero(stored & (_hash((number // 2).astype(np.uint64)) < np.uint64(share * 2.0**64)))
            if not len(drawn):
                continue
            start = int(rows[0]["guest_off"]) - part.start
            begins = np.uint64(start + part.start) + drawn.astype(np.uint64) * np.uint64(unit)
            before = copier.end
            picked = extents.keep(rows, begins, begins + np.uint64(unit))
            _, places, lengths = copier.run(extents.shift(picked, part.start))
            used = np.flatnonzero(places)
            ends = places[used] + lengths[used]
            taken = np.zeros(len(stored))
            taken[used] = np.diff(ends.astype(np.float64), prepend=float(before))
            sizes.append(taken[drawn[number[drawn] % 2 == 1]])
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _hash(values: U64) -> U64:
    """splitmix64's finaliser: neighbours have nothing in common."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _laid_out(disk: Disk, part: Part, mean: float) -> int:
    """The length of the file whose stored units take `mean` bytes each."""
    layout, placement = part.layout, part.layout.placement
    end, group = placement.first, None
    for rows, stored in _windows(disk, part, placement.unit):
        first = (int(rows[0]["guest_off"]) - part.start) // placement.unit
        index = np.flatnonzero(stored)
        if not len(index):
            continue
        room = np.zeros(len(index))
        if placement.group_units:
            groups = (first + index) // placement.group_units
            room = np.cumsum(np.diff(groups, prepend=groups[0] if group is None else group) != 0) * placement.group_room
            group = int(groups[-1])
        places, lengths = np.zeros(len(stored), np.uint64), np.zeros(len(stored), np.uint64)
        at = end + np.arange(len(index)) * mean + room
        aligned = at.astype(np.uint64) // np.uint64(placement.frame_align) * np.uint64(placement.frame_align)
        places[index] = aligned + np.uint64(12 if placement.marker else 0)
        lengths[index] = max(1, int(mean))
        _, end = layout.add(first, places, lengths, math.ceil(float(at[-1]) + mean))
    if group is not None:
        end = align_up(end, placement.frame_align) + placement.group_room
    return layout.finish(end, bytes(32)).size
