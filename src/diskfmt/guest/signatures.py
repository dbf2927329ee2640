"""What a device holds, by its superblock: names, UUIDs and labels as blkid prints them.

Source: the formats' own definitions, cited at each probe. The order is libblkid's: RAID members first, because a mirror
with its superblock at the end looks like the file system inside it; then what is encrypted, then file systems.
"""

import uuid as _uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from diskfmt.guest.base import Device, GuestError
from diskfmt.guest.bootsector import fat_label, ntfs_label, parse_fat
from diskfmt.guest.device import peek
from diskfmt.guest.ext.superblock import Superblock
from diskfmt.units import KIB, MIB

EMPTY: Final = "empty"
UNKNOWN: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raid:
    """What a member of an md array says. `level` as md counts (1: mirror); the data's place in bytes."""

    level: int
    devices: int
    data_offset: int
    data_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a volume holds.

    `kind`: the name that blkid gives (`ext4`, `crypto_LUKS`, `LVM2_member` …), `ldm`, `empty`, or `""` for unknown.
    `size`: bytes that the superblock claims, 0 where it says nothing. `version`: where the format has one. `raid`: of
    a member of an array. `others`: kinds whose superblocks are there too, left over from an earlier use. `problem`: why
    it could not be read.
    """

    kind: str
    uuid: str = ""
    label: str = ""
    size: int = 0
    version: str = ""
    raid: Raid | None = None
    others: tuple[str, ...] = ()
    problem: str = ""


def probe(device: Device) -> Content:
    """What is on the device. Never raises GuestError: what cannot be read is in `problem`."""
    found: list[Content] = []
    problem = ""
    for search in _PROBES:
        try:
            content = search(device)
        except GuestError as error:
            problem = problem or error.message
            continue
        if content is not None:
            found.append(content)
            if content.kind == "linux_raid_member":
                break  # what else is there belongs to what the array holds
    if problem and not found:
        return Content(kind=UNKNOWN, problem=problem)
    if not found:
        return Content(kind=EMPTY if _is_empty(device) else UNKNOWN)
    return replace(found[0], others=tuple(content.kind for content in found[1:]))


def _is_empty(device: Device) -> bool:
    """Whether beginning and end, where superblocks are, are zero."""
    head = min(device.size, 128 * KIB)
    tail = min(device.size, 128 * KIB)
    try:
        return not any(device.read_at(0, head)) and not any(device.read_at(device.size - tail, tail))
    except GuestError:
        return False


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").rstrip(" ")


def _uuid_text(raw: bytes) -> str:
    """A UUID in the order of its bytes; empty where it is all zero."""
    return str(_uuid.UUID(bytes=raw)) if any(raw) else ""


def _u16(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "little")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")


def _u64(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little")


# ---- members of something larger -------------------------------------------------------------------------------------

_MD: Final = b"\xfc\x4e\x2b\xa9"


def _md(device: Device) -> Content | None:
    """Linux software RAID (drivers/md/md_p.h): version 1.1, 1.2, 1.0, 0.90 by place."""
    places = {"1.1": 0, "1.2": 4096, "1.0": ((device.size >> 9) - 16 & ~7) << 9}
    for version, at in places.items():
        raw = peek(device, at, 256)
        if raw[:4] == _MD and _u32(raw, 4) == 1 and _u64(raw, 144) << 9 == at:
            raid = Raid(
                level=int.from_bytes(raw[72:76], "little", signed=True),
                devices=_u32(raw, 92),
                data_offset=_u64(raw, 128) << 9,
                data_size=_u64(raw, 136) << 9,
            )
            return Content(
                kind="linux_raid_member",
                uuid=_uuid_text(raw[16:32]),
                label=_text(raw[32:64]),
                version=version,
                raid=raid,
            )
    at = (device.size & ~(64 * KIB - 1)) - 64 * KIB
    raw = peek(device, at, 256)
    if raw[:4] == _MD and _u32(raw, 4) == 0 and _u32(raw, 8) >= 90:
        identity = raw[20:24] + raw[52:64]
        level = int.from_bytes(raw[28:32], "little", signed=True)
        raid = Raid(level=level, devices=_u32(raw, 40), data_offset=0, data_size=_u32(raw, 32) * KIB)
        return Content(kind="linux_raid_member", uuid=_uuid_text(identity), version="0.90.0", raid=raid)
    return None


def _lvm(device: Device) -> Content | None:
    """LVM2's label, in one of the first four sectors (lib/label/label.h)."""
    head = peek(device, 0, 2048)
    for at in range(0, len(head), 512):
        sector = head[at : at + 512]
        if sector.startswith(b"LABELONE") and sector[24:32] == b"LVM2 001" and _u32(sector, 20) <= 480:
            place = _u32(sector, 20)
            return Content(kind="LVM2_member", uuid=lvm_id(sector[place : place + 32]), version="LVM2 001")
    return None


