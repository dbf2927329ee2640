"""Where the guest's bytes are in a VMDK: grain directory → grain tables → rows.

The tables are read in windows: a slice of the directory, of it at most `TABLES` tables at once. What a directory
entry of 0 covers becomes one row, whatever its size. Source: VMDK spec, "Hosted Sparse Extents".
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, Reason, RefusedError, first_error
from diskfmt.extents import ROW, U64, Codec, Kind, Rows, clip, merge
from diskfmt.formats.base import Image
from diskfmt.formats.plain import plain_rows
from diskfmt.formats.vmdk.header import Vmdk
from diskfmt.formats.vmdk.sparse import (
    COPY_AGAIN,
    ENTRIES,
    FLAG_ZEROED,
    HEADER_SIZE,
    MARKER_GRAIN,
    TABLE_SIZE,
    SparseHeader,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, ceil_div

TABLES: Final = 256  # grain tables in memory at once: 131,072 grains
DIRECTORY_WINDOW: Final = 1 << 18  # entries of the grain directory in memory at once
MAX_FRAME_FACTOR: Final = 2  # a compressed grain has at most this many times the bytes of a grain
ZEROED: Final = 1  # the grain table entry of a grain that reads as zero
GRAIN_MARKER: Final = np.dtype([("lba", "<u8"), ("size", "<u4")])

U32 = npt.NDArray[np.uint32]


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows in normal form that cover guest range [start, stop).

    Raises:
        RefusedError: the header says why this disk cannot be mapped.
        CorruptError: TRUNCATED, BAD_VALUE, OVERLAP, SHARED_CLUSTERS, CORRUPT_DATA, with the place of the entry.

    """
    vmdk = image.header
    assert isinstance(vmdk, Vmdk)  # noqa: S101 - narrows the type; a wrong header is a bug of the caller
    if start >= stop:
        return iter(())
    if vmdk.flat is not None:
        return _flat_rows(vmdk, files, start, stop)
    if vmdk.header is None or vmdk.descriptor is None:
        finding = first_error(image.findings)
        raise RefusedError(
            finding.message if finding else "this disk cannot be mapped", remedy=finding.remedy if finding else None
        )
    return SparseMap(header=vmdk.header, data_end=vmdk.data_end, file=files[0]).rows(start, stop)


