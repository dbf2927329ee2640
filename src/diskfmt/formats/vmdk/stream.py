"""A stream-optimized file as the specification has it, with its tables behind the grains: it can be written in order.

    header | descriptor | … marker, grain … GT marker, GT … | GD marker, GD | footer marker, footer | end marker

Pure: no I/O. Source: VMDK spec, "Stream-Optimized Compressed Sparse Extents".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from diskfmt.engine import Placement
from diskfmt.extents import U64, Codec
from diskfmt.formats.base import Finale, Piece
from diskfmt.formats.vmdk.front import DESCRIPTOR_SIZE, FULL_FRAME, GRAIN, table_entries
from diskfmt.formats.vmdk.sparse import (
    DEFLATE,
    ENTRIES,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    GD_AT_END,
    MARKER_END,
    MARKER_FOOTER,
    MARKER_GD,
    MARKER_GRAIN,
    MARKER_GT,
    TABLE_SIZE,
    SparseHeader,
    pack_header,
    pack_marker,
)
from diskfmt.units import SECTOR, align_up, ceil_div


@dataclass(slots=True, kw_only=True)
class StreamLayout:
    """One such file of `size` guest bytes; `Layout` explains the members.

    `describe`: the text of the descriptor, from a fingerprint. `adopt`: frames of the source may be kept. `group` is
    the number of the table that still collects entries (-1: none yet), `entries` what it has, `group_end` where its
    last grain ends. `directory` collects the places of the written tables (sectors).
    """

    size: int
    describe: Callable[[bytes], bytes]
    level: int = 0
    adopt: bool = False
    directory: npt.NDArray[np.uint32] = field(init=False)
    entries: npt.NDArray[np.uint32] = field(init=False)
    group: int = field(init=False, default=-1)
    group_end: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Start with no table."""
        self.directory = np.zeros(ceil_div(self.size, GRAIN * ENTRIES), np.uint32)
        self.entries = np.zeros(ENTRIES, np.uint32)

    @property
    def placement(self) -> Placement:
        """The numbers for the engine: room for marker and table behind each group of grains."""
        return Placement(
            unit=GRAIN,
            guest_size=self.size,
            first=GRAIN,
            frame_align=SECTOR,
            codec=Codec.ZLIB,
            level=self.level,
            marker=True,
            group_units=ENTRIES,
            group_room=SECTOR + TABLE_SIZE,
            fingerprint=True,
            adopt=self.adopt,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file with every grain stored and none of them smaller for it."""
        tables = len(self.directory)
        end = GRAIN + ceil_div(self.size, GRAIN) * FULL_FRAME + tables * (SECTOR + TABLE_SIZE)
        return end + align_up(4 * tables, SECTOR) + 4 * SECTOR

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:
        """The tables whose last grain is known to be the last."""
        used = np.flatnonzero(places)
        if not len(used):
            return (), end
        first = first_unit // ENTRIES
        count = (first_unit + len(places) - 1) // ENTRIES - first + 1
        entries = np.zeros(count * ENTRIES, np.uint32)
        ends = np.zeros(count * ENTRIES, np.uint64)
        at = used + (first_unit - first * ENTRIES)
        # An entry names the marker, which comes before the data.
        entries[at] = table_entries(places.take(used) - np.uint64(MARKER_GRAIN))
        ends[at] = places.take(used) + stored.take(used)
        pieces: list[Piece] = []
        group_ends = ends.reshape(count, ENTRIES).max(axis=1)
        for i in np.flatnonzero(group_ends).tolist():  # once a table
            if first + i != self.group:
                pieces += self._table()
                self.group, self.entries = first + i, np.zeros(ENTRIES, np.uint32)
            self.entries = self.entries | entries[i * ENTRIES : (i + 1) * ENTRIES]
            self.group_end = align_up(int(group_ends[i]), SECTOR)
        return pieces, end

    def _table(self) -> list[Piece]:
        """The collected table behind its grains, entered in the directory."""
        if self.group < 0:
            return []
        self.directory[self.group] = self.group_end // SECTOR + 1
        data = pack_marker(TABLE_SIZE // SECTOR, MARKER_GT) + self.entries.astype("<u4").tobytes()
        return [Piece(offset=self.group_end, data=data)]

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """The last table, directory, footer and end marker; descriptor; header."""
        pieces = self._table()
        end = align_up(max(end, GRAIN), SECTOR)
        directory = self.directory.astype("<u4").tobytes()
        directory = directory.ljust(align_up(len(directory), SECTOR), b"\0")
        header = SparseHeader(
            version=3,
            flags=FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity=self.size // SECTOR,
            grain_size=GRAIN // SECTOR,
            descriptor_size=DESCRIPTOR_SIZE // SECTOR,
            gd_offset=GD_AT_END,
            overhead=GRAIN // SECTOR,
            compress_algorithm=DEFLATE,
        )
        tail = (
            pack_marker(len(directory) // SECTOR, MARKER_GD)
            + directory
            + pack_marker(1, MARKER_FOOTER)
            + pack_header(replace(header, gd_offset=end // SECTOR + 1))
            + pack_marker(0, MARKER_END)
        )
        pieces.append(Piece(offset=end, data=tail))
        pieces.append(Piece(offset=SECTOR, data=self.describe(fingerprint).ljust(DESCRIPTOR_SIZE, b"\0")))
        pieces.append(Piece(offset=0, data=pack_header(header)))
        return Finale(pieces=tuple(pieces), size=end + len(tail))
