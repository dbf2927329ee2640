"""Boot sectors of file systems that begin with one: FAT, exFAT, NTFS, BitLocker. They end like an MBR.

Also where FAT and NTFS keep the name of the volume, which is not in the boot sector.

Source: Microsoft, FAT: General Overview of On-Disk Format 1.03; NTFS and exFAT boot sectors as published there; what
counts as FAT as libblkid decides it (superblocks/vfat.c), so that disks are told apart as the guest does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from diskfmt.guest.base import Device
from diskfmt.guest.device import peek
from diskfmt.units import KIB

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


def fat_label(device: Device, fat: Fat) -> str:
    """The label in the root directory, which is the one that counts; empty where there is none."""
    for at, length in _fat_root(device, fat):
        block = peek(device, at, length)
        for place in range(0, len(block) - 31, 32):
            name, attributes = block[place : place + 11], block[place + 11]
            if name[0] == 0:
                return ""
            if name[0] == 0xE5 or attributes & 0x3F == 0x0F or attributes & 0x18 != 0x08:
                continue
            if _u16(block, place + 20) or _u16(block, place + 26):
                continue  # a label has no clusters
            raw = b"\xe5" + name[1:] if name[0] == 0x05 else name
            return raw.decode("cp850", "replace").rstrip(" ")
    return ""


def _fat_root(device: Device, fat: Fat) -> Iterator[tuple[int, int]]:
    """Places and lengths of the root directory, at most 100 clusters."""
    if not fat.root_cluster:
        yield fat.root_start, fat.root_size
        return
    cluster = fat.root_cluster
    for _ in range(100):
        if not 2 <= cluster < 0x0FFFFFF0 or cluster * 4 + 4 > fat.fat_size:
            return
        yield fat.data_start + (cluster - 2) * fat.cluster_size, fat.cluster_size
        cluster = _u32(peek(device, fat.fat_start + cluster * 4, 4), 0) & 0x0FFFFFFF


def ntfs_label(device: Device, sector: bytes, cluster: int) -> str:
    """The volume's name: attribute 0x60 of the third record of the MFT."""
    size = int.from_bytes(sector[64:65], "little", signed=True)
    length = size * cluster if size > 0 else 1 << min(-size, 31)
    if not 256 <= length <= 64 * KIB:
        return ""
    record = peek(device, int.from_bytes(sector[48:56], "little") * cluster + 3 * length, length)
    if record[:4] != b"FILE":
        return ""
    at = _u16(record, 20)
    for _ in range(64):
        if at + 24 > len(record):
            return ""
        kind, step = _u32(record, at), _u32(record, at + 4)
        if kind == 0x60:
            start = at + _u16(record, at + 20)
            return _mended(record, start, start + _u32(record, at + 16)).decode("utf-16-le", "replace")
        if kind == 0xFFFFFFFF or step < 24:
            return ""
        at += step
    return ""


def _mended(record: bytes, start: int, stop: int) -> bytes:
    """Bytes of a record with the last two of each sector, which NTFS keeps in the update sequence array, put back."""
    whole = bytearray(record)
    array, count = _u16(record, 4), _u16(record, 6)
    for sector in range(1, min(count, len(record) // 512 + 1)):
        whole[sector * 512 - 2 : sector * 512] = record[array + 2 * sector : array + 2 * sector + 2]
    return bytes(whole[start:stop])


def _u16(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "little")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")
