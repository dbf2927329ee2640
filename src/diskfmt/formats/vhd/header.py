"""What a VHD's footer, its copy and its dynamic header say about the disk; structure without sense is refused here.

See `docs/formats/vhd.md` for every check with its reason code.
Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (October 11, 2006), here "VHD spec".
"""

from dataclasses import dataclass, replace

from diskfmt.errors import CorruptError, LimitError, Reason, RefusedError
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.vhd.describe import specific
from diskfmt.formats.vhd.doubts import dynamic_findings, fixed_findings, footer_findings
from diskfmt.formats.vhd.findings import CONVERT_ELSEWHERE, COPY_AGAIN
from diskfmt.formats.vhd.footers import copies_findings, read_copies
from diskfmt.formats.vhd.parents import parents
from diskfmt.formats.vhd.records import (
    DIFFERENCING,
    DYNAMIC_COOKIE,
    DYNAMIC_SIZE,
    FIXED,
    FOOTER_SIZE,
    MAX_BLOCK,
    MAX_VIRTUAL_SIZE,
    MIN_BLOCK,
    NO_OFFSET,
    NO_OFFSET_OLD,
    TYPE_NAMES,
    VERSION,
    DynamicHeader,
    Footer,
    parse_dynamic,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, ceil_div, is_power_of_two


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
    def differencing(self) -> bool:
        """Whether what is not stored is in the parent."""
        return self.footer.disk_type == DIFFERENCING

    @property
    def outside(self) -> Reason:
        """Why something lies outside the file: an intact end means that the pointer lies."""
        return Reason.TRUNCATED if self.cut else Reason.OUT_OF_FILE


def open_image(source: SourceFile) -> Image:
    """The image as footer and dynamic header describe it. Opens nothing else.

    Reads at most 3 KiB, and the names of a parent, at most 8 of 64 KiB.

    Raises:
        RefusedError: FORMAT_MISMATCH, no footer; UNSUPPORTED_SUBFORMAT, another version.
        CorruptError: BAD_VALUE, OUT_OF_FILE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    Source: VHD spec, "Hard Disk Footer Format", "Dynamic Disk Header Format".

    """
    copies = read_copies(source)
    footer, tail = copies.chosen.footer, copies.tail
    _require_footer(footer, copies.chosen.offset)
    data_end = tail.offset if tail else source.size
    found = [*copies_findings(copies, source.size), *footer_findings(copies.chosen)]
    references: tuple[Reference, ...] = ()
    header = Vhd(footer=footer, dynamic=None, data_end=data_end, cut=tail is None, entries=0)
    if footer.disk_type == FIXED:
        if tail is None:
            raise CorruptError(
                "the only footer is at the head and says fixed, which has no copy there", offset=0, remedy=COPY_AGAIN
            )
        found += fixed_findings(footer, data_end)
    else:
        dynamic, good = _read_dynamic(source, header)
        header = replace(header, dynamic=dynamic, entries=_require_dynamic(dynamic, header))
        found += dynamic_findings(dynamic, footer, good=good)
        references, trouble = parents(source, dynamic, footer)
        found += trouble
    return Image(
        format="vhd",
        subformat=TYPE_NAMES[footer.disk_type],
        virtual_size=footer.virtual_size,
        unit=header.dynamic.block_size if header.dynamic else None,
        header=header,
        references=references,
        findings=tuple(found),
        specific=specific(footer, header.dynamic),
        extra={"dirty-flag": footer.saved_state != 0},
    )


def _require_footer(footer: Footer, at: int) -> None:
    if footer.version != VERSION:
        raise RefusedError(
            f"footer of version {footer.version:#010x}, known is {VERSION:#010x}",
            offset=at + 12,
            remedy=CONVERT_ELSEWHERE,
        )
    if footer.disk_type not in TYPE_NAMES:
        raise CorruptError(
            f"disk type {footer.disk_type}, known: 2 (fixed), 3 (dynamic), 4 (differencing)",
            offset=at + 60,
            remedy=COPY_AGAIN,
        )
    if footer.current_size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"current size {footer.current_size}, a VHD has at most {MAX_VIRTUAL_SIZE} bytes",
            offset=at + 48,
            remedy="use another format for disks of this size",
        )
    if not footer.current_size or footer.current_size % SECTOR:
        raise CorruptError(
            f"current size {footer.current_size} is not a positive multiple of 512", offset=at + 48, remedy=COPY_AGAIN
        )
    if footer.disk_type == FIXED:
        if footer.data_offset not in (NO_OFFSET, NO_OFFSET_OLD):
            raise CorruptError(
                f"data offset {footer.data_offset:#x} in a fixed disk, which has none",
                offset=at + 16,
                remedy=COPY_AGAIN,
            )
    elif footer.data_offset % SECTOR or footer.data_offset < FOOTER_SIZE:
        raise CorruptError(
            f"dynamic header at {footer.data_offset:#x}, not on a sector behind the footer",
            offset=at + 16,
            remedy=COPY_AGAIN,
        )


