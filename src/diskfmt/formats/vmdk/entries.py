"""What the entries of grain directories and grain tables say, for whole arrays of them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.extents import U64, Kind
from diskfmt.formats.vmdk.shape import Shape
from diskfmt.units import SECTOR

ZEROED: Final = 1  # the grain table entry of a grain that reads as zero

# seSparse: the topmost four bits of an entry.
_TYPE_SHIFT: Final = np.uint64(60)
UNALLOCATED: Final = 0
UNMAPPED: Final = 1
ZERO: Final = 2
ALLOCATED: Final = 3
_TABLE_TYPE: Final = np.uint64(0x10000000)  # in the upper half of a directory entry

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grains:
    """Shapes (n,): kind of each grain, its place (bytes; 0: none), and whether its entry means nothing.

    `unmapped`: entries of which readers differ whether they are zero or ask the image below.
    """

    kind: npt.NDArray[np.uint8]
    place: U64
    illegal: Mask
    unmapped: Mask


def dtype(shape: Shape) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    """The type of an entry."""
    return np.dtype("<u8") if shape.wide else np.dtype("<u4")


def tables(shape: Shape, entries: npt.NDArray[np.integer]) -> tuple[U64, Mask]:
    """Where the tables are (bytes; 0: none) and which entries mean nothing."""
    values = entries.astype(np.uint64)
    if not shape.wide:
        return values * np.uint64(SECTOR), np.zeros(len(values), np.bool_)
    present = values != 0
    number = values & np.uint64(0xFFFFFFFF)
    illegal = present & (values >> np.uint64(32) != _TABLE_TYPE)
    return np.where(present, np.uint64(shape.tables_start) + number * np.uint64(shape.table_size), 0), illegal


def grains(shape: Shape, entries: npt.NDArray[np.integer]) -> Grains:
    """What entries of grain tables say."""
    values = entries.astype(np.uint64)
    kind = np.full(len(values), Kind.HOLE, np.uint8)
    nothing = np.zeros(len(values), np.bool_)
    if not shape.wide:
        zeroed = values == ZEROED
        kind[zeroed] = Kind.ZERO
        kind[values > ZEROED] = Kind.ENCODED if shape.compressed else Kind.DATA
        place = np.where(values > ZEROED, values * np.uint64(SECTOR), np.uint64(0))
        return Grains(kind=kind, place=place, illegal=nothing if shape.zeroed else zeroed, unmapped=nothing)
    types = (values >> _TYPE_SHIFT).astype(np.uint8)
    kind[(types == UNMAPPED) | (types == ZERO)] = Kind.ZERO
    stored = types == ALLOCATED
    kind[stored] = Kind.DATA
    number = (values >> np.uint64(48) & np.uint64(0xFFF)) | (values & np.uint64(0xFFFFFFFFFFFF)) << np.uint64(12)
    # A number that no file can have must not wrap around: it becomes a place behind every file.
    number = np.minimum(number, np.uint64(1 << 48))
    place = np.where(stored, np.uint64(shape.grains_start) + number * np.uint64(shape.grain), np.uint64(0))
    illegal = (types > ALLOCATED) | ((types == UNALLOCATED) & (values != 0))
    return Grains(kind=kind, place=place, illegal=illegal, unmapped=types == UNMAPPED)
