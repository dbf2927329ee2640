"""GUID partition tables: both headers, their checksums and their entries.

Source: UEFI specification 2.10, section 5.3. A header is `valid` where Linux takes it (block/partitions/efi.c,
is_gpt_valid): that is stricter than the checksum alone.
"""

import uuid
import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from diskfmt.guest.base import Device, GuestError

SIGNATURE: Final = b"EFI PART"
BIOS_BOOT: Final = "21686148-6449-6E6F-744E-656564454649"
EFI_SYSTEM: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
DYNAMIC_DISK: Final = frozenset({"5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "AF9B60A0-1431-4F62-BC68-3311714A69AD"})
_HEADER: Final = Struct("<8sIII4xQQQQ16sQIII")
_ENTRY: Final = Struct("<16s16sQQQ72s")
_MAX_ENTRIES: Final = 1 << 20  # bytes; 128 entries, the usual number, take 16 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A partition: `first` to `last` sector, both inside. GUIDs in upper case, as sfdisk prints them."""

    number: int
    type: str
    guid: str
    first: int
    last: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One of the two headers, all places in sectors.

    `readable`: header and entries have the right checksums; `problem`: why Linux would not take it, empty if it
    would.
    """

    place: int
    readable: bool
    problem: str = ""
    own: int = 0
    other: int = 0
    first_usable: int = 0
    last_usable: int = 0
    guid: str = ""
    entries_at: int = 0
    entries_crc: int = 0
    entries: tuple[Entry, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether a guest takes it."""
        return not self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpt:
    """A disk's GPT. `backup` is the one that the primary header names, or else the last sector's; None: there is none.

    `backup_at_end`: it lies in the last sector, where firmware looks for it.
    """

    sector_size: int
    primary: Header | None
    backup: Header | None
    backup_at_end: bool

    @property
    def used(self) -> Header | None:
        """The header to take the entries from: the first that is valid, or at least readable."""
        both = [header for header in (self.primary, self.backup) if header is not None]
        return next((h for h in both if h.valid), None) or next((h for h in both if h.readable), None)


def read(device: Device, sector_size: int) -> Gpt | None:
    """The GPT as it is with sectors of that size; None: neither place has the signature."""
    last = device.size // sector_size - 1
    primary = _header(device, sector_size, 1)
    place = primary.other if primary is not None and primary.readable and 1 < primary.other <= last else last
    backup = _header(device, sector_size, place)
    if backup is None and place != last:
        place = last
        backup = _header(device, sector_size, last)
    if primary is None and backup is None:
        return None
    return Gpt(
        sector_size=sector_size,
        primary=primary,
        backup=backup,
        backup_at_end=backup is not None and place == last,
    )


def _header(device: Device, sector_size: int, place: int) -> Header | None:
    """The header in a sector; None where there is no signature."""
    if place < 1 or (place + 1) * sector_size > device.size:
        return None
    try:
        sector = device.read_at(place * sector_size, sector_size)
    except GuestError as error:
        return Header(place=place, readable=False, problem=error.message)
    if not sector.startswith(SIGNATURE):
        return None
    fields = _HEADER.unpack_from(sector)
    _, _, size, crc, own, other, first, last, guid, entries_at, count, entry_size, entries_crc = fields
    if not _HEADER.size <= size <= sector_size:
        return Header(place=place, readable=False, problem=f"header of {size} bytes")
    blank = sector[:16] + bytes(4) + sector[20:size]
    if zlib.crc32(blank) != crc:
        return Header(place=place, readable=False, problem="checksum of the header is wrong")
    if entry_size < _ENTRY.size or entry_size % 8 or count * entry_size > _MAX_ENTRIES:
        return Header(place=place, readable=False, problem=f"{count} entries of {entry_size} bytes")
    try:
        table = device.read_at(entries_at * sector_size, count * entry_size)
    except GuestError as error:
        return Header(place=place, readable=False, problem=f"entries: {error.message}")
    readable = zlib.crc32(table) == entries_crc
    problem = "" if readable else "checksum of the entries is wrong"
    return Header(
        place=place,
        readable=readable,
        problem=problem or _refusal(device.size // sector_size - 1, place, own, (first, last), entry_size),
        own=own,
        other=other,
        first_usable=first,
        last_usable=last,
        guid=_guid(guid),
        entries_at=entries_at,
        entries_crc=entries_crc,
        entries=_entries(table, entry_size) if readable else (),
    )


def _refusal(end: int, place: int, own: int, usable: tuple[int, int], entry_size: int) -> str:
    """Why Linux refuses a header whose checksums are right; empty where it does not."""
    first, last = usable
    if own != place:
        return f"says that it lies in sector {own}"
    if first > end or last > end:
        return f"usable sectors end at {last}, the disk at {end}"
    if last < first:
        return "no usable sectors"
    if entry_size != _ENTRY.size:
        return f"entries of {entry_size} bytes"
    return ""


def _entries(table: bytes, entry_size: int) -> tuple[Entry, ...]:
    entries = []
    for number, at in enumerate(range(0, len(table) - _ENTRY.size + 1, entry_size), 1):
        kind, guid, first, last, attributes, name = _ENTRY.unpack_from(table, at)
        if any(kind):
            entries.append(
                Entry(
                    number=number,
                    type=_guid(kind),
                    guid=_guid(guid),
                    first=first,
                    last=last,
                    attributes=attributes,
                    name=name.decode("utf-16-le", "replace").split("\0")[0],
                )
            )
    return tuple(entries)


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw)).upper()
