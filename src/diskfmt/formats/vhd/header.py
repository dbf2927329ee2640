"""What a VHD's footer, its copy and its dynamic header say about the disk, and whether to believe them.

Which footer counts: the one at the end if its checksum is right, otherwise the copy at the head. See
`docs/formats/vhd.md` for every check with its reason code.
Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (October 11, 2006), here "VHD spec".
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Final

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.vhd.records import (
    DIFFERENCING,
    DYNAMIC_COOKIE,
    DYNAMIC_SIZE,
    EPOCH,
    EXTRA_ENTRIES_PERCENT,
    FEATURE_RESERVED,
    FEATURE_TEMPORARY,
    FIXED,
    FOOTER_COOKIE,
    FOOTER_SIZE,
    GEOMETRY_CREATORS,
    LOCATORS_AT,
    MAX_BLOCK,
    MAX_GEOMETRY,
    MAX_LOCATOR_TEXT,
    MAX_VIRTUAL_SIZE,
    MIN_BLOCK,
    NO_OFFSET,
    NO_OFFSET_OLD,
    OLD_FOOTER_SIZE,
    PARENT_NAME_AT,
    SIZE_CREATORS,
    TYPE_NAMES,
    USUAL_MIN_BLOCK,
    VERSION,
    DynamicHeader,
    Footer,
    Locator,
    geometry,
    parse_dynamic,
    parse_footer,
    parse_locators,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB, SECTOR, ceil_div, is_power_of_two

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
_COPY_AGAIN: Final = "copy the image again, or repair it with the tool that wrote it"
_DECIDING: Final = frozenset(
    {
        "version",
        "data_offset",
        "creator",
        "original_size",
        "current_size",
        "cylinders",
        "heads",
        "sectors",
        "disk_type",
    }
)  # fields that make some reader show other bytes
_TEXT: Final = {b"W2ku": "utf-16-le", b"W2ru": "utf-16-le", b"MacX": "utf-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vhd:
    """What `Image.header` is for this format.

    `footer` is the copy that counts. Data and tables end at or before `data_end`, where the footer at the end
    of the file starts; if there is none, that is the end of the file and `cut` is true. `dynamic` is None for
    a fixed disk, otherwise what is at `footer.data_offset`. `entries` are the entries of the BAT that the
    guest's disk needs.
    """

    footer: Footer
    dynamic: DynamicHeader | None
    data_end: int
    cut: bool
    entries: int

    @property
    def outside(self) -> Reason:
        """Why something lies outside the file: an intact end means that the pointer lies."""
        return Reason.TRUNCATED if self.cut else Reason.OUT_OF_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One copy of the footer: where it is, and whether its checksum is right."""

    footer: Footer
    good: bool
    offset: int


def open_image(source: SourceFile) -> Image:
    """The image as footer and dynamic header describe it. Reads at most 12 KiB and opens nothing else.

    Raises:
        RefusedError: FORMAT_MISMATCH, no footer; UNSUPPORTED_SUBFORMAT, another version.
        CorruptError: BAD_VALUE, OUT_OF_FILE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    Source: VHD spec, "Hard Disk Footer Format", "Dynamic Disk Header Format".

    """
    tail, head = _read_tail(source), _read_head(source)
    chosen = _choose(tail, head)
    footer = chosen.footer
    _require_footer(footer, chosen.offset)
    data_end = tail.offset if tail else source.size
    found = [*_length_findings(source, tail), *_copy_findings(chosen, tail, head), *_footer_findings(chosen)]
    references: tuple[Reference, ...] = ()
    header = Vhd(footer=footer, dynamic=None, data_end=data_end, cut=tail is None, entries=0)
    if footer.disk_type == FIXED:
        if tail is None:
            raise CorruptError(
                "the only footer is at the head and says fixed, which has no copy there", offset=0, remedy=_COPY_AGAIN
            )
        found += _fixed_findings(footer, data_end)
    else:
        dynamic, good = _read_dynamic(source, header)
        header = replace(header, dynamic=dynamic, entries=_require_dynamic(dynamic, header))
        found += _dynamic_findings(dynamic, footer, good=good)
        references, trouble = _references(source, dynamic, footer)
        found += trouble
    return Image(
        format="vhd",
        subformat=TYPE_NAMES[footer.disk_type],
        virtual_size=footer.virtual_size,
        unit=header.dynamic.block_size if header.dynamic else None,
        header=header,
        references=references,
        findings=tuple(found),
        specific=_specific(footer, header.dynamic),
        extra={"dirty-flag": footer.saved_state != 0},
    )


