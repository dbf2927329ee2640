"""Snapshots and bitmaps: what an image holds besides the guest's present disk.

Nothing here is needed to read the disk. The iterators raise at the first entry that makes no sense; the caller
decides how much that weighs.
Source: qemu, docs/interop/qcow2.rst, sections "Snapshots", "Bitmaps extension", "Bitmap directory".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.errors import CorruptError, LimitError, Reason
from diskfmt.formats.qcow2.records import (
    BITMAP_SIZE,
    BITMAPS_SIZE,
    EXT_BITMAPS,
    MAX_BITMAP_DIRECTORY,
    MAX_BITMAPS,
    MAX_L1,
    MAX_NAME,
    MAX_SNAPSHOT_EXTRA,
    MAX_SNAPSHOT_TABLE,
    MAX_SNAPSHOTS,
    SNAPSHOT_SIZE,
    BitmapRecord,
    BitmapsHeader,
    Qcow2,
    parse_bitmap,
    parse_bitmaps,
    parse_snapshot,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import align_up

MAX_TEXT: Final = 1024  # bytes of an id or name that are read
NO_ICOUNT: Final = (1 << 64) - 1
IN_USE: Final = 1 << 0
AUTO: Final = 1 << 1
EXTRA_COMPATIBLE: Final = 1 << 2
_FLAG_NAMES: Final = {IN_USE: "in-use", AUTO: "auto"}
_REPAIR: Final = "repair a copy of the image with qemu-img check -r all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One internal snapshot. `l1_size` in entries, `clock` in nanoseconds, sizes and offsets in bytes.

    `disk_size` is None where the entry does not say it: that of the present. `offset` and `end` are those of its
    entry in the snapshot table.
    """

    id: str
    name: str
    l1_offset: int
    l1_size: int
    vm_state_size: int
    seconds: int
    nanoseconds: int
    clock: int
    icount: int | None
    disk_size: int | None
    offset: int
    end: int

    def shown(self) -> dict[str, object]:
        """What qemu-img prints of it."""
        shown: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "vm-state-size": self.vm_state_size,
            "date-sec": self.seconds,
            "date-nsec": self.nanoseconds,
            "vm-clock-sec": self.clock // 1_000_000_000,
            "vm-clock-nsec": self.clock % 1_000_000_000,
        }
        if self.icount is not None:
            shown["icount"] = self.icount
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmap:
    """One entry of the bitmap directory. `table_size` in entries, `granularity` in guest bytes per bit."""

    name: str
    flags: int
    granularity: int
    table_offset: int
    table_size: int

    def shown(self) -> dict[str, object]:
        """What qemu-img prints of it."""
        names = [name for flag, name in _FLAG_NAMES.items() if self.flags & flag]
        return {"name": self.name, "flags": names, "granularity": self.granularity}


def outside(header: Qcow2, end: int) -> Reason:
    """Why something that ends behind the end of the file does so: the file was cut, or the pointer lies."""
    return Reason.OUT_OF_FILE if end > header.host_limit else Reason.TRUNCATED


def snapshots(source: SourceFile, header: Qcow2) -> Iterator[Snapshot]:
    """The internal snapshots, in the order of their table.

    Raises:
        CorruptError: BAD_VALUE, OVERLAP, OUT_OF_FILE, TRUNCATED: the first entry that makes no sense.
        LimitError: LIMIT_METADATA.

    """
    if not header.snapshot_count:
        return
    if header.snapshot_count > MAX_SNAPSHOTS:
        raise LimitError(
            f"{header.snapshot_count} snapshots, at most {MAX_SNAPSHOTS} are read",
            reason=Reason.LIMIT_METADATA,
            offset=60,
            remedy=_REPAIR,
        )
    start = position = header.snapshots_offset
    if start < header.cluster_size:
        raise CorruptError(
            f"the snapshot table at {start:#x} overlaps the header", reason=Reason.OVERLAP, offset=64, remedy=_REPAIR
        )
    if start % header.cluster_size:
        raise CorruptError(f"the snapshot table at {start:#x} is not cluster aligned", offset=64, remedy=_REPAIR)
    for index in range(header.snapshot_count):
        snapshot = _snapshot(source, header, position, index)
        position = snapshot.end
        if position - start > MAX_SNAPSHOT_TABLE:
            raise LimitError(
                f"the snapshot table is larger than {MAX_SNAPSHOT_TABLE} bytes",
                reason=Reason.LIMIT_METADATA,
                offset=start,
                remedy=_REPAIR,
            )
        yield snapshot


