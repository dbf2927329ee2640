"""Images by real tools give what their manifest states; the others are refused, or read with their defect named."""

import json
import os
import subprocess
from functools import partial

import oracles
import pytest
from builders import vmdk
from images import corpus_ids
from oracles import digest_blocks

import diskfmt
from diskfmt.errors import DiskfmtError, Reason
from diskfmt.formats.vmdk import FORMAT
from diskfmt.stores.source import SourceFile

CASES = sorted(set(corpus_ids(format="vmdk")) | {name for name in corpus_ids() if "vmdk" in name and "ova" not in name})
STEP = 16 << 20


def guest_of(disk):
    """The digest of a disk, in pieces."""
    return digest_blocks(disk.size, ((at, disk.read_at(at, STEP)) for at in range(0, disk.size, STEP)))


def describe_alone(path):
    """The image by its header alone."""
    with SourceFile(path) as file:
        return FORMAT.open(file)


@pytest.mark.parametrize("case_id", CASES)
def test_image_of_the_corpus_is_read_or_refused(corpus, case_id):
    case, path = corpus.cases[case_id], corpus.path(case_id)
    try:
        with diskfmt.open_disk(path, format="vmdk", follow="same-directory") as disk:
            guest = guest_of(disk)
        report = diskfmt.check(path, format="vmdk", follow="same-directory", deep=True)
        assert report.ok or case["expect"] in ("warn", "refuse_or_partial"), report.findings
    except DiskfmtError as error:
        assert case["expect"] != "good", error
        return
    assert case["expect"] != "refuse"
    if "guest" in case:
        assert (guest.size, guest.nz64k) == (case["guest"]["size"], case["guest"]["nz64k"])
    if case["expect"] == "warn":
        assert report.findings, "the defect was not named"


def test_sesparse_of_esxi_is_read_through_a_descriptor(corpus, tmp_path):
    """The corpus has the piece alone; the descriptor is what ESXi writes beside it."""
    case = corpus.cases["dissect-sesparse-vmdk"]
    os.symlink(corpus.path("dissect-sesparse-vmdk"), tmp_path / "link")
    (tmp_path / "d-sesparse.vmdk").write_bytes((tmp_path / "link").read_bytes())
    sectors = case["guest"]["size"] // 512
    (tmp_path / "d.vmdk").write_bytes(vmdk.text("seSparse", (f'RW {sectors} SESPARSE "d-sesparse.vmdk"',)))
    with diskfmt.open_disk(tmp_path / "d.vmdk", follow="pieces") as disk:
        guest = guest_of(disk)
    assert (guest.size, guest.nz64k) == (case["guest"]["size"], case["guest"]["nz64k"])
    assert diskfmt.check(tmp_path / "d.vmdk", follow="pieces").findings == ()
    for oracle in ("qemu-img", "dissect"):
        if not oracles.missing(oracle):
            assert oracles.read_guest(str(tmp_path / "d.vmdk"), "vmdk", oracle) == guest


DESCRIBED = [name for name in CASES if name.startswith(("vmdk-mono", "vmdk-stream", "vmdkrs"))]


@pytest.mark.parametrize("case_id", DESCRIBED)
def test_good_image_is_described_as_qemu_img_does(corpus, case_id):
    case = corpus.cases[case_id]
    if case["expect"] != "good" or case["subformat"].startswith("twoGb"):
        pytest.skip("damaged, or described by qemu-img from its pieces")
    seen = case["qemu_info"]
    image = describe_alone(corpus.path(case_id))
    found = dict(image.specific)
    for extent in found["extents"]:
        extent.pop("filename")
    assert found == seen["format-specific"]["data"]
    assert image.virtual_size == seen["virtual-size"]
    assert image.unit == seen.get("cluster-size")


@pytest.mark.parametrize("options", ["", "zeroed_grain=on", "adapter_type=lsilogic,hwversion=13"])
@pytest.mark.parametrize("size", [512, 65536 + 512, 5 << 20])
@pytest.mark.parametrize(
    "subformat", ["monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
)
def test_what_qemu_img_writes_is_read(tmp_path, qemu_img, subformat, size, options):
    if options == "zeroed_grain=on" and "Sparse" not in subformat:
        pytest.skip("qemu-img has no zeroed grains there")
    raw = bytearray(size)
    raw[-512:] = b"\x5a" * 512
    raw[: min(size, 300)] = b"\xa5" * min(size, 300)
    (tmp_path / "d.raw").write_bytes(raw)
    wanted = ",".join(filter(None, (f"subformat={subformat}", options)))
    subprocess.run(
        [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", wanted, tmp_path / "d.raw", tmp_path / "d.vmdk"],
        check=True,
    )
    with diskfmt.open_disk(tmp_path / "d.vmdk", follow="pieces") as disk:
        assert disk.findings == ()
        assert disk.read_at(0, disk.size) == bytes(raw)
    assert diskfmt.check(tmp_path / "d.vmdk", follow="pieces", deep=True).findings == ()
    info = json.loads(
        subprocess.run([qemu_img, "info", "--output=json", tmp_path / "d.vmdk"], check=True, capture_output=True).stdout
    )
    data = info["format-specific"]["data"]
    image = describe_alone(str(tmp_path / "d.vmdk"))
    assert (image.specific["cid"], image.specific["create-type"]) == (data["cid"], data["create-type"])


@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_delta_of_qemu_img_is_read_with_its_parent(tmp_path, qemu_img, qemu_io, subformat):
    base, top = tmp_path / "base.vmdk", tmp_path / "top.vmdk"
    run = partial(subprocess.run, check=True, capture_output=True)
    run([qemu_img, "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", base, "3M"])
    run([qemu_io, "-f", "vmdk", "-c", "write -P 17 0 1M", "-c", "write -P 34 2M 64k", base])
    run([qemu_img, "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "base.vmdk", top], cwd=tmp_path)
    run([qemu_io, "-f", "vmdk", "-c", "write -P 51 65536 64k", "-c", "write -P 68 2600k 1k", top], cwd=tmp_path)
    run([qemu_img, "convert", "-f", "vmdk", "-O", "raw", top, tmp_path / "out.raw"])
    with diskfmt.open_disk(top, follow="same-directory") as disk:
        assert disk.findings == ()
        assert disk.read_at(0, disk.size) == (tmp_path / "out.raw").read_bytes()
    with diskfmt.open_disk(top, follow="pieces") as disk, pytest.raises(DiskfmtError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE
    # The parent is written to after the snapshot: qemu gives it another content id.
    run([qemu_io, "-f", "vmdk", "-c", "write -P 85 0 64k", base])
    with diskfmt.open_disk(top, follow="same-directory") as disk, pytest.raises(DiskfmtError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.DIFFERENTIAL
