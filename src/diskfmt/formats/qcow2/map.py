"""From L1 and L2 tables to rows of the extent table, in windows.

    L1 table ─► slices with at most one window of L2 entries ─► gather L2 tables ─► entries ─► kinds ─► rows

An unallocated L2 table becomes one row whatever it would describe; a window holds at most 2^18 entries, so the
memory does not depend on the size of the disk.
Source: qemu, docs/interop/qcow2.rst, section "Cluster mapping".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, Reason, RefusedError
from diskfmt.extents import ROW, U64, WINDOW_ROWS, Codec, Kind, Rows, clip, merge
from diskfmt.formats.base import Image
from diskfmt.formats.qcow2.records import (
    COMPRESSED,
    COMPRESSION_NAMES,
    COPIED,
    DATA_FILE,
    EXTENDED_L2,
    KNOWN_INCOMPATIBLE,
    L1_RESERVED,
    L2_RESERVED,
    OFFSET_MASK,
    ZERO_FLAG,
    Qcow2,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, ceil_div

Bools = npt.NDArray[np.bool_]

_CODECS: Final = {"zlib": Codec.DEFLATE, "zstd": Codec.ZSTD}
_DAMAGED: Final = "copy the image again, or repair a copy of it with qemu-img check -r all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A slice of an L1 table with the L2 tables that it points to.

    Shapes: `tables` (n,): offsets of the L2 tables of L1 entries `first` … `first` + n - 1, 0 where there is none;
    `entries` (k, l2_entries): the tables themselves, k of them in the order of the non-zero `tables`; entries
    outside the range that was asked for are 0.
    """

    first: int
    tables: U64
    entries: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """What L2 entries say. All arrays have the shape of the entries.

    `kind` is that of the row; `host_off` is where the cluster or frame is (also of a zero cluster that has one),
    `host_len` the bytes of a frame, cut to the end of the file where its last sector reaches behind.
    """

    kind: npt.NDArray[np.uint8]
    host_off: U64
    host_len: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Entries that break a rule: `mask` marks them, `what` says it with the offset of the first one put in."""

    mask: Bools
    reason: Reason
    what: str


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows in normal form that cover guest range [start, stop).

    Raises:
        RefusedError: UNSUPPORTED_SUBFORMAT, EXTERNAL_REFERENCE or UNKNOWN_FEATURE, entries of this image are not
            understood.
        CorruptError: BAD_VALUE, OVERLAP, TRUNCATED, OUT_OF_FILE, SHARED_CLUSTERS, with the offset of the entry.

    Source: spec, "Cluster mapping".

    """
    header: Qcow2 = image.header
    source = files[0]
    require_readable(header, source.path)
    if start >= stop:
        return
    wanted = range(start // header.cluster_size, ceil_div(stop, header.cluster_size))
    room = source.size // header.cluster_size  # tables that fit into the file
    seen = 0
    for window in windows(source, header, header.l1_offset, wanted):
        count = np.count_nonzero(window.tables)
        seen += int(count)
        if seen > room or len(np.unique(window.tables[window.tables != 0])) != count:
            raise _shared(source, header, window)
        clusters, faults = decode(header, source.size, window.entries)
        if faults:
            raise entry_error(header, window, faults[0]).about(source.path)
        rows = _rows(header, window, clusters)
        if int(rows[0]["guest_off"]) < start or int(rows[-1]["guest_off"]) + int(rows[-1]["length"]) > stop:
            rows = clip(rows, start, stop)
        for at in range(0, len(rows), WINDOW_ROWS):
            yield rows[at : at + WINDOW_ROWS]


def require_readable(header: Qcow2, path: str) -> None:
    """Raise RefusedError if the meaning of this image's L2 entries is not known."""
    if header.incompatible & ~KNOWN_INCOMPATIBLE:
        raise RefusedError(
            f"unknown incompatible features {header.incompatible & ~KNOWN_INCOMPATIBLE:#x}",
            reason=Reason.UNKNOWN_FEATURE,
            path=path,
            offset=72,
            remedy="convert the image with the tool that wrote it",
        )
    if header.incompatible & EXTENDED_L2:
        raise RefusedError(
            "extended L2 entries are not read yet",
            path=path,
            offset=72,
            remedy="convert the image with qemu-img convert -O qcow2 -o extended_l2=off",
        )
    if header.incompatible & DATA_FILE:
        raise RefusedError(
            "the disk's data is in a data file, which is another file",
            reason=Reason.EXTERNAL_REFERENCE,
            path=path,
            offset=72,
            remedy="convert the image with qemu-img convert, if you trust the name of the data file",
        )
    if header.compression_type not in COMPRESSION_NAMES:
        raise RefusedError(
            f"unknown compression type {header.compression_type}",
            reason=Reason.UNKNOWN_FEATURE,
            path=path,
            offset=104,
            remedy="convert the image with the tool that wrote it",
        )


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
        entries = read_table(source, l1_offset + 8 * at, end - at)
        for fault in l1_faults(header, source.size, entries):
            if fault.mask.any():
                index = int(np.argmax(fault.mask))
                error = _l1_error(header, l1_offset, at + index, int(entries[index]), fault).about(source.path)
                if report is None:
                    raise error
                report(error)
                entries[fault.mask] = 0
        tables = entries & np.uint64(OFFSET_MASK)
        there = np.flatnonzero(tables)
        # A slice ends before the table that would be one too many, or with the window.
        cuts = [0, *(int(cut) for cut in there[budget::budget]), end - at]
        for low, high in pairwise(cuts):
            if low < high:
                yield _window(source, header, at + low, tables[low:high], clusters)


def _window(source: SourceFile, header: Qcow2, at: int, tables: U64, wanted: range) -> Window:
    offsets = tables[tables != 0]
    raw = engine.gather(source.fd, offsets, header.cluster_size)
    entries: U64 = raw.view(">u8").astype(np.uint64)
    covered = range(at * header.l2_entries, (at + len(tables)) * header.l2_entries)
    if len(offsets) and (covered.start < wanted.start or covered.stop > wanted.stop):
        # Entries that nobody asked for may be anything: behind the end of the disk there may be a machine's state.
        indices = (at + np.flatnonzero(tables)) * header.l2_entries
        clusters = indices[:, None] + np.arange(header.l2_entries)
        entries[(clusters < wanted.start) | (clusters >= wanted.stop)] = 0
    return Window(first=at, tables=tables, entries=entries)


def read_table(source: SourceFile, offset: int, count: int) -> U64:
    """`count` big-endian numbers of 64 bits."""
    return np.frombuffer(source.read_at(offset, 8 * count), ">u8").astype(np.uint64)


def l1_faults(header: Qcow2, file_size: int, entries: U64) -> Iterator[Fault]:
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
        mask=there & _on_metadata(header, offsets),
        reason=Reason.OVERLAP,
        what="L2 table at {:#x} overlaps header or L1 table",
    )
    yield from _behind(header, file_size, there, offsets, np.uint64(header.cluster_size), name="L2 table")


