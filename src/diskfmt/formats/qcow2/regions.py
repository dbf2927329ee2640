"""What the bytes of a qcow2 file are for.

    walk of all tables ─► uses ─► purpose per cluster ─┐
               refcount blocks ─► recorded count ──────┴─► runs of clusters with the same purpose, leaked ones

A cluster has the first purpose that the walk meets, so that tables and data which snapshots share with the present
disk are the present disk's.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.errors import RefusedError
from diskfmt.extents import U64
from diskfmt.formats.base import Image, Regions
from diskfmt.formats.qcow2 import refcounts
from diskfmt.formats.qcow2.entries import ALL, require_readable
from diskfmt.formats.qcow2.parts import Parts, touched
from diskfmt.formats.qcow2.records import SUBCLUSTERS, Qcow2
from diskfmt.formats.qcow2.walk import Use, Walk
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

_PURPOSES: Final = ("header", "table", "data", "preallocated", "snapshot", "bitmap", "leaked")  # their index + 1 counts
_WINDOW: Final = 1 << 18  # regions at a time


def regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    """All but the stored rows of the present disk; see `Format.regions`. Whole clusters, cut to the file's end.

    Clusters beside which nothing is known are left out, and what is leaked where too much would have to be counted.

    Raises:
        IOFailedError: READ_ERROR.

    """
    header: Qcow2 = image.header
    source = files[0]
    try:
        require_readable(header, source.path)
    except RefusedError:
        yield _cut("header", np.zeros(1, np.uint64), np.full(1, header.cluster_size, np.uint64), source.size)
        return
    table = refcounts.block_table(source, header, lambda _: None)
    data_size = files[1].size if len(files) > 1 else None
    walk = Walk(source=source, header=header, data_size=data_size, table=table, report=lambda _: None)
    parts = Parts(header.cluster_size, ceil_div(source.size, header.cluster_size), refcounts.described(header, table))
    owners = _Owners(header.cluster_size, parts.first)
    for use in walk.uses():
        owners.add(use)
        parts.see(use)
        yield from _beside_the_walk(header, use, files)
    yield from owners.regions(walk)
    for part in parts.rest():
        owners = _Owners(header.cluster_size, part)
        for use in walk.uses():
            owners.add(use)
        yield from owners.regions(walk)


def _beside_the_walk(header: Qcow2, use: Use, files: Sequence[SourceFile]) -> Iterator[Regions]:
    """What is smaller than a cluster, or in the data file."""
    size = files[use.file_id].size if use.file_id < len(files) else 0
    if use.stored is not None:
        yield from _unused_subclusters(header, use, size)
    if use.file_id and use.purpose == "preallocated":
        yield _cut(use.purpose, use.offsets, use.lengths, size, use.file_id)


def _unused_subclusters(header: Qcow2, use: Use, size: int) -> Iterator[Regions]:
    """Subclusters that are not stored in clusters that are there."""
    if use.stored is None:
        return
    length = header.cluster_size // SUBCLUSTERS
    partly = np.flatnonzero(use.stored != ALL)
    for at in range(0, len(partly), _WINDOW // SUBCLUSTERS):
        some = partly[at : at + _WINDOW // SUBCLUSTERS]
        bits = np.arange(SUBCLUSTERS, dtype=np.uint32)
        unused = (use.stored[some][:, None] >> bits & np.uint32(1)) == 0
        places = use.offsets[some][:, None] + bits.astype(np.uint64) * np.uint64(length)
        yield _joined("preallocated", places[unused], length, size, use.file_id)


class _Owners:
    """The purpose of each cluster of one part of the file, 0 where there is none."""

    def __init__(self, cluster_size: int, part: range) -> None:
        self._part = part
        self._size = cluster_size
        self._owner = np.zeros(len(part), np.uint8)

    def add(self, use: Use) -> None:
        """Give the use all clusters that nobody has."""
        if not use.file_id:
            at, _ = touched(use, self._size, self._part)
            self._owner[at[self._owner[at] == 0]] = _PURPOSES.index(use.purpose) + 1

    def regions(self, walk: Walk) -> Iterator[Regions]:
        """The runs of clusters of the same purpose."""
        if walk.complete:
            for first, recorded in refcounts.recorded(walk.source, walk.header, walk.table, self._part):
                owner = self._owner[first - self._part.start :][: len(recorded)]
                owner[(owner == 0) & (recorded != 0)] = _PURPOSES.index("leaked") + 1
        for at in range(0, len(self._owner), _WINDOW):
            owner = self._owner[at : at + _WINDOW]
            for number, purpose in enumerate(_PURPOSES, 1):
                places = np.flatnonzero(owner == number)
                if len(places) and purpose != "data":
                    offsets = (places + (self._part.start + at)).astype(np.uint64) * np.uint64(self._size)
                    yield _joined(purpose, offsets, self._size, walk.source.size)


def _joined(kind: str, offsets: U64, length: int, size: int, file_id: int = 0) -> Regions:
    """Places of equal length, in ascending order, with neighbours joined."""
    follows = offsets[1:] == offsets[:-1] + np.uint64(length)
    heads: npt.NDArray[np.intp] = np.flatnonzero(np.concatenate((np.ones(min(1, len(offsets)), bool), ~follows)))
    lengths = np.diff(heads, append=len(offsets)).astype(np.uint64) * np.uint64(length)
    return _cut(kind, offsets[heads], lengths, size, file_id)


def _cut(kind: str, offsets: U64, lengths: U64, size: int, file_id: int = 0) -> Regions:
    """The places as far as they lie inside a file of `size` bytes."""
    ends = np.minimum(offsets + lengths, np.uint64(size))
    inside = offsets < ends
    return Regions(kind=kind, offsets=offsets[inside], lengths=(ends - offsets)[inside], file_id=file_id)
