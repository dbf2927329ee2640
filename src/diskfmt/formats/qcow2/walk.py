"""Everything in a qcow2 file that refers to clusters of it, in one walk over all tables.

    header, L1, refcount table, blocks ─► active L2 tables ─► snapshots ─► bitmaps ─► encryption header ─► uses

`check.py` counts the uses, `regions.py` shows them.
Source: qemu, docs/interop/qcow2.rst, section "Host cluster management".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from diskfmt.errors import CorruptError, DiskfmtError, Finding, Reason, Severity, finding_from
from diskfmt.extents import U64, WINDOW_ROWS, Kind
from diskfmt.formats.qcow2.entries import Bitmaps, Clusters, decode
from diskfmt.formats.qcow2.extras import Snapshot, bitmaps, bitmaps_header, snapshots
from diskfmt.formats.qcow2.records import BITMAPS, COMPRESSED, COPIED, EXT_ENCRYPTION, OFFSET_MASK, L1Table, Qcow2
from diskfmt.formats.qcow2.refcounts import REPAIR
from diskfmt.formats.qcow2.tables import Bools, Window, entry_error, read_table, whole, windows
from diskfmt.stores.source import SourceFile

SNAPSHOT_TABLES: Final = 4  # L2 tables that are read for snapshots, in multiples of those that the file has room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Ranges of a file that are used for the same purpose.

    `purpose`: a kind of `Regions`, `data` and `preallocated` of the active disk only. Shapes: `offsets`, `lengths`
    (n,), in bytes; more than one range has no more than a cluster each. `frames`: they are compressed clusters, and
    may share a cluster of the file. `copied`: which references say that their cluster is used once, None where that
    means nothing. `stored`: of data clusters, which of their subclusters are stored. `file_id` 1: in the data file.
    """

    purpose: str
    offsets: U64
    lengths: U64
    frames: bool = False
    copied: Bools | None = None
    stored: Bitmaps | None = None
    file_id: int = 0


