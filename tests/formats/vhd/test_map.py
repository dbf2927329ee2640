"""The rows of a VHD against a model that knows every sector, and blocks that must not be believed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builders import vhd as build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diskfmt.errors import CorruptError, Reason
from diskfmt.extents import Kind, Rows, require_normal
from diskfmt.formats.vhd import map as vhd_map
from diskfmt.formats.vhd.header import open_image
from diskfmt.stores.source import SourceFile

BLOCK = 4096
PER_BLOCK = BLOCK // 512


@contextmanager
def tables(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[list[Rows], SourceFile]]:
    with SourceFile(str(path)) as source:
        image = open_image(source)
        yield list(vhd_map.extents(image, [source], start, image.virtual_size if stop is None else stop)), source


def rows_of(path: Path, start: int = 0, stop: int | None = None) -> list[tuple[int, int, int, int]]:
    """(guest, length, host, kind) of all windows, each of them proven normal."""
    with tables(path, start, stop) as (windows, source):
        at = start
        result = []
        for window in windows:
            end = int(window[-1]["guest_off"] + window[-1]["length"])
            require_normal(window, at, end, [source.size])
            at = end
            result += [(int(r["guest_off"]), int(r["length"]), int(r["host_off"]), int(r["kind"])) for r in window]
        return result


def sectors_of(path: Path, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
    """(kind, host offset) of each sector of a range."""
    result = []
    for _, length, host, kind in rows_of(path, start, stop):
        result += [(kind, host + at if host else 0) for at in range(0, length, 512)]
    return result


disks = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.integers(0, PER_BLOCK - 1),  # sectors missing in the last block
        st.dictionaries(st.integers(0, n - 1), st.sampled_from([0, 255, 128, 1, 0x55, 0xF0]) | st.integers(0, 255)),
        st.randoms(use_true_random=False),
    )
)


@pytest.mark.parametrize("disk_type", [3, 4])
@given(disk=disks, step=st.sampled_from([1, 3, 1 << 18]), cut=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_map_of_any_bitmaps_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, disk_type: int, disk: object, step: int, cut: tuple[float, float]
) -> None:
    count, missing, bits, random = disk  # type: ignore[misc]
    sectors = count * PER_BLOCK - missing
    order = list(bits)
    random.shuffle(order)
    image = build.dynamic(
        sectors * 512, {n: (bytes([bits[n]]), b"") for n in order}, block_size=BLOCK, disk_type=disk_type
    )
    path = tmp_path_factory.mktemp("vhd") / "d.vhd"
    path.write_bytes(image)
    empty = Kind.ZERO if disk_type == 3 else Kind.HOLE
    model = []
    for sector in range(sectors):
        block, inside = divmod(sector, PER_BLOCK)
        if block not in bits:
            model.append((Kind.HOLE, 0))
        elif bits[block] >> (7 - inside) & 1:
            model.append((Kind.DATA, build.entry(image, block) * 512 + 512 + inside * 512))
        else:
            model.append((empty, 0))
    low, high = sorted(int(part * sectors) for part in cut)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vhd_map, "WINDOW_ROWS", step)
        patched.setattr(vhd_map, "MAX_BITS", step * PER_BLOCK)
        patched.setattr(vhd_map, "MAX_BITMAP_BYTES", step * 512)
        assert sectors_of(path) == model
        assert sectors_of(path, low * 512, high * 512) == model[low:high]


def test_map_of_large_blocks_reads_bitmaps_of_several_sectors(tmp_path: Path) -> None:
    size = 4 << 20
    bits = bytearray(build.full(size))
    bits[600] = 0b11101111
    path = tmp_path / "d.vhd"
    path.write_bytes(build.dynamic(2 * size, {0: (bytes(bits), b"")}, block_size=size))
    hole = (600 * 8 + 3) * 512
    data = 1536 + 512 + 1024
    assert rows_of(path) == [
        (0, hole, data, Kind.DATA),
        (hole, 512, 0, Kind.ZERO),
        (hole + 512, size - hole - 512, data + hole + 512, Kind.DATA),
        (size, size, 0, Kind.HOLE),
    ]


def test_map_of_a_fixed_disk_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    path.write_bytes(build.fixed(bytes(1 << 20)))
    assert rows_of(path) == [(0, 1 << 20, 0, Kind.DATA)]
    assert rows_of(path, 512, 1024) == [(512, 512, 512, Kind.DATA)]
    assert rows_of(path, 512, 512) == []


def test_map_of_a_cut_fixed_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    path.write_bytes(build.fixed(bytes(1 << 20))[512:])
    with pytest.raises(CorruptError) as caught:
        rows_of(path)
    assert caught.value.reason is Reason.TRUNCATED


def test_map_of_neighbouring_blocks_is_not_merged_over_their_bitmaps(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    path.write_bytes(build.dynamic(2 * BLOCK, {0: (b"\xff", b""), 1: (b"\xff", b"")}, block_size=BLOCK))
    assert rows_of(path) == [(0, BLOCK, 2560, Kind.DATA), (BLOCK, BLOCK, 2560 + BLOCK + 512, Kind.DATA)]


def test_map_of_2040_gib_without_data_is_one_hole_per_window(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    size, block = 2040 << 30, 2 << 20
    entries = size // block
    with open(path, "wb") as file:
        file.write(build.footer(size, 3) + build.header(entries, block) + b"\xff" * (entries * 4))
        file.write(build.footer(size, 3))
    rows = rows_of(path)
    assert len(rows) == 4
    assert {row[3] for row in rows} == {Kind.HOLE}


def two_blocks() -> bytearray:
    """Eight blocks of which 2 and 5 are stored."""
    return build.dynamic(8 * BLOCK, {2: (b"\xff", b"a"), 5: (b"\xff", b"b")}, block_size=BLOCK)


END = len(two_blocks()) // 512 - 1
FIRST = build.entry(two_blocks(), 2)
WRONG = {
    "on-the-footers-copy": (0, Reason.OVERLAP),
    "on-the-header": (2, Reason.OVERLAP),
    "on-the-table": (3, Reason.OVERLAP),
    "same-as-another": (FIRST, Reason.SHARED_CLUSTERS),
    "on-another": (FIRST + 1, Reason.OVERLAP),
    "on-the-last-footer": (END, Reason.OUT_OF_FILE),
    "one-sector-too-far": (END - 8, Reason.OUT_OF_FILE),
    "outside": (0xFFFFFFFE, Reason.OUT_OF_FILE),
}


@pytest.mark.parametrize("name", WRONG)
def test_map_of_a_block_in_the_wrong_place_is_refused(tmp_path: Path, name: str) -> None:
    sector, reason = WRONG[name]
    path = tmp_path / "d.vhd"
    path.write_bytes(build.set_entry(two_blocks(), 5, sector))
    with pytest.raises(CorruptError) as caught:
        rows_of(path)
    assert caught.value.reason is reason
    assert caught.value.offset == 1536 + 4 * 5
    assert caught.value.guest_offset == 5 * BLOCK


def test_map_of_many_blocks_in_one_place_over_windows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhd_map, "WINDOW_ROWS", 1)
    path = tmp_path / "d.vhd"
    image = two_blocks()
    for number in range(8):
        image = build.set_entry(image, number, FIRST)
    path.write_bytes(image)
    with pytest.raises(CorruptError) as caught:
        rows_of(path)
    assert caught.value.reason is Reason.SHARED_CLUSTERS


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_map_of_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "d.vhd"
    image = two_blocks()
    path.write_bytes(image[: int(len(image) * share) // 512 * 512])
    with pytest.raises(CorruptError) as caught:
        rows_of(path)
    assert caught.value.reason is Reason.TRUNCATED


def test_map_of_a_last_block_that_ends_with_the_disk_is_accepted(tmp_path: Path) -> None:
    image = build.dynamic(BLOCK + 1024, {0: (b"\xff", b"a"), 1: (b"\xff", b"b")}, block_size=BLOCK)
    del image[-512 - BLOCK + 1024 : -512]
    path = tmp_path / "d.vhd"
    path.write_bytes(image)
    assert rows_of(path)[-1] == (BLOCK, 1024, len(image) - 512 - 1024, Kind.DATA)


def test_rows_of_a_window_stay_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_map, "WINDOW_ROWS", 4)
    path = tmp_path / "d.vhd"
    path.write_bytes(build.dynamic(2 * BLOCK, {0: (b"\x55", b""), 1: (b"\xaa", b"")}, block_size=BLOCK))
    with tables(path) as (windows, _):
        assert max(len(window) for window in windows) <= 4
        assert sum(int(np.sum(window["length"])) for window in windows) == 2 * BLOCK


def test_bits_of_old_tapdisk_go_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "d.vhd"
    blocks = {0: (b"\x03", b""), 1: (b"\x80", b""), 2: (b"\xff", b""), 3: (b"\x00", b"")}
    changed = {"creator": b"tap\0", "creator_version": 1}
    image = build.dynamic(4 * BLOCK, blocks, block_size=BLOCK, changed=changed)
    path.write_bytes(image)
    data = [build.entry(image, number) * 512 + 512 for number in range(4)]
    assert rows_of(path) == [
        (0, 1024, data[0], Kind.DATA),
        (1024, BLOCK + 7 * 512 - 1024, 0, Kind.ZERO),
        (BLOCK + 7 * 512, 512, data[1] + 7 * 512, Kind.DATA),
        (2 * BLOCK, BLOCK, data[2], Kind.DATA),
        (3 * BLOCK, BLOCK, 0, Kind.ZERO),
    ]
