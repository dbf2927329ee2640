"""Boot sectors of file systems that begin with one: FAT, exFAT, NTFS, BitLocker. They end like an MBR.

Source: Microsoft, FAT: General Overview of On-Disk Format 1.03; NTFS and exFAT boot sectors as published there; what
counts as FAT as libblkid decides it (superblocks/vfat.c), so that disks are told apart as the guest does.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

_BPB: Final = Struct("<HBHBHHBHHHIIIHHI")  # at 11: sector size … root cluster
_FAT12_MAX: Final = 0xFF4
_FAT16_MAX: Final = 0xFFF4
_FAT32_MAX: Final = 0x0FFFFFF6
_NOT_FAT: Final = (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-")
_TYPES: Final = ((0x52, b"MSWIN"), (0x52, b"FAT32   "), (0x36, b"MSDOS"), (0x36, b"FAT16   "), (0x36, b"FAT12   "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fat:
    """Where things are in a FAT file system. Bytes, but `root_cluster` (0 for FAT12 and FAT16)."""

    version: str
    cluster_size: int
    fat_start: int
    fat_size: int
    root_start: int
    root_size: int
    data_start: int
    root_cluster: int
    serial: bytes
    size: int


def is_volume(sector: bytes) -> bool:
    """Whether the first 512 bytes are those of a file system rather than of a partition table."""
    return sector[3:11] in _NOT_FAT or parse_fat(sector) is not None


def _announced(sector: bytes) -> bool:
    if any(sector[at:].startswith(text) for at, text in _TYPES) or sector[0x36:0x3E] == b"FAT     ":
        return True
    # Without one of the names only a signed sector counts, and OS/2's with the name of another file system does not.
    return sector[510:512] == b"\x55\xaa" and sector[0x36:0x3E] not in {b"JFS     ", b"HPFS    "}


def parse_fat(sector: bytes) -> Fat | None:
    """The layout that a FAT boot sector gives; None where it is none."""
    if sector[3:11] in _NOT_FAT or not _announced(sector):
        return None
    fields = _BPB.unpack_from(sector, 11)
    unit, per_cluster, reserved, fats, roots, total16, media, fat16 = fields[:8]
    total32, fat32, root_cluster = fields[11], fields[12], fields[15]
    if unit not in {512, 1024, 2048, 4096} or per_cluster == 0 or per_cluster & (per_cluster - 1):
        return None
    if not fats or not reserved or (media != 0xF0 and media < 0xF8):
        return None
    total, fat_length = total16 or total32, fat16 or fat32
    root_sectors = (roots * 32 + unit - 1) // unit
    data = reserved + fats * fat_length + root_sectors
    if not fat_length or data >= total:
        return None
    clusters = (total - data) // per_cluster
    wide = fat16 == 0
    limit = _FAT32_MAX if wide else _FAT16_MAX if clusters > _FAT12_MAX else _FAT12_MAX
    if clusters > limit:
        return None
    serial = sector[0x43:0x47] if wide else sector[0x27:0x2B]
    return Fat(
        version="FAT32" if wide else "FAT16" if clusters > _FAT12_MAX else "FAT12",
        cluster_size=per_cluster * unit,
        fat_start=reserved * unit,
        fat_size=fat_length * unit,
        root_start=(reserved + fats * fat_length) * unit,
        root_size=root_sectors * unit,
        data_start=data * unit,
        root_cluster=root_cluster if wide else 0,
        serial=serial,
        size=total * unit,
    )
