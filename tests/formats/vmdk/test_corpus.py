"""Images by real tools give what their manifest states; the others are refused, or read with their defect named."""

import json
import subprocess
from contextlib import ExitStack

import pytest
from images import corpus_ids
from oracles import digest_blocks

from diskfmt.errors import DiskfmtError, Severity, first_error
from diskfmt.formats.vmdk import FORMAT
from diskfmt.stores.source import SourceFile

CASES = sorted(set(corpus_ids(format="vmdk")) | {name for name in corpus_ids() if "vmdk" in name and "ova" not in name})
READ = {"monolithicSparse", "streamOptimized", "monolithicFlat"}
# Good images that need other files than a piece beside a monolithicFlat descriptor.
LATER = {"vmdk-delta"}


@pytest.fixture
def stack():
    """Closes what a test opens."""
    with ExitStack() as opened:
        yield opened


def open_case(corpus, case_id, stack):
    path = corpus.path(case_id)
    case = corpus.cases[case_id]
    files = [stack.enter_context(SourceFile(path))]
    image = FORMAT.open(files[0])
    if image.header.flat is not None:
        folder = path.rpartition("/")[0]
        files += [stack.enter_context(SourceFile(f"{folder}/{entry['name']}")) for entry in case["files"][1:]]
    return case, image, files


def guest_of(image, files, read_guest):
    data = read_guest(image, files)
    return digest_blocks(len(data), [(0, data)]) if data else None


def is_readable(case) -> bool:
    return case["expect"] == "good" and case["subformat"] in READ and case["id"] not in LATER


@pytest.mark.parametrize("case_id", CASES)
def test_image_of_the_corpus_is_read_or_refused(corpus, case_id, read_guest, stack):
    case = corpus.cases[case_id]
    guest, error = None, None
    try:
        case, image, files = open_case(corpus, case_id, stack)
        error = first_error(image.findings)
        if error is None:
            guest = guest_of(image, files, read_guest)
    except DiskfmtError as caught:
        error = caught
    if error is not None:
        assert not is_readable(case), error
        return
    assert case["expect"] not in ("refuse", "unsupported")
    if "guest" in case:
        assert (guest.size, guest.nz64k) == (case["guest"]["size"], case["guest"]["nz64k"])
    if case["expect"] == "warn":
        assert [*image.findings, *FORMAT.check(image, files, False)], "the defect was not named"


@pytest.mark.parametrize("case_id", [name for name in CASES if name.startswith(("vmdk-mono", "vmdk-stream", "vmdkrs"))])
def test_good_image_is_described_as_qemu_img_does(corpus, case_id, stack):
    case = corpus.cases[case_id]
    if not is_readable(case):
        pytest.skip("not one that is read")
    case, image, files = open_case(corpus, case_id, stack)
    seen = case["qemu_info"]
    found = dict(image.specific)
    for extent in found["extents"]:
        extent.pop("filename")
    assert found == seen["format-specific"]["data"]
    assert image.virtual_size == seen["virtual-size"]
    assert image.unit == seen.get("cluster-size")
    assert [f for f in FORMAT.check(image, files, True) if f.severity is not Severity.NOTE] == []


@pytest.mark.parametrize("options", ["", "zeroed_grain=on", "adapter_type=lsilogic,hwversion=13"])
@pytest.mark.parametrize("size", [512, 65536 + 512, 5 << 20])
@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized", "monolithicFlat"])
def test_what_qemu_img_writes_is_read(tmp_path, qemu_img, read_guest, stack, subformat, size, options):
    if options == "zeroed_grain=on" and subformat != "monolithicSparse":
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
    files = [stack.enter_context(SourceFile(str(tmp_path / "d.vmdk")))]
    image = FORMAT.open(files[0])
    assert image.findings == ()
    if image.header.flat is not None:
        files.append(stack.enter_context(SourceFile(str(tmp_path / "d-flat.vmdk"))))
    assert read_guest(image, files) == bytes(raw)
    info = json.loads(
        subprocess.run([qemu_img, "info", "--output=json", tmp_path / "d.vmdk"], check=True, capture_output=True).stdout
    )
    data = info["format-specific"]["data"]
    assert (image.specific["cid"], image.specific["create-type"]) == (data["cid"], data["create-type"])