def _snapshot(source: SourceFile, header: Qcow2, position: int, index: int) -> Snapshot:
    _require_inside(source, header, position, position + SNAPSHOT_SIZE, f"snapshot {index}")
    record = parse_snapshot(source.read_at(position, SNAPSHOT_SIZE))
    if record.extra_size > MAX_SNAPSHOT_EXTRA:
        raise LimitError(f"snapshot {index} has {record.extra_size} bytes of extra data, at most "
                         f"{MAX_SNAPSHOT_EXTRA} are read", reason=Reason.LIMIT_METADATA, offset=position + 36,
                         remedy=_REPAIR)  # fmt: skip
    extra_at = position + SNAPSHOT_SIZE
    id_at = extra_at + record.extra_size
    name_at = id_at + record.id_size
    end = align_up(name_at + record.name_size, 8)
    # The last entry's padding may be missing, its texts may not.
    _require_inside(source, header, position, name_at + record.name_size, f"snapshot {index}")
    if record.l1_size * 8 > MAX_L1:
        raise LimitError(
            f"the L1 table of snapshot {index} has {record.l1_size} entries, at most {MAX_L1 // 8} are read",
            reason=Reason.LIMIT_METADATA,
            offset=position + 8,
            remedy=_REPAIR,
        )
    if record.l1_offset % header.cluster_size:
        raise CorruptError(
            f"the L1 table of snapshot {index} at {record.l1_offset:#x} is not cluster aligned",
            offset=position,
            remedy=_REPAIR,
        )
    _require_inside(
        source, header, position, record.l1_offset + 8 * record.l1_size, f"the L1 table of snapshot {index}"
    )
    extra = source.read_at(extra_at, min(record.extra_size, 24))
    number = [int.from_bytes(extra[at : at + 8]) if len(extra) >= at + 8 else None for at in (0, 8, 16)]
    return Snapshot(
        id=_text(source, id_at, record.id_size),
        name=_text(source, name_at, record.name_size),
        l1_offset=record.l1_offset,
        l1_size=record.l1_size,
        vm_state_size=record.vm_state_size if number[0] is None else number[0],
        seconds=record.seconds,
        nanoseconds=record.nanoseconds,
        clock=record.clock,
        icount=None if number[2] == NO_ICOUNT else number[2],
        disk_size=number[1],
        offset=position,
        end=end,
    )


def bitmaps_header(source: SourceFile, header: Qcow2) -> BitmapsHeader | None:
    """The bitmaps extension, None if there is none. Raises CorruptError: BAD_VALUE."""
    extension = header.extension(EXT_BITMAPS)
    if extension is None:
        return None
    if extension.length != BITMAPS_SIZE:
        raise CorruptError(
            f"the bitmaps extension has {extension.length} bytes, not {BITMAPS_SIZE}",
            offset=extension.offset,
            remedy=_REPAIR,
        )
    return parse_bitmaps(source.read_at(extension.offset, BITMAPS_SIZE))