def lvm_id(raw: bytes) -> str:
    """32 characters as LVM prints them, in groups."""
    text = raw.decode("ascii", "replace")
    groups = (6, 4, 4, 4, 4, 4, 6)
    starts = [sum(groups[:i]) for i in range(len(groups))]
    return "-".join(text[start : start + length] for start, length in zip(starts, groups, strict=True))


# ---- what is encrypted -----------------------------------------------------------------------------------------------


def _luks(device: Device) -> Content | None:
    """LUKS1 and LUKS2 (LUKS2 On-Disk Format Specification 1.0, section 2; LUKS1 1.2.3, figure 1)."""
    # Where the first header is gone, the second of LUKS2, behind it, still opens the volume.
    for place, magic in ((0, b"LUKS\xba\xbe"), (16 * KIB, b"SKUL\xba\xbe"), (32 * KIB, b"SKUL\xba\xbe")):
        raw = peek(device, place, 512)
        version = int.from_bytes(raw[6:8], "big")
        if raw[:6] == magic and version in ({1, 2} if place == 0 else {2}):
            label = _text(raw[24:72]) if version == 2 else ""
            return Content(kind="crypto_LUKS", uuid=_text(raw[168:208]), label=label, version=str(version))
    return None


def _bitlocker(device: Device) -> Content | None:
    """BitLocker's boot sector; Windows 7 and later, or Vista's with NTFS's own numbers."""
    raw = peek(device, 0, 512)
    return Content(kind="BitLocker") if raw[3:11] == b"-FVE-FS-" else None


# ---- file systems ----------------------------------------------------------------------------------------------------


def _ext(device: Device) -> Content | None:
    raw = peek(device, 1024, 1024)
    if len(raw) < 1024 or raw[0x38:0x3A] != b"\x53\xef":
        return None
    superblock = Superblock.parse(raw)
    return Content(
        kind=superblock.kind,
        uuid=superblock.uuid,
        label=superblock.label,
        size=superblock.blocks * superblock.block_size,
        version=f"{superblock.revision}.{superblock.minor_revision}",
    )


def _xfs(device: Device) -> Content | None:
    """XFS Algorithms & Data Structures, 3rd edition, "Superblocks"."""
    raw = peek(device, 0, 512)
    if raw[:4] != b"XFSB":
        return None
    size = int.from_bytes(raw[4:8], "big") * int.from_bytes(raw[8:16], "big")
    return Content(kind="xfs", uuid=_uuid_text(raw[32:48]), label=_text(raw[108:120]), size=size)


def _btrfs(device: Device) -> Content | None:
    """Btrfs on-disk format, "Superblock"."""
    raw = peek(device, 64 * KIB, 4096)
    if raw[0x40:0x48] != b"_BHRfS_M":
        return None
    return Content(kind="btrfs", uuid=_uuid_text(raw[0x20:0x30]), label=_text(raw[0x12B:0x22B]), size=_u64(raw, 0x70))


def _vfat(device: Device) -> Content | None:
    sector = peek(device, 0, 512)
    fat = parse_fat(sector) if sector else None
    if fat is None:
        return None
    serial = fat.serial[::-1].hex().upper()
    uuid = f"{serial[:4]}-{serial[4:]}" if any(fat.serial) else ""
    return Content(kind="vfat", uuid=uuid, label=fat_label(device, fat), size=fat.size, version=fat.version)


def _exfat(device: Device) -> Content | None:
    """Microsoft, exFAT file system specification, section 3.1."""
    raw = peek(device, 0, 512)
    if raw[3:11] != b"EXFAT   ":
        return None
    serial = raw[100:104][::-1].hex().upper()
    return Content(kind="exfat", uuid=f"{serial[:4]}-{serial[4:]}", size=_u64(raw, 72) << min(raw[108], 12))


