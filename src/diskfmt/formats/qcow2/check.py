"""Findings about a whole qcow2 file: every table, and reference counts against what really refers to a cluster.

    walk of all tables ─► uses ─► count per cluster ─┐
               refcount blocks ─► recorded count ────┴─► too low, too high, used twice, marked wrongly

A file is looked at in parts, so memory is bounded; for each further part the tables are walked again.
Source: qemu, docs/interop/qcow2.rst, section "Host cluster management".
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.errors import CorruptError, Finding, Reason, RefusedError, Severity, finding_from
from diskfmt.extents import U64
from diskfmt.formats.base import Image, Statistics
from diskfmt.formats.qcow2 import refcounts
from diskfmt.formats.qcow2.entries import require_readable
from diskfmt.formats.qcow2.parts import Parts, touched
from diskfmt.formats.qcow2.records import Qcow2
from diskfmt.formats.qcow2.refcounts import REPAIR
from diskfmt.formats.qcow2.walk import Use, Walk
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

_WHOLE: Final = 1 << 32  # a count holds frames in its lower half and references to whole clusters in its upper
_FRAMES: Final = _WHOLE - 1
_ONCE, _NOT_ONCE = 1, 2  # what references of the active disk say of a cluster: used once, or not
_LEAKED: Final = "reclaim the space with qemu-img check -r leaks, or convert the image"


class _Counts:
    """The references to the clusters of one part of the file: `uses` as above, `marks` what they say of it."""

    def __init__(self, cluster_size: int, part: range) -> None:
        self.part = part
        self.uses = np.zeros(len(part), np.uint64)
        self.marks = np.zeros(len(part), np.uint8)
        self._cluster_size = cluster_size

    def add(self, use: Use) -> None:
        if use.file_id:
            return  # clusters of a data file are not counted
        at, ranges = touched(use, self._cluster_size, self.part)
        np.add.at(self.uses, at, np.uint64(1 if use.frames else _WHOLE))
        if use.copied is not None:
            copied = use.copied[ranges]
            for mark, marked in ((_ONCE, at[copied]), (_NOT_ONCE, at[~copied])):
                self.marks[marked] |= np.uint8(mark)


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
    found: list[Finding] = []

    def damaged(error: CorruptError) -> None:
        found.append(finding_from(error, Severity.DAMAGE))  # reference counts are not needed to read the disk

    table = refcounts.block_table(source, header, damaged)
    yield from found
    found.clear()
    data_size = files[1].size if len(files) > 1 else None
    walk = Walk(source=source, header=header, data_size=data_size, table=table, report=found.append)
    parts = Parts(header.cluster_size, ceil_div(source.size, header.cluster_size), refcounts.described(header, table))
    stored = encoded = end = 0
    counts = _Counts(header.cluster_size, parts.first)
    for use in walk.uses():
        yield from found
        found.clear()
        counts.add(use)
        parts.see(use)
        if use.purpose in ("data", "preallocated"):
            stored += len(use.offsets)
            encoded += len(use.offsets) if use.frames else 0
    yield from found
    walk.report = lambda _: None  # what the tables are has been said
    if walk.complete:
        end = yield from _compare(walk, counts)
    if parts.too_many:
        yield _too_many_parts()
    for part in parts.rest():
        counts = _Counts(header.cluster_size, part)
        for use in walk.uses():
            counts.add(use)
        if walk.complete:
            end = max(end, (yield from _compare(walk, counts)))
    return Statistics(total_units=header.clusters, stored_units=stored, encoded_units=encoded, end=end)


def _too_many_parts() -> Finding:
    return Finding(
        reason=Reason.LIMIT_METADATA,
        severity=Severity.WARNING,
        message="the clusters are spread over too large a file: reference counts were not compared everywhere",
        remedy="convert the image",
    )


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


# Kinds of wrong clusters in the order in which they are told; a compare counts each kind.
_KINDS: Final = (
    (Reason.OVERLAP, Severity.ERROR, REPAIR, "hold two things at once, the first is used {counted} times"),
    (Reason.BAD_VALUE, Severity.DAMAGE, REPAIR,
     "have reference counts that are too low, the first says {recorded} and is used {counted} times"),
    (Reason.BAD_VALUE, Severity.DAMAGE, REPAIR,
     "are marked as used once, the reference count of the first says {recorded}"),
    (Reason.BAD_VALUE, Severity.DAMAGE, REPAIR, "are not marked as used once, as their reference counts say"),
    (Reason.LEAKED, Severity.WARNING, _LEAKED,
     "have reference counts that are too high, the first says {recorded} and is used {counted} times"),
)  # fmt: skip


def _compare(walk: Walk, counts: _Counts) -> Generator[Finding, None, int]:
    """Findings about one part of the file. Returns where its last used cluster ends (bytes)."""
    header, part = walk.header, counts.part
    tallies = [_Tally()] * len(_KINDS)
    end = 0
    for first, recorded in refcounts.recorded(walk.source, header, walk.table, part):
        window = slice(first - part.start, first - part.start + len(recorded))
        uses, marks = counts.uses[window], counts.marks[window]
        whole, frames = uses >> np.uint64(32), uses & np.uint64(_FRAMES)
        counted = whole + frames
        known, alone = np.bool_(walk.table is not None), np.bool_(not header.snapshot_count)
        masks = (
            alone & ((whole > 1) | ((whole == 1) & (frames != 0))),
            known & (counted > recorded),
            known & (marks & _ONCE != 0) & (recorded != 1),
            known & (marks & _NOT_ONCE != 0) & (recorded == 1),
            known & (counted < recorded),
        )
        tallies = [tally.plus(mask, first, counted, recorded) for tally, mask in zip(tallies, masks, strict=True)]
        used = np.flatnonzero((counted != 0) | (recorded != 0))
        if len(used):
            end = (first + int(used[-1]) + 1) * header.cluster_size
    for tally, (reason, severity, remedy, what) in zip(tallies, _KINDS, strict=True):
        if tally.count:
            said = what.format(counted=tally.counted, recorded=tally.recorded)
            yield Finding(reason=reason, severity=severity, offset=tally.cluster * header.cluster_size, remedy=remedy,
                          message=f"{tally.count} clusters {said}")  # fmt: skip
    return end