def _read_tail(source: SourceFile) -> _Copy | None:
    """The footer at the end: the last 512 bytes, or the last 511 as Virtual PC before 2004 wrote them."""
    for size in (FOOTER_SIZE, OLD_FOOTER_SIZE):
        offset = source.size - size
        if offset < 0:
            continue
        footer, good = parse_footer(source.read_at(offset, size))
        if footer.cookie == FOOTER_COOKIE:
            return _Copy(footer=footer, good=good, offset=offset)
    return None


def _read_head(source: SourceFile) -> _Copy | None:
    if source.size < 2 * FOOTER_SIZE:
        return None
    footer, good = parse_footer(source.read_at(0, FOOTER_SIZE))
    return _Copy(footer=footer, good=good, offset=0) if footer.cookie == FOOTER_COOKIE else None


def _choose(tail: _Copy | None, head: _Copy | None) -> _Copy:
    if tail and (tail.good or not head or not head.good):
        return tail
    if head:
        return head
    raise RefusedError(
        "no VHD footer: neither the end nor the head of the file has the cookie 'conectix'",
        reason=Reason.FORMAT_MISMATCH,
        remedy="name the right format, or copy the image again if it was cut short",
    )


def _require_footer(footer: Footer, at: int) -> None:
    if footer.version != VERSION:
        raise RefusedError(
            f"footer of version {footer.version:#010x}, known is {VERSION:#010x}",
            offset=at + 12,
            remedy="convert the image with the tool that wrote it",
        )
    if footer.disk_type not in TYPE_NAMES:
        raise CorruptError(
            f"disk type {footer.disk_type}, known: 2 (fixed), 3 (dynamic), 4 (differencing)",
            offset=at + 60,
            remedy=_COPY_AGAIN,
        )
    if footer.current_size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"current size {footer.current_size}, a VHD has at most {MAX_VIRTUAL_SIZE} bytes",
            offset=at + 48,
            remedy="use another format for disks of this size",
        )
    if not footer.current_size or footer.current_size % SECTOR:
        raise CorruptError(
            f"current size {footer.current_size} is not a positive multiple of 512", offset=at + 48, remedy=_COPY_AGAIN
        )
    if footer.disk_type == FIXED:
        if footer.data_offset not in (NO_OFFSET, NO_OFFSET_OLD):
            raise CorruptError(
                f"data offset {footer.data_offset:#x} in a fixed disk, which has none",
                offset=at + 16,
                remedy=_COPY_AGAIN,
            )
    elif footer.data_offset % SECTOR or footer.data_offset < FOOTER_SIZE:
        raise CorruptError(
            f"dynamic header at {footer.data_offset:#x}, not on a sector behind the footer",
            offset=at + 16,
            remedy=_COPY_AGAIN,
        )


def _finding(severity: Severity, reason: Reason, offset: int, message: str, remedy: str | None = None) -> Finding:
    return Finding(severity=severity, reason=reason, offset=offset, message=message, remedy=remedy)


def _length_findings(source: SourceFile, tail: _Copy | None) -> Iterator[Finding]:
    odd = source.size % SECTOR
    if tail is None:
        yield _finding(
            ERROR if odd else WARNING,
            Reason.TRUNCATED,
            source.size,
            "no footer at the end: the file was cut short, or something was appended; the copy at the head is used",
            _COPY_AGAIN,
        )
    elif odd == OLD_FOOTER_SIZE and tail.offset % SECTOR == 0:
        yield _finding(
            WARNING,
            Reason.DIFFERENTIAL,
            tail.offset,
            "footer of 511 bytes, as Virtual PC before 2004 wrote it: most readers look for 512",
            "append one zero byte to a copy of the file for other tools",
        )
    elif odd:
        yield _finding(
            ERROR,
            Reason.DIFFERENTIAL,
            source.size,
            f"file length {source.size} is not a multiple of 512: readers look for the footer in different places",
            _COPY_AGAIN,
        )


