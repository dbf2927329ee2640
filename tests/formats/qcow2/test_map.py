"""L1 and L2 tables as rows: against a model, and one hostile image a check."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import qcow2 as build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import diskfmt
from diskfmt import engine
from diskfmt.errors import CorruptError, LimitError, Reason, RefusedError
from diskfmt.extents import ROW, Codec, Kind, Rows, merge, require_normal
from diskfmt.formats.qcow2 import map as mapping
from diskfmt.formats.qcow2 import tables
from diskfmt.formats.qcow2.header import open_image
from diskfmt.formats.qcow2.map import extents
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
Case = tuple[build.Built, dict[int, build.Cluster], int, int, int]
"""An image, what is in its clusters, the size of its disk, and a range of it."""


def rows_of(path: str | Path, start: int = 0, stop: int | None = None) -> Rows:
    """All rows of a range, each window proven to be in normal form."""
    with SourceFile(str(path)) as source:
        image = open_image(source)
        stop = image.virtual_size if stop is None else stop
        at, windows = start, []
        for window in extents(image, [source], start, stop):
            end = int(window[-1]["guest_off"]) + int(window[-1]["length"])
            require_normal(window, at, end, [source.size])
            windows.append(window)
            at = end
        assert at == stop or not windows
        return merge(np.concatenate(windows)) if windows else np.zeros(0, ROW)


def content(path: str | Path, size: int) -> bytes:
    """The guest's bytes as the engine reads them from the rows."""
    rows = rows_of(path)
    out = bytearray(size)
    if size:
        fd = os.open(path, os.O_RDONLY)
        engine.read_rows([fd], [str(path)], rows, 0, out)
        os.close(fd)
    return bytes(out)


def saved(tmp_path: Path, built: build.Built) -> Path:
    path = tmp_path / "d.qcow2"
    path.write_bytes(built.data)
    return path


SUB = 32


