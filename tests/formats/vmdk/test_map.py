"""Grain directories and tables as rows."""

import random
import struct
import zlib

import numpy as np
import pytest
from builders import vmdk
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.errors import CorruptError, DiskfmtError, Reason, RefusedError, Severity
from diskfmt.extents import Kind
from diskfmt.formats.vmdk import FORMAT
from diskfmt.formats.vmdk import walk as vmdk_walk

SMALL = 8 * 512  # bytes of the smallest grain
A, B, C = (bytes([value]) * SMALL for value in (0xA1, 0xB2, 0xC3))
SPARSE = vmdk.sparse({0: A, 2: B, 513: C}, capacity=8 * 1100, grain=8)
STREAM = vmdk.stream({0: A, 2: B, 513: C}, capacity=8 * 1100, grain=8)
FOOTER = vmdk.footer_at(STREAM)


def expected(grains, size, unit=SMALL):
    out = bytearray(-(-size // unit) * unit)
    for number, data in grains.items():
        out[number * unit : (number + 1) * unit] = data.ljust(unit, b"\0")
    return bytes(out[:size])


GUEST = expected({0: A, 2: B, 513: C}, 8 * 1100 * 512)


@pytest.mark.parametrize("data", [SPARSE, STREAM], ids=["sparse", "stream"])
def test_grains_are_where_the_tables_say(open_bytes, read_guest, data):
    image, files = open_bytes(data)
    assert read_guest(image, files) == GUEST


@pytest.mark.parametrize("data", [SPARSE, STREAM], ids=["sparse", "stream"])
def test_any_range_is_covered(open_bytes, read_guest, data):
    image, files = open_bytes(data)
    rng = random.Random(7)
    ranges = [sorted(rng.sample(range(len(GUEST) + 1), 2)) for _ in range(60)]
    for start, stop in [*ranges, [0, 1], [SMALL - 1, SMALL + 1], [512 * SMALL - 1, 514 * SMALL], [5, 5]]:
        assert read_guest(image, files, start, stop) == GUEST[start:stop]


def test_directory_entry_without_table_is_one_hole(open_bytes):
    data = vmdk.sparse({0: A}, capacity=8 * 512 * 40, grain=8, absent_tables=tuple(range(1, 40)))
    image, files = open_bytes(data)
    rows = np.concatenate(list(FORMAT.extents(image, files, 0, image.virtual_size)))
    assert rows["kind"].tolist() == [Kind.DATA, Kind.HOLE]
    assert rows["length"].tolist() == [SMALL, image.virtual_size - SMALL]


def test_two_tebibytes_without_tables_are_one_row(open_bytes, tmp_path):
    capacity = 1 << 32
    directory = 1 << 16
    text = vmdk.text("monolithicSparse", (f'RW {capacity} SPARSE "d.vmdk"',))
    head = vmdk.header(capacity=capacity, flags=1, gdOffset=21, overHead=1024) + text
    image, files = open_bytes(head.ljust(1024 * 512, b"\0"))
    assert image.virtual_size == 2 << 40
    assert image.header.header.directory_entries == directory
    rows = np.concatenate(list(FORMAT.extents(image, files, 0, image.virtual_size)))
    assert rows["kind"].tolist() == [Kind.HOLE]


def test_zeroed_grain_is_zero_not_hole(open_bytes):
    image, files = open_bytes(vmdk.sparse({0: A}, capacity=8 * 4, grain=8, zeroed=(1, 2)))
    rows = np.concatenate(list(FORMAT.extents(image, files, 0, image.virtual_size)))
    assert rows["kind"].tolist() == [Kind.DATA, Kind.ZERO, Kind.HOLE]
    assert rows["length"].tolist() == [SMALL, 2 * SMALL, SMALL]


def test_neighbours_are_one_row(open_bytes):
    image, files = open_bytes(vmdk.sparse({0: A, 1: B, 2: C}, capacity=8 * 3, grain=8))
    (rows,) = FORMAT.extents(image, files, 0, image.virtual_size)
    assert rows["length"].tolist() == [3 * SMALL]


def test_windows_do_not_change_the_map(open_bytes, read_guest, monkeypatch):
    grains = {number: bytes([number % 250 + 1]) * SMALL for number in range(0, 512 * 9, 97)}
    size = 8 * 512 * 9 * 512
    for data in (
        vmdk.sparse(grains, capacity=size // 512, grain=8),
        vmdk.stream(grains, capacity=size // 512, grain=8),
    ):
        image, files = open_bytes(data)
        for tables, entries in ((1, 1), (2, 5), (4, 3), (256, 1 << 18)):
            monkeypatch.setattr(vmdk_walk, "WINDOW_ENTRIES", 512 * tables)
            monkeypatch.setattr(vmdk_walk, "DIRECTORY_WINDOW", entries)
            assert read_guest(image, files) == expected(grains, size)


@pytest.mark.parametrize("sectors", [1, 7, 9, 15])
@pytest.mark.parametrize("pad", [True, False], ids=["whole-grain", "short-grain"])
def test_stream_that_ends_inside_a_grain_is_read(open_bytes, read_guest, sectors, pad):
    used = bytes(range(256)) * 2 * (sectors % 8)
    grains = {0: A, sectors // 8: used} if sectors > 8 else {0: used}
    image, files = open_bytes(vmdk.stream(grains, capacity=sectors, grain=8, pad=pad))
    assert read_guest(image, files) == expected(grains, sectors * 512)
    rows = np.concatenate(list(FORMAT.extents(image, files, 0, image.virtual_size)))
    assert int(rows[-1]["frame_len"]) == (SMALL if pad else len(used))


def test_last_frame_that_is_too_short_is_corrupt(open_bytes):
    image, files = open_bytes(vmdk.stream({0: bytes(512)}, capacity=7, grain=8, pad=False))
    assert refused(image, files).reason is Reason.CORRUPT_DATA


def test_last_frame_that_holds_too_much_is_corrupt(open_bytes):
    image, files = open_bytes(vmdk.stream({0: bytes(SMALL + 1)}, capacity=7, grain=8))
    assert refused(image, files).reason is Reason.CORRUPT_DATA


def test_last_frame_that_is_no_frame_is_corrupt(open_bytes):
    data = vmdk.stream({0: b"\xa5" * 512}, capacity=1, grain=8)
    image, files = open_bytes(vmdk.put(data, 128 * 512 + 14, b"\xff\xff"))
    assert refused(image, files).reason is Reason.CORRUPT_DATA


def test_sparse_that_ends_inside_a_grain_may_end_with_the_disk(open_bytes, read_guest):
    grains = {1: b"\xa5" * 512}
    data = vmdk.sparse(grains, capacity=9, grain=8)
    for cut in (0, 7 * 512):
        image, files = open_bytes(data[: len(data) - cut])
        assert read_guest(image, files) == expected(grains, 9 * 512)
    image, files = open_bytes(data[: len(data) - 7 * 512 - 1])
    assert refused(image, files).reason is Reason.TRUNCATED


def refused(image, files) -> DiskfmtError:
    assert not image.findings
    with pytest.raises(DiskfmtError) as caught:
        list(FORMAT.extents(image, files, 0, image.virtual_size))
    return caught.value


def sparse_entry(index: int, value: int) -> bytes:
    return vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, index), value)


def stream_marker(lba: int | None = None, size: int | None = None) -> bytes:
    at = 128 * 512
    old_lba, old_size = struct.unpack_from("<QI", STREAM, at)
    return vmdk.put(STREAM, at, struct.pack("<QI", old_lba if lba is None else lba, old_size if size is None else size))


def stream_entry(index: int, value: int) -> bytes:
    return vmdk.set_u32(STREAM, vmdk.entry_at(STREAM, index, at=FOOTER), value)


STREAM_FIRST = vmdk.get_u32(STREAM, vmdk.entry_at(STREAM, 0, at=FOOTER))
GD = vmdk.field(SPARSE, "gdOffset") * 512
RGD = vmdk.field(SPARSE, "rgdOffset") * 512
FIRST = vmdk.get_u32(SPARSE, vmdk.entry_at(SPARSE, 0))
TABLE = vmdk.get_u32(SPARSE, GD)
HOSTILE = {
    "grain-in-header": (sparse_entry(1, 2), Reason.OVERLAP),
    "grain-in-table": (sparse_entry(1, TABLE), Reason.OVERLAP),
    "grain-behind-end": (sparse_entry(1, len(SPARSE) // 512), Reason.TRUNCATED),
    "grain-cut": (sparse_entry(1, len(SPARSE) // 512 - 7), Reason.TRUNCATED),
    "grain-max": (sparse_entry(1, 0xFFFFFFFF), Reason.TRUNCATED),
    "grain-twice": (sparse_entry(1, FIRST), Reason.SHARED_CLUSTERS),
    "grain-overlap": (sparse_entry(1, FIRST + 4), Reason.OVERLAP),
    "zeroed-without-flag": (sparse_entry(1, 1), Reason.BAD_VALUE),
    "table-in-header": (vmdk.set_u32(SPARSE, GD, 1), Reason.OVERLAP),
    "table-on-directory": (vmdk.set_u32(SPARSE, GD, GD // 512), Reason.OVERLAP),
    "table-behind-end": (vmdk.set_u32(vmdk.set_u32(SPARSE, GD, len(SPARSE) // 512 - 3), RGD, 0), Reason.TRUNCATED),
    "table-twice": (vmdk.set_u32(SPARSE, GD + 4, TABLE), Reason.SHARED_CLUSTERS),
    "tables-overlap": (vmdk.set_u32(SPARSE, GD + 4, TABLE + 2), Reason.SHARED_CLUSTERS),
    "table-over-grain": (vmdk.set_u32(vmdk.put(SPARSE, FIRST * 512, bytes(2048)), GD + 8, FIRST), Reason.OVERLAP),
    "marker-lba": (stream_marker(lba=8), Reason.BAD_VALUE),
    "marker-size-0": (stream_marker(size=0), Reason.BAD_VALUE),
    "marker-size-too-large": (stream_marker(size=2 * SMALL + 1), Reason.LIMIT_EXPANSION),
    "marker-size-behind-end": (stream_marker(size=2 * SMALL), Reason.TRUNCATED),
    "stream-grain-twice": (stream_entry(1, STREAM_FIRST), Reason.BAD_VALUE),  # its marker names the other grain
    "stream-grain-behind-end": (stream_entry(1, 1 << 31), Reason.TRUNCATED),
}  # fmt: skip


@pytest.mark.parametrize("data, reason", HOSTILE.values(), ids=HOSTILE.keys())
def test_table_that_lies_is_refused(open_bytes, data, reason):
    image, files = open_bytes(data)
    error = refused(image, files)
    assert error.reason is reason
    assert error.offset is not None


def test_grain_entry_error_says_where(open_bytes):
    image, files = open_bytes(sparse_entry(1, 0xFFFFFFFF))
    error = refused(image, files)
    assert error.offset == vmdk.entry_at(SPARSE, 1)
    assert error.guest_offset == SMALL


def test_frames_that_overlap_are_refused(open_bytes):
    data = stream_marker(size=len(zlib.compress(A, 1)) + 512)
    image, files = open_bytes(data)
    assert refused(image, files).reason is Reason.OVERLAP


def test_shared_grains_in_different_windows_break_the_pigeonhole_rule(open_bytes, monkeypatch):
    grains = {number * 512: bytes([number + 1]) * SMALL for number in range(8)}
    data = vmdk.sparse(grains, capacity=8 * 512 * 8, grain=8)
    for number in range(1, 8):
        for inner in range(8):
            data = vmdk.set_u32(
                data, vmdk.entry_at(data, number * 512 + inner), vmdk.get_u32(data, vmdk.entry_at(data, inner * 512))
            )
    for inner in range(8):
        data = vmdk.set_u32(data, vmdk.entry_at(data, inner), vmdk.get_u32(data, vmdk.entry_at(data, 7 * 512 + inner)))
    monkeypatch.setattr(vmdk_walk, "WINDOW_ENTRIES", 512)
    image, files = open_bytes(data)
    assert refused(image, files).reason is Reason.SHARED_CLUSTERS


def test_flat_disk_is_one_row_of_its_piece(open_bytes, read_guest):
    piece = bytes(range(256)) * 8
    image, files = open_bytes(vmdk.flat_text(3, start=1), piece)
    assert read_guest(image, files) == piece[512:]
    (rows,) = FORMAT.extents(image, files, 100, 900)
    assert rows[["guest_off", "length", "host_off", "host_len", "file_id"]].tolist() == [(100, 800, 612, 800, 1)]
    assert list(FORMAT.extents(image, files, 5, 5)) == []


def test_flat_piece_that_is_too_short_is_truncated(open_bytes):
    image, files = open_bytes(vmdk.flat_text(4, start=1), bytes(2559))
    error = refused(image, files)
    assert error.reason is Reason.TRUNCATED
    assert error.path == files[1].path


def test_flat_disk_without_its_piece_is_refused(open_bytes):
    image, files = open_bytes(vmdk.flat_text(4))
    assert refused(image, files).reason is Reason.EXTERNAL_REFERENCE


def test_disk_that_is_not_read_has_no_map(open_bytes):
    image, files = open_bytes(vmdk.text("fullDevice", ('RW 128 FLAT "d-flat.vmdk" 0',)))
    with pytest.raises(RefusedError):
        FORMAT.extents(image, files, 0, image.virtual_size)


@pytest.mark.parametrize("data", [SPARSE, STREAM], ids=["sparse", "stream"])
def test_truncation_anywhere_is_seen_before_the_data_is_needed(open_bytes, read_guest, data):
    cuts = {0, 3, 4, 511, 512, 513, *range(1024, len(data), 512), len(data) - 1, len(data) // 2, len(data) * 9 // 10}
    directory_end = FOOTER - 512
    for cut in sorted(cuts):
        if data is STREAM and cut >= directory_end:  # the footer alone is lost
            image, files = open_bytes(data[:cut])
            assert [one.severity for one in image.findings] == [Severity.DAMAGE]
            assert read_guest(image, files) == GUEST
            continue
        with pytest.raises((CorruptError, RefusedError)):
            image, files = open_bytes(data[:cut])
            list(FORMAT.extents(image, files, 0, image.virtual_size))


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.sets(st.integers(0, 1199), max_size=40),
    last=st.integers(1, 8),
    order=st.randoms(use_true_random=False),
    compressed=st.booleans(),
)
def test_random_maps_equal_the_model(tmp_path_factory, read_guest, numbers, last, order, compressed):
    from diskfmt.stores.source import SourceFile

    capacity = 8 * 1199 + last
    listed = sorted(numbers)
    if not compressed:
        order.shuffle(listed)
    grains = {n: struct.pack("<I", n + 1) * ((last if n == 1199 else 8) * 128) for n in listed}
    build = vmdk.stream if compressed else vmdk.sparse
    path = tmp_path_factory.getbasetemp() / "random.vmdk"
    path.write_bytes(build(grains, capacity=capacity, grain=8))
    with SourceFile(str(path)) as file:
        image = FORMAT.open(file)
        assert read_guest(image, [file]) == expected(grains, capacity * 512)
