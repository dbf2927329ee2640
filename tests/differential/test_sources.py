"""The maps of qemu-img's images: diskfmt must see what qemu-img sees."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from oracles.info import disagreements
from oracles.readers import qemu_info, qemu_map

import diskfmt
from differential.cases import SOURCES, Source
from differential.conftest import Shelf
from differential.disks import DISKS, DiskSpec
from differential.verify import digest_by_diskfmt

Row = tuple[int, int, bool]

_CONTAINERS = [source for source in SOURCES if source.format != "raw"]
_FILES_AS_DISK = ("vhd-fixed", "vhd-fixed-chs", "vmdk-flat")


def _merged(rows: Iterable[Row]) -> list[Row]:
    """(start, length, stored) rows with equal neighbours joined."""
    out: list[Row] = []
    for start, length, stored in rows:
        if out and out[-1][2] == stored and sum(out[-1][:2]) == start:
            out[-1] = (out[-1][0], out[-1][1] + length, stored)
        else:
            out.append((start, length, stored))
    return out


@pytest.mark.parametrize("source", [pytest.param(s, id=s.name) for s in _CONTAINERS])
@pytest.mark.parametrize("disk", [pytest.param(d, id=d.name) for d in (DISKS[5], DISKS[9])])
def test_map_of_qemu_image_equals_map_of_qemu(source: Source, disk: DiskSpec, shelf: Shelf) -> None:
    if source.name in _FILES_AS_DISK:
        pytest.skip("qemu-img shows the holes of the data file, which depend on the file system")
    image = shelf.image(disk, source)
    ours = _merged((row.start, row.length, row.data) for row in diskfmt.map_rows(image.path, follow="pieces"))
    theirs = _merged((row["start"], row["length"], row["data"]) for row in qemu_map(image.path, image.format))
    assert ours == theirs


@pytest.mark.parametrize("source", [pytest.param(s, id=s.name) for s in _CONTAINERS])
@pytest.mark.parametrize("turn", range(2))
def test_guest_of_qemu_image_read_at_is_the_disk(source: Source, turn: int, shelf: Shelf) -> None:
    disk = DISKS[(3 * _CONTAINERS.index(source) + 5 * turn) % len(DISKS)]
    image = shelf.image(disk, source)
    assert digest_by_diskfmt(image.path) == image.guest


@pytest.mark.parametrize("source", [pytest.param(s, id=s.name) for s in _CONTAINERS])
def test_info_of_qemu_image_has_keys_of_qemu(source: Source, shelf: Shelf) -> None:
    image = shelf.image(DISKS[9], source)
    theirs = qemu_info(image.path, image.format)
    ours: dict[str, Any] = json.loads(json.dumps(diskfmt.inspect(image.path).to_json()))
    assert disagreements(ours, theirs) == {}
