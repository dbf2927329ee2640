"""From L1 and L2 tables to rows of the extent table, in windows.

    tables.py: windows of L2 tables ─► entries.py: clusters ─► units ─► runs ─► rows

A unit is a cluster, a subcluster where those of one cluster differ, or all that an L2 table would describe that is
not there. Windows hold at most 2^18 entries, so the memory does not depend on the size of the disk.
Source: qemu, docs/interop/qcow2.rst, section "Cluster mapping".
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt.errors import Reason, RefusedError
from diskfmt.extents import ROW, WINDOW_ROWS, Codec, Kind, Rows, clip
from diskfmt.formats.base import Image
from diskfmt.formats.qcow2.entries import ALL, Clusters, decode, require_readable
from diskfmt.formats.qcow2.records import COMPRESSION_NAMES, SUBCLUSTERS, Qcow2
from diskfmt.formats.qcow2.tables import Bools, Window, entry_error, used_twice, windows
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

Units = dict[str, npt.NDArray[Any]]
"""Parts of the guest's disk that follow each other, by columns of shape (n,): `length`, `kind`, `host_off` and
`host_len` as in rows, and where entries are extended `stored` and `zero` as in `Clusters`."""

_CODECS: Final = {"zlib": Codec.DEFLATE, "zstd": Codec.ZSTD}


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows in normal form that cover guest range [start, stop). `files[1]` is the data file.

    Raises:
        RefusedError: EXTERNAL_REFERENCE, the data file is not open; UNKNOWN_FEATURE, entries of this image are not
            understood.
        CorruptError: BAD_VALUE, OVERLAP, TRUNCATED, OUT_OF_FILE, SHARED_CLUSTERS, with the offset of the entry.

    Source: spec, "Cluster mapping".

    """
    header: Qcow2 = image.header
    source = files[0]
    require_readable(header, source.path)
    if start >= stop:
        return
    data_size = _data_file(header, files).size if header.has_data_file else None
    wanted = range(start // header.cluster_size, ceil_div(stop, header.cluster_size))
    room = source.size // header.cluster_size  # tables that fit into the file
    seen = 0
    for window in windows(source, header, header.l1_offset, wanted):
        count = np.count_nonzero(window.tables)
        seen += int(count)
        if seen > room or len(np.unique(window.tables[window.tables != 0])) != count:
            raise used_twice(header, window).about(source.path)
        clusters, faults = decode(header, window, source.size, data_size)
        if faults:
            raise entry_error(header, window, faults[0]).about(source.path)
        for at, units in _units(header, window, clusters):
            rows = _rows(header, at, units)
            if int(rows[0]["guest_off"]) < start or int(rows[-1]["guest_off"]) + int(rows[-1]["length"]) > stop:
                rows = clip(rows, start, stop)
            if len(rows):
                yield rows


def _data_file(header: Qcow2, files: Sequence[SourceFile]) -> SourceFile:
    if len(files) < 2:
        extension = next(iter(header.extensions), None)
        raise RefusedError(
            "the disk's data is in a data file, which was not opened",
            reason=Reason.EXTERNAL_REFERENCE,
            path=files[0].path,
            offset=extension.offset if extension else 72,
            remedy="give --follow same-directory, or --follow DIR with the directory that holds it",
        )
    return files[1]


def _units(header: Qcow2, window: Window, clusters: Clusters) -> Iterator[tuple[int, Units]]:
    """The units of a window, at most `WINDOW_ROWS` at a time, with the guest offset of the first one."""
    units: Units = {
        "kind": clusters.kind.ravel(),
        "host_off": clusters.host_off.ravel(),
        "host_len": clusters.host_len.ravel(),
        "length": np.full(clusters.kind.size, header.cluster_size, np.uint64),
    }
    if clusters.stored is not None and clusters.zero is not None:
        units |= {"stored": clusters.stored.ravel(), "zero": clusters.zero.ravel()}
    there = window.tables != 0
    if not there.all():
        units = _with_absent(header, units, there)
    start = window.first * header.l2_entries * header.cluster_size
    count = len(units["kind"])
    parts = np.where(_divided(units), SUBCLUSTERS, 1) if "stored" in units else None
    ends = np.arange(1, count + 1) if parts is None else np.cumsum(parts)
    low = 0
    while low < count:
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + WINDOW_ROWS, side="right")))
        some = {name: column[low:high] for name, column in units.items()}
        length = int(some["length"].sum())
        yield start, some if parts is None else _divide(header, some, parts[low:high])
        low, start = high, start + length


