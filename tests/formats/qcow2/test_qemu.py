"""Images that qemu's own tools make, with everything that qcow2 has: read, checked and accounted for as qemu does."""

import json
import random
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import diskfmt
from diskfmt.disk import Disk
from diskfmt.errors import Finding, Reason, RefusedError, Severity, UsageError
from diskfmt.extents import Kind, require_normal
from diskfmt.formats.base import Regions, Statistics
from diskfmt.formats.qcow2 import FORMAT, parts

MIB = 1 << 20
FOLLOW = "same-directory"


def run(*command: str | Path, cwd: Path, accept: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode in accept, (command, done.stdout, done.stderr)
    return done.stdout


class Maker:
    """Makes images in a directory with qemu-img and qemu-io, and asks qemu-img about them."""

    def __init__(self, folder: Path, qemu_img: str, qemu_io: str) -> None:
        self.folder, self.img, self.io = folder, qemu_img, qemu_io

    def create(self, name: str, size: str = "", *, format: str = "qcow2", options: str = "",
               below: tuple[str, str] | None = None) -> Path:  # fmt: skip
        """A new image; `below`: name and format of the image below."""
        backing = ["-b", below[0], "-F", below[1]] if below else []
        option = ["-o", options] if options else []
        run(self.img, "create", "-q", "-f", format, *option, *backing, name, *([size] if size else []), cwd=self.folder)
        return self.folder / name

    def do(self, name: str, *commands: str, format: str = "qcow2") -> None:
        """Writes, zeroes, discards. qemu refuses some of them, such as to compress what is not."""
        words = [word for command in commands for word in ("-c", command)]
        if words:
            run(self.io, "-f", format, *words, name, cwd=self.folder, accept=(0, 1))

    def content(self, name: str, *extra: str, format: str = "qcow2") -> bytes:
        """What qemu-img reads."""
        run(self.img, "convert", "-f", format, "-O", "raw", *extra, name, "content.raw", cwd=self.folder)
        return (self.folder / "content.raw").read_bytes()

    def told(self, verb: str, name: str) -> dict[str, object]:
        """What `info` or `check` say."""
        text = run(self.img, verb, "--output=json", name, cwd=self.folder, accept=(0, 2, 3))
        answer: dict[str, object] = json.loads(text)
        return answer


@pytest.fixture
def maker(tmp_path: Path, qemu_img: str, qemu_io: str) -> Maker:
    return Maker(tmp_path, qemu_img, qemu_io)


def read(path: Path, snapshot: str | None = None) -> bytes:
    """The guest's disk, from rows that are proven to be in normal form."""
    with diskfmt.open_disk(path, follow=FOLLOW, snapshot=snapshot) as disk:
        at = 0
        for rows in disk.extents():
            end = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
            require_normal(rows, at, end, [file.size for file in disk.files])
            at = end
        return disk.read_at(0, disk.size)


def judge(maker: Maker, path: Path) -> None:
    """Our check says what qemu-img check says, and counts what it counts.

    qemu's writer leaves images that its check calls corrupt where a process discards what it has compressed.
    """
    told = maker.told("check", path.name)
    found: list[Finding] = []
    with diskfmt.open_disk(path, follow=FOLLOW) as disk:
        generator = FORMAT.check(disk.image, disk.layers[0].files, True)
        try:
            while True:
                found.append(next(generator))
        except StopIteration as stop:
            assert stop.value == Statistics(
                total_units=told["total-clusters"],  # type: ignore[arg-type]
                stored_units=told.get("allocated-clusters", 0),  # type: ignore[arg-type]
                encoded_units=told.get("compressed-clusters", 0),  # type: ignore[arg-type]
                end=told["image-end-offset"],  # type: ignore[arg-type]
            )
        assert any(one.severity >= Severity.DAMAGE for one in found) == ("corruptions" in told), found
        assert any(one.reason is Reason.LEAKED for one in found) == ("leaks" in told), found
        if not found:
            account(disk)


def regions(disk: Disk) -> list[Regions]:
    return list(FORMAT.regions(disk.image, disk.layers[0].files))


def account(disk: Disk) -> None:
    """Regions lie inside their file, over no stored row and over no other region."""
    files = disk.layers[0].files
    for file_id, file in enumerate(files):
        spans = [
            (int(offset), int(offset + length), region.kind)
            for region in regions(disk) if region.file_id == file_id
            for offset, length in zip(region.offsets, region.lengths, strict=True)
        ]  # fmt: skip
        frames = []
        for rows in FORMAT.extents(disk.image, files, 0, disk.size):
            for row in rows[(rows["kind"] <= Kind.ENCODED) & (rows["file_id"] == file_id)]:
                span = (int(row["host_off"]), int(row["host_off"] + row["host_len"]), "row")
                (spans if row["kind"] == Kind.DATA else frames).append(span)
        spans.sort()
        assert all(start < end <= file.size for start, end, _ in spans)
        assert all(end <= start for (_, end, _), (start, _, _) in pairwise(spans)), spans
        for start, end, _ in frames:  # the last sector of a frame may hold the start of what follows
            assert not any(low < end - 511 and start < high for low, high, _ in spans)


SECTORS = st.integers(0, 2 * MIB // 512 - 1)


@st.composite
def commands(draw: st.DrawFn, verbs: Sequence[str]) -> str:
    """One command of qemu-io on a disk of 2 MiB."""
    verb = draw(st.sampled_from(verbs))
    start, length = draw(SECTORS), draw(st.sampled_from([1, 4, 5, 31, 128, 129, 700]))
    if verb == "write -c":
        start, length = start // 256 * 256, 256
    length = min(length, 2 * MIB // 512 - start)
    pattern = f"-P {draw(st.integers(1, 255))} " if verb in ("write", "write -c") else ""
    return f"{verb} {pattern}{start * 512} {length * 512}"


ALL_VERBS = ("write", "write", "write -z", "write -z -u", "discard", "write -c")


@given(st.lists(commands(ALL_VERBS), max_size=12), st.sampled_from(["16k", "64k", "128k"]),
       st.sampled_from(["", ",compression_type=zstd", ",refcount_bits=64"]), st.booleans())  # fmt: skip
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_extended_entries_by_qemu_read_equal(maker: Maker, steps: list[str], cluster: str, more: str,
                                             below: bool) -> None:  # fmt: skip
    """With and without an image below, through which subclusters that are not there show."""
    (maker.folder / "base").write_bytes(bytes(range(1, 256)) * 4096)
    path = maker.create("d.qcow2", "2M", options=f"extended_l2=on,cluster_size={cluster}{more}",
                        below=("base", "raw") if below else None)  # fmt: skip
    maker.do("d.qcow2", *steps)
    assert read(path) == maker.content("d.qcow2")
    judge(maker, path)


OPTIONS = ("cluster_size=512", "cluster_size=4k", "", "compat=0.10", "preallocation=metadata")


@given(st.lists(commands(ALL_VERBS), max_size=10), st.sampled_from(OPTIONS))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_images_by_qemu_read_equal(maker: Maker, steps: list[str], options: str) -> None:
    path = maker.create("d.qcow2", "2M", options=options)
    maker.do("d.qcow2", *steps)
    assert read(path) == maker.content("d.qcow2")
    judge(maker, path)


@given(st.lists(commands(("write", "write", "write -z", "write -z -u", "discard")), max_size=10),
       st.sampled_from(["", ",data_file_raw=on"]), st.sampled_from(["", ",extended_l2=on"]),
       st.sampled_from(["2M", "2100736"]))  # fmt: skip
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_data_file_by_qemu_reads_equal(maker: Maker, steps: list[str], raw: str, extended: str, size: str) -> None:
    (maker.folder / "d.data").unlink(missing_ok=True)
    path = maker.create("d.qcow2", size, options=f"data_file=d.data{raw}{extended}")
    maker.do("d.qcow2", *steps, "write -P 3 2097152 512" if size != "2M" else "write -P 3 0 512")
    content = read(path)
    assert content == maker.content("d.qcow2")
    if raw:
        assert (maker.folder / "d.data").read_bytes().startswith(content)  # it has whole clusters
    judge(maker, path)


def test_data_file_is_opened_only_where_it_is_allowed(maker: Maker, tmp_path: Path) -> None:
    path = maker.create("d.qcow2", "1M", options="data_file=d.data")
    maker.do("d.qcow2", "write -P 7 0 1M")
    with diskfmt.open_disk(path) as disk, pytest.raises(RefusedError) as caught:
        disk.read_at(0, 1)
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE
    (tmp_path / "elsewhere").mkdir()
    (maker.folder / "d.data").rename(tmp_path / "elsewhere" / "d.data")
    with diskfmt.open_disk(path, follow=str(tmp_path / "elsewhere")) as disk:
        assert disk.read_at(0, 3) == b"\7\7\7"


QEMU_NAMES = {"raw": "", "qcow2": "cluster_size=4k", "vpc": "subformat=dynamic,force_size=on",
              "vmdk": "subformat=monolithicSparse"}  # fmt: skip
BASE_STEPS = ("write -P 17 0 1M", "write -P 18 1500k 300k")
TOP_STEPS = ("write -P 33 100k 200k", "write -z 512k 256k", "discard 900k 128k", "write -c -P 34 1408k 64k")


@pytest.mark.parametrize("format", QEMU_NAMES)
@pytest.mark.parametrize("options", ["", "compat=0.10", "extended_l2=on", "cluster_size=512"])
@pytest.mark.parametrize("sizes", [("2M", "2M"), ("2M", "3M"), ("3M", "2M")])
def test_chain_of_two_reads_equal(format: str, options: str, sizes: tuple[str, str], maker: Maker) -> None:
    """The image below is as long, shorter and longer."""
    maker.create("base", sizes[0], format=format, options=QEMU_NAMES[format])
    maker.do("base", *BASE_STEPS, *(["write -P 19 2560k 400k"] if sizes[0] == "3M" else []), format=format)
    path = maker.create("top.qcow2", sizes[1], options=options, below=("base", format))
    steps = [step for step in TOP_STEPS if "0.10" not in options or not step.startswith("write -z")]
    maker.do("top.qcow2", *steps)
    (maker.folder / "content.raw").unlink(missing_ok=True)
    content = maker.content("top.qcow2")
    assert read(path) == content
    assert diskfmt.digest(path, follow=FOLLOW) == diskfmt.digest(maker.folder / "content.raw", format="raw")
    judge(maker, path)


def test_chain_of_four_formats_reads_equal(maker: Maker) -> None:
    maker.create("a.raw", "1M", format="raw")
    maker.do("a.raw", "write -P 1 0 1M", format="raw")
    maker.create("b.qcow2", "3M", below=("a.raw", "raw"), options="extended_l2=on")
    maker.do("b.qcow2", "write -P 2 64k 1k", "write -P 3 2M 64k", "write -z 300k 10k")
    maker.create("c.qcow2", "2M", below=("b.qcow2", "qcow2"), options="compat=0.10")
    maker.do("c.qcow2", "write -P 4 128k 1k", "write -c -P 5 512k 64k")
    path = maker.create("d.qcow2", "4M", below=("c.qcow2", "qcow2"))
    maker.do("d.qcow2", "write -P 6 130k 1k", "write -z 512k 32k", "write -P 7 3M 1M")
    assert read(path) == maker.content("d.qcow2")


def test_chain_that_must_not_be_followed_is_refused(maker: Maker, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    maker.create("sub/base.raw", "1M", format="raw")
    path = maker.create("d.qcow2", "1M", below=("sub/base.raw", "raw"))
    maker.do("d.qcow2", "write -P 7 0 1k")
    with diskfmt.open_disk(path) as disk, pytest.raises(RefusedError):
        disk.read_at(0, 1)
    with pytest.raises(diskfmt.DiskfmtError, match="READ_ERROR"):
        read(path)  # the directory that the name holds is not gone to
    with diskfmt.open_disk(path, follow=str(tmp_path / "sub")) as disk:
        assert disk.read_at(0, disk.size) == maker.content("d.qcow2")


def test_chain_that_is_too_deep_or_comes_back_is_refused(maker: Maker) -> None:
    maker.create("0", "1M")
    for depth in range(1, 17):
        maker.create(str(depth), "1M", below=(str(depth - 1), "qcow2"))
    assert len(read(maker.folder / "15")) == MIB
    with pytest.raises(RefusedError, match="more than 16 images"):
        read(maker.folder / "16")
    run(maker.img, "rebase", "-u", "-b", "2", "-F", "qcow2", "0", cwd=maker.folder)
    with pytest.raises(RefusedError, match="comes back"):
        read(maker.folder / "2")


def test_format_below_that_is_not_recorded_must_be_named(maker: Maker) -> None:
    maker.create("base.qcow2", "1M")
    path = maker.create("d.qcow2", below=("base.qcow2", "qcow2"))
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe2\x79\x2a\xca")
    data[at : at + 4] = b"\0\0\0\1"  # an extension that nobody knows
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="below-format"):
        read(path)
    with diskfmt.open_disk(path, follow=FOLLOW, below_format="qcow2") as disk:
        assert disk.read_at(0, 1) == b"\0"


SNAPSHOT_STEPS = (
    ("one", ("write -P 1 0 1M", "write -c -P 9 1M 64k")),
    ("two", ("write -P 2 512k 700k", "write -z 0 64k")),
    ("3", ("discard 0 256k", "write -P 3 1900k 100k", "write -P 4 64k 2k")),
)


@pytest.mark.parametrize("options", ["", "compat=0.10", "cluster_size=512", "extended_l2=on", "refcount_bits=8"])
@pytest.mark.parametrize("below", [False, True])
def test_snapshots_read_as_qemu_reads_them(options: str, below: bool, maker: Maker) -> None:
    maker.create("base", "2M", format="raw")
    maker.do("base", "write -P 77 0 2M", format="raw")
    path = maker.create("d.qcow2", "2M", options=options, below=("base", "raw") if below else None)
    for name, steps in SNAPSHOT_STEPS:
        maker.do("d.qcow2", *(step for step in steps if "0.10" not in options or "-z" not in step))
        run(maker.img, "snapshot", "-c", name, "d.qcow2", cwd=maker.folder)
    maker.do("d.qcow2", "write -P 99 0 2M")
    for name in ("one", "two", "3", "1"):
        wanted = f"snapshot.id={name}" if name in "123" else f"snapshot.name={name}"
        assert read(path, snapshot=name) == maker.content("d.qcow2", "-l", wanted)
    assert read(path) == b"\x63" * (2 * MIB)
    shown = maker.told("info", "d.qcow2")["snapshots"]
    assert diskfmt.inspect(path).to_json()["snapshots"] == shown
    judge(maker, path)
    with pytest.raises(UsageError, match='no snapshot "nix"'):
        read(path, snapshot="nix")


def test_snapshot_has_the_size_that_its_disk_had(maker: Maker) -> None:
    """qemu-img convert -l gives it the present size: zeroes behind the disk of the snapshot."""
    path = maker.create("d.qcow2", "1M")
    maker.do("d.qcow2", "write -P 5 0 1M")
    run(maker.img, "snapshot", "-c", "small", "d.qcow2", cwd=maker.folder)
    run(maker.img, "resize", "-q", "d.qcow2", "3M", cwd=maker.folder)
    maker.do("d.qcow2", "write -P 6 0 3M")
    seen = read(path, snapshot="small")
    assert seen == b"\5" * MIB
    assert maker.content("d.qcow2", "-l", "small").startswith(seen)
    with diskfmt.open_disk(path, snapshot="small") as disk:
        assert disk.size == disk.image.virtual_size == MIB


def test_name_of_two_snapshots_is_refused(maker: Maker) -> None:
    path = maker.create("d.qcow2", "1M")
    for _ in range(2):
        run(maker.img, "snapshot", "-c", "same", "d.qcow2", cwd=maker.folder)
    with pytest.raises(RefusedError, match="2 snapshots are called"):
        read(path, snapshot="same")
    assert len(read(path, snapshot="2")) == MIB


def test_id_goes_before_name(maker: Maker) -> None:
    """The second snapshot has the id of the first for a name."""
    path = maker.create("d.qcow2", "1M")
    for pattern, name in ((1, "first"), (2, "1")):
        maker.do("d.qcow2", f"write -P {pattern} 0 1M")
        run(maker.img, "snapshot", "-c", name, "d.qcow2", cwd=maker.folder)
    assert read(path, snapshot="1")[0] == 1
    assert read(path, snapshot="2")[0] == 2


def test_snapshot_of_other_formats_does_not_exist(maker: Maker) -> None:
    maker.create("d.vmdk", "1M", format="vmdk")
    with pytest.raises(UsageError):
        read(maker.folder / "d.vmdk", snapshot="1")


def test_bitmaps_and_snapshots_are_told_as_qemu_tells_them(maker: Maker) -> None:
    path = maker.create("d.qcow2", "4M", options="lazy_refcounts=on,refcount_bits=32")
    for words in (("-g", "32k", "d.qcow2", "b0"), ("--disable", "d.qcow2", "b1")):
        run(maker.img, "bitmap", "--add", *words, cwd=maker.folder)
    maker.do("d.qcow2", "write -P 1 0 2M")
    run(maker.img, "snapshot", "-c", "s", "d.qcow2", cwd=maker.folder)
    told, shown = maker.told("info", "d.qcow2"), diskfmt.inspect(path).to_json()
    assert shown["format-specific"] == told["format-specific"]
    assert shown["snapshots"] == told["snapshots"]
    judge(maker, path)


def test_wider_window_finds_repeats_that_are_further_apart(maker: Maker) -> None:
    """Records of 40 bytes that come again 3, 6, 12 and 24 KiB later; with each bit more, others are found."""
    source = random.Random(5)
    guest = bytearray()
    for at in range(64):
        length = 3072 << at % 4
        block = source.randbytes(length)
        guest += (block * 2)[: 2 * length].ljust(65536, b"\0")
    (maker.folder / "g.raw").write_bytes(guest)
    sizes = []
    for bits in ("12", "13", "14", "15"):
        path = maker.folder / f"{bits}.qcow2"
        diskfmt.convert(maker.folder / "g.raw", path, format="qcow2", source_format="raw", compress="zlib:6",
                        options={"deflate_window": bits, "cluster_size": "64k"}, sync=False)  # fmt: skip
        assert maker.content(path.name) == guest == read(path)
        judge(maker, path)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def kinds(path: Path) -> dict[str, int]:
    """Bytes of the regions of each kind."""
    with diskfmt.open_disk(path, follow=FOLLOW) as disk:
        found = regions(disk)
    return {kind: sum(int(np.sum(one.lengths)) for one in found if one.kind == kind)
            for kind in {one.kind for one in found}}  # fmt: skip


@pytest.mark.parametrize("budget", [1 << 23, 5])
def test_bytes_of_the_file_are_for_what_qemu_made_them(budget: int, maker: Maker,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Header, L1, L2, refcount table and block; then what each further step adds, in clusters.

    The same where the file is looked at in parts of five clusters.
    """
    monkeypatch.setattr(parts, "BUDGET", budget)
    cluster = 65536
    path = maker.create("d.qcow2", "4M")
    maker.do("d.qcow2", "write -P 1 0 256k")
    assert kinds(path) == {"header": cluster, "table": 4 * cluster}
    maker.do("d.qcow2", "write -z 0 128k")  # keeps its clusters
    assert kinds(path) == {"header": cluster, "table": 4 * cluster, "preallocated": 2 * cluster}
    run(maker.img, "snapshot", "-c", "s", "d.qcow2", cwd=maker.folder)
    maker.do("d.qcow2", "write -P 2 128k 64k")
    # Snapshot table, its L1 and the new L2 table; the cluster that was overwritten is the snapshot's alone.
    assert kinds(path) == {
        "header": cluster, "table": 7 * cluster, "preallocated": 2 * cluster, "snapshot": cluster}  # fmt: skip
    run(maker.img, "bitmap", "--add", "d.qcow2", "b", cwd=maker.folder)
    maker.do("d.qcow2", "write -P 2 192k 64k")
    assert 2 * cluster < kinds(path)["bitmap"] <= 3 * cluster  # table, data, directory, which may end the file
    judge(maker, path)


def test_leaked_clusters_are_told(maker: Maker) -> None:
    path = maker.create("d.qcow2", "1M", options="cluster_size=4k")
    maker.do("d.qcow2", "write -P 1 0 64k")
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[40:48])
    l2 = int.from_bytes(data[table : table + 8]) & (1 << 56) - 512
    data[l2 : l2 + 16] = bytes(16)  # forget two clusters
    path.write_bytes(data)
    assert kinds(path)["leaked"] == 8192
    findings = diskfmt.check(path).findings
    assert [(one.reason, one.severity) for one in findings] == [(Reason.LEAKED, Severity.WARNING)]


def test_unused_subclusters_are_preallocated(maker: Maker) -> None:
    path = maker.create("d.qcow2", "1M", options="extended_l2=on")
    maker.do("d.qcow2", "write -P 1 2k 4k", "write -P 1 64k 64k")
    assert kinds(path)["preallocated"] == 65536 - 4096