def _read_dynamic(source: SourceFile, header: Vhd) -> tuple[DynamicHeader, bool]:
    at = header.footer.data_offset
    if at + DYNAMIC_SIZE > header.data_end:
        raise CorruptError(
            f"dynamic header at {at:#x}, but the file's data ends at {header.data_end:#x}",
            reason=header.outside,
            offset=header.data_end,
            remedy=COPY_AGAIN,
        )
    dynamic, good = parse_dynamic(source.read_at(at, DYNAMIC_SIZE))
    if dynamic.cookie != DYNAMIC_COOKIE:
        raise CorruptError(f"no dynamic header at {at:#x}: cookie {dynamic.cookie!r}", offset=at, remedy=COPY_AGAIN)
    if dynamic.version != VERSION:
        raise RefusedError(
            f"dynamic header of version {dynamic.version:#010x}, known is {VERSION:#010x}",
            offset=at + 24,
            remedy=CONVERT_ELSEWHERE,
        )
    return dynamic, good


def _require_dynamic(dynamic: DynamicHeader, header: Vhd) -> int:
    """How many BAT entries the guest's disk needs, with block size and BAT proven sane."""
    at = header.footer.data_offset
    if not is_power_of_two(dynamic.block_size):
        raise CorruptError(f"block size {dynamic.block_size} is not a power of two", offset=at + 32, remedy=COPY_AGAIN)
    if not MIN_BLOCK <= dynamic.block_size <= MAX_BLOCK:
        raise LimitError(
            f"block size {dynamic.block_size} outside {MIN_BLOCK} to {MAX_BLOCK}",
            reason=Reason.LIMIT_METADATA,
            offset=at + 32,
            remedy=CONVERT_ELSEWHERE,
        )
    entries = ceil_div(header.footer.virtual_size, dynamic.block_size)
    if dynamic.max_entries < entries:
        raise CorruptError(
            f"the table of blocks has {dynamic.max_entries} entries, the disk needs {entries}",
            offset=at + 28,
            remedy=COPY_AGAIN,
        )
    start, end = dynamic.table_offset, dynamic.table_offset + 4 * dynamic.max_entries
    if start % SECTOR or start < FOOTER_SIZE:
        raise CorruptError(
            f"table of blocks at {start:#x}, not on a sector behind the footer's copy",
            offset=at + 16,
            remedy=COPY_AGAIN,
        )
    if end > header.data_end:
        raise CorruptError(
            f"the table of blocks ends at {end:#x}, the file's data at {header.data_end:#x}",
            reason=header.outside,
            offset=at + 16,
            remedy=COPY_AGAIN,
        )
    if start < at + DYNAMIC_SIZE and at < end:
        raise CorruptError(
            f"the table of blocks at {start:#x} overlaps the dynamic header at {at:#x}",
            reason=Reason.OVERLAP,
            offset=at + 16,
            remedy=COPY_AGAIN,
        )
    return entries