@dataclass(slots=True, kw_only=True)
class Walk:
    """The walk over one image. `data_size`: of its data file, None where there is none that is open.

    `report` takes findings about tables that make no sense, which are left out. `complete` tells after a walk whether
    everything was seen.
    """

    source: SourceFile
    header: Qcow2
    data_size: int | None
    table: U64 | None
    report: Callable[[Finding], None]
    complete: bool = True
    _grade: Severity = Severity.ERROR  # of what is wrong with the table that is walked now
    _tables: int = field(default=0, init=False)  # L2 tables of snapshots that were read

    def uses(self) -> Iterator[Use]:
        """All uses, those of the active disk before those of snapshots and bitmaps.

        Raises:
            IOFailedError: READ_ERROR.

        """
        header = self.header
        self._tables = 0
        yield self._range("header", 0, header.cluster_size)
        active = header.present or L1Table(offset=header.l1_offset, size=header.l1_size)
        yield self._range("table", active.offset, 8 * active.size)
        if self.table is not None:
            yield self._range(
                "table", header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size
            )
            yield self._clusters("table", self.table[self.table != 0])
        self._grade = Severity.ERROR
        yield from self._l1(active, active=True)
        self._grade = Severity.DAMAGE  # what follows is not needed to read the disk
        yield from self._snapshots()
        if header.autoclear & BITMAPS:
            yield from self._bitmaps()
        encryption = header.extension(EXT_ENCRYPTION)
        if encryption and encryption.length >= 16:
            offset, length = (int(value) for value in read_table(self.source, encryption.offset, 2))
            yield self._range("header", offset, length)

    def _range(self, purpose: str, offset: int, length: int) -> Use:
        """One range, cut to the file."""
        end = min(offset + length, self.source.size)
        offset = min(offset, end)
        return Use(purpose=purpose, offsets=np.array([offset], np.uint64), lengths=np.array([end - offset], np.uint64))

    def _clusters(self, purpose: str, offsets: U64, *, copied: Bools | None = None, stored: Bitmaps | None = None,
                  file_id: int = 0) -> Use:  # fmt: skip
        lengths = np.full(len(offsets), self.header.cluster_size, np.uint64)
        return Use(purpose=purpose, offsets=offsets, lengths=lengths, copied=copied, stored=stored, file_id=file_id)

    def _say(self, error: DiskfmtError) -> None:
        self.report(finding_from(error, self._grade))

    def _l1(self, table: L1Table, *, active: bool) -> Iterator[Use]:
        """The L2 tables of an L1 table and the clusters that they refer to."""
        header = self.header
        room, seen = self.source.size // header.cluster_size, 0
        for window in windows(self.source, header, table.offset, whole(table, header), self._say):
            there = window.tables != 0
            seen += int(np.count_nonzero(there))
            if seen > room:
                self._say(CorruptError("more L2 tables than fit into the file", reason=Reason.SHARED_CLUSTERS,
                                       offset=table.offset + 8 * window.first, remedy=REPAIR))  # fmt: skip
                break
            self._tables += 0 if active else int(np.count_nonzero(there))
            copied = (window.pointers[there] & np.uint64(COPIED)) != 0
            yield self._clusters("table", window.tables[there], copied=copied if active else None)
            clusters = self._judged(window)
            yield from self._active(window, clusters) if active else self._saved(clusters)

    def _active(self, window: Window, clusters: Clusters) -> Iterator[Use]:
        encoded = clusters.kind == Kind.ENCODED
        plain = clusters.owned & ~encoded
        copied = (window.entries & np.uint64(COPIED)) != 0
        file_id = int(self.header.has_data_file)
        if file_id:
            self._require_copied(window, plain & ~copied)
        for purpose, mask in (("data", plain & (clusters.kind == Kind.DATA)),
                              ("preallocated", plain & (clusters.kind != Kind.DATA))):  # fmt: skip
            stored = clusters.stored[mask] if clusters.stored is not None and purpose == "data" else None
            yield self._clusters(purpose, clusters.host_off[mask], file_id=file_id, stored=stored,
                                 copied=None if file_id else copied[mask])  # fmt: skip
        if encoded.any():
            yield Use(purpose="data", offsets=clusters.host_off[encoded], lengths=clusters.host_len[encoded],
                      frames=True)  # fmt: skip

    def _saved(self, clusters: Clusters) -> Iterator[Use]:
        encoded = clusters.kind == Kind.ENCODED
        yield self._clusters("snapshot", clusters.host_off[clusters.owned & ~encoded],
                             file_id=int(self.header.has_data_file))  # fmt: skip
        if encoded.any():
            yield Use(purpose="snapshot", offsets=clusters.host_off[encoded], lengths=clusters.host_len[encoded],
                      frames=True)  # fmt: skip

    def _judged(self, window: Window) -> Clusters:
        """The clusters of a window without those whose entries are wrong, which are reported."""
        clusters, faults = decode(self.header, window, self.source.size, self.data_size)
        for fault in faults:
            error = entry_error(self.header, window, fault)
            more = int(np.count_nonzero(fault.mask)) - 1
            if more:
                error.message += f", and {more} more like this"
            self._say(error)
            clusters.kind[fault.mask] = Kind.HOLE
            clusters.owned[fault.mask] = False
        flags = np.uint64(COMPRESSED | COPIED)
        self._damage(window, window.entries & flags == flags, "compressed clusters are marked as used once")
        return clusters

    def _require_copied(self, window: Window, mask: Bools) -> None:
        self._damage(window, mask, "clusters of the data file are not marked as used once")

    def _damage(self, window: Window, mask: Bools, what: str) -> None:
        count = int(np.count_nonzero(mask))
        if count:
            at = int(window.tables[window.tables != 0][0])
            self.report(Finding(reason=Reason.BAD_VALUE, severity=Severity.DAMAGE, offset=at, remedy=REPAIR,
                                message=f"{count} {what}"))  # fmt: skip

    def _snapshots(self) -> Iterator[Use]:
        header = self.header
        seen: set[int] = set()
        last: Snapshot | None = None
        try:
            for snapshot in snapshots(self.source, header):
                last = snapshot
                if header.version == 3 and snapshot.disk_size is None:
                    self.report(Finding(reason=Reason.BAD_VALUE, severity=Severity.WARNING, offset=snapshot.offset,
                                        message="a snapshot without the size of its disk, which version 3 demands",
                                        remedy=REPAIR))  # fmt: skip
                if snapshot.l1_size and snapshot.l1_offset in seen:
                    self._say(CorruptError(f"two snapshots share the L1 table at {snapshot.l1_offset:#x}",
                                           reason=Reason.SHARED_CLUSTERS, offset=snapshot.offset,
                                           remedy=REPAIR))  # fmt: skip
                    continue
                seen.add(snapshot.l1_offset)
                yield self._range("table", snapshot.l1_offset, 8 * snapshot.l1_size)
                if self._tables > SNAPSHOT_TABLES * (self.source.size // header.cluster_size):
                    self.report(Finding(reason=Reason.LIMIT_METADATA, severity=Severity.WARNING,
                                        offset=snapshot.offset, remedy="convert the image",
                                        message="the snapshots share too many tables: reference counts were not "
                                        "compared"))  # fmt: skip
                    self.complete = False
                    break
                yield from self._l1(L1Table(offset=snapshot.l1_offset, size=snapshot.l1_size), active=False)
        except DiskfmtError as error:
            self._say(error)
        if last:
            yield self._range("table", header.snapshots_offset, last.end - header.snapshots_offset)

    def _bitmaps(self) -> Iterator[Use]:
        header, source = self.header, self.source
        try:
            for bitmap in bitmaps(source, header):
                yield self._range("bitmap", bitmap.table_offset, 8 * bitmap.table_size)
                for at in range(0, bitmap.table_size, WINDOW_ROWS):
                    entries = read_table(source, bitmap.table_offset + 8 * at, min(WINDOW_ROWS, bitmap.table_size - at))
                    offsets = entries & np.uint64(OFFSET_MASK)
                    yield self._clusters("bitmap", offsets[offsets != 0])
            directory = bitmaps_header(source, header)
            if directory:
                yield self._range("bitmap", directory.offset, directory.size)
        except DiskfmtError as error:
            self._say(error)
