"""Random access to the guest disk, and the laws that hold for the rows of every format."""

import io
import os
from dataclasses import replace

import numpy as np
import pytest

import diskfmt
from diskfmt.chain import Layer
from diskfmt.disk import Disk
from diskfmt.errors import CorruptError, InternalError, LimitError, Reason, UsageError
from diskfmt.extents import ROW
from diskfmt.kinds import Codec, Kind

MIB = 1 << 20


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "disk.raw"
    data = os.urandom(3 * MIB) + bytes(MIB) + os.urandom(12345)
    path.write_bytes(data)
    return path, data


def test_read_at_gives_the_bytes_and_fewer_at_the_end(raw):
    path, data = raw
    with diskfmt.open_disk(path, format="raw") as disk:
        assert disk.size == len(data)
        for offset, length in ((0, 1), (3 * MIB - 5, 10), (len(data) - 3, 100), (len(data), 5), (17, 2 * MIB)):
            assert disk.read_at(offset, length) == data[offset : offset + length]


def test_read_at_with_negative_numbers_is_a_usage_error(raw):
    with diskfmt.open_disk(raw[0], format="raw") as disk, pytest.raises(UsageError):
        disk.read_at(-1, 5)


def test_file_view_reads_and_seeks_like_a_file(raw):
    path, data = raw
    with diskfmt.open_disk(path, format="raw") as disk:
        file = disk.open()
        assert isinstance(file, io.RawIOBase)
        assert file.readable()
        assert file.seekable()
        assert io.BufferedReader(file).read() == data
        assert file.seek(-7, io.SEEK_END) == len(data) - 7
        assert file.read(100) == data[-7:]
        assert file.read(1) == b""
        file.seek(5)
        file.seek(5, io.SEEK_CUR)
        assert file.read(3) == data[10:13]
        with pytest.raises(ValueError, match="seek"):
            file.seek(-1)


def rows_of(*fields):
    rows = np.zeros(len(fields), ROW)
    for row, values in zip(rows, fields, strict=True):
        for name, value in values.items():
            row[name] = value
    return rows


def disk_with(raw, *windows):
    """A disk over the raw file whose format tells these rows."""
    disk = diskfmt.open_disk(raw[0], format="raw")
    told = replace(disk.format, extents=lambda image, files, start, stop: iter(windows))
    return Disk([Layer(image=disk.image, format=told, files=disk.files)])


def data_row(start, host, length=MIB):
    return {"guest_off": start, "length": length, "host_off": host, "host_len": length, "kind": Kind.DATA}


def frame_row(start, host, length=MIB, **more):
    return {
        "guest_off": start, "length": length, "host_off": host, "host_len": 100, "frame_len": length,
        "kind": Kind.ENCODED, "codec": Codec.DEFLATE, **more,
    }  # fmt: skip


def test_audit_refuses_stored_bytes_behind_the_end(raw):
    with disk_with(raw, rows_of(data_row(0, len(raw[1]) - MIB + 1))) as disk, pytest.raises(CorruptError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.OUT_OF_FILE
    assert caught.value.path == str(raw[0])


def test_audit_refuses_more_data_than_the_file_has_bytes_across_windows(raw):
    windows = [rows_of(data_row(index * MIB, 0)) for index in range(5)]
    with disk_with(raw, *windows) as disk, pytest.raises(CorruptError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.SHARED_CLUSTERS


def test_audit_refuses_one_frame_in_two_places(raw):
    with disk_with(raw, rows_of(frame_row(0, 512), frame_row(MIB, 512))) as disk, pytest.raises(CorruptError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.SHARED_CLUSTERS


def test_audit_accepts_two_parts_of_one_frame(raw):
    parts = rows_of(
        frame_row(0, 512, 4096, frame_len=MIB),
        frame_row(4096, 512, 4096, frame_len=MIB, frame_skip=8192),
        {"guest_off": 8192, "length": len(raw[1]) - 8192, "kind": Kind.HOLE},
    )
    with disk_with(raw, parts) as disk:
        assert len(list(disk.extents())) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"guest_off": 0, "length": MIB, "kind": Kind.ZERO}],
        [{"guest_off": 512, "length": 4 * MIB + 12345 - 512, "kind": Kind.ZERO}],
        [
            {"guest_off": 0, "length": MIB, "kind": Kind.ZERO},
            {"guest_off": MIB + 512, "length": 3 * MIB + 12345 - 512, "kind": Kind.ZERO},
        ],
        [{"guest_off": 0, "length": 4 * MIB + 12345, "kind": 0}],
        [{"guest_off": 0, "length": 4 * MIB + 12345, "kind": 5}],
    ],
)
def test_audit_refuses_a_map_that_leaves_something_out(raw, rows):
    with disk_with(raw, rows_of(*rows)) as disk, pytest.raises(InternalError):
        list(disk.extents())


def test_audit_refuses_more_expansion_than_the_codec_has(raw):
    small = replace_size(raw)
    windows = [rows_of(frame_row(index * MIB, 512 + index)) for index in range(4)]
    with disk_with(small, *windows) as disk, pytest.raises(LimitError) as caught:
        list(disk.extents())
    assert caught.value.reason is Reason.LIMIT_EXPANSION


def replace_size(raw):
    path = raw[0].with_name("small.raw")
    path.write_bytes(bytes(2048))
    return path, bytes(2048)
