"""Images by other people's tools: described, read and checked as their ground truth says, or refused."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from images import IMAGES, Corpus

from diskfmt import engine
from diskfmt.disk import Disk, open_disk
from diskfmt.errors import DiskfmtError, Finding, Reason, Severity, first_error
from diskfmt.extents import require_normal
from diskfmt.formats.qcow2 import FORMAT
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
Opener = Callable[[str], Disk]


def _cases() -> dict[str, dict[str, Any]]:
    try:
        cases = json.loads((IMAGES / "manifest.json").read_text())["cases"]
    except FileNotFoundError:
        return {}
    return {case["id"]: case for case in cases if case["format"] == "qcow2"}


CASES = _cases()
VERDICTS = {
    name: told["rc"] for name, case in CASES.items()
    if isinstance(told := case.get("qemu_check") or case.get("seen", {}).get("qemu_img_check"), dict)
    and "check-errors" in told
}  # fmt: skip
NAMING = [case_id for case_id, case in CASES.items() if {"backing", "data_file"} & set(case["tags"])
          or case.get("group") == "qcow2-ref"]  # fmt: skip
REFUSED = {  # where what lies beside the image may be opened; a file that is not there is a READ_ERROR
    "cut-qcow2-02": Reason.TRUNCATED,
    "cut-qcow2-03": Reason.TRUNCATED,
    "cut-qcow2-07": Reason.TRUNCATED,
    "cut-qcow2-12": Reason.TRUNCATED,
    "cut-qcow2-15": Reason.TRUNCATED,
    "cut-qcow2-17": Reason.TRUNCATED,
    "cut-qcow2-19": Reason.TRUNCATED,
    "cut-qcow2-zlib-01": Reason.TRUNCATED,
    "cut-qcow2-zlib-08": Reason.TRUNCATED,
    "cut-qcow2-zlib-09": Reason.TRUNCATED,
    "cut-qcow2-zlib-11": Reason.TRUNCATED,
    "cut-qcow2-zlib-15": Reason.TRUNCATED,
    "cut-qcow2-zlib-18": Reason.TRUNCATED,
    "mix-qcow2-all-zero": Reason.UNSUPPORTED_SUBFORMAT,
    "qcow2-amplify-4TiB": Reason.SHARED_CLUSTERS,
    "qcow2-backing-etc-passwd": Reason.EXTERNAL_REFERENCE,
    "qcow2-backing-etc-passwd-raw": Reason.READ_ERROR,
    "qcow2-backing-http-metadata": Reason.EXTERNAL_REFERENCE,
    "qcow2-backing-json-file": Reason.EXTERNAL_REFERENCE,
    "qcow2-backing-json-host-device": Reason.EXTERNAL_REFERENCE,
    "qcow2-backing-len-1024": Reason.BAD_VALUE,
    "qcow2-backing-loop2": Reason.EXTERNAL_REFERENCE,
    "qcow2-backing-nul": Reason.DIFFERENTIAL,
    "qcow2-backing-off-in-header": Reason.OVERLAP,
    "qcow2-clusterbits-0": Reason.BAD_VALUE,
    "qcow2-clusterbits-31": Reason.LIMIT_METADATA,
    "qcow2-compressed-damaged-tail": Reason.CORRUPT_DATA,
    "qcow2-compressed-garbage": Reason.CORRUPT_DATA,
    "qcow2-compressed-shorter-than-cluster": Reason.CORRUPT_DATA,
    "qcow2-compressed-zstd-as-zlib": Reason.CORRUPT_DATA,
    "qcow2-crypt-7": Reason.ENCRYPTED,
    "qcow2-datafile-etc-passwd": Reason.READ_ERROR,
    "qcow2-datafile-raw-etc-passwd": Reason.READ_ERROR,
    "qcow2-ext-len-max": Reason.BAD_VALUE,
    "qcow2-ext-len-past-cluster": Reason.BAD_VALUE,
    "qcow2-extl2-both-bits": Reason.BAD_VALUE,
    "qcow2-headerlen-72": Reason.BAD_VALUE,
    "qcow2-incompat-bit17": Reason.UNKNOWN_FEATURE,
    "qcow2-incompat-extl2-4k": Reason.BAD_VALUE,
    "qcow2-l1entry-unaligned": Reason.BAD_VALUE,
    "qcow2-l1off-zero": Reason.OVERLAP,
    "qcow2-l1size-beyond-eof": Reason.TRUNCATED,
    "qcow2-l1size-huge": Reason.LIMIT_METADATA,
    "qcow2-l1size-max": Reason.LIMIT_METADATA,
    "qcow2-l2-compressed-beyond-eof": Reason.OUT_OF_FILE,
    "qcow2-l2entry-unaligned": Reason.BAD_VALUE,
    "qcow2-luks": Reason.ENCRYPTED,
    "qcow2-size-2TiB-smallL1": Reason.BAD_VALUE,
    "qcow2-size-max": Reason.LIMIT_SIZE,
    "qcow2-size-neg": Reason.LIMIT_SIZE,
    "cdi-cirros-snapshot1": Reason.READ_ERROR,
    "cdi-invalid-large-json": Reason.OVERLAP,
}
DOUBTED = {  # readable, and the header or the check reports the defect
    "qcow2-lazy-dirty": Reason.UNCLEAN,
    "qcow2-bitmap-granularity-63": Reason.BAD_VALUE,
    "qcow2-bitmap-table-huge": Reason.TRUNCATED,
    "qcow2-bitmaps-beyond-eof": Reason.OUT_OF_FILE,
    "qcow2-bitmaps-huge": Reason.LIMIT_METADATA,
    "qcow2-ext-backingfmt-nobacking": Reason.BAD_VALUE,
    "qcow2-nsnap-huge": Reason.LIMIT_METADATA,
    "qcow2-refblock-beyond-eof": Reason.OUT_OF_FILE,
    "qcow2-refcount-order-7": Reason.BAD_VALUE,
    "qcow2-refcounts-high": Reason.LEAKED,
    "qcow2-snap-extra-huge": Reason.LIMIT_METADATA,
    "qcow2-snapoff-beyond-eof": Reason.TRUNCATED,
}
OTHER_VERDICT = {  # why the check says other than qemu-img check
    "cut-qcow2-19": "qemu fills a cluster that is short with zeroes, here that is a cut file",
    "cut-qcow2-zlib-18": "qemu accepts a frame that ends less than a cluster behind the file",
    "qcow2-amplify-4TiB": "qemu does not end",
    "qcow2-backing-loop2": "qemu does not end",
    "qcow2-luks": "qemu needs the key",
}


@pytest.fixture
def opened(corpus: Corpus) -> Iterator[Opener]:
    """Opens a case with all that it names and that lies beside it; closed after the test."""
    with ExitStack() as stack:
        yield lambda case_id: stack.enter_context(open_disk(corpus.path(case_id), follow="same-directory"))


def read(disk: Disk) -> Iterator[bytes]:
    """The guest's disk in pieces of one MiB, from rows that are proven to be in normal form."""
    at = 0
    for rows in disk.extents():
        end = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
        require_normal(rows, at, end, [file.size for file in disk.files])
        while at < end:
            piece = bytearray(min(MIB, end - at))
            engine.read_rows(disk.fds, disk.paths, rows, at, piece)
            yield bytes(piece)
            at += len(piece)


