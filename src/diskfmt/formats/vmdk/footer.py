"""Where a stream-optimized file keeps the header that counts: its footer, and what to do where that is lost.

    … marker, grain … GT marker, GT … GD marker, GD | footer marker, footer | end marker | (zeroes)

Source: VMDK spec, "Stream-Optimized Compressed Sparse Extents".
"""

from dataclasses import fields, replace
from typing import Final

from diskfmt.errors import CorruptError, Finding, Reason, Severity
from diskfmt.formats.vmdk.sparse import (
    COPY_AGAIN,
    FLAG_MARKERS,
    GD_AT_END,
    MAGIC,
    MARKER_FOOTER,
    SparseHeader,
    pack_marker,
    read_header,
    require_sane,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import KIB, MIB, SECTOR, align_down, align_up

MAX_PADDING: Final = 64 * MIB  # zero bytes behind the end marker that are searched for the footer
_FOOTER_LENGTH: Final = 3 * SECTOR  # marker, footer, end marker


def find_footer(source: SourceFile, header: SparseHeader) -> tuple[SparseHeader, int, list[Finding]]:
    """The header that counts, where the data ends (bytes), and what the end of the file shows.

    For a file with its tables in front that is `header` and the end of the file, unless a footer stands there.

    Raises:
        CorruptError: TRUNCATED, the file needs a footer, has none, and cannot do without.

    """
    needed = header.gd_offset == GD_AT_END
    if needed and not (header.compressed and header.flags & FLAG_MARKERS):
        raise CorruptError(
            "the header says that the grain directory is at the end of a file without markers",
            offset=56,
            remedy=COPY_AGAIN,
        )
    if not header.compressed:
        return header, source.size, []
    used = _used(source) if needed else source.size
    end = align_up(used, SECTOR) + SECTOR if needed else source.size  # the end marker is a sector of zeroes
    footer = _footer_before(source, end)
    if footer is None:
        return _without_footer(source, header, used) if needed else (header, source.size, [])
    at = end - 2 * SECTOR
    require_sane(footer, at)
    found = _compare(header, footer, at)
    if source.size > end:
        found.append(_padding(source.size - end, end))
    return footer, at - SECTOR, found


def _used(source: SourceFile) -> int:
    """Where the zeroes start that end the file; at most `MAX_PADDING` of them are looked for."""
    end = source.size
    while end > max(0, source.size - MAX_PADDING):
        start = align_down(max(0, end - 64 * KIB), SECTOR)
        used = len(source.read_at(start, end - start).rstrip(b"\0"))
        if used:
            return start + used
        end = start
    return end


def _footer_before(source: SourceFile, end: int) -> SparseHeader | None:
    """The footer whose end marker ends at `end`, if there is one: its marker before it, an end marker behind it."""
    start = end - _FOOTER_LENGTH
    if start < SECTOR or end > source.size or end % SECTOR:
        return None
    data = source.read_at(start, _FOOTER_LENGTH)
    marker, footer, last = data[:SECTOR], data[SECTOR : 2 * SECTOR], data[2 * SECTOR :]
    if marker != pack_marker(1, MARKER_FOOTER) or footer[:4] != MAGIC or any(last):
        return None
    return read_header(footer)


def _without_footer(source: SourceFile, header: SparseHeader, used: int) -> tuple[SparseHeader, int, list[Finding]]:
    """The same where footer or end marker are lost: every grain is there if the directory, which follows them, is.

    The markers are followed from the first grain on, so that nothing in a guest's data is taken for a directory.
    """
    from diskfmt.formats.vmdk.markers import find_directory

    found = find_directory(source, header, used)
    if found is None or used > align_up(found.end, SECTOR) + _FOOTER_LENGTH:
        raise CorruptError(
            "there is no complete footer at the end of the file",
            reason=Reason.TRUNCATED,
            offset=source.size,
            remedy=COPY_AGAIN,
        )
    counts = replace(header, gd_offset=found.start // SECTOR)
    lost = Finding(
        reason=Reason.TRUNCATED,
        severity=Severity.DAMAGE,
        offset=found.end,
        message="the footer is lost or incomplete; the grain directory was found by following the markers",
        remedy="convert the disk, or export it again: other readers find no directory",
    )
    rest = source.read_at(found.end, min(source.size - found.end, 2 * SECTOR))
    footer = rest[SECTOR:]
    contradicting = []
    if len(footer) == SECTOR and footer[:4] == MAGIC:
        contradicting = _compare(replace(header, gd_offset=counts.gd_offset), read_header(footer), found.end + SECTOR)
    return counts, found.end, [*contradicting, lost]


def _padding(length: int, at: int) -> Finding:
    return Finding(
        reason=Reason.DIFFERENTIAL,
        severity=Severity.WARNING,
        offset=at,
        message=f"{length} bytes follow the end marker; other readers find no footer then",
        remedy=f"cut the file to {at} bytes before others read it",
    )


def _compare(header: SparseHeader, footer: SparseHeader, at: int) -> list[Finding]:
    """A finding if header and footer are two different descriptions (TM-406)."""
    names = [item.name for item in fields(SparseHeader) if item.name != "gd_offset"]
    if header.gd_offset != GD_AT_END:
        names.append("gd_offset")
    differing = [name for name in names if getattr(header, name) != getattr(footer, name)]
    if not differing:
        return []
    return [
        Finding(
            reason=Reason.DIFFERENTIAL,
            severity=Severity.ERROR,
            offset=at,
            remedy=COPY_AGAIN,
            message=f"header and footer differ in {', '.join(differing)}",
        )
    ]
