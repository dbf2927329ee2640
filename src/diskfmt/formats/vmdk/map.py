"""Where the guest's bytes are in a VMDK: one sparse file, or the sections of a text descriptor one after the other."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from diskfmt.errors import CorruptError, Reason, RefusedError, first_error
from diskfmt.extents import ROW, WINDOW_ROWS, Kind, Rows, merge
from diskfmt.formats.base import Image
from diskfmt.formats.plain import plain_rows
from diskfmt.formats.vmdk.header import Vmdk
from diskfmt.formats.vmdk.pieces import open_piece
from diskfmt.formats.vmdk.sections import Section
from diskfmt.formats.vmdk.walk import SparseWalk
from diskfmt.stores.source import SourceFile

_FULL: Final = WINDOW_ROWS // 2  # rows of small sections that become one window


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows in normal form that cover guest range [start, stop).

    Raises:
        RefusedError: the header says why this disk cannot be mapped; EXTERNAL_REFERENCE, a piece was not opened;
            DIFFERENTIAL, UNKNOWN_FEATURE, UNSUPPORTED_SUBFORMAT, what the header of a piece says.
        CorruptError: TRUNCATED, BAD_VALUE, OVERLAP, SHARED_CLUSTERS, CORRUPT_DATA, with the place of the entry.
        LimitError: what the header of a piece says.

    """
    vmdk = image.header
    assert isinstance(vmdk, Vmdk)  # noqa: S101 - narrows the type; a wrong header is a bug of the caller
    if start >= stop:
        return iter(())
    if vmdk.shape is not None:
        return SparseWalk(shape=vmdk.shape, file=files[0], below=vmdk.has_parent).rows(start, stop)
    finding = first_error(image.findings)
    if finding is not None or not vmdk.sections:
        raise RefusedError(
            finding.message if finding else "this disk cannot be mapped", remedy=finding.remedy if finding else None
        )
    return _gathered(_sections(vmdk, files, start, stop))


def _sections(vmdk: Vmdk, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    first = bisect_right(vmdk.sections, start, key=lambda section: section.start) - 1
    for section in vmdk.sections[first:]:
        if section.start >= stop:
            return
        at, end = max(start, section.start), min(stop, section.stop)
        yield from section_rows(section, files, at - section.start, end - section.start, below=vmdk.has_parent)


def section_rows(
    section: Section, files: Sequence[SourceFile], start: int, stop: int, *, below: bool
) -> Iterator[Rows]:
    """The rows of [start, stop) of a section, counted from its start; the rows count from the disk's."""
    if section.file_id is None:
        yield _zeroes(section.start + start, section.start + stop)
        return
    file = piece_of(section, files)
    if section.flat:
        _require_long(section, file)
        for rows in plain_rows(file, start, stop, base=section.offset, file_id=section.file_id):
            rows["guest_off"] += np.uint64(section.start)
            yield rows
        return
    shape, _ = open_piece(section, file)
    try:
        for rows in SparseWalk(shape=shape, file=file, below=below).rows(start, stop):
            rows["guest_off"] += np.uint64(section.start)
            rows["file_id"] = np.where(rows["kind"] <= Kind.ENCODED, section.file_id, 0)
            yield rows
    except (CorruptError, RefusedError) as error:
        if error.guest_offset is not None:
            error.guest_offset += section.start
        raise error.about(file.path) from None


def piece_of(section: Section, files: Sequence[SourceFile]) -> SourceFile:
    """The open file of a section. Raises RefusedError: EXTERNAL_REFERENCE, it is not open."""
    assert section.file_id is not None  # noqa: S101 - the caller looked
    if section.file_id >= len(files):
        raise RefusedError(
            "a piece of the disk was not opened",
            reason=Reason.EXTERNAL_REFERENCE,
            offset=section.line,
            remedy="put the piece beside the descriptor, under the name that it has there",
        )
    return files[section.file_id]


def _require_long(section: Section, file: SourceFile) -> None:
    if section.offset + section.length > file.size:
        raise CorruptError(
            f"the piece has {file.size} bytes, its extent ends at {section.offset + section.length}",
            reason=Reason.TRUNCATED,
            path=file.path,
            offset=file.size,
            remedy="copy the piece again",
        )


def _zeroes(start: int, stop: int) -> Rows:
    rows = np.zeros(1, ROW)
    rows["guest_off"], rows["length"], rows["kind"] = start, stop - start, Kind.ZERO
    return rows


def _gathered(windows: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows in fewer windows: a disk of many small pieces has a window for each."""
    held: list[Rows] = []
    count = 0
    for rows in windows:
        if held and count + len(rows) > _FULL:
            yield merge(np.concatenate(held))
            held, count = [], 0
        held.append(rows)
        count += len(rows)
    if held:
        yield merge(np.concatenate(held))
