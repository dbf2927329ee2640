"""Findings about the tables and grains of a VMDK: what `header.py` cannot see without reading them.

The findings of header and descriptor (`Image.findings`) are not repeated here.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from diskfmt import engine
from diskfmt.errors import CorruptError, Finding, Reason, RefusedError, Severity, finding_from
from diskfmt.extents import U64, Kind, Rows
from diskfmt.formats.base import Image, Statistics
from diskfmt.formats.vmdk.header import Vmdk
from diskfmt.formats.vmdk.map import DIRECTORY_WINDOW, TABLES, SparseMap
from diskfmt.formats.vmdk.map import extents as flat_extents
from diskfmt.formats.vmdk.sparse import FLAG_REDUNDANT, MARKER_GRAIN, TABLE_SIZE, SparseHeader
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, ceil_div, format_size

MAX_RUNS: Final = 1 << 22  # runs of used sectors that are kept, 8 bytes each; neighbours are one run …
MAX_RUNS_DEEP: Final = 1 << 24  # … when the check is deep
SECTOR_BITS: Final = np.uint64(32)  # a run is its first sector above these bits and the sector behind it below


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the walk has collected so far. `runs` are sorted per window; `many`: too many to keep."""

    stored: int = 0
    encoded: int = 0
    runs: list[U64] = field(default_factory=list)
    count: int = 0
    limit: int
    end: int = 0
    many: bool = False

    def add(self, begin: U64, end: U64) -> None:
        """Keep ranges of the file (bytes) as runs of sectors."""
        if not len(begin):
            return
        self.end = max(self.end, int(end.max()))
        first, behind = begin // np.uint64(SECTOR), (end + np.uint64(SECTOR - 1)) // np.uint64(SECTOR)
        behind = np.minimum(behind, np.uint64(0xFFFFFFFF))  # a grain may reach past what 32 bits can say
        order = np.argsort(first, kind="stable")
        first, behind = first.take(order), behind.take(order)
        heads = np.flatnonzero(np.concatenate(([True], first[1:] != behind[:-1])))
        tails = np.concatenate((heads[1:], [len(first)])) - 1
        self.count += len(heads)
        self.many = self.many or self.count > self.limit
        if not self.many:
            self.runs.append(first.take(heads) << SECTOR_BITS | behind.take(tails))


def check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    """Findings about tables and grains: illegal, outside the file, overlapping, differing copies, leaked space.

    Returns (generator return) the statistics. `deep` keeps the places of more grains for the search for overlaps.

    Raises:
        IOFailedError: READ_ERROR.

    """
    vmdk = image.header
    assert isinstance(vmdk, Vmdk)  # noqa: S101 - narrows the type; a wrong header is a bug of the caller
    header = vmdk.header
    if header is None or vmdk.descriptor is None:
        if vmdk.flat is not None:
            try:
                list(flat_extents(image, files, 0, image.virtual_size))
            except (CorruptError, RefusedError) as error:
                yield finding_from(error)
        end = vmdk.flat.start + vmdk.flat.length if vmdk.flat is not None else files[0].size
        return Statistics(total_units=1, stored_units=1, encoded_units=0, end=end)
    seen = _Seen(limit=MAX_RUNS_DEEP if deep else MAX_RUNS)
    walk = SparseMap(header=header, data_end=vmdk.data_end, file=files[0])
    whole = True
    try:
        for rows in walk.rows(0, image.virtual_size):
            _take(header, rows, seen)
    except CorruptError as error:
        whole = False
        yield finding_from(error)
    if whole:
        yield from _redundant(header, walk, files[0], seen)
        yield from _places(header, walk, seen)
    return Statistics(
        total_units=ceil_div(image.virtual_size, header.grain),
        stored_units=seen.stored,
        encoded_units=seen.encoded,
        end=max(seen.end, header.overhead * SECTOR),
    )


