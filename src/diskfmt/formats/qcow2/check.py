"""Findings about a whole qcow2 file: every table, and reference counts against what really refers to a cluster.

    walk of all tables ─► ranges of the file ─► count per cluster ─┐
                            refcount blocks ─► recorded count ─────┴─► too low, too high, used twice

Counts are kept for `BUDGET` clusters of the file at a time, so memory is bounded; a larger file is walked again
for each further part.
Source: qemu, docs/interop/qcow2.rst, section "Host cluster management".
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, DiskfmtError, Finding, Reason, RefusedError, Severity, finding_from
from diskfmt.extents import U64, WINDOW_ROWS, Kind
from diskfmt.formats.base import Image, Statistics
from diskfmt.formats.qcow2.extras import Snapshot, bitmaps, bitmaps_header, snapshots
from diskfmt.formats.qcow2.map import Clusters, Window, decode, entry_error, read_table, require_readable, windows
from diskfmt.formats.qcow2.records import (
    BITMAPS,
    COMPRESSED,
    COPIED,
    EXT_ENCRYPTION,
    MAX_REFCOUNT_ORDER,
    MAX_REFCOUNT_TABLE,
    OFFSET_MASK,
    Qcow2,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import align_up, ceil_div

BUDGET: Final = 1 << 23  # clusters of the file that are counted at a time: 64 MiB of counts
MAX_PARTS: Final = 64  # parts of `BUDGET` clusters that are counted: 32 TiB of a file with clusters of 64 KiB
SNAPSHOT_TABLES: Final = 4  # L2 tables that are read for snapshots, in multiples of those that the file has room for
_WHOLE: Final = 1 << 32  # a count holds frames in its lower half and references to whole clusters in its upper
_FRAMES: Final = _WHOLE - 1
_REPAIR: Final = "repair a copy of the image with qemu-img check -r all"
_LEAKED: Final = "reclaim the space with qemu-img check -r leaks, or convert the image"


@dataclass(slots=True, kw_only=True)
class _State:
    """What a check collects: findings not handed out yet, and the numbers of `Statistics`."""

    source: SourceFile
    header: Qcow2
    part: range  # the clusters of the file whose references are counted now
    counts: U64
    quiet: bool = False  # a repeated walk says nothing
    grade: Severity = Severity.ERROR  # of what is wrong with the table that is walked now
    tables: int = 0  # L2 tables of snapshots that were read
    whole: bool = True  # everything that refers to a cluster was counted
    touched: set[int] = field(default_factory=set)  # parts of the file that something refers to
    found: list[Finding] = field(default_factory=list)
    stored: int = 0
    encoded: int = 0
    end: int = 0

    def say(self, finding: Finding) -> None:
        if not self.quiet:
            self.found.append(finding)

    def say_error(self, error: DiskfmtError) -> None:
        self.say(finding_from(error, self.grade))

    def drain(self) -> list[Finding]:
        found, self.found = self.found, []
        return found

    def refer(self, start: int, length: int) -> None:
        """Count one range of the file."""
        first, last = start // self.header.cluster_size, ceil_div(start + length, self.header.cluster_size)
        if not self.quiet:
            self.touched.update(range(first // BUDGET, ceil_div(last, BUDGET))[: MAX_PARTS + 1])
        first, last = max(first, self.part.start), min(last, self.part.stop)
        if length and first < last:
            self.counts[first - self.part.start : last - self.part.start] += np.uint64(_WHOLE)

    def refer_each(self, offsets: U64, weight: int = _WHOLE) -> None:
        """Count the cluster that each of `offsets` lies in."""
        at = offsets // np.uint64(self.header.cluster_size)
        if not self.quiet and len(at):
            self.touched.update(np.unique(at // np.uint64(BUDGET)).tolist())
        here = at[(at >= np.uint64(self.part.start)) & (at < np.uint64(self.part.stop))] - np.uint64(self.part.start)
        np.add.at(self.counts, here.astype(np.int64), np.uint64(weight))


def check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:  # noqa: ARG001
    """Findings about tables and reference counts, in the order in which they are met.

    Returns (generator return) the statistics, counted as qemu-img check counts. Images whose L2 entries are not
    understood have a finding of the header that says so; nothing is found out about their tables. `deep` changes
    nothing: everything is looked at always.

    Raises:
        IOFailedError: READ_ERROR.

    """
    header: Qcow2 = image.header
    source = files[0]
    try:
        require_readable(header, source.path)
    except RefusedError:
        return Statistics(total_units=header.clusters, stored_units=0, encoded_units=0, end=source.size)
    clusters = ceil_div(source.size, header.cluster_size)
    state = _State(source=source, header=header, part=range(0), counts=np.zeros(0, np.uint64))
    state.grade = Severity.DAMAGE  # reference counts are not needed to read the disk
    table = _refcount_table(state)
    yield from state.drain()
    # The first walk tells which parts there is something to know of: a file may be mostly hole.
    state.touched = _recorded_parts(header, table)
    yield from _count(state, table, range(min(BUDGET, clusters)))
    if len(state.touched) > MAX_PARTS:
        yield _too_many_parts()
    else:
        for first in (part * BUDGET for part in sorted(state.touched - {0}) if part * BUDGET < clusters):
            yield from _count(state, table, range(first, min(first + BUDGET, clusters)))
    return Statistics(
        total_units=header.clusters, stored_units=state.stored, encoded_units=state.encoded, end=state.end
    )


def _count(state: _State, table: U64 | None, part: range) -> Iterator[Finding]:
    """Findings about the clusters of one part of the file; the first call also tells what is wrong with the tables."""
    state.part = part
    state.counts = np.zeros(len(part), np.uint64)
    for _ in _walk(state, table):
        yield from state.drain()
    state.quiet = True
    if state.whole:
        yield from _compare(state, table)


def _recorded_parts(header: Qcow2, table: U64 | None) -> set[int]:
    """Parts of the file for whose clusters there are refcount blocks."""
    if table is None or header.refcount_order > MAX_REFCOUNT_ORDER:
        return set()
    first = np.flatnonzero(table) * header.refblock_entries
    last = first + header.refblock_entries - 1  # a block covers two parts at most
    return set(np.unique(np.concatenate((first, last)) // BUDGET).tolist())


def _too_many_parts() -> Finding:
    return Finding(
        reason=Reason.LIMIT_METADATA,
        severity=Severity.WARNING,
        message="the clusters are spread over too large a file: reference counts were not compared everywhere",
        remedy="convert the image",
    )


def _walk(state: _State, table: U64 | None) -> Iterator[None]:
    """Count everything that refers to clusters of the file; yields now and then."""
    header, source = state.header, state.source
    state.refer(0, header.cluster_size)
    state.refer(header.l1_offset, 8 * header.l1_size)
    if table is not None:
        state.refer(header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size)
        state.refer_each(table[table != 0])
    state.grade = Severity.ERROR
    yield from _walk_l1(state, header.l1_offset, header.l1_size, active=True)
    state.grade = Severity.DAMAGE  # snapshots and bitmaps are not converted
    yield from _walk_snapshots(state)
    if header.autoclear & BITMAPS:
        _walk_bitmaps(state)
    encryption = header.extension(EXT_ENCRYPTION)
    if encryption and encryption.length >= 16:
        offset, length = (int(value) for value in read_table(source, encryption.offset, 2))
        state.refer(offset, align_up(length, header.cluster_size))
    yield


def _walk_l1(state: _State, offset: int, size: int, *, active: bool) -> Iterator[None]:
    """Count the L2 tables of an L1 table and the clusters that they refer to."""
    header, source = state.header, state.source
    room, seen = source.size // header.cluster_size, 0
    for window in windows(source, header, offset, range(size * header.l2_entries), state.say_error):
        tables = window.tables[window.tables != 0]
        seen += len(tables)
        if seen > room:
            state.say_error(CorruptError("more L2 tables than fit into the file", reason=Reason.SHARED_CLUSTERS,
                                         offset=offset + 8 * window.first, remedy=_REPAIR))  # fmt: skip
            break
        state.tables += 0 if active else len(tables)
        state.refer_each(tables)
        clusters = _judged(state, window)
        encoded = clusters.kind == Kind.ENCODED
        whole = ~encoded & (clusters.host_off != 0)
        state.refer_each(clusters.host_off[whole])
        if encoded.any():
            _refer_frames(state, clusters.host_off[encoded], clusters.host_len[encoded])
        if active and not state.quiet:
            state.encoded += int(np.count_nonzero(encoded))
            state.stored += int(np.count_nonzero(encoded | whole))
        yield


def _refer_frames(state: _State, offsets: U64, lengths: U64) -> None:
    """Count the one or two clusters that each frame touches."""
    size = np.uint64(state.header.cluster_size)
    last = offsets + lengths - np.uint64(1)
    state.refer_each(offsets, 1)
    state.refer_each(last[offsets // size != last // size], 1)


def _judged(state: _State, window: Window) -> Clusters:
    """The clusters of a window without those whose entries are wrong, which are reported."""
    clusters, faults = decode(state.header, state.source.size, window.entries)
    if state.quiet and not faults:
        return clusters
    for fault in faults:
        error = entry_error(state.header, window, fault)
        more = int(np.count_nonzero(fault.mask)) - 1
        if more:
            error.message += f", and {more} more like this"
        state.say_error(error)
        clusters.kind[fault.mask] = Kind.HOLE
        clusters.host_off[fault.mask] = 0
    flags = np.uint64(COMPRESSED | COPIED)
    copied = np.count_nonzero(window.entries & flags == flags)
    if copied:
        state.say(
            Finding(
                reason=Reason.BAD_VALUE,
                severity=Severity.DAMAGE,
                message=f"{copied} compressed clusters are marked as used once",
                offset=int(window.tables[window.tables != 0][0]),
                remedy=_REPAIR,
            )
        )
    return clusters


def _walk_snapshots(state: _State) -> Iterator[None]:
    header, source = state.header, state.source
    seen: dict[int, Snapshot] = {}
    last: Snapshot | None = None
    try:
        for snapshot in snapshots(source, header):
            last = snapshot
            if header.version == 3 and not snapshot.has_disk_size:
                state.say(Finding(reason=Reason.BAD_VALUE, severity=Severity.WARNING, offset=snapshot.offset,
                                  message="a snapshot without the size of its disk, which version 3 demands",
                                  remedy=_REPAIR))  # fmt: skip
            if snapshot.l1_size and snapshot.l1_offset in seen:
                state.say_error(
                    CorruptError(
                        f"two snapshots share the L1 table at {snapshot.l1_offset:#x}",
                        reason=Reason.SHARED_CLUSTERS,
                        offset=snapshot.offset,
                        remedy=_REPAIR,
                    )
                )
                continue
            seen[snapshot.l1_offset] = snapshot
            state.refer(snapshot.l1_offset, 8 * snapshot.l1_size)
            if state.tables > SNAPSHOT_TABLES * (source.size // header.cluster_size):
                state.say(
                    Finding(
                        reason=Reason.LIMIT_METADATA,
                        severity=Severity.WARNING,
                        offset=snapshot.offset,
                        message="the snapshots share too many tables: reference counts were not compared",
                        remedy="convert the image",
                    )
                )
                state.whole = False
                break
            yield from _walk_l1(state, snapshot.l1_offset, snapshot.l1_size, active=False)
    except DiskfmtError as error:
        state.say_error(error)
    if last:
        state.refer(header.snapshots_offset, last.end - header.snapshots_offset)


def _walk_bitmaps(state: _State) -> None:
    header, source = state.header, state.source
    try:
        for bitmap in bitmaps(source, header):
            state.refer(bitmap.table_offset, 8 * bitmap.table_size)
            for at in range(0, bitmap.table_size, WINDOW_ROWS):
                entries = read_table(source, bitmap.table_offset + 8 * at, min(WINDOW_ROWS, bitmap.table_size - at))
                offsets = entries & np.uint64(OFFSET_MASK)
                state.refer_each(offsets[offsets != 0])
        directory = bitmaps_header(source, header)
        if directory:
            state.refer(directory.offset, directory.size)
    except DiskfmtError as error:
        state.say_error(error)


def _refcount_table(state: _State) -> U64 | None:
    """Offsets of the refcount blocks, 0 where there is none or it is not readable; None if there is no table."""
    header, source = state.header, state.source
    start, size = header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size
    usable = header.cluster_size <= start <= source.size - size and start % header.cluster_size == 0
    if header.refcount_order > MAX_REFCOUNT_ORDER or size > MAX_REFCOUNT_TABLE or not usable:
        state.say_error(CorruptError("there are no reference counts to be read", offset=48, remedy=_REPAIR))
        return None
    entries = read_table(source, start, size // 8)
    wrong = entries & np.uint64(header.cluster_size - 1) != 0
    behind = ~wrong & (entries != 0) & (entries > np.uint64(max(0, source.size - header.cluster_size)))
    for mask, reason, what in ((wrong, Reason.BAD_VALUE, "is not cluster aligned"),
                               (behind, Reason.OUT_OF_FILE, "ends behind the file")):  # fmt: skip
        if mask.any():
            index = int(np.argmax(mask))
            state.say_error(CorruptError(f"the refcount block at {int(entries[index]):#x} {what}", reason=reason,
                                         offset=start + 8 * index, remedy=_REPAIR))  # fmt: skip
    return np.where(wrong | behind, np.uint64(0), entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """Clusters of one kind: how many, and the first with the number of references and the recorded count."""

    count: int = 0
    cluster: int = 0
    counted: int = 0
    recorded: int = 0

    def plus(self, mask: npt.NDArray[np.bool_], first: int, counted: U64, recorded: U64) -> "_Tally":
        number = int(np.count_nonzero(mask))
        if not number:
            return self
        if self.count:
            return replace(self, count=self.count + number)
        at = int(np.argmax(mask))
        return _Tally(count=number, cluster=first + at, counted=int(counted[at]), recorded=int(recorded[at]))


def _compare(state: _State, table: U64 | None) -> Iterator[Finding]:
    """Findings about the part of the file that is counted now."""
    header, size = state.header, state.header.cluster_size
    low = high = twice = _Tally()
    for first, recorded in _recorded(state, table):
        counts = state.counts[first - state.part.start :][: len(recorded)]
        whole, frames = counts >> np.uint64(32), counts & np.uint64(_FRAMES)
        counted = whole + frames
        if table is not None:
            low = low.plus(counted > recorded, first, counted, recorded)
            high = high.plus(counted < recorded, first, counted, recorded)
        if not header.snapshot_count:
            shared = (whole > 1) | ((whole == 1) & (frames != 0))
            twice = twice.plus(shared, first, counted, recorded)
        used = np.flatnonzero((counted != 0) | (recorded != 0))
        if len(used):
            state.end = (first + int(used[-1]) + 1) * size
    if twice.count:
        yield Finding(reason=Reason.OVERLAP, severity=Severity.ERROR, offset=twice.cluster * size, remedy=_REPAIR,
                      message=f"{twice.count} clusters hold two things at once, the first is used "
                      f"{twice.counted} times")  # fmt: skip
    if low.count:
        yield Finding(reason=Reason.BAD_VALUE, severity=Severity.DAMAGE, offset=low.cluster * size, remedy=_REPAIR,
                      message=f"{low.count} clusters have reference counts that are too low, the first says "
                      f"{low.recorded} and is used {low.counted} times")  # fmt: skip
    if high.count:
        yield Finding(reason=Reason.LEAKED, severity=Severity.WARNING, offset=high.cluster * size, remedy=_LEAKED,
                      message=f"{high.count} clusters have reference counts that are too high, the first says "
                      f"{high.recorded} and is used {high.counted} times")  # fmt: skip


def _recorded(state: _State, table: U64 | None) -> Iterator[tuple[int, U64]]:
    """Windows of recorded counts for the part of the file that is counted now: first cluster, counts."""
    header, part = state.header, state.part
    if table is None:
        table = np.zeros(0, np.uint64)
    per_block = header.refblock_entries if header.refcount_order <= MAX_REFCOUNT_ORDER else WINDOW_ROWS
    batch = max(1, 2 * WINDOW_ROWS * 8 // header.cluster_size)
    for block in range(part.start // per_block, ceil_div(part.stop, per_block), batch):
        offsets = np.zeros(min(batch, ceil_div(part.stop, per_block) - block), np.uint64)
        known = table[block : block + len(offsets)]
        offsets[: len(known)] = known
        raw = np.zeros((len(offsets), header.cluster_size), np.uint8)
        raw[offsets != 0] = engine.gather(state.source.fd, offsets[offsets != 0], header.cluster_size)
        first = block * per_block
        stop = min(part.stop, first + len(offsets) * per_block)
        for at in range(max(first, part.start), stop, WINDOW_ROWS):
            end = min(at + WINDOW_ROWS, stop)
            if header.refcount_order > MAX_REFCOUNT_ORDER:
                yield at, np.zeros(end - at, np.uint64)
                continue
            yield at, _unpack(raw.ravel(), header.refcount_order, at - first, end - first)


def _unpack(raw: npt.NDArray[np.uint8], order: int, start: int, stop: int) -> U64:
    """Entries [start, stop) of refcount blocks; `start` is a multiple of 8. The first entry has the lowest bits."""
    bits = 1 << order
    data = raw[start * bits // 8 : ceil_div(stop * bits, 8)]
    if bits < 8:
        single = np.unpackbits(data, bitorder="little").reshape(-1, bits)
        return (single @ (1 << np.arange(bits))).astype(np.uint64)[: stop - start]
    return data.view(f">u{bits // 8}").astype(np.uint64)
