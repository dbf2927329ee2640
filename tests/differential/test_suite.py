"""The suite itself: its selection leaves nothing out, and what it would have to notice it notices."""

import os
from pathlib import Path

from oracles import digest_file

import diskfmt
from differential.cases import SOURCES, TARGETS, quick_groups
from differential.conftest import Shelf
from differential.disks import DISKS, MIB, DiskSpec
from differential.verify import complaints


def test_quick_selection_every_disk_target_source_and_pair_of_formats_occurs() -> None:
    groups = quick_groups()
    assert {group.disk for group in groups} == set(DISKS)
    assert {group.target.name for group in groups} == {target.name for target in TARGETS}
    assert {source.name for group in groups for source in group.sources} == {source.name for source in SOURCES}
    pairs = {(source.format, group.target.format) for group in groups for source in group.sources}
    assert len(pairs) == 16


def test_one_wrong_byte_in_an_output_everybody_complains(shelf: Shelf, tmp_path: Path) -> None:
    raw = shelf.raw(DiskSpec(shape="full", size=4 * MIB))
    target = next(target for target in TARGETS if target.name == "qcow2-v3-64k-plain")
    out = str(tmp_path / "out.qcow2")
    diskfmt.convert(raw, out, format="qcow2", source_format="raw", sync=False)
    guest = digest_file(raw)
    assert list(complaints(out, target, guest, raw)) == []
    with open(out, "r+b") as file:
        file.seek(os.path.getsize(out) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    wrong = "\n".join(complaints(out, target, guest, raw))
    for reader in ("qemu-img reads", "libyal reads", "dissect reads", "diskfmt reads"):
        assert reader in wrong
