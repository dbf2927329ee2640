"""What a drawing of the disk shows: its partitions to scale, and where it has data at all."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError
from diskfmt.guest.fact import Known
from diskfmt.guest.volumes import Volume, VolumeKind
from diskfmt.kinds import Kind
from diskfmt.readiness.facts import Facts
from diskfmt.readiness.model import Bar, Span

CELLS: Final = 256
"""Parts that the disk is divided into for the drawing of its data."""


def bars(disk: Disk, facts: Facts) -> Iterator[Bar]:
    """The disk by partitions, its file systems by what is used, and the stored parts of the disk."""
    if isinstance(facts.volumes, Known):
        volumes = [one for one in facts.volumes.value.volumes if one.kind is VolumeKind.PARTITION]
        spans = tuple(_partition(volume) for volume in volumes if volume.offset is not None)
        yield Bar(title="partitions", size=disk.size, spans=spans)
        for volume in facts.volumes.value.volumes:
            info = facts.file_systems.get(volume.name)
            if isinstance(info, Known) and info.value.free_bytes is not None and info.value.size:
                used = max(0, info.value.size - info.value.free_bytes)
                span = Span(start=0, length=used, kind="data", label="used")
                yield Bar(title=f"{volume.name} {info.value.kind}", size=info.value.size, spans=(span,))
    stored = _stored(disk)
    if stored is not None:
        yield Bar(title="what the image stores", size=disk.size, spans=stored)


def _partition(volume: Volume) -> Span:
    content = volume.content
    kind = "swap" if content.kind == "swap" else "fs" if content.kind else "unknown"
    label = " ".join(part for part in (volume.name, content.kind, content.label) if part)
    return Span(start=volume.offset or 0, length=volume.size, kind=kind, label=label)


def _stored(disk: Disk) -> tuple[Span, ...] | None:
    """Cells of the disk in which a file stores something, joined where they touch."""
    cell = max(1, -(-disk.size // CELLS))
    used = np.zeros(CELLS + 1, np.int64)
    try:
        for rows in disk.extents():
            stored = rows[rows["kind"] <= Kind.ENCODED]
            np.add.at(used, (stored["guest_off"] // cell).astype(np.int64), 1)
            np.add.at(used, ((stored["guest_off"] + stored["length"] - 1) // cell).astype(np.int64) + 1, -1)
    except DiskfmtError:
        return None  # the rules say so
    full = np.concatenate(([False], np.cumsum(used)[:CELLS] > 0, [False]))
    edges = np.flatnonzero(full[1:] != full[:-1])
    return tuple(
        Span(start=int(first) * cell, length=(int(last) - int(first)) * cell, kind="data", label="")
        for first, last in zip(edges[0::2], edges[1::2], strict=True)
    )
