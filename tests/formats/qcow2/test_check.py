"""What a check of tables and reference counts finds: one hostile image a check, and the verdicts of qemu-img."""

import json
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import qcow2 as build

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.extents import Kind
from diskfmt.formats.base import Statistics
from diskfmt.formats.qcow2 import FORMAT, parts, refcounts
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
NOTE, WARNING, DAMAGE, ERROR = sorted(Severity)


def check(path: str | Path) -> tuple[list[Finding], Statistics]:
    findings: list[Finding] = []
    with SourceFile(str(path)) as source:
        generator = FORMAT.check(FORMAT.open(source), [source], False)
        try:
            while True:
                findings.append(next(generator))
        except StopIteration as stop:
            return findings, stop.value


def verdict(findings: list[Finding]) -> int:
    """As qemu-img check ends: 0 sound, 2 corrupt, 3 leaked."""
    if any(finding.severity >= DAMAGE for finding in findings):
        return 2
    return 3 if any(finding.reason is Reason.LEAKED for finding in findings) else 0


def saved(tmp_path: Path, built: build.Built) -> Path:
    path = tmp_path / "d.qcow2"
    path.write_bytes(built.data)
    return path


CLUSTERS: dict[int, build.Cluster] = {
    0: ("data", b"a"), 5: ("deflate", b"b"), 6: ("deflate", b"c"), 7: ("zero", b""), 8: ("zero_allocated", b""),
    600: ("data", b"d"),
}  # fmt: skip


