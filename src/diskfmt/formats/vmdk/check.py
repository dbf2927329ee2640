"""Findings about the tables and grains of a VMDK: what `header.py` cannot see without reading them.

The findings of header and descriptor (`Image.findings`) are not repeated here; those of the pieces are told here.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from diskfmt import engine
from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity, finding_from
from diskfmt.extents import U64, Kind, Rows
from diskfmt.formats.base import Image, Statistics
from diskfmt.formats.vmdk.header import Vmdk
from diskfmt.formats.vmdk.map import piece_of, section_rows
from diskfmt.formats.vmdk.pieces import open_piece
from diskfmt.formats.vmdk.sections import Section
from diskfmt.formats.vmdk.shape import COWD, SESPARSE, Shape
from diskfmt.formats.vmdk.sparse import MARKER_GRAIN
from diskfmt.formats.vmdk.usage import Usage
from diskfmt.formats.vmdk.walk import DIRECTORY_WINDOW, WINDOW_ENTRIES, SparseWalk
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

MAX_RUNS: Final = 1 << 22  # runs of used sectors that are kept, 8 bytes each; neighbours are one run …
MAX_RUNS_DEEP: Final = 1 << 24  # … when the check is deep

_Check = Generator[Finding, None, Statistics]


def check(image: Image, files: Sequence[SourceFile], deep: bool) -> _Check:
    """Findings about tables and grains: illegal, outside the file, overlapping, differing copies, leaked space.

    Returns (generator return) the statistics. `deep` keeps the places of more grains for the search for overlaps.

    Raises:
        IOFailedError: READ_ERROR.

    """
    vmdk = image.header
    assert isinstance(vmdk, Vmdk)  # noqa: S101 - narrows the type; a wrong header is a bug of the caller
    if vmdk.shape is not None:
        return (yield from _check_file(vmdk.shape, files[0], deep=deep, below=vmdk.has_parent))
    total = stored = encoded = end = 0
    for section in vmdk.sections:
        counted = yield from _check_section(section, files, deep=deep, below=vmdk.has_parent)
        total += counted.total_units
        stored += counted.stored_units
        encoded += counted.encoded_units
        end = max(end, counted.end)
    return Statistics(total_units=max(1, total), stored_units=stored, encoded_units=encoded, end=end or files[0].size)


def _check_section(section: Section, files: Sequence[SourceFile], *, deep: bool, below: bool) -> _Check:
    """Findings about one piece, naming it; a section that cannot be read is a finding too."""
    nothing = Statistics(total_units=1, stored_units=0, encoded_units=0, end=0)
    if section.file_id is None:
        return nothing
    try:
        file = piece_of(section, files)
        if section.flat:
            for _ in section_rows(section, files, 0, section.length, below=below):
                pass
            return replace(nothing, stored_units=1, end=section.offset + section.length)
        shape, found = open_piece(section, file)
    except (CorruptError, RefusedError, LimitError) as error:
        yield replace(finding_from(error), path=error.path)
        return nothing
    yield from (replace(finding, path=file.path) for finding in found)
    walk = _check_file(shape, file, deep=deep, below=below)
    while True:
        try:
            finding = next(walk)
        except StopIteration as stop:
            counted: Statistics = stop.value
            return counted
        guest = None if finding.guest_offset is None else finding.guest_offset + section.start
        yield replace(finding, path=file.path, guest_offset=guest)


def _check_file(shape: Shape, file: SourceFile, *, deep: bool, below: bool) -> _Check:
    """Findings about one sparse file."""
    usage = Usage(limit=MAX_RUNS_DEEP if deep else MAX_RUNS)
    walk = SparseWalk(shape=shape, file=file, below=below)
    stored = encoded = 0
    whole = True
    try:
        for rows in walk.rows(0, shape.size):
            grains, frames = _take(shape, rows, usage)
            stored += grains
            encoded += frames
    except (CorruptError, RefusedError) as error:
        whole = False
        yield finding_from(error)
    yield from walk.mended.findings()
    if whole:
        yield from _copies(walk, usage, quiet=walk.mended.first is not None)
        areas = shape.areas()
        begin = np.array([area.start for area in areas], np.uint64)
        usage.add(begin, begin + np.array([area.length for area in areas], np.uint64))
        # ESX makes room for grains and tables in advance.
        unit = shape.size + file.size if shape.kind in (COWD, SESPARSE) else shape.grain
        yield from usage.judge(start=shape.grains_start, stop=shape.grains_end, unit=unit)
    return Statistics(
        total_units=ceil_div(shape.size, shape.grain),
        stored_units=stored,
        encoded_units=encoded,
        end=max(usage.end, min(shape.grains_start, file.size)),
    )


def _take(shape: Shape, rows: Rows, usage: Usage) -> tuple[int, int]:
    """Note the places of stored rows; how many grains they are, and how many of these are compressed."""
    stored = rows[rows["kind"] <= Kind.ENCODED]
    encoded = stored["kind"] == Kind.ENCODED
    begin = stored["host_off"] - np.where(encoded, np.uint64(MARKER_GRAIN), np.uint64(0))
    usage.add(begin, stored["host_off"] + stored["host_len"])
    grains = (stored["length"] + np.uint64(shape.grain - 1)) // np.uint64(shape.grain)
    return int(grains.sum()), int(np.count_nonzero(encoded))


def _copies(walk: SparseWalk, usage: Usage, *, quiet: bool) -> Iterator[Finding]:
    """A finding if the redundant copy of directory and tables says something else; the places of both are noted.

    `quiet`: the copy has stood in for what was lost, which was told; that they differ is no news then.
    """
    shape = walk.shape
    copied, warned = shape.copy is not None, quiet
    for first in range(0, shape.directory_entries, DIRECTORY_WINDOW):
        count = min(DIRECTORY_WINDOW, shape.directory_entries - first)
        tables, _ = walk.directory(first, count)
        _note_tables(shape, tables, usage)
        if not copied:
            continue
        assert shape.copy is not None  # noqa: S101 - `copied` says so
        at = shape.copy + shape.entry_size * first
        try:
            copies = walk.copied_directory(first, count)
        except CorruptError as error:
            copied, warned = False, True
            yield _differs(f"the redundant grain directory is damaged: {error.message}", error.offset or at)
            continue
        lone = (copies == 0) != (tables == 0)
        if bool(lone.any()):
            copied, warned = False, True
            yield _differs("a grain table is in one of the two grain directories only", at + 4 * int(np.argmax(lone)))
            continue
        # A writer may let both directories name the same tables.
        _note_tables(shape, copies[copies != tables], usage)
        place = _first_difference(walk, tables, copies) if not warned else None
        if place is not None:
            warned = True
            yield _differs("an entry of a redundant grain table differs from its twin", place)


def _first_difference(walk: SparseWalk, tables: U64, copies: U64) -> int | None:
    """Where the first redundant table entry stands that differs, or None."""
    size = walk.shape.table_size
    most = max(1, WINDOW_ENTRIES // walk.shape.entries)
    present = np.flatnonzero((tables > 0) & (tables != copies))
    for at in range(0, len(present), most):
        some = present[at : at + most]
        left = engine.gather(walk.file.fd, tables.take(some), size)
        right = engine.gather(walk.file.fd, copies.take(some), size)
        if not np.array_equal(left, right):
            index = int(np.argmax((left != right).ravel()))
            return int(copies[some[index // size]]) + index % size // 4 * 4
    return None


def _differs(message: str, offset: int) -> Finding:
    return Finding(
        reason=Reason.DIFFERENTIAL,
        severity=Severity.WARNING,
        message=message,
        offset=offset,
        remedy="compare the disk with what the guest saw: a repair may take the other copy",
    )


def _note_tables(shape: Shape, places: U64, usage: Usage) -> None:
    present = places[places > 0]
    usage.add(present, present + np.uint64(shape.table_size))