def bitmaps(source: SourceFile, header: Qcow2) -> Iterator[Bitmap]:
    """The bitmaps, in the order of their directory.

    Raises:
        CorruptError: BAD_VALUE, OVERLAP, OUT_OF_FILE, TRUNCATED: the first entry that makes no sense.
        LimitError: LIMIT_METADATA.

    """
    directory = bitmaps_header(source, header)
    if directory is None:
        return
    extension = header.extension(EXT_BITMAPS)
    at = extension.offset if extension else 0
    if not directory.count or directory.reserved:
        raise CorruptError(
            f"the bitmaps extension counts {directory.count} bitmaps, its reserved field is {directory.reserved:#x}",
            offset=at,
            remedy=_REPAIR,
        )
    if directory.count > MAX_BITMAPS or directory.size > MAX_BITMAP_DIRECTORY:
        raise LimitError(f"{directory.count} bitmaps in a directory of {directory.size} bytes, at most "
                         f"{MAX_BITMAPS} in {MAX_BITMAP_DIRECTORY} are read", reason=Reason.LIMIT_METADATA,
                         offset=at, remedy=_REPAIR)  # fmt: skip
    if directory.offset % header.cluster_size or directory.offset < header.cluster_size:
        raise CorruptError(
            f"the bitmap directory at {directory.offset:#x} is not cluster aligned behind the header",
            offset=at + 16,
            remedy=_REPAIR,
        )
    end = directory.offset + directory.size
    _require_inside(source, header, at + 16, end, "the bitmap directory")
    position = directory.offset
    for index in range(directory.count):
        if position + BITMAP_SIZE > end:
            raise CorruptError(
                f"the bitmap directory ends before bitmap {index} of {directory.count}", offset=position, remedy=_REPAIR
            )
        record = parse_bitmap(source.read_at(position, BITMAP_SIZE))
        following = align_up(position + BITMAP_SIZE + record.extra_size + record.name_size, 8)
        if following > end:
            raise CorruptError(f"bitmap {index} ends behind its directory", offset=position, remedy=_REPAIR)
        yield _bitmap(source, header, record, position, index)
        position = following


def _bitmap(source: SourceFile, header: Qcow2, record: BitmapRecord, position: int, index: int) -> Bitmap:
    known = IN_USE | AUTO | EXTRA_COMPATIBLE
    if record.kind != 1 or record.flags & ~known:
        raise CorruptError(
            f"bitmap {index} has type {record.kind} and flags {record.flags:#x}, known are type 1 and flags {known:#x}",
            offset=position + 12,
            remedy=_REPAIR,
        )
    if not 9 <= record.granularity_bits <= 31:
        raise CorruptError(
            f"bitmap {index} has a granularity of 2^{record.granularity_bits}, known are 2^9 to 2^31",
            offset=position + 17,
            remedy=_REPAIR,
        )
    if not 1 <= record.name_size <= MAX_NAME:
        raise CorruptError(
            f"the name of bitmap {index} has {record.name_size} bytes, not 1 to {MAX_NAME}",
            offset=position + 18,
            remedy=_REPAIR,
        )
    if record.table_offset % header.cluster_size or record.table_offset < header.cluster_size:
        raise CorruptError(
            f"the table of bitmap {index} at {record.table_offset:#x} is not cluster aligned behind the header",
            offset=position,
            remedy=_REPAIR,
        )
    _require_inside(
        source, header, position, record.table_offset + 8 * record.table_size, f"the table of bitmap {index}"
    )
    return Bitmap(
        name=_text(source, position + BITMAP_SIZE + record.extra_size, record.name_size),
        flags=record.flags,
        granularity=1 << record.granularity_bits,
        table_offset=record.table_offset,
        table_size=record.table_size,
    )


def _require_inside(source: SourceFile, header: Qcow2, at: int, end: int, what: str) -> None:
    if end > source.size:
        raise CorruptError(
            f"{what} ends at {end:#x}, the file at {source.size:#x}",
            reason=outside(header, end),
            offset=at,
            remedy=_REPAIR,
        )


def _text(source: SourceFile, offset: int, length: int) -> str:
    return source.read_at(offset, min(length, MAX_TEXT)).decode("utf-8", "replace")
