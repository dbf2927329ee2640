"""What a VHD's footer and dynamic header say that is doubtful, though it makes sense."""

from collections.abc import Iterator

from diskfmt.errors import Finding, Reason
from diskfmt.formats.vhd.describe import plain
from diskfmt.formats.vhd.findings import CONVERT_ELSEWHERE, COPY_AGAIN, ERROR, NOTE, WARNING, finding
from diskfmt.formats.vhd.footers import Copy
from diskfmt.formats.vhd.records import (
    EXTRA_ENTRIES_PERCENT,
    FEATURE_RESERVED,
    FEATURE_TEMPORARY,
    FIXED,
    GEOMETRY_CREATORS,
    GROWN_ENTRIES,
    MAX_GEOMETRY,
    NO_OFFSET,
    NO_OFFSET_OLD,
    SIZE_CREATORS,
    USUAL_MIN_BLOCK,
    DynamicHeader,
    Footer,
    geometry,
)
from diskfmt.units import MIB, ceil_div


def footer_findings(chosen: Copy) -> Iterator[Finding]:
    """What is doubtful in the footer that counts."""
    footer, at = chosen.footer, chosen.offset
    unknown = footer.features & ~(FEATURE_TEMPORARY | FEATURE_RESERVED)
    if unknown:
        yield finding(
            ERROR,
            Reason.UNKNOWN_FEATURE,
            at + 8,
            f"unknown feature bits {unknown:#x}",
            CONVERT_ELSEWHERE,
        )
    if not footer.features & FEATURE_RESERVED:
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 8,
            "the reserved feature bit that is always set is clear: some readers refuse the image",
        )
    if footer.hidden:
        yield finding(
            NOTE,
            Reason.BAD_VALUE,
            at + 85,
            "marked as hidden by XenServer: other disks are built on it, no machine uses it directly",
            "give the disk that the machine uses",
        )
    if any(footer.reserved):
        yield finding(WARNING, Reason.BAD_VALUE, at + 86, "reserved bytes of the footer are not zero")
    if footer.old_bits:
        yield finding(
            WARNING,
            Reason.DIFFERENTIAL,
            at + 32,
            "tapdisk 0.1 wrote the bits of the sector bitmaps the other way round: readers that do not know this "
            "(libvhdi) show other bytes",
            "convert it before it is given to other tools",
        )
    if footer.saved_state:
        yield finding(
            WARNING,
            Reason.UNCLEAN,
            at + 84,
            "the machine was saved, not shut down: its memory belongs to this disk",
            "start the machine, shut it down, and copy the disk again",
        )
    if footer.disk_type == FIXED and footer.data_offset != NO_OFFSET:
        yield finding(
            WARNING, Reason.BAD_VALUE, at + 16, f"data offset {footer.data_offset:#x} of a fixed disk is not all ones"
        )
    if footer.original_size != footer.current_size:
        yield finding(
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
    yield finding(
        WARNING,
        Reason.DIFFERENTIAL,
        at + 56,
        f"{footer.geometry_size} bytes by geometry {'/'.join(map(str, footer.geometry))}, "
        f"{footer.current_size} by current size: with creator {plain(footer.creator)!r} the {meaning} counts"
        f"{'' if known else ', but some readers take the geometry'}",
        "compare the size with what the guest saw",
    )


def fixed_findings(footer: Footer, data_end: int) -> Iterator[Finding]:
    """What is doubtful in the sizes of a fixed disk whose file has `data_end` bytes in front of the footer."""
    size = max(footer.current_size, footer.virtual_size)
    if size > data_end:
        yield finding(
            ERROR,
            Reason.TRUNCATED,
            data_end,
            f"a fixed disk of {size} bytes, but the file has {data_end} before the footer",
            COPY_AGAIN,
        )
    elif footer.current_size < data_end:
        yield finding(
            ERROR,
            Reason.DIFFERENTIAL,
            data_end + 48,
            f"current size {footer.current_size} of a fixed disk, but the file has {data_end} bytes before the footer",
            "check which of the two sizes the guest had",
        )
    if footer.virtual_size % MIB:
        yield finding(
            NOTE,
            Reason.BAD_VALUE,
            data_end + 48,
            f"size {footer.virtual_size} is not a multiple of 1 MiB: some clouds refuse that",
        )


def dynamic_findings(header: DynamicHeader, footer: Footer, *, good: bool) -> Iterator[Finding]:
    """What is doubtful in the dynamic header; `good`: whether its checksum is right."""
    at = footer.data_offset
    if not good:
        yield finding(ERROR, Reason.BAD_CHECKSUM, at + 36, "wrong checksum in the dynamic header", COPY_AGAIN)
    size = max(footer.virtual_size, footer.current_size)
    most = max(GROWN_ENTRIES, ceil_div(size * (100 + EXTRA_ENTRIES_PERCENT), header.block_size * 100))
    if header.max_entries > most:
        yield finding(
            ERROR,
            Reason.LIMIT_METADATA,
            at + 28,
            f"the table of blocks has {header.max_entries} entries, at most {most} make sense",
            "compact the image with the tool that wrote it",
        )
    if header.block_size < USUAL_MIN_BLOCK:
        yield finding(
            WARNING, Reason.BAD_VALUE, at + 32, f"block size {header.block_size} is smaller than any known writer's"
        )
    if header.data_offset not in (NO_OFFSET, NO_OFFSET_OLD):
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 8,
            f"unused data offset {header.data_offset:#x} of the dynamic header is not all ones",
        )
    if any(header.reserved1) or any(header.reserved2):
        yield finding(WARNING, Reason.BAD_VALUE, at, "reserved bytes of the dynamic header are not zero")
