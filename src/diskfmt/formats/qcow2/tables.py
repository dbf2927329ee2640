"""L1 and L2 tables as numbers, in windows, each table proven to lie inside the file before it is read.

    L1 table ─► slices with at most one window of L2 entries ─► gather L2 tables ─► entries

Source: qemu, docs/interop/qcow2.rst, section "Cluster mapping".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, Reason
from diskfmt.extents import U64, WINDOW_ROWS
from diskfmt.formats.qcow2.records import COMPRESSED, L1_RESERVED, OFFSET_MASK, L1Table, Qcow2
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

Bools = npt.NDArray[np.bool_]

DAMAGED: Final = "copy the image again, or repair a copy of it with qemu-img check -r all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A slice of an L1 table with the L2 tables that it points to.

    Shapes: `pointers` (n,): L1 entries `first` … `first` + n - 1; `tables` (n,): the offsets of the L2 tables in
    them, 0 where there is none; `entries` (k, l2_entries): the tables themselves, k of them in the order of the
    non-zero `tables`; `bitmaps`: of the same shape, the second halves of extended entries, None where entries have
    none. What lies outside the range that was asked for is 0.
    """

    first: int
    pointers: U64
    tables: U64
    entries: U64
    bitmaps: U64 | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Entries that break a rule: `mask` marks them, `what` says it with the offset of the first one put in."""

    mask: Bools
    reason: Reason
    what: str


def windows(source: SourceFile, header: Qcow2, l1_offset: int, clusters: range,
            report: Callable[[CorruptError], None] | None = None) -> Iterator[Window]:  # fmt: skip
    """The L2 tables of a range of guest clusters, each proven to lie inside the file before it is read.

    `l1_offset` is that of the active L1 table or of a snapshot's, which lies inside the file and has as many
    entries as needed. With `report`, wrong L1 entries are reported and then taken for empty ones.

    Raises:
        CorruptError: BAD_VALUE, OVERLAP, TRUNCATED, OUT_OF_FILE, with the offset of the L1 entry.

    """
    per_table = header.l2_entries
    stop = ceil_div(clusters.stop, per_table)
    budget = max(1, WINDOW_ROWS // per_table)  # tables at once
    for at in range(clusters.start // per_table, stop, WINDOW_ROWS):
        end = min(at + WINDOW_ROWS, stop)
        pointers = read_table(source, l1_offset + 8 * at, end - at)
        for fault in _l1_faults(header, source.size, pointers):
            if fault.mask.any():
                index = int(np.argmax(fault.mask))
                error = _l1_error(header, l1_offset, at + index, int(pointers[index]), fault).about(source.path)
                if report is None:
                    raise error
                report(error)
                pointers[fault.mask] = 0
        there = np.flatnonzero(pointers & np.uint64(OFFSET_MASK))
        # A slice ends before the table that would be one too many, or with the window.
        cuts = [0, *(int(cut) for cut in there[budget::budget]), end - at]
        for low, high in pairwise(cuts):
            if low < high:
                yield _window(source, header, at + low, pointers[low:high], clusters)


def whole(table: L1Table, header: Qcow2) -> range:
    """All guest clusters that an L1 table can describe."""
    return range(table.size * header.l2_entries)


def _window(source: SourceFile, header: Qcow2, at: int, pointers: U64, wanted: range) -> Window:
    tables = pointers & np.uint64(OFFSET_MASK)
    offsets = tables[tables != 0]
    raw = engine.gather(source.fd, offsets, header.cluster_size)
    numbers: U64 = raw.view(">u8").astype(np.uint64)
    entries, bitmaps = numbers, None
    if header.extended:
        # Copies that stand close: what follows reads them many times.
        entries, bitmaps = (np.ascontiguousarray(numbers[:, half::2]) for half in (0, 1))
    covered = range(at * header.l2_entries, (at + len(tables)) * header.l2_entries)
    if len(offsets) and (covered.start < wanted.start or covered.stop > wanted.stop):
        # Entries that nobody asked for may be anything: behind the end of the disk there may be a machine's state.
        indices = (at + np.flatnonzero(tables)) * header.l2_entries
        clusters = indices[:, None] + np.arange(header.l2_entries)
        unwanted = (clusters < wanted.start) | (clusters >= wanted.stop)
        entries[unwanted] = 0
        if bitmaps is not None:
            bitmaps[unwanted] = 0
    return Window(first=at, pointers=pointers, tables=tables, entries=entries, bitmaps=bitmaps)


def read_table(source: SourceFile, offset: int, count: int) -> U64:
    """`count` big-endian numbers of 64 bits."""
    return np.frombuffer(source.read_at(offset, 8 * count), ">u8").astype(np.uint64)


def _l1_faults(header: Qcow2, file_size: int, entries: U64) -> Iterator[Fault]:
    """What is wrong with L1 entries."""
    offsets = entries & np.uint64(OFFSET_MASK)
    there = offsets != 0
    yield Fault(
        mask=(entries & np.uint64(L1_RESERVED)) != 0,
        reason=Reason.BAD_VALUE,
        what="L1 entry with reserved bits, points to {:#x}",
    )
    yield Fault(
        mask=offsets & np.uint64(header.cluster_size - 1) != 0,
        reason=Reason.BAD_VALUE,
        what="L2 table at {:#x} is not cluster aligned",
    )
    yield Fault(
        mask=there & on_metadata(header, offsets),
        reason=Reason.OVERLAP,
        what="L2 table at {:#x} overlaps header or L1 table",
    )
    yield from behind(header, file_size, there, offsets, np.uint64(header.cluster_size), name="L2 table")


def on_metadata(header: Qcow2, offsets: U64) -> Bools:
    """Which offsets lie in the header's cluster or in the clusters of the active L1 table."""
    end = -(-header.l1_end // header.cluster_size) * header.cluster_size
    return (offsets < np.uint64(header.cluster_size)) | (
        (offsets >= np.uint64(header.l1_offset)) & (offsets < np.uint64(end)))  # fmt: skip


def behind(header: Qcow2, file_size: int, there: Bools, offsets: U64, length: U64 | np.uint64, *,
           name: str, spare: int = 0) -> Iterator[Fault]:  # fmt: skip
    """Which things end behind the end of the file, told apart by whether the file may have been longer once."""
    # Offsets have at most 61 bits and lengths 22: the sum cannot wrap.
    ends = offsets + length
    outside = there & ((ends > np.uint64(file_size + spare)) | (offsets >= np.uint64(file_size)))
    if not outside.any():
        return
    far = ends > np.uint64(header.host_limit + spare)
    yield Fault(
        mask=outside & far,
        reason=Reason.OUT_OF_FILE,
        what=f"{name} at {{:#x}} is behind all that the refcount table can describe",
    )
    yield Fault(mask=outside & ~far, reason=Reason.TRUNCATED, what=f"{name} at {{:#x}} ends behind the file")


def _l1_error(header: Qcow2, l1_offset: int, index: int, entry: int, fault: Fault) -> CorruptError:
    return CorruptError(
        fault.what.format(entry & OFFSET_MASK), reason=fault.reason, offset=l1_offset + 8 * index,
        guest_offset=index * header.l2_entries * header.cluster_size, remedy=DAMAGED,
    )  # fmt: skip


def entry_error(header: Qcow2, window: Window, fault: Fault) -> CorruptError:
    """The exception for the first L2 entry that a fault marks."""
    table, index = (int(value) for value in np.unravel_index(int(np.argmax(fault.mask)), fault.mask.shape))
    which = int(np.flatnonzero(window.tables)[table])
    guest = ((window.first + which) * header.l2_entries + index) * header.cluster_size
    return CorruptError(
        fault.what.format(_named_offset(header, int(window.entries[table, index]))), reason=fault.reason,
        offset=int(window.tables[which]) + header.l2_entry_size * index, guest_offset=guest, remedy=DAMAGED,
    )  # fmt: skip


def _named_offset(header: Qcow2, entry: int) -> int:
    """The host offset that an L2 entry names."""
    if entry & COMPRESSED:
        return entry & ((1 << 62 - (header.cluster_bits - 8)) - 1)
    return entry & OFFSET_MASK


def used_twice(header: Qcow2, window: Window) -> CorruptError:
    """The exception for an L2 table that is in a window twice, or is one more than the file has room for."""
    offsets, first = np.unique(window.tables, return_index=True)
    count = np.bincount(np.searchsorted(offsets, window.tables))
    twice = np.flatnonzero((count > 1) & (offsets != 0))
    index = int(first[twice[0]]) if len(twice) else len(window.tables) - 1
    at = window.first + index
    return CorruptError(
        f"the L2 table at {int(window.tables[index]):#x} is used more than once", reason=Reason.SHARED_CLUSTERS,
        offset=header.l1_offset + 8 * at,
        guest_offset=at * header.l2_entries * header.cluster_size, remedy=DAMAGED,
    )  # fmt: skip