def expected_extended(built: build.Built, clusters: dict[int, build.Cluster], size: int) -> list[tuple[int, ...]]:
    """As `expected`, by a loop over subclusters of the whole disk."""
    rows: list[tuple[int, ...]] = []
    part = built.cluster // SUB
    for at in range(0, size, part):
        number, index = divmod(at // part, SUB)
        name, _ = clusters.get(number, ("sub 0 0", b""))
        length = min(part, size - at)
        if name in ("deflate", "zstd"):
            host = built.places[number]
            end = min(-(-(host + built.lengths[number]) // 512) * 512, len(built.data))
            row = (at, length, host, end - host, Kind.ENCODED, Codec.ZSTD if name == "zstd" else Codec.DEFLATE)
        else:
            stored, zero = build._bitmaps(name)
            if stored >> index & 1:
                row = (at, length, built.places[number] + index * part, length, Kind.DATA, 0)
            else:
                row = (at, length, 0, 0, Kind.ZERO if zero >> index & 1 else Kind.HOLE, 0)
        last = rows[-1] if rows else (0,) * 6
        if (
            rows
            and last[4] == row[4]
            and (
                row[4] >= Kind.ZERO
                or (row[4] == Kind.DATA and last[2] + last[3] == row[2])
                or (row[4] == Kind.ENCODED and last[2] == row[2])
            )
        ):
            grown = length if row[4] == Kind.DATA else 0
            rows[-1] = (last[0], last[1] + length, last[2], last[3] + grown, *last[4:])
        else:
            rows.append(row)
    return rows


BITMAP = st.one_of(st.sampled_from([0, 1, 1 << 31, 0xFFFF, build.ALL]), st.integers(0, build.ALL))


@st.composite
def extended_cases(draw: st.DrawFn) -> tuple[build.Built, dict[int, build.Cluster], int]:
    bits = draw(st.sampled_from([14, 15]))
    size = draw(st.integers(1, 400)) * 2048 + draw(st.integers(0, 2)) * (1 << 2 * bits - 4)
    chosen: dict[int, build.Cluster] = {}
    for number in draw(st.sets(st.integers(0, -(-size // (1 << bits)) - 1), max_size=6)):
        kind = draw(st.sampled_from(["data", "deflate", "zero", "zero_allocated", "sub", "sub", "sub"]))
        if kind == "sub":
            stored = draw(BITMAP)
            zero = draw(BITMAP) & ~stored
            data = draw(st.sampled_from([b"", b"x"])) if not stored else b"x"
            chosen[number] = (f"sub {stored:x} {zero:x}", data)
        else:
            chosen[number] = (kind, b"" if kind.startswith("zero") else b"y")
    built = build.image(chosen, size=size, bits=bits, extended=True, shuffle=draw(st.integers(0, 3)))
    return built, chosen, size


@given(extended_cases(), st.sampled_from([64, 1 << 12, 1 << 18]))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_of_extended_entries_equal_a_loop_over_subclusters(
    tmp_path: Path, case: tuple[build.Built, dict[int, build.Cluster], int], window: int,
) -> None:  # fmt: skip
    built, chosen, size = case
    path = saved(tmp_path, built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping, "WINDOW_ROWS", window)
        assert seen(rows_of(path)) == expected_extended(built, chosen, size)


def expected(built: build.Built, clusters: dict[int, build.Cluster], start: int, stop: int) -> list[tuple[int, ...]]:
    """Rows by a loop over clusters: (guest_off, length, host_off, host_len, kind, codec), neighbours joined."""
    rows: list[tuple[int, ...]] = []
    kinds = {"data": Kind.DATA, "deflate": Kind.ENCODED, "zstd": Kind.ENCODED}
    size = built.cluster
    if start == stop:
        return rows
    for number in range(start // size, -(-stop // size)):
        name = clusters[number][0] if number in clusters else "hole"
        kind = Kind.HOLE if name == "hole" else kinds.get(name, Kind.ZERO)
        low, high = max(start, number * size), min(stop, (number + 1) * size)
        host, length, codec = 0, 0, 0
        if kind is Kind.DATA:
            host, length = built.places[number] + low - number * size, high - low
        elif kind is Kind.ENCODED:
            host, codec = built.places[number], Codec.ZSTD if name == "zstd" else Codec.DEFLATE
            end = -(-(host + built.lengths[number]) // 512) * 512
            length = min(end, len(built.data)) - host
        last = rows[-1] if rows else None
        joins = last and last[4] == kind and (
            kind >= Kind.ZERO or (kind is Kind.DATA and last[2] + last[3] == host))  # fmt: skip
        if last and joins:
            rows[-1] = (*last[:1], last[1] + high - low, last[2], last[3] + length, *last[4:])
        else:
            rows.append((low, high - low, host, length, kind, codec))
    return rows


def seen(rows: Rows) -> list[tuple[int, ...]]:
    names = ("guest_off", "length", "host_off", "host_len", "kind", "codec")
    return [tuple(int(row[name]) for name in names) for row in rows]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bits = draw(st.sampled_from([9, 10, 12, 13]))
    frame = draw(st.sampled_from(["deflate", "zstd"]))
    size = draw(st.integers(1, 300)) * 512 + draw(st.integers(0, 3)) * (1 << 2 * bits - 3)
    numbers = st.integers(0, -(-size // (1 << bits)) - 1)
    version = 3 if frame == "zstd" else draw(st.sampled_from([2, 3]))
    names = ["data", frame] + (["zero", "zero_allocated"] if version == 3 else [])
    chosen = draw(st.dictionaries(numbers, st.tuples(st.sampled_from(names), st.binary(min_size=1, max_size=3))))
    built = build.image(chosen, size=size, bits=bits, version=version, shuffle=draw(st.integers(0, 3)),
                        pad=draw(st.booleans()))  # fmt: skip
    start = draw(st.integers(0, size // 512)) * 512
    stop = draw(st.integers(start // 512, size // 512)) * 512
    return built, chosen, size, start, stop


@given(cases())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_equal_a_loop_over_clusters(tmp_path: Path, case: Case) -> None:
    built, chosen, size, start, stop = case
    path = saved(tmp_path, built)
    assert seen(rows_of(path)) == expected(built, chosen, 0, size)
    assert seen(rows_of(path, start, stop)) == expected(built, chosen, start, stop)


@given(cases())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_small_windows_give_the_same_rows(tmp_path: Path, case: Case) -> None:
    built, chosen, _, start, stop = case
    path = saved(tmp_path, built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping, "WINDOW_ROWS", 128)
        patch.setattr(tables, "WINDOW_ROWS", 128)
        assert seen(rows_of(path, start, stop)) == expected(built, chosen, start, stop)


def good() -> build.Built:
    """Clusters of 4 KiB; data in 1 and 2, frames in 5 and 6, zero in 3, and a second L2 table with data in 600."""
    clusters = {1: ("data", b"one"), 2: ("data", b"two"), 3: ("zero", b""), 5: ("deflate", b"five"),
                6: ("deflate", b"six"), 600: ("data", b"far")}  # fmt: skip
    return build.image(clusters, size=6 * MIB)


def l1_entry(value: int) -> Callable[[build.Built], int]:
    def change(built: build.Built) -> int:
        built.poke(built.l1 + 8, value)
        return built.l1 + 8

    return change


def l2_entry(guest_cluster: int, change_of: Callable[[build.Built, int], int]) -> Callable[[build.Built], int]:
    def change(built: build.Built) -> int:
        at = built.entry(guest_cluster)
        built.poke(at, change_of(built, built.peek(at)))
        return at

    return change


def same_l2_twice(built: build.Built) -> int:
    built.poke(built.l1 + 16, built.l2[1])
    return built.l1 + 8


def version_2(built: build.Built) -> int:
    """A zero flag where version 2 keeps a reserved bit; the extension area starts at 72 and ends there."""
    built.patch(version=2).poke(72, 0)
    return built.entry(3)


COPIED, COMPRESSED = build.COPIED, build.COMPRESSED
SECTORS = 1 << 58  # of clusters of 4 KiB: where the number of additional sectors starts
HOSTILE: dict[str, tuple[Callable[[build.Built], int], Reason, str, int]] = {
    "L1 reserved low": (l1_entry(0x4001), Reason.BAD_VALUE, "L1 entry with reserved bits", 512),
    "L1 reserved high": (l1_entry(1 << 60), Reason.BAD_VALUE, "L1 entry with reserved bits", 512),
    "L2 table unaligned": (l1_entry(0x4200), Reason.BAD_VALUE, "L2 table at 0x4200 is not", 512),
    "L2 table on L1": (l1_entry(0x2000), Reason.OVERLAP, "L2 table at 0x2000 overlaps", 512),
    "L2 table behind the file": (l1_entry(0x100000), Reason.TRUNCATED, "L2 table at 0x100000 ends", 512),
    "L2 table far behind the file": (l1_entry(1 << 55), Reason.OUT_OF_FILE, "L2 table at", 512),
    "L2 table twice": (same_l2_twice, Reason.SHARED_CLUSTERS, "used more than once", 512),
    "reserved low": (l2_entry(2, lambda _, old: old | 2), Reason.BAD_VALUE, "L2 entry with reserved bits", 2),
    "reserved high": (l2_entry(2, lambda _, old: old | 1 << 56), Reason.BAD_VALUE, "L2 entry with reserved bits", 2),
    "reserved in a zero cluster": (l2_entry(3, lambda _, old: old | 4), Reason.BAD_VALUE, "reserved bits", 3),
    "cluster unaligned": (l2_entry(2, lambda _, old: old + 512), Reason.BAD_VALUE, "cluster at", 2),
    "zero cluster unaligned": (l2_entry(3, lambda _, old: old | 512), Reason.BAD_VALUE, "cluster at 0x200", 3),
    "used at 0": (l2_entry(2, lambda *_: COPIED), Reason.BAD_VALUE, "cluster is used, and that it is at 0x0", 2),
    "cluster on L1": (l2_entry(2, lambda built, _: built.l1), Reason.OVERLAP, "cluster at 0x2000 overlaps", 2),
    "cluster behind the file": (l2_entry(2, lambda *_: 0x100000), Reason.TRUNCATED, "cluster at 0x100000 ends", 2),
    "cluster far behind the file": (l2_entry(2, lambda *_: 1 << 55), Reason.OUT_OF_FILE, "cluster at", 2),
    "zero flag in version 2": (version_2, Reason.BAD_VALUE, "version 2 does not have", 3),
    "frame reserved": (
        l2_entry(5, lambda _, old: old | 1 << 57), Reason.BAD_VALUE, "compressed cluster with reserved", 5),
    "frame on the header": (l2_entry(5, lambda *_: COMPRESSED | 200), Reason.OVERLAP, "compressed cluster at 0xc8", 5),
    "frame behind the file": (
        l2_entry(5, lambda *_: COMPRESSED | 0x100000), Reason.TRUNCATED, "compressed cluster at 0x100000", 5),
    "frame longer than the file": (
        l2_entry(6, lambda built, _: COMPRESSED | SECTORS | len(built.data) - 512), Reason.TRUNCATED,
        "compressed cluster", 6),
    "frame far behind the file": (
        l2_entry(5, lambda *_: COMPRESSED | 1 << 50), Reason.OUT_OF_FILE, "compressed cluster", 5),
}  # fmt: skip


def good_extended() -> build.Built:
    """Clusters of 16 KiB: stored in part, compressed, zero, and one in a second L2 table."""
    clusters = {1: ("sub ff 0", b"part"), 5: ("deflate", b"five"), 7: ("sub 0 1", b""), 1030: ("data", b"far")}
    return build.image(clusters, size=32 * MIB, bits=14, extended=True)


def bitmaps_of(guest_cluster: int, bitmaps: int) -> Callable[[build.Built], int]:
    def change(built: build.Built) -> int:
        built.poke(built.entry(guest_cluster) + 8, bitmaps)
        return built.entry(guest_cluster)

    return change


HOSTILE_EXTENDED: dict[str, tuple[Callable[[build.Built], int], Reason, str, int]] = {
    "both bits": (bitmaps_of(1, 3 << 32 | 2), Reason.BAD_VALUE, "that are stored and read as zero", 1),
    "stored nowhere": (bitmaps_of(7, 1), Reason.BAD_VALUE, "that is nowhere, with subclusters that are stored", 7),
    "compressed with a bitmap": (bitmaps_of(5, 1), Reason.BAD_VALUE, "with a bitmap of subclusters", 5),
    "compressed with zeroes": (bitmaps_of(5, 1 << 63), Reason.BAD_VALUE, "with a bitmap of subclusters", 5),
    "zero flag": (l2_entry(1, lambda _, old: old | 1), Reason.BAD_VALUE, "extended entries do not have", 1),
    "zero flag at no place": (l2_entry(9, lambda *_: 1), Reason.BAD_VALUE, "extended entries do not have", 9),
    "reserved bits": (l2_entry(1, lambda _, old: old | 2), Reason.BAD_VALUE, "reserved bits", 1),
    "far table": (l2_entry(1030, lambda *_: 0x4200 | COPIED), Reason.BAD_VALUE, "cluster at 0x4200 is not", 1030),
    "behind the file": (l2_entry(1, lambda *_: 1 << 24), Reason.TRUNCATED, "cluster at 0x1000000 ends", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_EXTENDED)
def test_extended_entry_without_sense_is_refused_with_both_offsets(case: str, tmp_path: Path) -> None:
    change, reason, words, cluster = HOSTILE_EXTENDED[case]
    built = good_extended()
    rows_of(saved(tmp_path, built))
    at = change(built)
    with pytest.raises(CorruptError) as caught:
        rows_of(saved(tmp_path, built))
    assert (caught.value.reason, caught.value.offset) == (reason, at)
    assert words in caught.value.message
    assert caught.value.guest_offset == cluster << 14


def test_file_may_end_behind_the_last_stored_subcluster(tmp_path: Path) -> None:
    """Writers store subclusters, not clusters: what would follow in the last cluster need not be there."""
    built = build.image({0: ("sub 7 0", b"x")}, size=MIB, bits=14, extended=True, pad=False)
    end = built.places[0] + 3 * 512
    del built.data[end:]
    assert seen(rows_of(saved(tmp_path, built)))[0] == (0, 1536, built.places[0], 1536, Kind.DATA, 0)
    del built.data[end - 1 :]
    with pytest.raises(CorruptError) as caught:
        rows_of(saved(tmp_path, built))
    assert caught.value.reason is Reason.TRUNCATED


def with_data_file(tmp_path: Path, change: Callable[[build.Built], int] | None = None,
                   size: int = 5 * 4096 + 512) -> tuple[Path, int]:  # fmt: skip
    """Clusters 0, 2 and 5, the last of which the disk ends in, in a data file of `size` bytes."""
    built = build.image({0: ("zero", b"")}, size=5 * 4096 + 512,
                        extensions=[build.extension(build.DATA_FILE, b"data")])  # fmt: skip
    built.patch(incompatible=4)
    for number in (0, 2, 5):
        built.poke(built.entry(number), number * 4096 | COPIED)
    at = change(built) if change else 0
    (tmp_path / "data").write_bytes(os.urandom(size))
    return saved(tmp_path, built), at


def test_clusters_of_a_data_file_are_at_their_guest_offset(tmp_path: Path) -> None:
    path, _ = with_data_file(tmp_path)
    with diskfmt.open_disk(path, follow="same-directory") as disk:
        (rows,) = disk.extents()
        require_normal(rows, 0, disk.size, [file.size for file in disk.files])
        assert [(int(row["guest_off"]), int(row["host_off"]), int(row["file_id"])) for row in rows] == [
            (0, 0, 1), (4096, 0, 0), (8192, 8192, 1), (12288, 0, 0), (20480, 20480, 1)]  # fmt: skip
        data = (tmp_path / "data").read_bytes()
        assert disk.read_at(0, disk.size) == data[:4096] + bytes(4096) + data[8192:12288] + bytes(8192) + data[20480:]


HOSTILE_DATA_FILE: dict[str, tuple[Callable[[build.Built], int] | None, int, Reason, str, int]] = {
    "other place": (l2_entry(2, lambda *_: 4096 | COPIED), 20992, Reason.BAD_VALUE, "not its place on the disk", 2),
    "place 0": (l2_entry(2, lambda *_: COPIED), 20992, Reason.BAD_VALUE, "cluster at 0x0 of the data file", 2),
    "compressed": (l2_entry(2, lambda *_: COMPRESSED | 8192), 20992, Reason.BAD_VALUE, "with a data file", 2),
    "data file cut": (None, 20991, Reason.TRUNCATED, "cluster at 0x5000 ends behind the data file", 5),
    "data file empty": (None, 0, Reason.TRUNCATED, "cluster at 0x0 ends behind the data file", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_DATA_FILE)
def test_entry_that_a_data_file_cannot_have_is_refused(case: str, tmp_path: Path) -> None:
    change, size, reason, words, cluster = HOSTILE_DATA_FILE[case]
    path, _ = with_data_file(tmp_path, change, size)
    with diskfmt.open_disk(path, follow="same-directory") as disk, pytest.raises(CorruptError) as caught:
        list(disk.extents())
    assert (caught.value.reason, caught.value.guest_offset) == (reason, cluster * 4096)
    assert words in caught.value.message


@pytest.mark.parametrize("case", HOSTILE)
def test_table_without_sense_is_refused_with_both_offsets(case: str, tmp_path: Path) -> None:
    change, reason, words, cluster = HOSTILE[case]
    built = good()
    at = change(built)
    with pytest.raises(CorruptError) as caught:
        rows_of(saved(tmp_path, built))
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert caught.value.offset == at
    assert caught.value.guest_offset == cluster * 4096
    assert caught.value.path
    assert caught.value.remedy


def test_short_last_sector_of_the_file_is_accepted(tmp_path: Path) -> None:
    """Writers do not pad the last frame; the row ends with the file."""
    built = build.image({0: ("deflate", b"x" * 4096)}, size=MIB, pad=False)
    (row,) = rows_of(saved(tmp_path, built), 0, 4096)
    assert int(row["host_off"] + row["host_len"]) == len(built.data)
    assert len(built.data) % 512


def test_frame_may_use_all_sectors_that_its_entry_can_say(tmp_path: Path) -> None:
    built = good()
    built.data += bytes(MIB)
    at = built.entry(5)
    built.poke(at, COMPRESSED | 15 * SECTORS | built.places[5])
    row = next(row for row in rows_of(saved(tmp_path, built)) if row["guest_off"] == 5 * 4096)
    assert int(row["host_len"]) == 16 * 512 - built.places[5] % 512


def test_entries_behind_the_disk_are_not_looked_at(tmp_path: Path) -> None:
    built = build.image({0: ("data", b"x")}, size=10 * 4096 + 512)
    built.poke(built.entry(11), 0x7FFF_FFFF_FFFF_FFFF)
    rows = rows_of(saved(tmp_path, built))
    assert int(rows[-1]["guest_off"] + rows[-1]["length"]) == 10 * 4096 + 512


def test_empty_disk_has_no_rows(tmp_path: Path) -> None:
    assert len(rows_of(saved(tmp_path, build.image({}, size=0)))) == 0


def test_more_tables_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    """The pigeonhole rule counts over windows too, where no window has a table twice."""
    clusters = dict.fromkeys(range(0, 32 * 64, 64), ("zero", b""))
    built = build.image(clusters, size=2048 * 512, bits=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "WINDOW_ROWS", 64)
        rows_of(saved(tmp_path, built))
        for index in range(1, 32):
            built.poke(built.l1 + 8 * index, built.l2[0])
        del built.data[built.l2[1] + 512 :]
        with pytest.raises(CorruptError) as caught:
            rows_of(saved(tmp_path, built))
    assert caught.value.reason is Reason.SHARED_CLUSTERS


@pytest.mark.parametrize(("fields", "reason"), [
    ({"incompatible": 1 << 20}, Reason.UNKNOWN_FEATURE),
    ({"incompatible": 4}, Reason.EXTERNAL_REFERENCE),
    ({"incompatible": 8, "compression_type": 9}, Reason.UNKNOWN_FEATURE),
])  # fmt: skip
def test_entries_that_are_not_understood_are_refused(fields: dict[str, int], reason: Reason, tmp_path: Path) -> None:
    built = build.image({0: ("data", b"x")}, size=MIB, bits=14).patch(**fields)
    with pytest.raises(RefusedError) as caught:
        rows_of(saved(tmp_path, built))
    assert caught.value.reason is reason


def test_16_tib_without_data_is_one_row_in_little_time(tmp_path: Path) -> None:
    """2^28 clusters, and one L2 table at the end of the disk."""
    size = 16 << 40
    built = build.image({(size >> 16) - 1: ("data", b"end")}, size=size, bits=16)
    rows = rows_of(saved(tmp_path, built))
    assert [int(row["kind"]) for row in rows] == [Kind.HOLE, Kind.DATA]
    assert int(rows[0]["length"]) == size - 65536


def test_64_tib_in_small_clusters_is_beyond_the_limit(tmp_path: Path) -> None:
    built = build.image({}, size=MIB, bits=9).patch(size=64 << 40, l1_size=1 << 31)
    with pytest.raises(LimitError):
        rows_of(saved(tmp_path, built))


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=4k", "", "cluster_size=2M", "compat=0.10"])
@pytest.mark.parametrize("compress", ["", "zlib", "zstd"])
def test_image_by_qemu_img_reads_equal(options: str, compress: str, qemu_img: str, tmp_path: Path) -> None:
    if compress == "zstd" and "0.10" in options:
        pytest.skip("version 2 has no zstd")
    size = 5 * MIB + 1536
    guest = bytearray(size)
    for at in range(0, size - 9000, 98304):
        guest[at : at + 9000] = bytes((at >> 13) % 251 for _ in range(4500)) + os.urandom(4500)
    guest[-100:] = b"e" * 100
    (tmp_path / "g").write_bytes(guest)
    words = [word for word in (options, f"compression_type={compress}" if compress == "zstd" else "") if word]
    flags = (["-c"] if compress else []) + (["-o", ",".join(words)] if words else [])
    path = tmp_path / "d.qcow2"
    subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", *flags, tmp_path / "g", path], check=True)
    assert content(path, size) == bytes(guest)


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("size", ["100000", "3M"])
def test_preallocated_image_by_qemu_img_is_inside_its_file(preallocation: str, size: str, qemu_img: str,
                                                           tmp_path: Path) -> None:  # fmt: skip
    path = tmp_path / "d.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", "-o", f"preallocation={preallocation}", path, size],
                   check=True)  # fmt: skip
    assert {int(row["kind"]) for row in rows_of(path)} <= {Kind.DATA, Kind.ZERO}


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """A file that lost its end lost something that the map needs, until only the refcounts are missing."""
    built = good()
    needed = max(place + built.lengths.get(number, 4096) for number, place in built.places.items())
    for length in sorted({0, 1, 71, 72, 103, 104, 111, 112, 119, needed - 513, *range(0, needed, 1024)}):
        shorter = build.Built(data=built.data[:length], cluster=4096, l1=built.l1)
        with pytest.raises(CorruptError) as caught:
            rows_of(saved(tmp_path, shorter))
        assert caught.value.reason is Reason.TRUNCATED, length
    rows_of(saved(tmp_path, build.Built(data=built.data[:needed], cluster=4096, l1=built.l1)))