def outcome(disk: Disk) -> Reason | None:
    """Why the image is not read, or None."""
    try:
        for _ in read(disk):
            pass
    except DiskfmtError as caught:
        return caught.reason
    return None


def check(disk: Disk) -> list[Finding]:
    layer = disk.layers[0]
    return list(FORMAT.check(layer.image, layer.files, False))


@pytest.mark.parametrize("case_id", [
    name for name, case in CASES.items()
    if (case.get("qemu_info") or {}).get("format") == "qcow2" and name != "cdi-invalid-large-json"  # a huge list
])  # fmt: skip
def test_description_equals_that_of_qemu_img(corpus: Corpus, case_id: str) -> None:
    told: dict[str, Any] = dict(CASES[case_id]["qemu_info"])
    with SourceFile(corpus.path(case_id)) as source:
        image = FORMAT.open(source)
    assert told.pop("virtual-size") == image.virtual_size
    assert told.pop("cluster-size") == image.unit
    assert told.pop("format-specific")["data"] == image.specific
    shown = {key: value for key, value in image.extra.items() if key != "full-backing-filename"}
    for item in shown.get("snapshots", []):  # type: ignore[attr-defined]
        for name in ("date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"):  # the manifest leaves them out
            del item[name]
    del told["format"]
    assert shown == told