def _take(header: SparseHeader, rows: Rows, seen: _Seen) -> None:
    stored = rows[rows["kind"] <= Kind.ENCODED]
    encoded = stored["kind"] == Kind.ENCODED
    seen.encoded += int(np.count_nonzero(encoded))
    seen.stored += int(((stored["length"] + np.uint64(header.grain - 1)) // np.uint64(header.grain)).sum())
    begin = stored["host_off"] - np.where(encoded, np.uint64(MARKER_GRAIN), np.uint64(0))
    seen.add(begin, stored["host_off"] + stored["host_len"])


def _redundant(header: SparseHeader, walk: SparseMap, file: SourceFile, seen: _Seen) -> Iterator[Finding]:
    """A finding if the redundant copy of directory and tables says something else; their places are noted."""
    copied = bool(header.flags & FLAG_REDUNDANT and header.rgd_offset)
    warned = False
    for first in range(0, header.directory_entries, DIRECTORY_WINDOW):
        count = min(DIRECTORY_WINDOW, header.directory_entries - first)
        tables = walk.directory(header.gd_offset, first, count)
        _note_tables(tables, seen)
        if not copied:
            continue
        at = header.rgd_offset * SECTOR + 4 * first
        try:
            copies = walk.directory(header.rgd_offset, first, count)
        except CorruptError as error:
            copied, warned = False, True
            yield _differs(f"the redundant grain directory is damaged: {error.message}", error.offset or at)
            continue
        if bool(np.any((copies == 0) & (tables != 0))) or bool(np.any((copies != 0) & (tables == 0))):
            index = int(np.argmax((copies == 0) != (tables == 0)))
            copied, warned = False, True
            yield _differs("a grain table is in one of the two grain directories only", at + 4 * index)
            continue
        # A writer may let both directories name the same tables.
        _note_tables(copies[copies != tables], seen)
        place = _first_difference(file, tables, copies) if not warned else None
        if place is not None:
            warned = True
            yield _differs("an entry of a redundant grain table differs from its twin", place)


def _first_difference(file: SourceFile, tables: U64, copies: U64) -> int | None:
    """Where the first redundant table entry stands that differs, or None."""
    present = np.flatnonzero((tables > 0) & (tables != copies))
    for at in range(0, len(present), TABLES):
        some = present[at : at + TABLES]
        left = engine.gather(file.fd, tables.take(some), TABLE_SIZE)
        right = engine.gather(file.fd, copies.take(some), TABLE_SIZE)
        if not np.array_equal(left, right):
            index = int(np.argmax((left != right).ravel()))
            return int(copies[some[index // TABLE_SIZE]]) + index % TABLE_SIZE // 4 * 4
    return None


def _differs(message: str, offset: int) -> Finding:
    return Finding(
        reason=Reason.DIFFERENTIAL,
        severity=Severity.WARNING,
        message=message,
        offset=offset,
        remedy="compare the disk with what the guest saw: a repair may take the other copy",
    )


def _note_tables(places: U64, seen: _Seen) -> None:
    present = places[places > 0]
    seen.add(present, present + np.uint64(TABLE_SIZE))


def _places(header: SparseHeader, walk: SparseMap, seen: _Seen) -> Iterator[Finding]:
    """Overlaps between windows, between grains and tables, and space that nothing uses."""
    if seen.many:
        yield Finding(
            reason=Reason.OVERLAP,
            severity=Severity.NOTE,
            message=f"{seen.count} runs of grains are too many to compare all their places",
            remedy="check --deep compares more",
        )
        return
    directory = 4 * header.directory_entries
    fixed = [(0, SECTOR * (1 + header.descriptor_size)), (header.gd_offset * SECTOR, directory)]
    if header.flags & FLAG_REDUNDANT and header.rgd_offset:
        fixed.append((header.rgd_offset * SECTOR, directory))
    begin = np.array([start for start, _ in fixed], np.uint64)
    seen.add(begin, begin + np.array([length for _, length in fixed], np.uint64))
    runs = np.sort(np.concatenate(seen.runs))
    first, behind = runs >> SECTOR_BITS, runs & np.uint64(0xFFFFFFFF)
    overlap = np.flatnonzero(first[1:] < behind[:-1])
    if len(overlap):
        yield Finding(
            reason=Reason.OVERLAP,
            severity=Severity.ERROR,
            message="two grains or tables are stored in the same place",
            offset=int(first[overlap[0] + 1]) * SECTOR,
            remedy="copy the image again, or write it again with the tool that made it",
        )
        return
    yield from _leak(header, walk, first, behind)


def _leak(header: SparseHeader, walk: SparseMap, first: U64, behind: U64) -> Iterator[Finding]:
    """A note if a grain or more of the file is in no run. Smaller gaps are alignment and markers of tables."""
    stop = np.uint64(walk.data_end // SECTOR)
    ends = np.concatenate((first[1:], [stop])).astype(np.uint64)
    starts = np.maximum(behind, np.uint64(header.overhead))
    gaps = np.where(ends > starts, ends - starts, np.uint64(0)) * np.uint64(SECTOR)
    leaked = int(gaps[gaps >= header.grain].sum())
    if leaked:
        index = int(np.argmax(gaps >= header.grain))
        yield Finding(
            reason=Reason.LEAKED,
            severity=Severity.NOTE,
            message=f"{format_size(leaked)} of the file belong to no grain",
            offset=int(starts[index]) * SECTOR,
        )