def _copy_findings(chosen: _Copy, tail: _Copy | None, head: _Copy | None) -> Iterator[Finding]:
    """What is wrong with the copies of the footer, alone and compared."""
    if not chosen.good:
        yield _finding(
            ERROR, Reason.BAD_CHECKSUM, chosen.offset, "no copy of the footer has the right checksum", _COPY_AGAIN
        )
    elif tail and not tail.good:
        yield _finding(
            WARNING,
            Reason.BAD_CHECKSUM,
            tail.offset,
            "wrong checksum in the footer at the end: the copy at the head is used",
            _COPY_AGAIN,
        )
    if chosen.footer.disk_type == FIXED:
        if head:
            yield _finding(
                ERROR,
                Reason.DIFFERENTIAL,
                0,
                "a fixed disk starts with a footer, which some readers take for the image's own",
                "check where the image comes from; the guest may have forged it",
            )
    elif head is None:
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            0,
            "no copy of the footer at the head: some readers cannot open the image",
            _COPY_AGAIN,
        )
    elif tail and tail.good and not head.good:
        yield _finding(
            WARNING, Reason.BAD_CHECKSUM, 0, "wrong checksum in the copy of the footer at the head", _COPY_AGAIN
        )
    elif tail and tail.good == head.good and (names := _different(tail.footer, head.footer)):
        yield _finding(
            WARNING if _DECIDING.isdisjoint(names) else ERROR,
            Reason.DIFFERENTIAL,
            0,
            f"the copies of the footer differ in {', '.join(names)}",
            "repair the image with the tool that wrote it",
        )


def _different(one: Footer, other: Footer) -> list[str]:
    """Names of the fields in which two footers differ; the checksum follows from the others."""
    names = [field.name for field in fields(Footer) if field.name != "checksum"]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _footer_findings(chosen: _Copy) -> Iterator[Finding]:
    footer, at = chosen.footer, chosen.offset
    unknown = footer.features & ~(FEATURE_TEMPORARY | FEATURE_RESERVED)
    if unknown:
        yield _finding(
            ERROR,
            Reason.UNKNOWN_FEATURE,
            at + 8,
            f"unknown feature bits {unknown:#x}",
            "convert the image with the tool that wrote it",
        )
    if not footer.features & FEATURE_RESERVED:
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 8,
            "the reserved feature bit that is always set is clear: some readers refuse the image",
        )
    if any(footer.reserved):
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 85,
            "reserved bytes of the footer are not zero (XenServer marks hidden disks there)",
        )
    if footer.saved_state:
        yield _finding(
            WARNING,
            Reason.UNCLEAN,
            at + 84,
            "the machine was saved, not shut down: its memory belongs to this disk",
            "start the machine, shut it down, and copy the disk again",
        )
    if footer.disk_type == FIXED and footer.data_offset != NO_OFFSET:
        yield _finding(
            WARNING, Reason.BAD_VALUE, at + 16, f"data offset {footer.data_offset:#x} of a fixed disk is not all ones"
        )
    if footer.original_size != footer.current_size:
        yield _finding(
            WARNING,
            Reason.DIFFERENTIAL,
            at + 40,
            f"original size {footer.original_size}, current size {footer.current_size}: the "
            "current size counts, but libvhdi takes the original one",
        )
    yield from _geometry_findings(footer, at)


def _geometry_findings(footer: Footer, at: int) -> Iterator[Finding]:
    """A finding if the disk has two sizes that readers choose between."""
    if footer.geometry == MAX_GEOMETRY or footer.geometry_size == footer.current_size:
        return
    if footer.creator in SIZE_CREATORS and footer.geometry == geometry(footer.current_size):
        return  # the rounding that the specification prescribes; all readers take the current size
    meaning = "geometry" if footer.virtual_size == footer.geometry_size else "current size"
    known = footer.creator in GEOMETRY_CREATORS | SIZE_CREATORS
    yield _finding(
        WARNING,
        Reason.DIFFERENTIAL,
        at + 56,
        f"{footer.geometry_size} bytes by geometry {'/'.join(map(str, footer.geometry))}, "
        f"{footer.current_size} by current size: with creator {_plain(footer.creator)!r} the {meaning} counts"
        f"{'' if known else ', but some readers take the geometry'}",
        "compare the size with what the guest saw",
    )