@pytest.mark.parametrize("case_id", [name for name in CASES if name not in REFUSED | DOUBTED])
def test_disk_reads_as_the_truth_says(opened: Opener, case_id: str) -> None:
    case = CASES[case_id]
    truth = case.get("guest") or {}
    try:
        disk = opened(case_id)
    except DiskfmtError:
        assert case["expect"] in ("any_but_crash", "refuse_or_partial")
        return
    if case["expect"] == "any_but_crash":
        outcome(disk)
        return
    assert first_error(disk.findings) is None
    if not truth.get("sha256") or disk.size > 512 * MIB:
        rows = sum(len(rows) for rows in disk.extents())
        assert rows >= 1
        return
    digest = hashlib.sha256()
    for piece in read(disk):
        digest.update(piece)
    assert digest.hexdigest() == truth["sha256"]


@pytest.mark.parametrize("case_id", [name for name in CASES if name in REFUSED])
def test_image_is_refused_for_the_right_reason(opened: Opener, case_id: str) -> None:
    try:
        disk = opened(case_id)
    except DiskfmtError as error:
        reason: Reason | None = error.reason
    else:
        reason = outcome(disk)
    assert reason is REFUSED[case_id]


@pytest.mark.parametrize("case_id", NAMING)
def test_nothing_that_an_image_names_is_opened_by_default(corpus: Corpus, case_id: str) -> None:
    try:
        with open_disk(corpus.path(case_id)) as disk:
            assert len(disk.files) == 1
            assert outcome(disk) in (Reason.EXTERNAL_REFERENCE, Reason.DIFFERENTIAL)
    except DiskfmtError as error:
        assert error.reason is REFUSED[case_id]


@pytest.mark.parametrize("case_id", [name for name in CASES if name in DOUBTED])
def test_defect_is_reported_and_the_disk_is_read(opened: Opener, case_id: str) -> None:
    disk = opened(case_id)
    assert outcome(disk) is None
    findings = [*disk.findings, *check(disk)]
    assert DOUBTED[case_id] in {finding.reason for finding in findings if finding.severity >= Severity.WARNING}


@pytest.mark.parametrize("case_id", [name for name in VERDICTS if name not in OTHER_VERDICT])
def test_check_judges_as_qemu_img_does(opened: Opener, case_id: str) -> None:
    try:
        disk = opened(case_id)
    except DiskfmtError:
        assert VERDICTS[case_id] != 0 or CASES[case_id]["expect"] != "good"
        return
    findings = check(disk)
    corrupt = any(finding.severity >= Severity.DAMAGE for finding in findings)
    leaked = any(finding.reason is Reason.LEAKED for finding in findings)
    assert (2 if corrupt else 3 if leaked else 0) == VERDICTS[case_id]


@pytest.mark.skipif(not CASES, reason="no image corpus")
def test_encrypted_image_has_sound_tables(opened: Opener) -> None:
    assert check(opened("qcow2-luks")) == []


@pytest.mark.parametrize("case_id", [
    name for name, case in CASES.items()
    if name not in REFUSED and case.get("qemu_map", {}).get("zero") == 0
])  # fmt: skip
def test_map_of_qemu_img_has_the_same_sums(opened: Opener, case_id: str) -> None:
    """As many bytes of data and of nothing, in images where qemu-img looked for no zeroes inside the data."""
    told = CASES[case_id]["qemu_map"]
    disk = opened(case_id)
    sums = dict.fromkeys(range(1, 5), 0)
    for rows in disk.extents():
        for kind in sums:
            sums[kind] += int(rows["length"][rows["kind"] == kind].sum())
    assert (sums[1] + sums[2], sums[3] + sums[4]) == (told["data"], told["hole"])