def _with_absent(header: Qcow2, units: Units, there: Bools) -> Units:
    """The units with one more for each L2 table that is not there."""
    # Before each come the entries of as many tables as there are before it.
    before = np.cumsum(there)[~there] * header.l2_entries
    absent = {"kind": int(Kind.HOLE), "length": header.l2_entries * header.cluster_size}
    return {name: np.insert(column, before, absent.get(name, 0)) for name, column in units.items()}


def _divided(units: Units) -> Bools:
    """Which units are clusters whose subclusters are not all the same."""
    stored, zero = units["stored"], units["zero"]
    uniform = (stored == ALL) | (zero == ALL) | (stored | zero == 0)
    return ~uniform  # type: ignore[no-any-return]


def _divide(header: Qcow2, units: Units, parts: npt.NDArray[np.int64]) -> Units:
    """The units, each in as many subclusters as `parts` says, 1 or all. Source: spec, "Extended L2 Entries"."""
    if (parts == 1).all():
        return units
    size = header.cluster_size // SUBCLUSTERS
    index = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
    units = {name: np.repeat(column, parts) for name, column in units.items()}
    divided = np.repeat(parts > 1, parts)
    bit = index.astype(np.uint32)
    kind = np.where(units["zero"] >> bit & np.uint32(1), np.uint8(Kind.ZERO), np.uint8(Kind.HOLE))
    kind = np.where(units["stored"] >> bit & np.uint32(1), np.uint8(Kind.DATA), kind)
    units["kind"] = np.where(divided, kind, units["kind"])
    units["length"] = np.where(divided, np.uint64(size), units["length"])
    units["host_off"] = units["host_off"] + np.where(divided, index * size, 0).astype(np.uint64)
    return units


def _rows(header: Qcow2, start: int, units: Units) -> Rows:
    """One row for each run of units that one row can say: the normal form.

    Rows are wide, units are not: it pays to join before there are rows.
    """
    kind, host, length = units["kind"], units["host_off"], units["length"]
    follows = (kind[1:] == Kind.DATA) & (host[1:] == host[:-1] + length[:-1])
    joined = (kind[1:] == kind[:-1]) & (follows | (kind[1:] >= Kind.ZERO))
    heads = np.flatnonzero(np.concatenate((np.ones(1, bool), ~joined)))
    kind = kind[heads]
    rows = np.zeros(len(heads), ROW)
    lengths = np.add.reduceat(length, heads)
    ends = np.cumsum(lengths)
    rows["guest_off"] = np.uint64(start) + ends - lengths
    rows["length"] = lengths
    rows["kind"] = kind
    stored, encoded = kind <= Kind.ENCODED, kind == Kind.ENCODED
    rows["host_off"] = np.where(stored, host[heads], np.uint64(0))
    rows["host_len"] = np.where(stored & ~encoded, lengths, np.uint64(0))
    if header.has_data_file:
        rows["file_id"] = np.where(stored, np.uint16(1), np.uint16(0))
    if encoded.any():
        np.copyto(rows["host_len"], units["host_len"][heads], where=encoded)
        rows["frame_len"] = np.where(encoded, np.uint32(header.cluster_size), np.uint32(0))
        codec = _CODECS[COMPRESSION_NAMES[header.compression_type]]
        rows["codec"] = np.where(encoded, np.uint8(codec), np.uint8(0))
    return rows
