"""The master boot record and the chain of extended boot records.

Source: UEFI specification 2.10, section 5.2 (MBR format, protective MBR); the chain as Linux reads it
(block/partitions/msdos.c), because its numbers are what a guest's configuration names. Boot code is recognised by the
texts and constants of the loaders themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from struct import Struct
from typing import Final

from diskfmt.guest.base import DamagedError, Device, GuestError

SIZE: Final = 512
EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})
PROTECTIVE: Final = 0xEE
DYNAMIC_DISK: Final = 0x42
_SIGNATURE: Final = b"\x55\xaa"
_ENTRY: Final = Struct("<B3sB3sII")
_MAX_CHAIN: Final = 256  # sfdisk and Linux stop at fewer


class BootCode(StrEnum):
    """What the first 440 bytes of the disk are."""

    ZERO = "zero"
    GRUB = "grub"
    GRUB_LEGACY = "grub-legacy"
    SYSLINUX = "syslinux"
    WINDOWS = "windows"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One of the four entries. `start` (from where the kind of record says) and `sectors` in sectors.

    `slot`: 1 to 4. `flag`: 0x80 active, 0 not; other values are no entry of a partition table. `chs`: head, sector with
    the high bits of the cylinder, low bits of the cylinder of the first sector, as stored.
    """

    slot: int
    flag: int
    chs: tuple[int, int, int]
    type: int
    start: int
    sectors: int

    @property
    def used(self) -> bool:
        """Whether it describes anything."""
        return self.type != 0 and self.sectors != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mbr:
    """The first sector. `disk_id`: the signature at 440. `signed`: it ends in 55 AA."""

    signed: bool
    disk_id: int
    records: tuple[Record, ...]

    @property
    def used(self) -> tuple[Record, ...]:
        """The entries that describe anything."""
        return tuple(record for record in self.records if record.used)

    @property
    def plausible(self) -> bool:
        """Whether it can be a partition table: signed, and no flag but 0 and 0x80 (as libblkid and Linux decide)."""
        return self.signed and all(record.flag in {0, 0x80} for record in self.records)

    @property
    def protective(self) -> Record | None:
        """The entry that keeps other programs off a GPT."""
        return next((record for record in self.records if record.type == PROTECTIVE and record.sectors), None)

    @property
    def strict(self) -> bool:
        """Whether it is a protective MBR to the letter (UEFI 5.2.3) but for the active flag, which some loaders want.

        One entry, the first, with CHS 0/0/2 and LBA 1.
        """
        first, *others = self.records
        return (
            self.plausible
            and (first.type, first.chs, first.start) == (PROTECTIVE, (0, 2, 0), 1)
            and not any(record.type for record in others)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """A partition of the chain. `start` in sectors from the beginning of the disk."""

    number: int
    record: Record
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """The loader of a BIOS. `core`: the sector that GRUB's boot.img loads next; `core_zero`: it holds nothing.

    Both are None where the code is not GRUB's or the sector cannot be read.
    """

    code: BootCode
    core: int | None = None
    core_zero: bool | None = None


def parse(sector: bytes) -> Mbr:
    """The record in 512 bytes."""
    records = []
    for slot in range(4):
        flag, chs, kind, _, start, sectors = _ENTRY.unpack_from(sector, 446 + 16 * slot)
        records.append(
            Record(slot=slot + 1, flag=flag, chs=(chs[0], chs[1], chs[2]), type=kind, start=start, sectors=sectors)
        )
    return Mbr(
        signed=sector[510:512] == _SIGNATURE,
        disk_id=int.from_bytes(sector[440:444], "little"),
        records=tuple(records),
    )


def logicals(device: Device, extended: Record, unit: int) -> Iterator[Logical]:
    """The partitions inside `extended`, numbered from 5 as Linux does; `unit` is the sector size.

    Raises:
        DamagedError: after those that are readable: a loop, a record without signature, or too many.
        GuestError: a record cannot be read.

    """
    base, at, number = extended.start, extended.start, 5
    seen: set[int] = set()
    while True:
        if at in seen:
            raise DamagedError("the chain of extended partitions is a loop", offset=at * unit)
        if len(seen) >= _MAX_CHAIN:
            raise DamagedError(f"more than {_MAX_CHAIN} extended boot records", offset=at * unit)
        seen.add(at)
        mbr = parse(device.read_at(at * unit, SIZE))
        if not mbr.signed:
            raise DamagedError("an extended boot record has no signature", offset=at * unit)
        for record in mbr.used:
            if record.type in EXTENDED:
                continue
            # The third and fourth entry are no part of the format; some programs leave rubbish there.
            if record.slot > 2 and not _within(extended, at + record.start, record.sectors):
                continue
            yield Logical(number=number, record=record, start=at + record.start)
            number += 1
        following = next((record for record in mbr.used if record.type in EXTENDED), None)
        if following is None:
            return
        at = base + following.start


def _within(extended: Record, start: int, sectors: int) -> bool:
    return extended.start <= start and start + sectors <= extended.start + extended.sectors


def boot_code(device: Device, sector: bytes) -> Boot:
    """What a BIOS would run, from the first sector of `device`."""
    code = sector[:440]
    if not any(code):
        return Boot(code=BootCode.ZERO)
    if b"GRUB \0Geom\0Hard Disk\0Read\0" in code:
        # GRUB 2 keeps the address to load to (0x8000) and the sector to load at 0x5a (grub-core/boot/i386/pc/boot.S).
        if code[0x5A:0x5C] == b"\0\x80":
            return _grub(device, BootCode.GRUB, int.from_bytes(code[0x5C:0x64], "little"))
        return _grub(device, BootCode.GRUB_LEGACY, int.from_bytes(code[0x44:0x48], "little"))
    if b"Invalid partition table" in code and b"Error loading operating system" in code:
        return Boot(code=BootCode.WINDOWS)
    if b"Operating system load error" in code or b"Missing OS\r\n" in code:
        return Boot(code=BootCode.SYSLINUX)
    return Boot(code=BootCode.UNKNOWN)


def _grub(device: Device, code: BootCode, core: int) -> Boot:
    try:
        first = device.read_at(core * SIZE, SIZE)
    except GuestError:
        return Boot(code=code, core=core)
    return Boot(code=code, core=core, core_zero=not any(first))
