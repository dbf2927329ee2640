"""How large the qcow2 is that a cloud makes of a disk: clusters that are not zero, and their tables.

Source: qemu, docs/interop/qcow2.rst; measured against `qemu-img convert -O qcow2`, which leaves out zero clusters.
"""

from typing import Final

from diskfmt import engine, extents
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError
from diskfmt.formats import by_name
from diskfmt.formats.base import Layout, Request
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.kinds import Kind
from diskfmt.units import SECTOR, align_up

_THREADS: Final = 2


def predicted(disk: Disk, limit: int) -> Fact[int]:
    """Bytes of the qcow2. Where all that the map calls stored stays below `limit`, that bound is the answer."""
    try:
        bound = _bound(disk)
        if bound <= limit:
            return Known(bound, "by the map, zeroes counted")
        return Known(_scanned(disk), "every cluster looked at")
    except DiskfmtError as error:
        return Unknown(error.message)


def _layout(disk: Disk) -> Layout:
    request = Request(subformat="v3", virtual_size=align_up(disk.size, SECTOR), name="disk")
    return by_name("qcow2").layout(request).parts[0].layout


def _bound(disk: Disk) -> int:
    """The size if every cluster that a file stores something of were not zero."""
    layout = _layout(disk)
    unit = layout.placement.unit
    clusters, before = 0, -1
    for rows in disk.extents():
        stored = rows[rows["kind"] <= Kind.ENCODED]
        if len(stored):
            first = stored["guest_off"] // unit
            last = (stored["guest_off"] + stored["length"] - 1) // unit
            clusters += (
                int((last - first + 1).sum()) - int((first[1:] == last[:-1]).sum()) - int(int(first[0]) == before)
            )
            before = int(last[-1])
    tables = align_up(clusters * 8, unit) + 4 * unit + clusters * unit // 4096
    return clusters * unit + tables


def _scanned(disk: Disk) -> int:
    """The size that a conversion would give: everything is done but the writing."""
    layout = _layout(disk)
    placement = layout.placement
    with engine.Copier(
        fds=disk.fds, paths=disk.paths, target_fd=-1, target_path="", placement=placement, threads=_THREADS
    ) as copier:
        for rows in extents.chunks(disk.extents(), unit=placement.unit, max_units=extents.WINDOW_ROWS):
            first, places, stored = copier.run(rows)
            _, copier.end = layout.add(first, places, stored, copier.end)
        return layout.finish(copier.end, bytes(32)).size
