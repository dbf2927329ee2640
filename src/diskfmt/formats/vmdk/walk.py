"""The walk over the tables of one sparse file: grain directory → grain tables → rows.

The tables are read in windows: a slice of the directory, of it a number of tables at once. What a directory entry of 0
covers becomes one row, whatever its size. Source: VMDK spec, "Hosted Sparse Extents".
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, Reason, RefusedError
from diskfmt.extents import ROW, U64, Codec, Kind, Rows, clip, merge
from diskfmt.formats.vmdk import entries as read
from diskfmt.formats.vmdk.markers import MAX_FRAME_FACTOR
from diskfmt.formats.vmdk.mending import Mended, mend_directory, mend_tables
from diskfmt.formats.vmdk.shape import Shape
from diskfmt.formats.vmdk.sparse import COPY_AGAIN, MARKER_GRAIN
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, ceil_div

WINDOW_ENTRIES: Final = 1 << 17  # entries of grain tables in memory at once
DIRECTORY_WINDOW: Final = 1 << 18  # entries of the grain directory in memory at once
GRAIN_MARKER: Final = np.dtype([("lba", "<u8"), ("size", "<u4")])

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class SparseWalk:
    """The walk over one file.

    `below`: whether an image lies below the disk, so that a hole is not zero. `stored_bytes` and `tables` grow with the
    walk: what the entries met so far take up in the file. They stay below the size of the file in a file without
    shared grains, so they bound the work (TM-802). `mended`: what the redundant copy had to stand in for.
    """

    shape: Shape
    file: SourceFile
    below: bool = False
    stored_bytes: int = 0
    tables: int = 0
    mended: Mended = field(default_factory=Mended)

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        """Windows of rows that cover [start, stop), all of `file_id` 0.

        Raises:
            CorruptError: TRUNCATED, BAD_VALUE, OVERLAP, SHARED_CLUSTERS, CORRUPT_DATA, with the place of the entry.
            RefusedError: DIFFERENTIAL, an entry that two readers take in two ways.

        """
        coverage = self.shape.coverage
        last = ceil_div(stop, coverage)
        for first in range(start // coverage, last, DIRECTORY_WINDOW):
            places, copies = self.directory(first, min(DIRECTORY_WINDOW, last - first))
            for begin, end in _spans(places, max(1, WINDOW_ENTRIES // self.shape.entries)):
                some = None if copies is None else copies[begin:end]
                part = self._window(first + begin, places[begin:end], some, start, stop)
                if len(part):
                    yield part

    def directory(self, first: int, count: int) -> tuple[U64, U64 | None]:
        """Places of the tables (bytes; 0: no table), and of their redundant copies if there is a copy.

        Shapes: (count,). The places are judged and mended, those of the copies are neither.

        Raises:
            CorruptError: TRUNCATED, OVERLAP, SHARED_CLUSTERS, BAD_VALUE, with the place of the entry.

        """
        shape = self.shape
        places, illegal = self._read_directory(shape.directory, first, count)
        copies = None
        if shape.copy is not None:
            copies, _ = self._read_directory(shape.copy, first, count)
            places = mend_directory(shape, places, copies, first, self.mended)
        self.judge_directory(shape.directory, first, places, illegal)
        return places, copies

    def copied_directory(self, first: int, count: int) -> U64:
        """The same of the redundant copy, judged."""
        assert self.shape.copy is not None  # noqa: S101 - the caller looked
        copies, illegal = self._read_directory(self.shape.copy, first, count)
        self.judge_directory(self.shape.copy, first, copies, illegal)
        return copies

    def _read_directory(self, start: int, first: int, count: int) -> tuple[U64, Mask]:
        size = self.shape.entry_size
        raw = self.file.read_at(start + size * first, size * count)
        return read.tables(self.shape, np.frombuffer(raw, read.dtype(self.shape)))

    def judge_directory(self, start: int, first: int, places: U64, illegal: Mask) -> None:
        """Raise unless the tables have places of their own inside the file; `start` is the directory they are of."""
        shape = self.shape
        offset = start + shape.entry_size * first

        def refuse(broken: Mask, reason: Reason, message: str) -> None:
            if broken.any():
                index = int(np.argmax(broken))
                raise CorruptError(
                    message.format(int(places[index])),
                    reason=reason,
                    offset=offset + shape.entry_size * index,
                    remedy=COPY_AGAIN,
                )

        refuse(illegal, Reason.BAD_VALUE, "the directory entry is of no known type")
        present = places > 0
        refuse(
            present & (places < shape.tables_start),
            Reason.OVERLAP,
            "the grain table at {:#x} overlaps header or descriptor",
        )
        refuse(
            places + np.uint64(shape.table_size) > shape.tables_end,
            Reason.TRUNCATED,
            "the grain table at {:#x} reaches past the end of the file",
        )
        inside = present & (places < start + shape.directory_size) & (places + np.uint64(shape.table_size) > start)
        refuse(inside, Reason.OVERLAP, "the grain table at {:#x} overlaps the grain directory")
        ordered = np.sort(places[present])
        if len(ordered) > 1 and int(np.diff(ordered).min()) < shape.table_size:
            at = int(ordered[int(np.argmin(np.diff(ordered)))])
            raise CorruptError(
                f"two directory entries share the grain table at {at:#x}",
                reason=Reason.SHARED_CLUSTERS,
                offset=offset,
                remedy=COPY_AGAIN,
            )

    def _window(self, first: int, places: U64, copies: U64 | None, start: int, stop: int) -> Rows:
        """Rows of consecutive directory entries, `first` the index of the first one, cut to [start, stop)."""
        shape = self.shape
        coverage, grain = shape.coverage, shape.grain
        begin, end = first * coverage, min((first + len(places)) * coverage, shape.size)
        present = np.flatnonzero(places)
        grains = np.zeros(0, ROW)
        if len(present):
            self._count(len(present), 0)
            at = tables = places.take(present)
            raw = engine.gather(self.file.fd, at, shape.table_size).view(read.dtype(shape))
            if copies is not None:
                raw, at = mend_tables(shape, self.file.fd, raw, at, copies.take(present), mended=self.mended)
            used = np.flatnonzero(raw.any(axis=1))  # an empty table is a hole as one that is not there
            present, raw, at = present.take(used), raw.take(used, axis=0), at.take(used)
            guest = np.uint64(begin) + present.astype(np.uint64)[:, None] * np.uint64(coverage)
            guest = guest + np.arange(shape.entries, dtype=np.uint64)[None, :] * np.uint64(grain)
            where = at[:, None] + np.arange(0, shape.table_size, shape.entry_size, dtype=np.uint64)[None, :]
            guest, values, where = guest.ravel(), raw.ravel(), where.ravel()
            asked = np.flatnonzero((guest + np.uint64(grain) > start) & (guest < min(stop, end)))
            if len(asked) < len(guest):
                guest, values, where = guest.take(asked), values.take(asked), where.take(asked)
            grains = self._grains(guest, values, where, tables)
        gaps = _gaps(present, len(places), begin, coverage)
        rows = np.concatenate((gaps, grains))
        if len(gaps) and len(grains):
            rows = rows.take(np.argsort(rows["guest_off"], kind="stable"))
        return merge(clip(rows, max(start, begin), min(stop, end)))

    def _grains(self, guest: U64, values: npt.NDArray[np.integer], where: U64, tables: U64) -> Rows:
        """Rows for grains. Shapes: all but `tables` (n,); `where` is the place of the entry, for messages."""
        found = read.grains(self.shape, values)
        self._refuse_at(found.illegal, where, Reason.BAD_VALUE, "the entry of the grain is none that such a file has",
                        guest)  # fmt: skip
        if self.below and found.unmapped.any():
            index = int(np.argmax(found.unmapped))
            raise RefusedError(
                "the grain is unmapped: some readers show zeroes, others the image below",
                reason=Reason.DIFFERENTIAL,
                offset=int(where[index]),
                guest_offset=int(guest[index]),
                remedy="consolidate the snapshot on its host, then copy the disk",
            )
        host, lengths = found.place, None
        stored = np.flatnonzero(found.place)
        if len(stored):
            place, sizes = self._places(host.take(stored), guest.take(stored), where.take(stored), tables)
            host[stored] = place
            if self.shape.compressed:
                lengths = np.zeros(len(guest), np.uint64)
                lengths[stored] = sizes
        rows = _rows(guest, found.kind, host, lengths, self.shape.grain)
        if self.shape.compressed and len(stored):
            self._measure_last(rows[-1])
        return rows

    def _places(self, place: U64, guest: U64, where: U64, tables: U64) -> tuple[U64, U64]:
        """Offset and length of the data of stored grains; `place` is what their entries say (bytes)."""
        self._refuse_at(
            place < self.shape.grains_start,
            where,
            Reason.OVERLAP,
            "the grain is stored inside the metadata at the start of the file",
            guest,
        )
        if self.shape.compressed:
            offset, length = self._frames(place, guest, where)
        else:
            # The last grain of a disk may end with the disk.
            offset, length = place, np.minimum(np.uint64(self.shape.grain), np.uint64(self.shape.size) - guest)
            self._refuse_at(
                place + length > self.shape.grains_end,
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
        end = self.shape.grains_end
        self._refuse_at(
            place + np.uint64(MARKER_GRAIN) > end,
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
            size > MAX_FRAME_FACTOR * self.shape.grain,
            place,
            Reason.LIMIT_EXPANSION,
            "the marker says that the grain takes more than twice its size",
            guest,
        )
        offset = place + np.uint64(MARKER_GRAIN)
        self._refuse_at(
            offset + size > end, place, Reason.TRUNCATED, "the compressed grain reaches past the end of the file", guest
        )
        return offset, size

    def _measure_last(self, row: Any) -> None:
        """Set the frame's length of the last grain where the disk ends inside it.

        Writers differ: qemu compresses what the disk has of the grain, others the whole grain. One frame a disk:
        it is decoded to see, into a buffer of at most a grain.
        """
        grain = self.shape.grain
        needed = self.shape.size - int(row["guest_off"])
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
        directory = np.array([self.shape.directory], np.uint64)
        regions = (
            (tables, self.shape.table_size, "a grain table"),
            (directory, self.shape.directory_size, "the directory"),
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
        used = SECTOR + self.stored_bytes + self.tables * self.shape.table_size
        if used > self.file.size:
            raise CorruptError(
                f"grains and tables take {used} bytes, the file has {self.file.size}",
                reason=Reason.SHARED_CLUSTERS,
                remedy=COPY_AGAIN,
            )

    @staticmethod
    def _refuse_at(broken: Mask, where: U64, reason: Reason, message: str, guest: U64) -> None:
        if broken.any():
            index = int(np.argmax(broken))
            raise CorruptError(
                message, reason=reason, offset=int(where[index]), guest_offset=int(guest[index]), remedy=COPY_AGAIN
            )


def _spans(places: U64, tables: int) -> Iterator[tuple[int, int]]:
    """Cut directory entries into consecutive spans of at most `tables` tables each."""
    present = np.flatnonzero(places)
    begin = 0
    for last in present[tables::tables].tolist():
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
