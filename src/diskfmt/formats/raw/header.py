"""A raw disk has no header; what can be said of it is its length, and what its partition table says of that.

A raw disk that lost its end looks whole in every other way, so the partition table is asked where the disk should
end. Judging the table itself is the business of those who look at the guest's content.
Source: UEFI 2.10, 5.2.1 (MBR), 5.3.2 (GPT header).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.errors import CorruptError, Finding, Reason, Severity
from diskfmt.formats.base import Image
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

_ENTRY: Final = struct.Struct("<B3sB3sII")
"""An MBR partition: flag, CHS, type, CHS, first sector, number of sectors."""
_ENTRIES_AT: Final = 446
_PROTECTIVE: Final = 0xEE
_GPT: Final = struct.Struct("<8s16xQQ")
"""The start of a GPT header: signature … own sector, sector of the other copy (the last of the disk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A raw disk. `size` in bytes; `declared_end`: where its partition table says that it ends, None if it does not."""

    size: int
    declared_end: int | None


def open_image(source: SourceFile) -> Image:
    """The image as its length and its partition table describe it. Reads at most 1 sector and 32 bytes.

    Raises:
        CorruptError: TRUNCATED, the file is empty or has less than a sector.
        IOFailedError: READ_ERROR.

    """
    if source.size < SECTOR:
        raise CorruptError(
            f"the file has {source.size} bytes, less than one sector" if source.size else "the file is empty",
            reason=Reason.TRUNCATED,
            path=source.path,
            remedy="copy or download the image again",
        )
    header = Raw(size=source.size, declared_end=_declared_end(source))
    return Image(
        format="raw",
        subformat="raw",
        virtual_size=source.size,
        unit=None,
        header=header,
        findings=tuple(_findings(header)),
        extra={"dirty-flag": False},
    )


def _findings(header: Raw) -> Iterator[Finding]:
    if header.size % SECTOR:
        yield Finding(
            reason=Reason.BAD_VALUE,
            severity=Severity.WARNING,
            message=f"the disk has {header.size} bytes, which is not a multiple of {SECTOR}",
            offset=header.size,
            remedy="copy the image again if its end was lost",
        )
    if header.declared_end is not None and header.declared_end > header.size:
        yield Finding(
            reason=Reason.TRUNCATED,
            severity=Severity.WARNING,
            message=f"the partition table reaches to {header.declared_end:#x}, the disk ends at {header.size:#x}",
            offset=header.size,
            guest_offset=header.size,
            remedy="copy the image again if its end was lost",
        )


def _declared_end(source: SourceFile) -> int | None:
    """Where the disk ends at least, by GPT or else MBR; None without a sane table."""
    if source.size < SECTOR:
        return None
    sector = source.read_at(0, SECTOR)
    entries = [_ENTRY.unpack_from(sector, _ENTRIES_AT + _ENTRY.size * n) for n in range(4)]
    if sector[510:] != b"\x55\xaa" or any(entry[0] not in {0, 0x80} for entry in entries):
        return None
    used = [entry for entry in entries if entry[2]]
    if any(entry[2] == _PROTECTIVE for entry in used):
        return _gpt_end(source)
    # A boot sector of a file system has code and text here; partitions do not start in the first sector.
    if not used or any(entry[4] == 0 or entry[5] == 0 for entry in used):
        return None
    last: int = max(entry[4] + entry[5] for entry in used)
    return last * source.sector_size


def _gpt_end(source: SourceFile) -> int | None:
    for size in dict.fromkeys((source.sector_size, 512, 4096)):
        if source.size >= size + _GPT.size:
            signature, own, other = _GPT.unpack(source.read_at(size, _GPT.size))
            if signature == b"EFI PART" and own == 1 and other < 1 << 48:
                last: int = other
                return (last + 1) * size
    return None
