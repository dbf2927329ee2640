"""Devices: cache, budget, bounds, files."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.disk import open_disk
from diskfmt.errors import CorruptError, InternalError
from diskfmt.guest.base import BudgetError, DamagedError, GuestError
from diskfmt.guest.device import DeviceFile, DiskDevice, Slice
from guest.kit import Memory, memory

KIB = 1 << 10
DATA = bytes(range(256)) * 4 * 513  # not a multiple of the block


@given(offset=st.integers(0, len(DATA)), length=st.integers(0, len(DATA)))
def test_reads_are_the_bytes(offset: int, length: int) -> None:
    device = memory(DATA)
    if offset + length > len(DATA):
        with pytest.raises(DamagedError):
            device.read_at(offset, length)
    else:
        assert device.read_at(offset, length) == DATA[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (len(DATA), 1), (1 << 70, 1)])
def test_outside_is_damage(offset: int, length: int) -> None:
    for device in (memory(DATA), Slice(memory(DATA), 0, len(DATA))):
        with pytest.raises(DamagedError):
            device.read_at(offset, length)


def test_blocks_are_fetched_once_and_counted() -> None:
    device = memory(DATA)
    for _ in range(3):
        device.read_at(100, 200)
    assert device.bytes_read == 64 * KIB
    device.read_at(64 * KIB - 1, 2)
    assert device.bytes_read == 128 * KIB


def test_what_is_kept_is_bounded() -> None:
    device = DiskDevice(Memory(bytes(64 * KIB * 300)))
    device.read_at(0, 64 * KIB * 300)
    assert device.bytes_read == 64 * KIB * 300
    device.read_at(64 * KIB * 299, 10)
    assert device.bytes_read == 64 * KIB * 300
    device.read_at(0, 10)
    assert device.bytes_read == 64 * KIB * 301


def test_budget() -> None:
    device = DiskDevice(Memory(DATA), budget=64 * KIB)
    device.read_at(0, 10)
    device.read_at(64 * KIB - 10, 10)
    with pytest.raises(BudgetError):
        device.read_at(64 * KIB, 1)
    assert device.bytes_read == 64 * KIB


def test_errors_of_the_image_become_guest_errors() -> None:
    class Corrupt(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            raise CorruptError("a damaged cluster")

    with pytest.raises(GuestError, match="damaged cluster") as caught:
        DiskDevice(Corrupt(DATA)).read_at(70 * KIB, 10)
    assert caught.value.offset == 64 * KIB


def test_an_image_is_a_device(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    path.write_bytes(DATA)
    with open_disk(str(path), format="raw") as disk:
        assert DiskDevice(disk).read_at(1000, 100_000) == DATA[1000:101_000]


def test_a_short_source_is_an_error_and_a_bug_stays_one() -> None:
    class Short(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            return b"short"

    class Broken(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            raise InternalError("a bug")

    with pytest.raises(GuestError, match="ends before"):
        DiskDevice(Short(DATA)).read_at(0, 10)
    with pytest.raises(InternalError):
        DiskDevice(Broken(DATA)).read_at(0, 10)


def test_slices_lie_in_each_other() -> None:
    outer = Slice(memory(DATA), 1000, 5000, sector_size=4096)
    inner = Slice(outer, 100, 50)
    assert inner.read_at(10, 20) == DATA[1110:1130]
    assert inner.sector_size == 4096
    beyond = Slice(memory(DATA), len(DATA) - 10, 100)
    assert beyond.read_at(0, 10) == DATA[-10:]
    with pytest.raises(DamagedError):
        beyond.read_at(5, 10)


def test_file_is_a_python_file() -> None:
    with io.BufferedReader(DeviceFile(memory(DATA))) as file:
        assert file.read(10) == DATA[:10]
        file.seek(-5, io.SEEK_END)
        assert file.read() == DATA[-5:]
        file.seek(1 << 40)
        assert file.read(1) == b""
    raw = DeviceFile(memory(DATA))
    assert raw.seek(3) == 3
    assert raw.read(2) == DATA[3:5]
    assert (raw.tell(), raw.get_size(), raw.seekable(), raw.readable()) == (5, len(DATA), True, True)
    with pytest.raises(ValueError):
        raw.seek(-1)
