"""Differencing disks over their parents: read as a model and libvhdi say, or refused with the reason."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import raw as raw_build
from builders import vhd as build
from formats.vhd.chains import EPOCH, Blocks, clean, guest, identity, libvhdi, seven_zip, write_chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import Corpus
from oracles.digest import digest_blocks
from oracles.readers import ORACLES, missing

import diskfmt
from diskfmt.errors import DiskfmtError, Reason, Severity

BLOCK = 4096
WARNING, ERROR = Severity.WARNING, Severity.ERROR


def read(path: Path | str, **options: Any) -> bytes:
    with diskfmt.open_disk(path, follow="same-directory", **options) as disk:
        return disk.read_at(0, disk.size)


def two_levels(**changed_header: object) -> tuple[list[Blocks], int]:
    return [{0: (b"\xff", b"a" * BLOCK), 1: (b"\xff", b"b" * BLOCK)}, {1: (b"\x0f", b"c" * BLOCK)}], 3 * BLOCK


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    levels, size = two_levels()
    child, parent = write_chain(tmp_path, size, levels)
    return child, parent


_sectors = st.sampled_from([b"\0", b"\xff", b"\x80", b"\x01", b"\x55"]) | st.binary(min_size=1, max_size=1)
_level = st.dictionaries(st.integers(0, 7), st.tuples(_sectors, st.binary(min_size=1, max_size=1)), max_size=6)


@given(levels=st.lists(_level, min_size=2, max_size=4), cut=st.integers(0, 7))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chain_of_any_bitmaps_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, levels: list[dict[int, tuple[bytes, bytes]]], cut: int
) -> None:
    size = 8 * BLOCK - cut * 512
    filled = [{n: (bits, fill * BLOCK) for n, (bits, fill) in level.items()} for level in levels]
    paths = write_chain(tmp_path_factory.mktemp("chain"), size, filled)
    assert read(paths[0]) == guest(size, filled)


def random_levels(depth: int, block_size: int, bits: Callable[[random.Random], int]) -> list[Blocks]:
    """Levels with some blocks each; `bits` gives the bytes of their bitmaps."""
    rng = random.Random(depth)
    levels = []
    for _ in range(depth):
        level = {}
        for number in {0, rng.randrange(3)}:
            bitmap = bytes(bits(rng) for _ in range(block_size // 4096))
            level[number] = bitmap, clean(bitmap, rng.randbytes(block_size))
        levels.append(level)
    return levels


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("block_size", [512 << 10, 2 << 20])
@pytest.mark.parametrize("oracle", ["libvhdi", "7zip"])
def test_chain_is_read_as_others_read_it(tmp_path: Path, depth: int, block_size: int, oracle: str) -> None:
    choices = [0, 255] if oracle == "libvhdi" else range(256)  # libvhdi-bitmap of docs/oracles.md
    levels = random_levels(depth, block_size, lambda rng: rng.choice(choices))
    size = 3 * block_size - 512
    paths = write_chain(tmp_path, size, levels, block_size=block_size)
    want = guest(size, levels, block_size=block_size)
    assert (libvhdi(paths) if oracle == "libvhdi" else seven_zip(paths[0])) == want
    assert read(paths[0]) == want


def test_libvhdi_takes_a_byte_for_stored_from_its_first_set_bit_on(tmp_path: Path) -> None:
    size = 512 << 10
    (path,) = write_chain(tmp_path, size, [{0: (b"\x80".ljust(128, b"\0"), b"x" * size)}], block_size=size)
    assert read(path) == (b"x" * 512).ljust(size, b"\0")
    seen = libvhdi([path])
    if seen == read(path):
        pytest.skip("fixed")
    assert seen == (b"x" * 4096).ljust(size, b"\0")


def test_libvhdi_reads_zeroes_where_it_goes_over_to_the_next_block(tmp_path: Path) -> None:
    size = 512 << 10
    bits = b"\xff".ljust(128, b"\0")
    (path,) = write_chain(tmp_path, 2 * size, [dict.fromkeys((0, 1), (bits, b"x" * 4096))], block_size=size)
    assert libvhdi([path]) == read(path)
    seen = libvhdi([path], step=2 * size)
    if seen == read(path):
        pytest.skip("fixed")
    assert seen == (b"x" * 4096).ljust(2 * size, b"\0")


def test_depth_and_file_of_a_row_tell_which_image_has_it(pair: tuple[Path, Path]) -> None:
    rows = [
        (row.start, row.depth, row.filename) for row in diskfmt.map_rows(pair[0], follow="same-directory") if row.data
    ]
    child, parent = map(str, pair)
    assert rows == [(0, 1, parent), (BLOCK, 1, parent), (BLOCK + 4 * 512, 0, child)]


def test_nothing_is_opened_without_permission(pair: tuple[Path, Path]) -> None:
    with diskfmt.open_disk(pair[0]) as disk:
        assert len(disk.files) == 1
        assert {reference.kind for reference in disk.missing} == {"parent"}
        with pytest.raises(DiskfmtError) as caught:
            disk.extents()
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE


def findings(path: Path) -> list[tuple[Severity, Reason, str | None]]:
    with diskfmt.open_disk(path, follow="same-directory") as disk:
        return [(one.severity, one.reason, one.path) for one in disk.findings if one.severity > Severity.NOTE]


SMALL = [(WARNING, Reason.BAD_VALUE)]  # blocks of 4 KiB


def about_parent(path: Path) -> list[tuple[Severity, Reason]]:
    """Findings about the pair, without those about small blocks of each."""
    return [(severity, reason) for severity, reason, _ in findings(path) if reason is not Reason.BAD_VALUE]


def test_parent_that_belongs_to_the_disk_has_no_finding(pair: tuple[Path, Path]) -> None:
    assert about_parent(pair[0]) == []


def change_id(child: Path, parent: Path) -> None:
    stat = parent.stat()
    parent.write_bytes(build.patch(bytearray(parent.read_bytes()), "both", "unique_id", b"other parent 123"))
    os.utime(parent, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_time(child: Path, parent: Path) -> None:
    os.utime(parent, (EPOCH + 2000, EPOCH + 2000))


def change_time_a_little(child: Path, parent: Path) -> None:
    os.utime(parent, (EPOCH + 1002, EPOCH + 1002))


def no_time(child: Path, parent: Path) -> None:
    child.write_bytes(build.patch(bytearray(child.read_bytes()), "header", "parent_timestamp", 0))


def grow_child(child: Path, parent: Path, creator: bytes = b"win ") -> None:
    levels, size = two_levels()
    fields = build.parent_fields(parent.name, identity(0), 1000)
    changed = {"unique_id": identity(1), "creator": creator}
    child.write_bytes(
        build.dynamic(size + BLOCK, levels[1], disk_type=4, changed=changed, changed_header=fields, block_size=BLOCK)
    )


def grow_child_of_xenserver(child: Path, parent: Path) -> None:
    grow_child(child, parent, b"tap\0")


JUDGED: dict[str, tuple[Callable[[Path, Path], None], list[tuple[Severity, Reason]]]] = {
    "id": (change_id, [(ERROR, Reason.DIFFERENTIAL)]),
    "time": (change_time, [(WARNING, Reason.DIFFERENTIAL)]),
    "time-rounded": (change_time_a_little, []),
    "no-time": (no_time, []),
    "size": (grow_child, [(ERROR, Reason.DIFFERENTIAL)]),
    "size-xenserver": (grow_child_of_xenserver, [(WARNING, Reason.DIFFERENTIAL)]),
}


@pytest.mark.parametrize("name", JUDGED)
def test_parent_that_may_be_another_is_told(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    change, expected = JUDGED[name]
    change(*pair)
    assert about_parent(pair[0]) == expected
    out = tmp_path / "out.raw"
    if any(severity is ERROR for severity, _ in expected):
        with pytest.raises(DiskfmtError):
            diskfmt.convert(pair[0], out, format="raw", follow="same-directory")
        assert not out.exists()
    else:
        diskfmt.convert(pair[0], out, format="raw", follow="same-directory")
        assert out.read_bytes()[: 2 * BLOCK] == guest(3 * BLOCK, two_levels()[0])[: 2 * BLOCK]


def test_disk_grown_by_xenserver_reads_zero_behind_its_parent(pair: tuple[Path, Path]) -> None:
    grow_child_of_xenserver(*pair)
    assert read(pair[0]) == guest(4 * BLOCK, two_levels()[0])


def raw_child(folder: Path, **fields: object) -> Path:
    header = build.parent_fields("parent.raw", bytes(16)) | fields
    child = folder / "child.vhd"
    child.write_bytes(
        build.dynamic(1 << 16, {3: (b"\xff", b"c" * BLOCK)}, disk_type=4, changed_header=header, block_size=BLOCK)
    )
    return child


def test_parent_without_an_id_may_be_raw_if_the_caller_says_so(tmp_path: Path) -> None:
    parent = raw_build.sparse(tmp_path / "parent.raw", 1 << 16, {0: b"parent", 3 * BLOCK: b"hidden"})
    child = raw_child(tmp_path)
    with pytest.raises(DiskfmtError, match="below-format"):
        read(child)
    want = bytearray(parent.read_bytes())
    want[3 * BLOCK : 4 * BLOCK] = b"c" * BLOCK
    assert read(child, below_format="raw") == bytes(want)


def test_parent_with_an_id_is_never_raw(tmp_path: Path) -> None:
    raw_build.sparse(tmp_path / "parent.raw", 1 << 16, {0: b"parent"})
    with pytest.raises(DiskfmtError):
        read(raw_child(tmp_path, parent_id=b"x" * 16), below_format="raw")


def test_disk_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    header = build.parent_fields("d.vhd", identity(0))
    path.write_bytes(build.dynamic(1 << 16, {}, disk_type=4, changed_header=header))
    with pytest.raises(DiskfmtError) as caught:
        read(path)
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE


@pytest.mark.parametrize("name", ["http://host/p.vhd", "nbd:p.vhd", "/dev/..", ".."])
def test_name_that_is_no_file_is_not_followed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d.vhd"
    path.write_bytes(
        build.dynamic(
            1 << 16, {}, disk_type=4, changed_header={"parent_id": identity(0)}, locators=[(b"MacX", name.encode())]
        )
    )
    with pytest.raises(DiskfmtError) as caught:
        read(path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("oracle", ["qemu-img", "libyal", "dissect", "7zip"])
def test_dynamic_disk_that_names_a_parent_stands_alone_as_others_read_it(tmp_path: Path, oracle: str) -> None:
    if missing(oracle):
        pytest.skip(missing(oracle) or "")
    size = 512 << 10
    path = tmp_path / "d.vhd"
    path.write_bytes(
        build.dynamic(
            2 * size, {1: (b"\xff" * 128, b"x" * size)}, block_size=size,
            changed_header=build.parent_fields("d.vhd", identity(3)), locators=[(b"W2ru", "d.vhd".encode("utf-16-le"))],
        )
    )  # fmt: skip
    disk = read(path)
    assert disk == b"x".rjust(size + 1, b"\0").replace(b"x", b"x" * size)
    assert ORACLES[oracle](str(path), "vhd") == digest_blocks(2 * size, [(0, disk)])
    with diskfmt.open_disk(path, follow="same-directory") as opened:
        assert len(opened.files) == 1


def test_any_spelling_finds_the_parent(pair: tuple[Path, Path], tmp_path: Path) -> None:
    child, parent = pair
    want = read(child)
    spellings = [
        (b"W2ru", f"..\\elsewhere\\{parent.name}".encode("utf-16-le")),
        (b"W2ku", f"C:\\vm disks\\{parent.name}".encode("utf-16-le")),
        (b"W2ku", f"C:{parent.name}".encode("utf-16-le")),
        (b"MacX", f"file:///vm%20disks/{parent.name}".encode()),
        (b"MacX", f"file://localhost/{parent.name.replace('l', '%6C')}".encode()),
        (b"MacX", f"file://./{parent.name}".encode()),
    ]
    for spelling in spellings:
        child.write_bytes(
            build.dynamic(
                3 * BLOCK, two_levels()[0][1], block_size=BLOCK, disk_type=4, locators=[spelling],
                changed_header=build.parent_fields("lost.vhd", identity(0), 1000),
            )
        )  # fmt: skip
        assert read(child) == want, spelling


def test_chain_of_vhd_util_is_read_as_its_ground_truth_says(corpus: Corpus) -> None:
    truth = corpus.cases["vhd-vhdutil-differencing"]["guest"]
    path = corpus.path("vhd-vhdutil-differencing")
    disk = read(path)
    assert digest_blocks(truth["size"], [(0, disk)]).nz64k == truth["nz64k"]
    assert libvhdi([path, os.path.join(os.path.dirname(path), "parent.vhd")]) == disk
    report = diskfmt.check(path, follow="same-directory", deep=True)
    assert {one.reason for one in report.findings if one.severity > WARNING} == set()


def test_foreign_parent_is_not_taken_for_the_disks_own(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copy(corpus.path("vhd-vhdutil-differencing"), tmp_path / "d.vhd")
    stranger = build.dynamic(4 << 20, {0: (b"\xff" * 512, b"stranger")}, block_size=2 << 20)
    (tmp_path / "parent.vhd").write_bytes(stranger)
    with pytest.raises(DiskfmtError, match="id"):
        read(tmp_path / "d.vhd")
