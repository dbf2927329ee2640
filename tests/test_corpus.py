"""Every image of the corpus: read as its manifest states, or refused with the right reason."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from corpus_verdicts import DOUBTED, REFUSED, SIZES, SOUND
from images import IMAGES, Corpus, corpus_ids
from oracles import BLOCK, GuestDigest, digest_blocks, digest_file
from oracles.info import disagreements

import diskfmt
from diskfmt.errors import Reason, Severity
from diskfmt.kinds import Kind

_STEP = 16 * BLOCK
_OURS = ("raw", "qcow2", "vhd", "vmdk")
_TIB = 1 << 40

pytestmark = pytest.mark.timeout(60)


def _ids(*formats: str) -> list[str]:
    return [case for name in formats for case in corpus_ids(format=name)]


def _others() -> list[str]:
    return [case for case in corpus_ids() if case not in set(_ids(*_OURS))]


# The digest of the 8 MiB disk that the damaged images were made from.
_BASE = GuestDigest(size=8 << 20, nz64k="c63b73f35ad86af203dfbcc7ddaf245e2e8bdc78a47b0f0aa175da52d3d02ebe")


def _stored(disk: diskfmt.Disk) -> Iterator[tuple[int, bytes]]:
    """The blocks of a disk that hold a stored byte: disks of terabytes take no longer than their data."""
    done = 0
    for rows in disk.extents():
        for row in rows[rows["kind"] <= Kind.ENCODED]:
            start = max(done, int(row["guest_off"]) // BLOCK * BLOCK)
            done = max(done, -(-(int(row["guest_off"]) + int(row["length"])) // BLOCK) * BLOCK)
            for offset in range(start, done, _STEP):
                yield offset, disk.read_at(offset, min(_STEP, done - offset))


def _format_of(case: dict[str, Any]) -> str | None:
    """What the user would say: the declared format, but a raw disk only where it is one."""
    declared: str = case["format"]
    return None if declared == "raw" and case["expect"] == "refuse" and case["id"] != "mix-raw-xz" else declared


_watched: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], (str, bytes)):
        _watched[-1].append(os.fsdecode(arguments[0]))


sys.addaudithook(_audit)


@contextmanager
def _only_opens(*starts: str, folder: str | None = None) -> Iterator[None]:
    """Fails if anything is opened meanwhile but names that start so, Python, the project, and `folder` itself."""
    project = str(Path(__file__).resolve().parent.parent)
    allowed = (*starts, project, sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "/proc/", "/sys/")
    opened: list[str] = []
    _watched.append(opened)
    try:
        yield
    finally:
        _watched.remove(opened)
    strangers = [name for name in opened if os.path.isabs(name) and name != folder and not name.startswith(allowed)]
    assert strangers == []


def _convert(path: str, folder: Path, format: str | None) -> str:
    """Convert to raw, or to qcow2 where a file system could not hold the raw disk."""
    huge = diskfmt.inspect(path, format=format).virtual_size > _TIB
    out = str(folder / "out.img")
    diskfmt.convert(path, out, format="qcow2" if huge else "raw", source_format=format, sync=False, follow="pieces")
    return out


@pytest.mark.parametrize("case_id", _ids(*_OURS))
def test_image_of_corpus_is_read_or_refused_as_stated(case_id: str, corpus: Corpus, tmp_path: Path) -> None:
    case = dict(corpus.cases[case_id])
    path = corpus.path(case_id)
    with _only_opens(path, os.path.splitext(path)[0] + "-", str(tmp_path), folder=os.path.dirname(path)):
        # A descriptor's folder is opened as a folder, to open its pieces below it.
        if case_id in REFUSED:
            _is_refused(path, _format_of(case), REFUSED[case_id], tmp_path)
        else:
            _is_read(path, case, tmp_path)


def _is_refused(path: str, format: str | None, reason: Reason, folder: Path) -> None:
    with pytest.raises(diskfmt.DiskfmtError) as caught:
        _convert(path, folder, format)
    assert caught.value.reason is reason, caught.value
    assert caught.value.path is not None
    assert os.listdir(folder) == []
    _check_tells(path, format)


def _check_tells(path: str, format: str | None) -> None:
    """`check` finds an error too, cannot even open the file, or warns that it saw only one image of a chain."""
    try:
        report = diskfmt.check(path, format=format, deep=True, follow="pieces")
    except diskfmt.DiskfmtError:
        return
    assert not report.ok or Reason.EXTERNAL_REFERENCE in {finding.reason for finding in report.findings}


def _chains() -> list[str]:
    """Cases that are refused for what they name, and whose guest is known with it."""
    cases = Corpus(IMAGES, Path()).cases if (IMAGES / "manifest.json").exists() else {}
    known = [case_id for case_id, reason in REFUSED.items() if reason is Reason.EXTERNAL_REFERENCE]
    return [case_id for case_id in known if cases.get(case_id, {}).get("guest") and cases[case_id]["expect"] == "good"]


@pytest.mark.parametrize("case_id", _chains())
def test_chain_of_corpus_is_read_once_it_is_allowed(case_id: str, corpus: Corpus, tmp_path: Path) -> None:
    case = dict(corpus.cases[case_id])
    path, declared, out = corpus.path(case_id), _format_of(case), tmp_path / "out.raw"
    how = {"follow": "same-directory", "below_format": None}
    diskfmt.convert(path, out, format="raw", source_format=declared, sync=False, **how)
    assert digest_file(str(out)) == _wanted(path, case)
    assert diskfmt.check(path, format=declared, deep=True, **how).ok


def _is_read(path: str, case: dict[str, Any], folder: Path) -> None:
    declared = _format_of(case)
    with diskfmt.open_disk(path, format=declared, follow="pieces") as disk:
        seen = digest_blocks(disk.size, _stored(disk))
    wanted = _wanted(path, case)
    if wanted is not None:
        assert seen == wanted
    out = _convert(path, folder, declared)
    if seen.size <= _TIB:
        assert digest_file(out) == seen
    else:
        assert diskfmt.compare(out, path, strict=True).equal
    report = diskfmt.check(path, format=declared, deep=True, follow="pieces")
    doubts = {finding.reason for finding in report.findings if finding.severity >= Severity.WARNING}
    if case["id"] in DOUBTED:
        assert DOUBTED[case["id"]] in doubts
    else:
        assert doubts == set()
        assert case["expect"] in ("good", "report", "probe") or case["id"] in SOUND


def _wanted(path: str, case: dict[str, Any]) -> GuestDigest | None:
    """The guest as the manifest states it; of a damaged image that was made of the base disk, the base."""
    if "guest" in case:
        return GuestDigest(size=SIZES.get(case["id"], case["guest"]["size"]), nz64k=case["guest"]["nz64k"])
    if case["format"] == "raw":
        return digest_file(path)
    return _BASE if case["id"].startswith("cut-") else None


@pytest.mark.parametrize("case_id", _others())
def test_image_of_other_format_is_refused_by_name(case_id: str, corpus: Corpus) -> None:
    path = corpus.path(case_id)
    with _only_opens(path), pytest.raises(diskfmt.DiskfmtError) as caught:
        diskfmt.inspect(path)
    known = (Reason.UNSUPPORTED_SUBFORMAT, Reason.ENCRYPTED, Reason.UNKNOWN_FORMAT)
    assert caught.value.reason in known, caught.value


# qemu-img pads an odd raw file; it opens the pieces of a descriptor to tell their cluster size, `info` opens nothing;
# it lists snapshots whose table lies in the header.
_INFO_DIFFERS = (
    "raw-odd-bytes",
    "utillinux-fs-drbd-v08",
    "vmdk-twoGbMaxExtentSparse",
    "guest-debian12-extended-part",
    "vmdkrs-twoGbMaxExtentSparse",
    "cdi-invalid-large-json",
)


@pytest.mark.parametrize("case_id", _ids(*_OURS))
def test_info_of_corpus_image_agrees_with_qemu(case_id: str, corpus: Corpus) -> None:
    case = corpus.cases[case_id]
    theirs = case.get("qemu_info", {"rc": 1})
    if "rc" in theirs or case_id in _INFO_DIFFERS or REFUSED.get(case_id) is Reason.TRUNCATED:
        pytest.skip("qemu-img does not open it, or is known to answer differently")
    ours = json.loads(json.dumps(diskfmt.inspect(corpus.path(case_id), format=case["format"]).to_json()))
    assert disagreements(ours, dict(theirs)) == {}


@pytest.mark.parametrize("case_id", _ids("qcow2", "vhd", "vmdk"))
def test_image_of_corpus_is_recognised_without_help(case_id: str, corpus: Corpus) -> None:
    case = corpus.cases[case_id]
    try:
        found = diskfmt.inspect(corpus.path(case_id)).format
    except diskfmt.DiskfmtError:
        assert case_id in REFUSED
        return
    assert found == case["format"] or REFUSED[case_id] is Reason.FORMAT_MISMATCH