def good(**options: object) -> build.Built:
    return build.image(CLUSTERS, size=6 * MIB, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", range(7))
def test_sound_image_has_no_finding(order: int, tmp_path: Path, qemu_img: str) -> None:
    built = good(order=order)
    if not order:
        built = build.image({1: ("data", b"x")}, size=6 * MIB, order=0)
    path = saved(tmp_path, built)
    findings, statistics = check(path)
    assert findings == []
    assert statistics.total_units == 6 * MIB // 4096
    assert (statistics.stored_units, statistics.encoded_units) == ((5, 2) if order else (1, 0))
    assert statistics.end == len(built.data)
    subprocess.run([qemu_img, "check", path], check=True, capture_output=True)


def refcount_at(built: build.Built, cluster: int) -> int:
    return built.block + 2 * cluster


def change_refcount(offset_of: Callable[[build.Built], int], value: int) -> Callable[[build.Built], None]:
    return lambda built: void(built.poke(refcount_at(built, offset_of(built) // 4096), value, ">H"))


def void(_: object) -> None:
    return None


def two_entries_one_cluster(built: build.Built) -> None:
    """Two guest clusters in one host cluster, with a reference count that agrees."""
    built.poke(built.entry(1), built.places[0])
    built.poke(refcount_at(built, built.places[0] // 4096), 2, ">H")


HOSTILE: dict[str, tuple[Callable[[build.Built], None], set[tuple[Severity, Reason, str]]]] = {
    "refcount too low": (
        change_refcount(lambda built: built.places[0], 0),
        {(DAMAGE, Reason.BAD_VALUE, "1 clusters have reference counts that are too low, the first says 0 and is")}),
    "refcount too high": (
        change_refcount(lambda built: built.places[600], 3),
        {(WARNING, Reason.LEAKED, "1 clusters have reference counts that are too high, the first says 3 and is"),
         (DAMAGE, Reason.BAD_VALUE, "1 clusters are marked as used once, the reference count of the first says 3")}),
    "not marked as used once": (
        lambda built: void(built.poke(built.entry(600), built.places[600])),
        {(DAMAGE, Reason.BAD_VALUE, "1 clusters are not marked as used once")}),
    "L2 table not marked as used once": (
        lambda built: void(built.poke(built.l1 + 8, built.l2[1])),
        {(DAMAGE, Reason.BAD_VALUE, "1 clusters are not marked as used once")}),
    "zero cluster not marked as used once": (
        lambda built: void(built.poke(built.entry(8), built.places[8] | 1)),
        {(DAMAGE, Reason.BAD_VALUE, "1 clusters are not marked as used once")}),
    "frames counted once": (
        change_refcount(lambda built: built.places[5], 1),
        {(DAMAGE, Reason.BAD_VALUE, "the first says 1 and is used 2")}),
    "two things in one cluster": (
        two_entries_one_cluster,
        {(ERROR, Reason.OVERLAP, "1 clusters hold two things at once"),
         (DAMAGE, Reason.BAD_VALUE, "1 clusters are marked as used once")}),
    "refcount block unaligned": (
        lambda built: void(built.poke(built.table, built.block + 512)),
        {(DAMAGE, Reason.BAD_VALUE, "is not cluster aligned"), (DAMAGE, Reason.BAD_VALUE, "too low")}),
    "refcount block behind the file": (
        lambda built: void(built.poke(built.table, 1 << 40)),
        {(DAMAGE, Reason.OUT_OF_FILE, "the refcount block at 0x10000000000 ends behind"),
         (DAMAGE, Reason.BAD_VALUE, "too low")}),
    "no refcount table": (
        lambda built: void(built.patch(refcount_table_offset=0)),
        {(DAMAGE, Reason.BAD_VALUE, "there are no reference counts")}),
    "refcount order": (
        lambda built: void(built.patch(refcount_order=9)),
        {(DAMAGE, Reason.BAD_VALUE, "there are no reference counts")}),
    "L1 entry unaligned": (
        lambda built: void(built.poke(built.l1 + 8, 0x4200)),
        {(ERROR, Reason.BAD_VALUE, "L2 table at 0x4200"), (WARNING, Reason.LEAKED, "2 clusters")}),
    "L2 entries unaligned": (
        lambda built: void(built.poke(built.entry(20), 0x4200).poke(built.entry(21), 0x4200)),
        {(ERROR, Reason.BAD_VALUE, "cluster at 0x4200 is not cluster aligned, and 1 more like this")}),
    "compressed and copied": (
        lambda built: void(built.poke(built.entry(5), built.peek(built.entry(5)) | build.COPIED)),
        {(DAMAGE, Reason.BAD_VALUE, "1 compressed clusters are marked as used once")}),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("budget", [1 << 23, 8])
def test_damage_is_found(case: str, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a budget that needs several walks, as the damage lies in one part."""
    change, expected = HOSTILE[case]
    built = good()
    change(built)
    monkeypatch.setattr(parts, "BUDGET", budget)
    findings, _ = check(saved(tmp_path, built))
    left = [(finding.severity, finding.reason, finding.message) for finding in findings]
    for severity, reason, words in expected:
        assert any((severity, reason) == found[:2] and (words in found[2] or budget == 8) for found in left), left
    assert {found[:2] for found in left} == {wanted[:2] for wanted in expected}
    assert all(finding.offset is not None and finding.remedy for finding in findings)


def test_clusters_of_all_windows_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build.image(dict.fromkeys(range(40), ("data", b"x")), size=6 * MIB)
    for number in (0, 20, 39):
        built.poke(refcount_at(built, built.places[number] // 4096), 9, ">H")
    monkeypatch.setattr(refcounts, "WINDOW_ROWS", 8)
    findings, _ = check(saved(tmp_path, built))
    assert [finding.reason for finding in findings] == [Reason.BAD_VALUE, Reason.LEAKED]
    for finding in findings:
        assert finding.offset == built.places[0]
        assert finding.message.startswith("3 clusters")


def test_l2_table_many_times_ends_the_walk(tmp_path: Path) -> None:
    built = build.image({0: ("data", b"x")}, size=512 * 2 * MIB)
    for index in range(512):
        built.poke(built.l1 + 8 * index, built.l2[0])
    findings, _ = check(saved(tmp_path, built))
    assert Reason.SHARED_CLUSTERS in {finding.reason for finding in findings}


def test_snapshots_sharing_an_l1_table_are_walked_once(tmp_path: Path) -> None:
    built = good()
    at = len(built.data)
    l1 = at + 4096
    built.data += (build.snapshot(l1, 3) + build.snapshot(l1, 3, id=b"2", extra=b"")).ljust(4096, b"\0") + bytes(4096)
    built.patch(nb_snapshots=2, snapshots_offset=at)
    for cluster in (at // 4096, l1 // 4096):
        built.poke(refcount_at(built, cluster), 1, ">H")
    findings, _ = check(saved(tmp_path, built))
    assert [(finding.severity, finding.reason) for finding in findings] == [
        (WARNING, Reason.BAD_VALUE), (DAMAGE, Reason.SHARED_CLUSTERS)]  # fmt: skip


def test_tables_that_are_not_understood_are_left_alone(tmp_path: Path) -> None:
    built = build.image({0: ("data", b"x")}, size=MIB, bits=14).patch(incompatible=1 << 30)
    findings, statistics = check(saved(tmp_path, built))
    assert findings == []
    assert (statistics.total_units, statistics.stored_units) == (64, 0)


@pytest.mark.parametrize("steps", [
    ["write 0 3M", "write -z 1M 64k", "write -c 4M 64k"],
    ["write 0 1M", "SNAPSHOT one", "write 512k 1M", "SNAPSHOT two", "discard 0 128k", "write -c 2M 128k"],
    ["BITMAP b0", "write 1M 200k", "BITMAP b1"],
])  # fmt: skip
@pytest.mark.parametrize("options", ["", "cluster_size=512", "refcount_bits=64", "refcount_bits=2,cluster_size=4k"])
def test_numbers_equal_those_of_qemu_img(steps: list[str], options: str, qemu_img: str, qemu_io: str,
                                         tmp_path: Path) -> None:  # fmt: skip
    path = tmp_path / "d.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, "6M"],
                   check=True)  # fmt: skip
    for step in steps:
        verb, _, name = step.partition(" ")
        command = {
            "SNAPSHOT": [qemu_img, "snapshot", "-c", name, path],
            "BITMAP": [qemu_img, "bitmap", "--add", path, name],
        }.get(verb, [qemu_io, "-c", step, path])
        subprocess.run(command, check=True, capture_output=True)
    told = json.loads(subprocess.run([qemu_img, "check", "--output=json", path], check=True,
                                     capture_output=True).stdout)  # fmt: skip
    findings, statistics = check(path)
    assert findings == []
    assert statistics == Statistics(
        total_units=told["total-clusters"], stored_units=told.get("allocated-clusters", 0),
        encoded_units=told.get("compressed-clusters", 0), end=told["image-end-offset"],
    )  # fmt: skip


def test_64_tib_with_all_its_tables_take_little_memory(tmp_path: Path) -> None:
    """2^25 clusters of 2 MiB, 256 MiB of L2 tables, one cluster of data."""
    path = tmp_path / "d.qcow2"
    length = build.sparse(str(path), size=64 << 40, bits=21)
    tracemalloc.start()
    with SourceFile(str(path)) as source:
        image = FORMAT.open(source)
        rows = np.concatenate(list(FORMAT.extents(image, [source], 0, image.virtual_size)))
        assert int(rows["length"][rows["kind"] == Kind.DATA].sum()) == 2 * MIB
        assert int(rows[-1]["guest_off"] + rows[-1]["length"]) == 64 << 40
        regions = list(FORMAT.regions(image, [source]))
        peak = tracemalloc.get_traced_memory()[1]
    findings, statistics = check(path)
    peak = max(peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert findings == []
    assert statistics == Statistics(total_units=1 << 25, stored_units=1, encoded_units=0, end=length)
    # All but the cluster of data is header or table.
    assert sum(int(one.lengths.sum()) for one in regions) == length - 2 * MIB
    assert peak <= 64 * MIB