def _flat_rows(vmdk: Vmdk, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    extent = vmdk.flat
    assert extent is not None  # noqa: S101 - the caller looked
    if len(files) < 2:
        raise RefusedError(
            f"the piece {extent.name!r} was not opened",
            reason=Reason.EXTERNAL_REFERENCE,
            offset=extent.offset,
            remedy="put the piece beside the descriptor, under that name",
        )
    if extent.start + extent.length > files[1].size:
        raise CorruptError(
            f"the piece has {files[1].size} bytes, its extent ends at {extent.start + extent.length}",
            reason=Reason.TRUNCATED,
            path=files[1].path,
            offset=files[1].size,
            remedy="copy the piece again",
        )
    return plain_rows(files[1], start, stop, base=extent.start, file_id=1)


@dataclass(slots=True, kw_only=True)
class SparseMap:
    """The walk over the tables of one sparse file.

    `stored_bytes` and `tables` grow with the walk: what the entries met so far take up in the file. They stay
    below the size of the file in a file without shared grains, so they bound the work (TM-802).
    """

    header: SparseHeader
    data_end: int
    file: SourceFile
    stored_bytes: int = 0
    tables: int = 0

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        """Windows of rows that cover [start, stop)."""
        coverage = self.header.coverage
        last = ceil_div(stop, coverage)
        for first in range(start // coverage, last, DIRECTORY_WINDOW):
            directory = self.directory(self.header.gd_offset, first, min(DIRECTORY_WINDOW, last - first))
            for begin, end in _spans(directory):
                part = self._window(first + begin, directory[begin:end], start, stop)
                if len(part):
                    yield part

    def directory(self, sector: int, first: int, count: int) -> U64:
        """Entries of the grain directory at `sector`, as offsets in the file (bytes); 0: no table.

        Raises:
            CorruptError: TRUNCATED, OVERLAP, SHARED_CLUSTERS, with the place of the entry.

        """
        offset = sector * SECTOR + 4 * first
        entries = np.frombuffer(self.file.read_at(offset, 4 * count), "<u4")
        places = entries.astype(np.uint64) * np.uint64(SECTOR)
        first_free = (1 + self.header.descriptor_size) * SECTOR
        self._refuse(
            (places > 0) & (places < first_free),
            offset,
            Reason.OVERLAP,
            "the grain table at {:#x} overlaps header or descriptor",
            places,
        )
        self._refuse(
            places + np.uint64(TABLE_SIZE) > self.data_end,
            offset,
            Reason.TRUNCATED,
            "the grain table at {:#x} reaches past the end of the file",
            places,
        )
        directory_end = np.uint64(sector * SECTOR + 4 * self.header.directory_entries)
        inside = (places > 0) & (places < directory_end) & (places + np.uint64(TABLE_SIZE) > sector * SECTOR)
        self._refuse(inside, offset, Reason.OVERLAP, "the grain table at {:#x} overlaps the grain directory", places)
        ordered = np.sort(places[places > 0])
        if len(ordered) > 1 and int(np.diff(ordered).min()) < TABLE_SIZE:
            at = int(ordered[int(np.argmin(np.diff(ordered)))])
            raise CorruptError(
                f"two directory entries share the grain table at {at:#x}",
                reason=Reason.SHARED_CLUSTERS,
                offset=offset,
                remedy=COPY_AGAIN,
            )
        return places

    def _window(self, first: int, places: U64, start: int, stop: int) -> Rows:
        """Rows of consecutive directory entries, `first` the index of the first one, cut to [start, stop)."""
        coverage = self.header.coverage
        present = np.flatnonzero(places)
        begin, end = first * coverage, min((first + len(places)) * coverage, self.header.capacity * SECTOR)
        parts = [_gaps(present, len(places), begin, coverage)]
        if len(present):
            self._count(len(present), 0)
            tables = places.take(present)
            entries = engine.gather(self.file.fd, tables, TABLE_SIZE).view("<u4")
            guest = np.uint64(begin) + present.astype(np.uint64)[:, None] * np.uint64(coverage)
            guest = guest + np.arange(ENTRIES, dtype=np.uint64)[None, :] * np.uint64(self.header.grain)
            where = tables[:, None] + np.arange(0, TABLE_SIZE, 4, dtype=np.uint64)[None, :]
            guest, entries, where = guest.ravel(), entries.ravel(), where.ravel()
            if start > begin or min(stop, end) <= int(guest[-1]):
                asked = np.flatnonzero((guest + np.uint64(self.header.grain) > start) & (guest < min(stop, end)))
                guest, entries, where = guest.take(asked), entries.take(asked), where.take(asked)
            parts.append(self._grains(guest, entries, where, tables))
        rows = parts[-1]
        if len(present) and len(parts[0]):
            rows = np.concatenate(parts)
            rows = rows.take(np.argsort(rows["guest_off"], kind="stable"))
        return merge(clip(rows, max(start, begin), min(stop, end)))

    def _grains(self, guest: U64, entries: U32, where: U64, tables: U64) -> Rows:
        """Rows for grains. Shapes: all but `tables` (n,); `where` is the place of the entry, for messages."""
        kind = np.full(len(guest), Kind.HOLE, np.uint8)
        host = np.zeros(len(guest), np.uint64)
        zeroed = entries == ZEROED
        if self.header.flags & FLAG_ZEROED:
            kind[zeroed] = Kind.ZERO
        else:
            self._refuse_at(
                zeroed, where, Reason.BAD_VALUE, "a grain is marked as zeroed in a file that has none", guest
            )
        stored = np.flatnonzero(entries > ZEROED)
        lengths = None
        if len(stored):
            kind[stored] = Kind.ENCODED if self.header.compressed else Kind.DATA
            place = entries.take(stored).astype(np.uint64) * np.uint64(SECTOR)
            host[stored], sizes = self._places(place, guest.take(stored), where.take(stored), tables)
            if self.header.compressed:
                lengths = np.zeros(len(guest), np.uint64)
                lengths[stored] = sizes
        rows = _rows(guest, kind, host, lengths, self.header.grain)
        if self.header.compressed and len(stored):
            self._measure_last(rows[-1])
        return rows

    def _places(self, place: U64, guest: U64, where: U64, tables: U64) -> tuple[U64, U64]:
        """Offset and length of the data of stored grains; `place` is what their entries say (bytes)."""
        self._refuse_at(
            place < self.header.overhead * SECTOR,
            where,
            Reason.OVERLAP,
            "the grain is stored inside the metadata at the start of the file",
            guest,
        )
        if self.header.compressed:
            offset, length = self._frames(place, guest, where)
        else:
            # The last grain of a disk may end with the disk.
            left = np.uint64(self.header.capacity * SECTOR) - guest
            offset, length = place, np.minimum(np.uint64(self.header.grain), left)
            self._refuse_at(
                place + length > self.data_end,
                where,
                Reason.TRUNCATED,
                "the grain reaches past the end of the file",
                guest,
            )
        self._refuse_shared(place, offset + length, where, guest, tables)
        self._count(0, int((offset + length - place).sum()))
        return offset, length

    def _frames(self, place: U64, guest: U64, where: U64) -> tuple[U64, U64]:
        """Offset and length of the compressed data of grains, from the markers before it.

        Source: VMDK spec, "Compressed Grain", "Grain Marker".
        """
        self._refuse_at(
            place + np.uint64(MARKER_GRAIN) > self.data_end,
            where,
            Reason.TRUNCATED,
            "the grain's marker reaches past the end of the file",
            guest,
        )
        markers = engine.gather(self.file.fd, place, MARKER_GRAIN).view(GRAIN_MARKER).ravel()
        size = markers["size"].astype(np.uint64)
        self._refuse_at(
            markers["lba"] != guest // np.uint64(SECTOR),
            place,
            Reason.BAD_VALUE,
            "the marker names another sector than the grain's",
            guest,
        )
        self._refuse_at(size == 0, place, Reason.BAD_VALUE, "the marker says that the grain has 0 bytes", guest)
        self._refuse_at(
            size > MAX_FRAME_FACTOR * self.header.grain,
            place,
            Reason.LIMIT_EXPANSION,
            "the marker says that the grain takes more than twice its size",
            guest,
        )
        offset = place + np.uint64(MARKER_GRAIN)
        self._refuse_at(
            offset + size > self.data_end,
            place,
            Reason.TRUNCATED,
            "the compressed grain reaches past the end of the file",
            guest,
        )
        return offset, size

    def _measure_last(self, row: Any) -> None:
        """Set the frame's length of the last grain where the disk ends inside it.

        Writers differ: qemu compresses what the disk has of the grain, others the whole grain. One frame a disk:
        it is decoded to see, into a buffer of at most a grain.
        """
        grain, size = self.header.grain, self.header.capacity * SECTOR
        needed = size - int(row["guest_off"])
        if needed >= grain or row["kind"] != Kind.ENCODED:
            return
        offset = int(row["host_off"])
        decoder = zlib.decompressobj()
        try:
            made = len(decoder.decompress(self.file.read_at(offset, int(row["host_len"])), grain + 1))
        except zlib.error:
            made = 0
        if not needed <= made <= grain or not decoder.eof:
            raise CorruptError(
                f"the last grain decodes to {made} bytes, the disk has {needed} of it",
                reason=Reason.CORRUPT_DATA,
                offset=offset,
                guest_offset=int(row["guest_off"]),
                remedy=COPY_AGAIN,
            )
        row["frame_len"] = made

    def _refuse_shared(self, begin: U64, end: U64, where: U64, guest: U64, tables: U64) -> None:
        """No two grains of a window, and no grain and table of it, in the same place."""
        if len(begin) > 1 and not np.all(end[:-1] <= begin[1:]):
            order = np.argsort(begin, kind="stable")
            starts, ends = begin.take(order), end.take(order)
            where_sorted, guest_sorted = where.take(order), guest.take(order)
            same = np.concatenate(([False], starts[1:] == starts[:-1]))
            self._refuse_at(
                same, where_sorted, Reason.SHARED_CLUSTERS, "the grain is stored where another one is", guest_sorted
            )
            overlap = np.concatenate(([False], starts[1:] < ends[:-1]))
            self._refuse_at(
                overlap, where_sorted, Reason.OVERLAP, "the grain overlaps the one before it in the file", guest_sorted
            )
        directory = np.array([self.header.gd_offset * SECTOR], np.uint64)
        regions = (
            (tables, TABLE_SIZE, "a grain table"),
            (directory, 4 * self.header.directory_entries, "the directory"),
        )
        for unordered, size, name in regions:
            starts = np.sort(unordered)
            if int(starts[-1]) + size <= int(begin.min()) or int(end.max()) <= int(starts[0]):
                continue
            # The first region that ends behind the grain's start must not start before the grain's end.
            index = np.searchsorted(starts + np.uint64(size), begin, side="right")
            hit = (index < len(starts)) & (starts.take(np.minimum(index, len(starts) - 1)) < end)
            self._refuse_at(hit, where, Reason.OVERLAP, f"the grain overlaps {name}", guest)

    def _count(self, tables: int, stored_bytes: int) -> None:
        """The pigeonhole rule: what is mapped fits into the file (TM-802)."""
        self.tables += tables
        self.stored_bytes += stored_bytes
        used = HEADER_SIZE + self.stored_bytes + self.tables * TABLE_SIZE
        if used > self.file.size:
            raise CorruptError(
                f"grains and tables take {used} bytes, the file has {self.file.size}",
                reason=Reason.SHARED_CLUSTERS,
                remedy=COPY_AGAIN,
            )

    def _refuse(self, broken: npt.NDArray[np.bool_], base: int, reason: Reason, message: str, places: U64) -> None:
        if broken.any():
            index = int(np.argmax(broken))
            raise CorruptError(
                message.format(int(places[index])), reason=reason, offset=base + 4 * index, remedy=COPY_AGAIN
            )

    def _refuse_at(self, broken: npt.NDArray[np.bool_], where: U64, reason: Reason, message: str, guest: U64) -> None:
        if broken.any():
            index = int(np.argmax(broken))
            raise CorruptError(
                message, reason=reason, offset=int(where[index]), guest_offset=int(guest[index]), remedy=COPY_AGAIN
            )


def _spans(places: U64) -> Iterator[tuple[int, int]]:
    """Cut directory entries into consecutive spans of at most `TABLES` tables each."""
    present = np.flatnonzero(places)
    begin = 0
    for last in present[TABLES::TABLES].tolist():
        yield begin, last
        begin = last
    yield begin, len(places)


def _gaps(present: npt.NDArray[np.intp], count: int, begin: int, coverage: int) -> Rows:
    """HOLE rows for the runs of directory entries without a table."""
    starts = np.concatenate(([0], present + 1)).astype(np.uint64)
    ends = np.concatenate((present, [count])).astype(np.uint64)
    wide = np.flatnonzero(ends > starts)
    rows = np.zeros(len(wide), ROW)
    rows["guest_off"] = np.uint64(begin) + starts.take(wide) * np.uint64(coverage)
    rows["length"] = (ends.take(wide) - starts.take(wide)) * np.uint64(coverage)
    rows["kind"] = Kind.HOLE
    return rows


def _rows(guest: U64, kind: npt.NDArray[np.uint8], host: U64, lengths: U64 | None, grain: int) -> Rows:
    """Rows for grains, neighbours already merged: rows are dear, columns are not.

    Shapes: (n,). `guest` ascends, not always by one grain; `host`: 0 where nothing is stored; `lengths`: of frames,
    None where grains are plain.
    """
    if not len(kind):
        return np.zeros(0, ROW)
    same = (kind[1:] == kind[:-1]) & (guest[1:] == guest[:-1] + np.uint64(grain))
    follows = (kind[1:] == Kind.DATA) & (host[1:] == host[:-1] + np.uint64(grain))
    heads = np.flatnonzero(np.concatenate(([True], ~(same & ((kind[1:] >= Kind.ZERO) | follows)))))
    rows = np.zeros(len(heads), ROW)
    rows["guest_off"], rows["kind"], rows["host_off"] = guest.take(heads), kind.take(heads), host.take(heads)
    rows["length"] = np.diff(np.append(heads, len(kind))) * grain
    if lengths is None:
        rows["host_len"] = np.where(rows["kind"] == Kind.DATA, rows["length"], 0)
    else:
        encoded = rows["kind"] == Kind.ENCODED
        rows["host_len"] = lengths.take(heads)
        rows["frame_len"], rows["codec"] = np.where(encoded, grain, 0), np.where(encoded, int(Codec.ZLIB), 0)
    return rows