def _fixed_findings(footer: Footer, data_end: int) -> Iterator[Finding]:
    size = max(footer.current_size, footer.virtual_size)
    if size > data_end:
        yield _finding(
            ERROR,
            Reason.TRUNCATED,
            data_end,
            f"a fixed disk of {size} bytes, but the file has {data_end} before the footer",
            _COPY_AGAIN,
        )
    elif footer.current_size < data_end:
        yield _finding(
            ERROR,
            Reason.DIFFERENTIAL,
            data_end + 48,
            f"current size {footer.current_size} of a fixed disk, but the file has {data_end} bytes before the footer",
            "check which of the two sizes the guest had",
        )
    if footer.virtual_size % MIB:
        yield _finding(
            NOTE,
            Reason.BAD_VALUE,
            data_end + 48,
            f"size {footer.virtual_size} is not a multiple of 1 MiB: some clouds refuse that",
        )


def _read_dynamic(source: SourceFile, header: Vhd) -> tuple[DynamicHeader, bool]:
    at = header.footer.data_offset
    if at + DYNAMIC_SIZE > header.data_end:
        raise CorruptError(
            f"dynamic header at {at:#x}, but the file's data ends at {header.data_end:#x}",
            reason=header.outside,
            offset=header.data_end,
            remedy=_COPY_AGAIN,
        )
    dynamic, good = parse_dynamic(source.read_at(at, DYNAMIC_SIZE))
    if dynamic.cookie != DYNAMIC_COOKIE:
        raise CorruptError(f"no dynamic header at {at:#x}: cookie {dynamic.cookie!r}", offset=at, remedy=_COPY_AGAIN)
    if dynamic.version != VERSION:
        raise RefusedError(
            f"dynamic header of version {dynamic.version:#010x}, known is {VERSION:#010x}",
            offset=at + 24,
            remedy="convert the image with the tool that wrote it",
        )
    return dynamic, good


def _require_dynamic(dynamic: DynamicHeader, header: Vhd) -> int:
    """How many BAT entries the guest's disk needs, with block size and BAT proven sane."""
    at = header.footer.data_offset
    if not is_power_of_two(dynamic.block_size):
        raise CorruptError(f"block size {dynamic.block_size} is not a power of two", offset=at + 32, remedy=_COPY_AGAIN)
    if not MIN_BLOCK <= dynamic.block_size <= MAX_BLOCK:
        raise LimitError(
            f"block size {dynamic.block_size} outside {MIN_BLOCK} to {MAX_BLOCK}",
            reason=Reason.LIMIT_METADATA,
            offset=at + 32,
            remedy="convert the image with the tool that wrote it",
        )
    entries = ceil_div(header.footer.virtual_size, dynamic.block_size)
    if dynamic.max_entries < entries:
        raise CorruptError(
            f"the table of blocks has {dynamic.max_entries} entries, the disk needs {entries}",
            offset=at + 28,
            remedy=_COPY_AGAIN,
        )
    start, end = dynamic.table_offset, dynamic.table_offset + 4 * dynamic.max_entries
    if start % SECTOR or start < FOOTER_SIZE:
        raise CorruptError(
            f"table of blocks at {start:#x}, not on a sector behind the footer's copy",
            offset=at + 16,
            remedy=_COPY_AGAIN,
        )
    if end > header.data_end:
        raise CorruptError(
            f"the table of blocks ends at {end:#x}, the file's data at {header.data_end:#x}",
            reason=header.outside,
            offset=at + 16,
            remedy=_COPY_AGAIN,
        )
    if start < at + DYNAMIC_SIZE and at < end:
        raise CorruptError(
            f"the table of blocks at {start:#x} overlaps the dynamic header at {at:#x}",
            reason=Reason.OVERLAP,
            offset=at + 16,
            remedy=_COPY_AGAIN,
        )
    return entries


