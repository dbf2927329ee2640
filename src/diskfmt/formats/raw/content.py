"""What the first sectors of a raw disk hold: partition tables, or a file system in their place.

Source: UEFI 2.10, 5.2.1 (MBR), 5.3.2 (GPT header).
"""

import struct
from dataclasses import dataclass
from typing import Final

from diskfmt.formats.known import KNOWN
from diskfmt.formats.probes import PROBES, View
from diskfmt.stores.source import SourceFile
from diskfmt.units import KIB, SECTOR

_ENTRY: Final = struct.Struct("<B3sB3sII")
"""An MBR partition: flag, CHS, type, CHS, first sector, number of sectors."""
_ENTRIES_AT: Final = 446
_PROTECTIVE: Final = 0xEE
_GPT: Final = struct.Struct("<8s16xQQ")
"""The start of a GPT header: signature … own sector, sector of the other copy (the last of the disk)."""

_HEAD: Final = 68 * KIB
"""Bytes in which all file systems of `_FILE_SYSTEMS` show themselves; Btrfs is the last, at 64 KiB."""
_FILE_SYSTEMS: Final = frozenset(
    {
        "ext",
        "xfs",
        "btrfs",
        "ntfs",
        "fat",
        "exfat",
        "refs",
        "hfs",
        "hfsplus",
        "apfs",
        "squashfs",
        "erofs",
        "f2fs",
        "nilfs2",
        "jfs",
        "reiserfs",
        "ufs",
        "lvm2",
        "swap",
    }
)
"""What a partition of a machine holds. Not those of optical discs, which firmware boots in another way."""
_TABLES: Final = frozenset({"mbr", "gpt", "apm", "bsd", "sun", "sgi", "amiga"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A partition table: `gpt` or `mbr`, the bytes of a sector as it counts, and where the disk ends at least."""

    kind: str
    sector: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """The first sector: whether it has the signature of a boot sector, and sane tables, the one that counts first."""

    signature: bool
    tables: tuple[Table, ...]


def boot_record(source: SourceFile) -> BootRecord:
    """What the first sector of a disk of at least one sector says, and the GPT where it says that there is one."""
    sector = source.read_at(0, SECTOR)
    signature = sector[510:] == b"\x55\xaa"
    return BootRecord(signature=signature, tables=_tables(source, sector) if signature else ())


def _tables(source: SourceFile, sector: bytes) -> tuple[Table, ...]:
    entries = [_ENTRY.unpack_from(sector, _ENTRIES_AT + _ENTRY.size * n) for n in range(4)]
    used = [entry for entry in entries if entry[2]]
    if any(entry[0] not in {0, 0x80} for entry in entries):
        return ()
    if any(entry[2] == _PROTECTIVE for entry in used):
        sizes = dict.fromkeys((source.sector_size, 512, 4096))
        return tuple(table for size in sizes if (table := _gpt(source, size)) is not None)
    # A boot sector of a file system has code and text here; partitions do not start in the first sector.
    if not used or any(entry[4] == 0 or entry[5] == 0 for entry in used):
        return ()
    last: int = max(entry[4] + entry[5] for entry in used)
    return (Table(kind="mbr", sector=source.sector_size, end=last * source.sector_size),)


def _gpt(source: SourceFile, size: int) -> Table | None:
    """The GPT for sectors of `size` bytes."""
    if source.size < size + _GPT.size:
        return None
    signature, own, other = _GPT.unpack(source.read_at(size, _GPT.size))
    if signature != b"EFI PART" or own != 1 or other >= 1 << 48:
        return None
    return Table(kind="gpt", sector=size, end=(other + 1) * size)


def whole_disk_content(source: SourceFile) -> str | None:
    """The title of the file system or volume that starts with the disk; None if there is none, or any table."""
    view = View(size=source.size, parts=((0, source.read_at(0, min(source.size, _HEAD))),))
    names = {claim.name for probe in PROBES for claim in probe(view)}
    content = sorted(names & _FILE_SYSTEMS)
    return KNOWN[content[0]].title if len(content) == 1 and names.isdisjoint(_TABLES) else None
