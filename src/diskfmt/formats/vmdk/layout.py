"""Where things go in a VMDK that is written. Pure: no I/O.

    monolithicSparse  header | descriptor | RGD, its GTs | GD, its GTs | grains …             RGD: the redundant copy
    streamOptimized   header | descriptor | … grains, GT marker, GT, grains, … | GD marker, GD | footer | end marker
    monolithicFlat    the guest's bytes in `<stem>-flat.vmdk`, the descriptor beside it

Source: VMDK spec, "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse Extents", "The Descriptor File".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.engine import Placement
from diskfmt.errors import LimitError, UsageError
from diskfmt.extents import U64, Codec
from diskfmt.formats.base import Finale, Output, Part, Piece, Request
from diskfmt.formats.vmdk.describe import Style, data_name, describe, require_name
from diskfmt.formats.vmdk.header import is_plain_name
from diskfmt.formats.vmdk.sparse import (
    DEFLATE,
    ENTRIES,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    FLAG_REDUNDANT,
    GD_AT_END,
    MARKER_END,
    MARKER_FOOTER,
    MARKER_GD,
    MARKER_GRAIN,
    MARKER_GT,
    MAX_CAPACITY,
    TABLE_SIZE,
    SparseHeader,
    pack_header,
    pack_marker,
)
from diskfmt.units import KIB, SECTOR, align_up, ceil_div

GRAIN: Final = 64 * KIB
DESCRIPTOR_SIZE: Final = 20 * SECTOR  # what VMware and qemu reserve
DESCRIPTOR_AT: Final = SECTOR
TABLES_AT: Final = DESCRIPTOR_AT + DESCRIPTOR_SIZE
MAX_SECTOR: Final = 0xFFFFFFFF  # what an entry of a grain table can say
FRAME_GROWTH: Final = 64  # bytes that a grain that does not compress takes more than plain


def layout(request: Request) -> Output:
    """The layout of the output that `request` asks for.

    Raises:
        UsageError: an option, size, codec or name that a VMDK cannot have.
        LimitError: LIMIT_SIZE, above 2 TiB.

    """
    size = request.virtual_size
    if size <= 0 or size % SECTOR:
        raise UsageError(f"a VMDK cannot have {size} bytes", remedy="give it a whole number of 512-byte sectors")
    if size > MAX_CAPACITY:
        raise LimitError(
            f"a disk of {size} bytes is larger than the 2 TiB of a VMDK extent", remedy="choose another format"
        )
    style = Style.from_options(request.options)
    if request.subformat == "streamOptimized":
        if request.compress not in (None, "zlib"):
            raise UsageError(f"streamOptimized cannot be compressed with {request.compress}", remedy="use zlib")
    elif request.compress is not None:
        raise UsageError(f"{request.subformat} cannot be compressed", remedy="use vmdk:streamOptimized")
    if request.subformat == "monolithicFlat":
        piece = data_name(request.name)
        require_name(piece)
        if not is_plain_name(piece):  # readers, this one too, would not open it
            raise UsageError(f"a descriptor cannot name a file {piece!r}", remedy="choose a plain name")
        flat = FlatLayout(request=request, style=style)
        return Output(parts=(Part(start=0, stop=size, layout=flat, name=piece),), describe=flat.describe)
    require_name(request.name)
    if request.subformat == "monolithicSparse":
        return Output.single(SparseLayout(request=request, style=style))
    if request.subformat == "streamOptimized":
        return Output.single(StreamLayout(request=request, style=style))
    raise UsageError(f"vmdk has no subformat {request.subformat!r}")


@dataclass(slots=True, kw_only=True)
class _Base:
    """What all layouts know."""

    request: Request
    style: Style

    @property
    def size(self) -> int:
        """Bytes of the guest disk."""
        return self.request.virtual_size

    def _describe(self, extent: str, piece: str, fingerprint: bytes) -> bytes:
        return describe(
            subformat=self.request.subformat,
            size=self.size,
            extent=extent,
            piece=piece,
            style=self.style,
            fingerprint=fingerprint,
        )


@dataclass(slots=True, kw_only=True)
class FlatLayout(_Base):
    """monolithicFlat: every byte at its own offset; `Layout` explains the members."""

    @property
    def placement(self) -> Placement:
        """The numbers for the engine."""
        return Placement(unit=GRAIN, guest_size=self.size, fixed=True, fingerprint=True)

    @property
    def full_size(self) -> int:
        """Bytes of the flat file."""
        return self.size

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:  # noqa: ARG002
        """Nothing to write: a flat file has no tables."""
        return (), end

    def finish(self, end: int, fingerprint: bytes) -> Finale:  # noqa: ARG002
        """Only the length, which brings a hole at the end."""
        return Finale(pieces=(), size=self.size)

    def describe(self, fingerprint: bytes) -> bytes:
        """The text of the descriptor."""
        return self._describe("FLAT", data_name(self.request.name), fingerprint)


@dataclass(slots=True, kw_only=True)
class SparseLayout(_Base):
    """monolithicSparse: both copies of all tables in front, grains behind; `Layout` explains the members.

    All tables exist, so the entry of a grain has a place that follows from its number alone.
    """

    @property
    def _tables(self) -> int:
        return ceil_div(self.size, GRAIN * ENTRIES)

    @property
    def _directory_size(self) -> int:
        return align_up(4 * self._tables, SECTOR)

    @property
    def _copies(self) -> tuple[int, int]:
        """Where the redundant directory starts, and the one that counts."""
        return TABLES_AT, TABLES_AT + self._directory_size + self._tables * TABLE_SIZE

    @property
    def _overhead(self) -> int:
        redundant, counting = self._copies
        return align_up(counting + (counting - redundant), GRAIN)

    @property
    def placement(self) -> Placement:
        """The numbers for the engine."""
        return Placement(unit=GRAIN, guest_size=self.size, first=self._overhead, align=GRAIN, fingerprint=True)

    @property
    def full_size(self) -> int:
        """Bytes of the file with every grain stored."""
        return self._overhead + align_up(self.size, GRAIN)

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:  # noqa: ARG002
        """The entries of these grains in both copies of the tables."""
        used = np.flatnonzero(places)
        if not len(used):
            return (), end
        first, last = int(used[0]), int(used[-1]) + 1
        data = _entries(places[first:last]).tobytes()
        at = self._directory_size + 4 * (first_unit + first)
        return [Piece(offset=copy + at, data=data) for copy in self._copies], end

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """Both directories, the descriptor, the header."""
        pieces = []
        for copy in self._copies:
            first = (copy + self._directory_size) // SECTOR
            directory = first + np.arange(self._tables, dtype="<u4") * (TABLE_SIZE // SECTOR)
            pieces.append(Piece(offset=copy, data=directory.astype("<u4").tobytes()))
        redundant, counting = self._copies
        header = SparseHeader(
            version=1,
            flags=FLAG_NEWLINES | FLAG_REDUNDANT,
            capacity=self.size // SECTOR,
            grain_size=GRAIN // SECTOR,
            descriptor_size=DESCRIPTOR_SIZE // SECTOR,
            rgd_offset=redundant // SECTOR,
            gd_offset=counting // SECTOR,
            overhead=self._overhead // SECTOR,
        )
        text = self._describe("SPARSE", self.request.name, fingerprint)
        pieces.append(Piece(offset=DESCRIPTOR_AT, data=text.ljust(DESCRIPTOR_SIZE, b"\0")))
        pieces.append(Piece(offset=0, data=pack_header(header)))
        return Finale(pieces=tuple(pieces), size=max(end, self._overhead))


@dataclass(slots=True, kw_only=True)
class StreamLayout(_Base):
    """streamOptimized as the specification has it, tables behind the grains; `Layout` explains the members.

    `group` is the number of the table that still collects entries (-1: none yet), `entries` what it has,
    `group_end` where its last grain ends. `directory` collects the places of the written tables (sectors).
    """

    directory: npt.NDArray[np.uint32]
    group: int = -1
    entries: npt.NDArray[np.uint32]
    group_end: int = 0

    def __init__(self, *, request: Request, style: Style) -> None:
        self.request = request
        self.style = style
        self.directory = np.zeros(ceil_div(self.size, GRAIN * ENTRIES), np.uint32)
        self.entries = np.zeros(ENTRIES, np.uint32)
        self.group = -1
        self.group_end = 0

    @property
    def placement(self) -> Placement:
        """The numbers for the engine: room for marker and table behind each group of grains."""
        return Placement(
            unit=GRAIN,
            guest_size=self.size,
            first=GRAIN,
            frame_align=SECTOR,
            codec=Codec.ZLIB,
            level=self.request.level or 0,
            marker=True,
            group_units=ENTRIES,
            group_room=SECTOR + TABLE_SIZE,
            fingerprint=True,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file with every grain stored and none of them smaller for it."""
        grain = align_up(MARKER_GRAIN + GRAIN + FRAME_GROWTH, SECTOR)
        tables = len(self.directory)
        end = GRAIN + ceil_div(self.size, GRAIN) * grain + tables * (SECTOR + TABLE_SIZE)
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
        entries[at] = _entries(places.take(used) - np.uint64(MARKER_GRAIN))
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
        text = self._describe("SPARSE", self.request.name, fingerprint)
        pieces.append(Piece(offset=end, data=tail))
        pieces.append(Piece(offset=DESCRIPTOR_AT, data=text.ljust(DESCRIPTOR_SIZE, b"\0")))
        pieces.append(Piece(offset=0, data=pack_header(header)))
        return Finale(pieces=tuple(pieces), size=end + len(tail))


def _entries(places: U64) -> npt.NDArray[np.uint32]:
    """Grain table entries, sectors, for places in the file. Raises LimitError."""
    sectors = places // np.uint64(SECTOR)
    if len(sectors) and int(sectors.max()) > MAX_SECTOR:
        raise LimitError(
            "a grain lies behind 2 TiB of the file, where no grain table can name it",
            remedy="choose streamOptimized or another format",
        )
    return sectors.astype("<u4")