def _dynamic_findings(header: DynamicHeader, footer: Footer, *, good: bool) -> Iterator[Finding]:
    at = footer.data_offset
    if not good:
        yield _finding(ERROR, Reason.BAD_CHECKSUM, at + 36, "wrong checksum in the dynamic header", _COPY_AGAIN)
    size = max(footer.virtual_size, footer.current_size)
    most = ceil_div(size * (100 + EXTRA_ENTRIES_PERCENT), header.block_size * 100)
    if header.max_entries > most:
        yield _finding(
            ERROR,
            Reason.LIMIT_METADATA,
            at + 28,
            f"the table of blocks has {header.max_entries} entries, at most {most} make sense",
            "compact the image with the tool that wrote it",
        )
    if header.block_size < USUAL_MIN_BLOCK:
        yield _finding(
            WARNING, Reason.BAD_VALUE, at + 32, f"block size {header.block_size} is smaller than any known writer's"
        )
    if header.data_offset not in (NO_OFFSET, NO_OFFSET_OLD):
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 8,
            f"unused data offset {header.data_offset:#x} of the dynamic header is not all ones",
        )
    if any(header.reserved1) or any(header.reserved2):
        yield _finding(WARNING, Reason.BAD_VALUE, at, "reserved bytes of the dynamic header are not zero")


def _references(
    source: SourceFile, header: DynamicHeader, footer: Footer
) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The parent in all its spellings, and what keeps the converter away from it for good."""
    locators = parse_locators(header.locators)
    at, differs = footer.data_offset, footer.disk_type == DIFFERENCING
    if not differs and not any(header.parent_id) and not locators:
        return (), []
    name = _until_nul(header.parent_name.decode("utf-16-be", "replace"))
    names = {name: at + PARENT_NAME_AT} if name else {}
    findings = []
    if not differs:
        findings.append(
            _finding(
                ERROR,
                Reason.EXTERNAL_REFERENCE,
                at + 40,
                "the disk is not a differencing one, but names a parent",
                "merge the disk into its parent with the tool that wrote it",
            )
        )
    for locator in locators:
        if locator.offset + locator.length > source.size:
            findings.append(
                _finding(
                    ERROR,
                    Reason.OUT_OF_FILE,
                    at + LOCATORS_AT,
                    f"parent locator {_plain(locator.platform)!r} at {locator.offset:#x} lies outside the file",
                    _COPY_AGAIN,
                )
            )
        elif text := _locator_text(source, locator):
            names.setdefault(text, locator.offset)
    references = [Reference(kind="parent", name=text, format="vhd", offset=where) for text, where in names.items()]
    return tuple(references or [Reference(kind="parent", name="", format="vhd", offset=at)]), findings


def _locator_text(source: SourceFile, locator: Locator) -> str:
    encoding = _TEXT.get(locator.platform)
    if encoding is None:
        return ""  # a Macintosh alias record, or a deprecated code: no name in it
    data = source.read_at(locator.offset, min(locator.length, MAX_LOCATOR_TEXT))
    return _until_nul(data.decode(encoding, "replace"))


def _until_nul(text: str) -> str:
    return text.partition("\0")[0]


def _plain(name: bytes) -> str:
    return name.decode("latin-1").rstrip("\0")


def _specific(footer: Footer, header: DynamicHeader | None) -> dict[str, object]:
    """What is worth showing of the headers, as plain JSON values. Sizes are in bytes, time is UTC."""
    shown: dict[str, object] = {
        "type": TYPE_NAMES[footer.disk_type],
        "creator": _plain(footer.creator),
        "creator-version": f"{footer.creator_version >> 16}.{footer.creator_version & 0xFFFF}",
        "creator-host-os": _plain(footer.creator_os),
        "created": _time(footer.timestamp),
        "unique-id": str(uuid.UUID(bytes=footer.unique_id)),
        "original-size": footer.original_size,
        "current-size": footer.current_size,
        "geometry": {"cylinders": footer.cylinders, "heads": footer.heads, "sectors": footer.sectors},
        "geometry-size": footer.geometry_size,
        "saved-state": footer.saved_state != 0,
    }
    if header:
        shown |= {"block-size": header.block_size, "max-table-entries": header.max_entries}
    if header and (footer.disk_type == DIFFERENCING or any(header.parent_id)):
        shown["parent-unique-id"] = str(uuid.UUID(bytes=header.parent_id))
        shown["parent-modified"] = _time(header.parent_timestamp)
    return shown


def _time(stamp: int) -> str:
    return datetime.fromtimestamp(EPOCH + stamp, UTC).isoformat()