def _ntfs(device: Device) -> Content | None:
    raw = peek(device, 0, 512)
    unit, factor = _u16(raw, 11), raw[13] if raw else 0
    if raw[3:11] != b"NTFS    " or unit not in {256, 512, 1024, 2048, 4096}:
        return None
    # Above 128 it is the negative power of two (Windows 10 1709 and later, for clusters of 64 KiB up).
    per_cluster = factor if factor <= 128 else 1 << min(256 - factor, 31)
    label = ntfs_label(device, raw, unit * per_cluster)
    return Content(kind="ntfs", uuid=f"{_u64(raw, 72):016X}", label=label, size=_u64(raw, 40) * unit)


_SUSPENDED: Final = frozenset({b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB000"})


def _swap(device: Device) -> Content | None:
    """Swap space (include/linux/swap.h, union swap_header) or a hibernated system's memory in it."""
    for page in (4096, 8192, 16384, 32768, 65536):
        magic = peek(device, page - 10, 10)
        raw = peek(device, 1024, 1024)
        uuid, label = _uuid_text(raw[12:28]) if raw else "", _text(raw[28:44])
        if magic == b"SWAPSPACE2":
            order = "little" if _u32(raw, 0) == 1 else "big"
            pages = int.from_bytes(raw[4:8], order)  # type: ignore[arg-type]
            return Content(kind="swap", uuid=uuid, label=label, size=(pages + 1) * page, version="1")
        if magic == b"SWAP-SPACE":
            return Content(kind="swap", version="0")
        if magic[:9] in _SUSPENDED:
            return Content(kind="swsuspend", uuid=uuid, label=label, version=magic.rstrip(b"\0").decode())
    return None


def _iso(device: Device) -> Content | None:
    """ECMA-119, sections 8.4 and 8.5; the label of a Joliet tree comes first."""
    primary = peek(device, 32 * KIB, 2048)
    if primary[1:6] != b"CD001" or primary[0] != 1:
        return None
    label = primary[40:72].decode("utf-8", "replace").rstrip(" \0")
    for number in range(1, 16):
        raw = peek(device, 32 * KIB + number * 2048, 2048)
        if raw[1:6] != b"CD001" or raw[0] == 255:
            break
        if raw[0] == 2 and raw[88:91] in {b"%/@", b"%/C", b"%/E"}:
            label = raw[40:72].decode("utf-16-be", "replace").rstrip(" \0") or label
            break
    stamp = primary[830:846] if primary[830:846].strip(b"0\0 ") else primary[813:829]
    date = stamp.decode("ascii", "replace")
    uuid = "-".join((date[:4], *(date[at : at + 2] for at in range(4, 16, 2)))) if stamp.strip(b"0").isdigit() else ""
    size = _u32(primary, 80) * _u16(primary, 128)
    return Content(kind="iso9660", uuid=uuid, label=label, size=size)


_MAGICS: Final = (
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("hfsplus", 1024, b"H+\0\x04"),
    ("hfsplus", 1024, b"HX\0\x05"),
    ("jfs", 32 * KIB, b"JFS1"),
    ("reiserfs", 64 * KIB + 52, b"ReIsEr"),
    ("nilfs2", 1030, b"\x34\x34"),
    ("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("zfs_member", 128 * KIB, b"\x0c\xb1\xba\0\0\0\0\0"),
    ("ufs", 8192 + 1372, b"\x54\x19\x01\0"),
    ("ufs", 64 * KIB + 1372, b"\x19\x01\x54\x19"),
    ("VMFS", MIB, b"\x0d\xd0\x01\xc0"),
)
_BCACHE: Final = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"


def _others(device: Device) -> Content | None:
    """Formats of which only the name is told."""
    for kind, at, magic in _MAGICS:
        if peek(device, at, len(magic)) == magic:
            return Content(kind=kind)
    if peek(device, 4096 + 24, 16) == _BCACHE:
        # Early bcachefs has the same magic; bcache says before it that its superblock is in sector 8.
        return Content(kind="bcache" if _u64(peek(device, 4096 + 8, 8), 0) == 8 else "bcachefs")
    return None


_PROBES: Final[tuple[Callable[[Device], Content | None], ...]] = (
    _md,
    _lvm,
    _luks,
    _bitlocker,
    _swap,
    _xfs,
    _ext,
    _btrfs,
    _ntfs,
    _exfat,
    _vfat,
    _iso,
    _others,
)
