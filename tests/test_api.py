"""What the use cases promise beyond what their parts are tested for."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

import diskfmt
from diskfmt.extents import ROW, Kind, outline

MIB = 1 << 20
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


@pytest.fixture
def qcow2(tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(MIB) + bytes(MIB) + b"text " * 300000 + bytes(MIB) + os.urandom(100 * 512))
    diskfmt.convert(raw, tmp_path / "disk.qcow2", format="qcow2", compress="zlib", source_format="raw")
    return tmp_path / "disk.qcow2"


@needs_qemu
def test_map_rows_are_those_of_qemu_img(qcow2):
    told = subprocess.run(["qemu-img", "map", "--output=json", qcow2], check=True, capture_output=True).stdout
    keys = ("start", "length", "present", "zero", "data", "compressed", "offset", "depth")
    ours = [row.to_json() for row in diskfmt.map_rows(qcow2)]
    theirs = json.loads(told)
    # This qemu-img does not say what is compressed, and gives a frame the place of its cluster's data: none.
    shared = [key for key in keys if key in theirs[0]]
    assert [[row.get(key) for key in shared] for row in ours] == [[row.get(key) for key in shared] for row in theirs]


def test_map_rows_join_across_windows(qcow2, monkeypatch):
    whole = list(diskfmt.map_rows(qcow2))
    extents = diskfmt.Disk.extents

    def narrow(disk, start=0, stop=None):
        for rows in extents(disk, start, stop):
            for at in range(len(rows)):
                yield rows[at : at + 1]

    monkeypatch.setattr(diskfmt.Disk, "extents", narrow)
    assert list(diskfmt.map_rows(qcow2)) == whole


def test_outline_joins_frames_of_one_file_only():
    kinds = [Kind.ENCODED, Kind.ENCODED, Kind.DATA, Kind.ENCODED, Kind.ENCODED, Kind.HOLE]
    rows = np.zeros(6, ROW)
    rows["kind"] = kinds
    rows["length"] = [1, 2, 3, 4, 5, 6]
    rows["guest_off"] = [0, 1, 3, 6, 10, 15]
    rows["file_id"] = [0, 0, 0, 0, 1, 0]
    drawn = outline(rows)
    assert drawn["length"].tolist() == [3, 3, 4, 5, 6]
    assert drawn["guest_off"].tolist() == [0, 3, 6, 10, 15]


def test_everything_returned_is_frozen_and_json(qcow2, tmp_path):
    results = [
        diskfmt.inspect(qcow2),
        diskfmt.check(qcow2, deep=True),
        diskfmt.compare(qcow2, qcow2),
        diskfmt.measure(qcow2, format="vhd:fixed"),
        diskfmt.convert(qcow2, tmp_path / "out.vmdk", format="vmdk"),
        next(diskfmt.map_rows(qcow2)),
    ]
    for result in results:
        assert json.loads(json.dumps(result.to_json()))
        with pytest.raises((AttributeError, TypeError)):
            result.filename = "other"


def test_inspect_opens_no_piece_and_blames_nobody_for_it(tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(MIB))
    diskfmt.convert(raw, tmp_path / "vm.vmdk", format="vmdk:monolithicFlat", source_format="raw")
    os.unlink(tmp_path / "vm-flat.vmdk")
    info = diskfmt.inspect(tmp_path / "vm.vmdk")
    assert [(one.kind, one.name) for one in info.references] == [("piece", "vm-flat.vmdk")]
    assert info.findings == ()


def test_library_opens_no_piece_unless_told(tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(MIB))
    diskfmt.convert(raw, tmp_path / "vm.vmdk", format="vmdk:monolithicFlat", source_format="raw")
    with pytest.raises(diskfmt.NotReadyError) as caught:
        diskfmt.convert(tmp_path / "vm.vmdk", tmp_path / "a.raw", format="raw")
    assert caught.value.reason is diskfmt.Reason.EXTERNAL_REFERENCE
    diskfmt.convert(tmp_path / "vm.vmdk", tmp_path / "a.raw", format="raw", follow="pieces")
    assert (tmp_path / "a.raw").read_bytes() == raw.read_bytes()


def test_piece_that_does_not_carry_the_stem_is_refused(tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(MIB))
    diskfmt.convert(raw, tmp_path / "vm.vmdk", format="vmdk:monolithicFlat", source_format="raw")
    os.rename(tmp_path / "vm.vmdk", tmp_path / "other.vmdk")
    with pytest.raises(diskfmt.RefusedError) as caught:
        diskfmt.convert(tmp_path / "other.vmdk", tmp_path / "a.raw", format="raw", follow="pieces")
    assert caught.value.reason is diskfmt.Reason.EXTERNAL_REFERENCE
