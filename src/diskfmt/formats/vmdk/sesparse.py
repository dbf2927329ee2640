"""seSparse, the space-efficient sparse file of ESXi 5 and later: the snapshots of VMFS 6.

    constant header | volatile header | journal header | journal | GD | GTs | free bitmap | backmap | grains

All of it has its place by the constant header, in sectors. Entries have 8 bytes and count tables and grains in their
areas; the topmost four bits say what an entry is. There is no published specification: the layout is what the readers
of qemu and dissect agree on, and what images of ESXi show. Where these two differ, the image is refused.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from construct import Bytes, Int64ul, Struct

from diskfmt.errors import CorruptError, LimitError, Reason, RefusedError
from diskfmt.formats.vmdk.shape import SESPARSE, Area, Shape
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, TIB, ceil_div

MAGIC: Final = bytes.fromhex("bebafeca00000000")
VOLATILE_MAGIC: Final = bytes.fromhex("fecafeca00000000")
VERSION: Final = 0x2_0000_0001
GRAIN_SIZE: Final = 8  # sectors
TABLE_SIZE: Final = 64  # sectors
ENTRIES: Final = TABLE_SIZE * SECTOR // 8
MAX_CAPACITY: Final = 64 * TIB

COPY_AGAIN: Final = "copy the piece again, or consolidate the snapshot on its host"

_PARTS: Final = (
    "volatile_header",
    "journal_header",
    "journal",
    "directory",
    "tables",
    "free_bitmap",
    "backmap",
    "grains",
)
_FIRST_PART: Final = 80  # where the places of the parts start in the header: offset and size of each

_CONSTANT: Final = Struct(
    "magic" / Bytes(8),
    "version" / Int64ul,
    "capacity" / Int64ul,
    "grain_size" / Int64ul,
    "table_size" / Int64ul,
    "flags" / Int64ul,
    "reserved" / Bytes(32),
    *(f"{part}_{what}" / Int64ul for part in _PARTS for what in ("offset", "size")),
    "padding" / Bytes(304),
)
_VOLATILE: Final = Struct(
    "magic" / Bytes(8),
    "free_table" / Int64ul,
    "next_transaction" / Int64ul,
    "replay_journal" / Int64ul,
    "padding" / Bytes(480),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part of the file, in sectors; `field`: where the header names it."""

    name: str
    offset: int
    size: int
    field: int

    @property
    def end(self) -> int:
        return self.offset + self.size

    def area(self, kind: str) -> Area:
        return Area(kind=kind, start=self.offset * SECTOR, length=self.size * SECTOR)


def read_shape(source: SourceFile) -> Shape:
    """The shape of a seSparse file, by its two headers.

    Raises:
        RefusedError: UNKNOWN_FEATURE; NEEDS_REPLAY as CorruptError, the journal holds what the tables lack.
        CorruptError: BAD_VALUE, OVERLAP, TRUNCATED, NEEDS_REPLAY.
        LimitError: LIMIT_SIZE.

    """
    header = _CONSTANT.parse(source.read_at(0, SECTOR))
    if header.version != VERSION:
        raise _unknown(f"seSparse version {header.version:#x} is not known, only {VERSION:#x} is", 8)
    for name, value, wanted, offset in (
        ("grain", header.grain_size, GRAIN_SIZE, 24),
        ("grain table", header.table_size, TABLE_SIZE, 32),
    ):
        if value != wanted:
            raise _unknown(f"a {name} of {value} sectors is not known, only {wanted} are", offset)
    if header.flags:
        raise _unknown(f"unknown header flags {header.flags:#x}", 40)
    if any(header.reserved) or any(header.padding):
        raise _unknown("reserved bytes of the header are not zero", 48 if any(header.reserved) else 208)
    if header.capacity == 0:
        raise CorruptError("the capacity is 0", offset=16, remedy=COPY_AGAIN)
    if header.capacity * SECTOR > MAX_CAPACITY:
        raise LimitError(f"a capacity of {header.capacity} sectors is above 64 TiB", offset=16)
    parts = {
        name: _Part(
            name=name.replace("_", " "),
            offset=header[f"{name}_offset"],
            size=header[f"{name}_size"],
            field=_FIRST_PART + 16 * index,
        )
        for index, name in enumerate(_PARTS)
    }
    _require_placed(parts, header.capacity * SECTOR, source.size)
    _require_settled(source, parts["volatile_header"])
    tables, grains = parts["tables"], parts["grains"]
    return Shape(
        kind=SESPARSE,
        size=header.capacity * SECTOR,
        grain=GRAIN_SIZE * SECTOR,
        entries=ENTRIES,
        entry_size=8,
        directory=parts["directory"].offset * SECTOR,
        tables_start=tables.offset * SECTOR,
        tables_end=tables.end * SECTOR,
        grains_start=grains.offset * SECTOR,
        grains_end=min(grains.end * SECTOR, source.size),
        zeroed=True,
        fixed=(
            Area(kind="header", start=0, length=SECTOR),
            parts["volatile_header"].area("header"),
            *(parts[name].area("table") for name in ("journal_header", "journal", "free_bitmap", "backmap")),
        ),
    )


def _require_placed(parts: dict[str, _Part], size: int, file_size: int) -> None:
    """The parts lie apart from each other, all but the grains inside the file; each error names the field."""
    needed = 8 * ceil_div(size, GRAIN_SIZE * SECTOR * ENTRIES)
    if parts["directory"].size * SECTOR < needed:
        raise CorruptError(
            f"the grain directory has {parts['directory'].size} sectors, the capacity needs {needed} bytes",
            offset=parts["directory"].field + 8,
            remedy=COPY_AGAIN,
        )
    header = _Part(name="header", offset=0, size=1, field=0)
    ordered = sorted((header, *(part for part in parts.values() if part.size)), key=lambda part: part.offset)
    for before, part in pairwise(ordered):
        if part.offset < before.end:
            raise CorruptError(
                f"the {part.name} at sector {part.offset} overlaps the {before.name}",
                reason=Reason.OVERLAP,
                offset=part.field,
                remedy=COPY_AGAIN,
            )
    for name, part in parts.items():
        # The room for grains is that of the whole disk; the file ends with the last one.
        end = part.offset if name == "grains" else part.end
        if end * SECTOR > file_size:
            raise CorruptError(
                f"the {part.name} at sector {part.offset} reaches past the end of the file",
                reason=Reason.TRUNCATED,
                offset=part.field,
                remedy=COPY_AGAIN,
            )


def _require_settled(source: SourceFile, part: _Part) -> None:
    """The volatile header says that the tables are complete without the journal."""
    at = part.offset * SECTOR
    header = _VOLATILE.parse(source.read_at(at, SECTOR))
    if header.magic != VOLATILE_MAGIC:
        raise CorruptError("the volatile header is none", offset=at, remedy=COPY_AGAIN)
    if header.replay_journal:
        raise CorruptError(
            "the journal has to be replayed first: the tables are not complete",
            reason=Reason.NEEDS_REPLAY,
            offset=at + 24,
            remedy="open the disk on its host once, then copy it again",
        )
    if any(header.padding):
        raise _unknown("reserved bytes of the volatile header are not zero", at + 32)


def _unknown(message: str, offset: int) -> RefusedError:
    return RefusedError(message, reason=Reason.UNKNOWN_FEATURE, offset=offset, remedy=COPY_AGAIN)