def decode(header: Qcow2, file_size: int, entries: U64) -> tuple[Clusters, list[Fault]]:
    """What L2 entries say, and what is wrong with them. Source: spec, "L2 table entry".

    The compressed flag is looked at before all other bits, which mean something else where it is set.
    """
    cluster = np.uint64(header.cluster_size)
    encoded = (entries & np.uint64(COMPRESSED)) != 0
    plain = ~encoded
    offsets = entries & np.uint64(OFFSET_MASK)
    zero = plain & ((entries & np.uint64(ZERO_FLAG)) != 0)
    data = plain & ~zero & (offsets != 0)
    kind = np.full(entries.shape, Kind.HOLE, np.uint8)
    kind[data] = Kind.DATA
    kind[zero] = Kind.ZERO
    kind[encoded] = Kind.ENCODED
    copied = (entries & np.uint64(COPIED)) != 0
    faults = [
        Fault(mask=plain & ((entries & np.uint64(L2_RESERVED)) != 0), reason=Reason.BAD_VALUE,
              what="L2 entry with reserved bits, points to {:#x}"),
        Fault(mask=plain & (offsets & (cluster - np.uint64(1)) != 0), reason=Reason.BAD_VALUE,
              what="cluster at {:#x} is not cluster aligned"),
        Fault(mask=plain & ~zero & (offsets == 0) & copied, reason=Reason.BAD_VALUE,
              what="L2 entry says that its cluster is used, and that it is at {:#x}"),
        Fault(mask=data & _on_metadata(header, offsets), reason=Reason.OVERLAP,
              what="cluster at {:#x} overlaps header or L1 table"),
        *_behind(header, file_size, data, offsets, cluster, name="cluster"),
    ]  # fmt: skip
    if header.version == 2:
        faults.append(
            Fault(
                mask=zero,
                reason=Reason.BAD_VALUE,
                what="L2 entry with the zero flag, which version 2 does not have, points to {:#x}",
            )
        )
    clusters = Clusters(kind=kind, host_off=offsets, host_len=np.zeros_like(entries))
    if encoded.any():
        faults += _decode_frames(header, file_size, entries, clusters)
    return clusters, [fault for fault in faults if fault.mask.any()]


