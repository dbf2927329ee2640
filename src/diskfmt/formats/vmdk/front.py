"""A sparse file with its tables in front, so that the entry of a grain has a place that follows from its number alone.

    monolithicSparse, a piece   header | descriptor | RGD, its GTs | GD, its GTs | grains …     RGD: the redundant copy
    streamOptimized             header | descriptor | GD, its GTs | marker, grain, …           as vmdk-convert writes it

A piece has no room for a descriptor. Pure: no I/O. Source: VMDK spec, "Hosted Sparse Extents", "Stream-Optimized
Compressed Sparse Extents".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.engine import Placement
from diskfmt.errors import LimitError
from diskfmt.extents import U64, Codec
from diskfmt.formats.base import Finale, Piece
from diskfmt.formats.vmdk.sparse import (
    DEFLATE,
    ENTRIES,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    FLAG_REDUNDANT,
    MARKER_GRAIN,
    TABLE_SIZE,
    SparseHeader,
    pack_header,
)
from diskfmt.units import KIB, SECTOR, align_up, ceil_div

GRAIN: Final = 64 * KIB
DESCRIPTOR_SIZE: Final = 20 * SECTOR  # what VMware and qemu reserve
MAX_SECTOR: Final = 0xFFFFFFFF  # what an entry of a grain table can say
FRAME_GROWTH: Final = 64  # bytes that a grain that does not compress takes more than plain
FULL_FRAME: Final = align_up(MARKER_GRAIN + GRAIN + FRAME_GROWTH, SECTOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontLayout:
    """One such file of `size` guest bytes; `Layout` explains the members.

    `describe`: the text of the descriptor inside, from a fingerprint; None for a piece. `adopt`: frames of the source
    may be kept.
    """

    size: int
    describe: Callable[[bytes], bytes] | None = None
    compressed: bool = False
    level: int = 0
    adopt: bool = False

    @property
    def _tables(self) -> int:
        return ceil_div(self.size, GRAIN * ENTRIES)

    @property
    def _descriptor_size(self) -> int:
        return 0 if self.describe is None else DESCRIPTOR_SIZE

    @property
    def _directory_size(self) -> int:
        return align_up(4 * self._tables, SECTOR)

    @property
    def _copies(self) -> tuple[int, ...]:
        """Where the directories start, the one that counts last."""
        first = SECTOR + self._descriptor_size
        return (first,) if self.compressed else (first, first + self._directory_size + self._tables * TABLE_SIZE)

    @property
    def _overhead(self) -> int:
        return align_up(self._copies[-1] + self._directory_size + self._tables * TABLE_SIZE, GRAIN)

    @property
    def placement(self) -> Placement:
        """The numbers for the engine."""
        if not self.compressed:
            return Placement(unit=GRAIN, guest_size=self.size, first=self._overhead, align=GRAIN, fingerprint=True)
        return Placement(
            unit=GRAIN,
            guest_size=self.size,
            first=self._overhead,
            frame_align=SECTOR,
            codec=Codec.ZLIB,
            level=self.level,
            marker=True,
            fingerprint=True,
            adopt=self.adopt,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file with every grain stored and none of them smaller for it."""
        return self._overhead + ceil_div(self.size, GRAIN) * (FULL_FRAME if self.compressed else GRAIN)

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:  # noqa: ARG002
        """The entries of these grains in all copies of the tables."""
        used = np.flatnonzero(places)
        if not len(used):
            return (), end
        first, last = int(used[0]), int(used[-1]) + 1
        some = places[first:last]
        # An entry names the marker, which comes before the data.
        marker = np.uint64(MARKER_GRAIN if self.compressed else 0)
        data = table_entries(np.where(some > 0, some - marker, np.uint64(0))).tobytes()
        at = self._directory_size + 4 * (first_unit + first)
        return [Piece(offset=copy + at, data=data) for copy in self._copies], end

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """The directories, the descriptor, the header."""
        pieces = []
        for copy in self._copies:
            first = (copy + self._directory_size) // SECTOR
            directory = first + np.arange(self._tables, dtype="<u4") * (TABLE_SIZE // SECTOR)
            pieces.append(Piece(offset=copy, data=directory.astype("<u4").tobytes()))
        if self.describe is not None:
            pieces.append(Piece(offset=SECTOR, data=self.describe(fingerprint).ljust(DESCRIPTOR_SIZE, b"\0")))
        pieces.append(Piece(offset=0, data=pack_header(self._header())))
        return Finale(pieces=tuple(pieces), size=align_up(max(end, self._overhead), SECTOR))

    def _header(self) -> SparseHeader:
        flags = FLAG_COMPRESSED | FLAG_MARKERS if self.compressed else FLAG_REDUNDANT
        return SparseHeader(
            version=3 if self.compressed else 1,
            flags=FLAG_NEWLINES | flags,
            capacity=self.size // SECTOR,
            grain_size=GRAIN // SECTOR,
            descriptor_offset=1 if self._descriptor_size else 0,
            descriptor_size=self._descriptor_size // SECTOR,
            rgd_offset=0 if self.compressed else self._copies[0] // SECTOR,
            gd_offset=self._copies[-1] // SECTOR,
            overhead=self._overhead // SECTOR,
            compress_algorithm=DEFLATE if self.compressed else 0,
        )


def table_entries(places: U64) -> npt.NDArray[np.uint32]:
    """Grain table entries, sectors, for places in the file. Raises LimitError."""
    sectors = places // np.uint64(SECTOR)
    if len(sectors) and int(sectors.max()) > MAX_SECTOR:
        raise LimitError(
            "a grain lies behind 2 TiB of the file, where no grain table can name it",
            remedy="choose streamOptimized or another format",
        )
    return sectors.astype("<u4")
