"""A raw disk has no header; what can be said of it is its length, and what its first sectors say of that.

A raw disk that lost its end looks whole in every other way, so the partition table is asked where the disk should
end. Judging the table itself is the business of those who look at the guest's content.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from diskfmt.errors import CorruptError, Finding, Reason, Severity
from diskfmt.formats.base import Image
from diskfmt.formats.raw.content import BootRecord, Table, boot_record, whole_disk_content
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A raw disk. `size` in bytes; `declared_end`: where its partition table says that it ends, None if it does not."""

    size: int
    declared_end: int | None


def open_image(source: SourceFile) -> Image:
    """The image as its length and its first sectors describe it. Reads at most 68 KiB.

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
    record = boot_record(source)
    end = record.tables[0].end if record.tables else None
    header = Raw(size=source.size, declared_end=end)
    found = [*_length_findings(header), *_sector_findings(record.tables)]
    if not record.tables:
        found += _whole_disk_findings(source, record)
    return Image(
        format="raw",
        subformat="raw",
        virtual_size=source.size,
        unit=None,
        header=header,
        findings=tuple(found),
        specific=_specific(record.tables),
        extra={"dirty-flag": False},
    )


def _specific(tables: tuple[Table, ...]) -> Mapping[str, object]:
    """The sector that a GPT counts in; an MBR does not say."""
    return {"logical-sector-size": tables[0].sector} if tables and tables[0].kind == "gpt" else {}


def _length_findings(header: Raw) -> Iterator[Finding]:
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


def _sector_findings(tables: tuple[Table, ...]) -> Iterator[Finding]:
    """A finding if the partitions are there only for a machine with large sectors."""
    large = next((table for table in tables if table.kind == "gpt" and table.sector != SECTOR), None)
    if large is None:
        return
    alone = f"the GPT counts in sectors of {large.sector} bytes: a machine that shows {SECTOR} finds no partitions"
    both = f"there is a GPT for sectors of {SECTOR} bytes and one for {large.sector}: the machine decides which counts"
    yield Finding(
        reason=Reason.BAD_VALUE,
        severity=Severity.NOTE,
        message=alone if len(tables) == 1 else both,
        offset=large.sector,
        guest_offset=large.sector,
        remedy=f"give the disk to a machine that shows sectors of {large.sector} bytes",
    )


def _whole_disk_findings(source: SourceFile, record: BootRecord) -> Iterator[Finding]:
    """A finding if a file system takes the place of a partition table."""
    content = whole_disk_content(source)
    if content is None:
        return
    boots = "firmware boots it only by a boot sector of the file system, if it has one"
    yield Finding(
        reason=Reason.BAD_VALUE,
        severity=Severity.NOTE,
        message=f"{content} from the first sector on, and no partition table: "
        f"{boots if record.signature else 'no firmware boots it'}",
        offset=0,
        guest_offset=0,
        remedy="if it is the image of a partition, put it into a disk with a partition table",
    )