def _decode_frames(header: Qcow2, file_size: int, entries: U64, clusters: Clusters) -> list[Fault]:
    """Fill in offsets and lengths of compressed clusters. Source: spec, "Compressed Clusters Descriptor"."""
    encoded = clusters.kind == Kind.ENCODED
    bits = 62 - (header.cluster_bits - 8)
    at = entries & np.uint64((1 << bits) - 1)
    sectors = (entries & np.uint64(COMPRESSED - 1)) >> np.uint64(bits)
    length = (sectors + np.uint64(1)) * np.uint64(SECTOR) - (at & np.uint64(SECTOR - 1))
    high = encoded & (at >> np.uint64(56) != 0)
    faults = [
        Fault(mask=high, reason=Reason.BAD_VALUE, what="compressed cluster with reserved bits, points to {:#x}"),
        Fault(mask=encoded & _on_metadata(header, at), reason=Reason.OVERLAP,
              what="compressed cluster at {:#x} overlaps header or L1 table"),
        # The last sector of a file may be short: writers do not pad it.
        *_behind(header, file_size, encoded & ~high, at, length, name="compressed cluster", spare=SECTOR - 1),
    ]  # fmt: skip
    room = np.uint64(file_size) - np.minimum(at, np.uint64(file_size))
    clusters.host_off[encoded] = at[encoded]
    clusters.host_len[encoded] = np.minimum(length, room)[encoded]
    return faults


def _on_metadata(header: Qcow2, offsets: U64) -> Bools:
    """Which offsets lie in the header's cluster or in the clusters of the active L1 table."""
    end = -(-header.l1_end // header.cluster_size) * header.cluster_size
    return (offsets < np.uint64(header.cluster_size)) | (
        (offsets >= np.uint64(header.l1_offset)) & (offsets < np.uint64(end)))  # fmt: skip


def _behind(header: Qcow2, file_size: int, there: Bools, offsets: U64, length: U64 | np.uint64, *,
            name: str, spare: int = 0) -> Iterator[Fault]:  # fmt: skip
    """Which things end behind the end of the file, told apart by whether the file may have been longer once."""
    # Offsets have at most 61 bits and lengths 22: the sum cannot wrap.
    ends = offsets + length
    behind = there & ((ends > np.uint64(file_size + spare)) | (offsets >= np.uint64(file_size)))
    far = ends > np.uint64(header.host_limit + spare)
    yield Fault(
        mask=behind & far,
        reason=Reason.OUT_OF_FILE,
        what=f"{name} at {{:#x}} is behind all that the refcount table can describe",
    )
    yield Fault(mask=behind & ~far, reason=Reason.TRUNCATED, what=f"{name} at {{:#x}} ends behind the file")


def _rows(header: Qcow2, window: Window, clusters: Clusters) -> Rows:
    """Rows of a window in normal form: runs of entries of L2 tables, one for each run of L1 entries without."""
    there = window.tables != 0
    span = np.uint64(header.l2_entries * header.cluster_size)
    guest = (np.uint64(window.first) + np.arange(len(there), dtype=np.uint64)) * span
    gapless = bool(there.all())
    heads = _run_heads(header, clusters, gapless=gapless)
    rows = _run_rows(header, guest[there], clusters, heads)
    if gapless:
        return rows
    holes = np.zeros(len(there) - np.count_nonzero(there), ROW)
    holes["guest_off"] = guest[~there]
    holes["length"] = span
    holes["kind"] = Kind.HOLE
    # Before each hole come the runs of as many tables as there are before it in the window.
    before = np.searchsorted(heads, np.cumsum(there)[~there] * header.l2_entries)
    return merge(np.insert(rows, before, holes)) if len(rows) else merge(holes)


def _run_heads(header: Qcow2, clusters: Clusters, *, gapless: bool) -> npt.NDArray[np.intp]:
    """Which entries start a run that one row can say; unless tables follow without a gap, each starts one.

    Rows are wide, entries are not: it pays to join before there are rows.
    """
    kind, host = clusters.kind.ravel(), clusters.host_off.ravel()
    follows = (kind[1:] == Kind.DATA) & (host[1:] == host[:-1] + np.uint64(header.cluster_size))
    joined = (kind[1:] == kind[:-1]) & (follows | (kind[1:] >= Kind.ZERO))
    if not gapless:
        joined[header.l2_entries - 1 :: header.l2_entries] = False
    return np.flatnonzero(np.concatenate((np.ones(min(1, len(kind)), bool), ~joined)))


def _run_rows(header: Qcow2, guest: U64, clusters: Clusters, heads: npt.NDArray[np.intp]) -> Rows:
    """One row per run of entries of L2 tables that start at guest offsets `guest`."""
    size = np.uint64(header.cluster_size)
    kind = clusters.kind.ravel()[heads]
    rows = np.zeros(len(heads), ROW)
    table, index = np.divmod(heads, header.l2_entries)
    rows["guest_off"] = guest[table] + index.astype(np.uint64) * size
    lengths = np.diff(heads, append=clusters.kind.size).astype(np.uint64) * size
    rows["length"] = lengths
    rows["kind"] = kind
    stored = kind <= Kind.ENCODED
    rows["host_off"] = np.where(stored, clusters.host_off.ravel()[heads], np.uint64(0))
    encoded = kind == Kind.ENCODED
    rows["host_len"] = np.where(stored & ~encoded, lengths, np.uint64(0))
    if encoded.any():
        np.copyto(rows["host_len"], clusters.host_len.ravel()[heads], where=encoded)
        rows["frame_len"] = np.where(encoded, np.uint32(header.cluster_size), np.uint32(0))
        codec = _CODECS[COMPRESSION_NAMES[header.compression_type]]
        rows["codec"] = np.where(encoded, np.uint8(codec), np.uint8(0))
    return rows


def _l1_error(header: Qcow2, l1_offset: int, index: int, entry: int, fault: Fault) -> CorruptError:
    return CorruptError(
        fault.what.format(entry & OFFSET_MASK), reason=fault.reason, offset=l1_offset + 8 * index,
        guest_offset=index * header.l2_entries * header.cluster_size, remedy=_DAMAGED,
    )  # fmt: skip


def entry_error(header: Qcow2, window: Window, fault: Fault) -> CorruptError:
    """The exception for the first L2 entry that a fault marks."""
    table, index = (int(value) for value in np.unravel_index(int(np.argmax(fault.mask)), fault.mask.shape))
    which = int(np.flatnonzero(window.tables)[table])
    guest = ((window.first + which) * header.l2_entries + index) * header.cluster_size
    return CorruptError(
        fault.what.format(_named_offset(header, int(window.entries[table, index]))), reason=fault.reason,
        offset=int(window.tables[which]) + 8 * index, guest_offset=guest, remedy=_DAMAGED,
    )  # fmt: skip


def _named_offset(header: Qcow2, entry: int) -> int:
    """The host offset that an L2 entry names."""
    if entry & COMPRESSED:
        return entry & ((1 << 62 - (header.cluster_bits - 8)) - 1)
    return entry & OFFSET_MASK


def _shared(source: SourceFile, header: Qcow2, window: Window) -> CorruptError:
    offsets, first = np.unique(window.tables, return_index=True)
    count = np.bincount(np.searchsorted(offsets, window.tables))
    twice = np.flatnonzero((count > 1) & (offsets != 0))
    index = int(first[twice[0]]) if len(twice) else len(window.tables) - 1
    at = window.first + index
    return CorruptError(
        f"the L2 table at {int(window.tables[index]):#x} is used more than once", reason=Reason.SHARED_CLUSTERS,
        path=source.path, offset=header.l1_offset + 8 * at,
        guest_offset=at * header.l2_entries * header.cluster_size, remedy=_DAMAGED,
    )  # fmt: skip
