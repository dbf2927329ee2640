"""Damaged and lying file systems: a good one with one thing changed. Never a wrong byte, never another exception."""

import contextlib
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.guest import base
from diskfmt.guest.base import BudgetError, DamagedError, GuestError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.ext import ExtFileSystem
from diskfmt.guest.ext.crc import crc32c
from guest.ext.trees import FSTAB, MIB, file_system
from guest.kit import Memory, memory, need, run

Change = Callable[[bytearray], None]


def small(tmp: Path, *options: str) -> bytes:
    tree = tmp / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/fstab").write_bytes(FSTAB)
    (tree / "etc/link").symlink_to("y" * 100)
    with (tree / "scattered").open("wb") as file:
        for number in range(200):
            file.seek(number * 4096)
            file.write(b"%d" % number * 10)
    return file_system(tmp / "fs", tree, *options, size=8 * MIB).read_bytes()


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small(tmp_path_factory.mktemp("hostile"), "-t", "ext4", "-b", "1024")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small(tmp_path_factory.mktemp("hostile"), "-t", "ext2", "-b", "1024")


@pytest.fixture(scope="session")
def extents(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small(tmp_path_factory.mktemp("hostile"), "-t", "ext4", "-b", "1024", "-O", "^metadata_csum")


def read_all(raw: bytes | bytearray) -> dict[str, bytes | str]:
    system = ExtFileSystem(DiskDevice(Memory(raw)))
    assert system.info.features
    found: dict[str, bytes | str] = {}
    for path in ("/etc/fstab", "/scattered"):
        found[path] = system.read(path, 0, 1 << 20)
    found["/etc/link"] = system.link("/etc/link")
    for path in ("/", "/etc"):
        found[path] = " ".join(sorted(system.names(path)))
    return found


def test_crc_is_castagnolis() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # RFC 3720, appendix B.4 by way of its check value
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    data = random.Random(2).randbytes(1001)
    assert crc32c(data[500:], crc32c(data[:500])) == crc32c(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0x18, 30),
        (0x18, 7),
        (0x1C, 31),
        (0x20, 0),
        (0x20, 0xFFFFFFFF),
        (0x28, 0),
        (0x28, 0xFFFFFFFF),
        (0x58, 0),
        (0x58, 129),
        (0x58, 0xFFFF),
        (0x14, 1000),
        (0x04, 0),
        (0x00, 0xFFFFFFFF),
        (0xFE, 0),
        (0xFE, 33),
        (0xFE, 0xFFFF),
        (0x38, 0),
    ],
)
def test_superblocks_that_make_no_sense(extents: bytes, place: int, value: int) -> None:
    raw = bytearray(extents)
    size = 2 if place in {0x58, 0xFE, 0x38} else 4
    raw[1024 + place : 1024 + place + size] = value.to_bytes(size, "little")
    with pytest.raises(DamagedError):
        ExtFileSystem(memory(raw))


def test_wrong_checksum_of_the_superblock(checked: bytes) -> None:
    raw = bytearray(checked)
    raw[1024 + 0x7A] ^= 1  # the label
    with pytest.raises(DamagedError, match="checksum of the superblock"):
        ExtFileSystem(memory(raw))


def blocks_of(raw: bytes, tmp: Path, what: str) -> list[int]:
    need("debugfs")
    (tmp / "fs").write_bytes(raw)
    return [int(word) for word in run("debugfs", "-R", what, tmp / "fs").split()]


def inode_place(raw: bytes, tmp: Path, path: str) -> int:
    """Where an inode lies, as debugfs says it."""
    need("debugfs")
    (tmp / "fs").write_bytes(raw)
    said = re.search(r"located at block (\d+), offset 0x([0-9a-f]+)", run("debugfs", "-R", f"imap {path}", tmp / "fs"))
    assert said is not None
    return int(said[1]) * 1024 + int(said[2], 16)


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/fstab", "/scattered"])
@pytest.mark.parametrize("at", [0x00, 0x04, 0x28, 0x40, 0x64, 0x7C, 0x82, 0xA0])
def test_wrong_checksums_of_inodes(checked: bytes, tmp_path: Path, path: str, at: int) -> None:
    raw = bytearray(checked)
    raw[inode_place(checked, tmp_path, path) + at] ^= 1
    with pytest.raises(DamagedError, match="checksum of inode"):
        read_all(raw)


def test_wrong_checksums_of_other_blocks(checked: bytes, tmp_path: Path) -> None:
    for what, message in (("/etc", "directory"), ("/", "directory"), ("/scattered", "extent block")):
        listed = blocks_of(checked, tmp_path, f"blocks {what}")
        # The blocks of a file whose tree has one level begin with that of the tree.
        raw = bytearray(checked)
        raw[listed[0] * 1024 + 100] ^= 1
        with pytest.raises(DamagedError, match=message):
            read_all(raw)


def test_wrong_checksum_of_a_group_descriptor(checked: bytes) -> None:
    raw = bytearray(checked)
    raw[2048 + 8] ^= 1
    with pytest.raises(DamagedError, match="group descriptor"):
        read_all(raw)


# ---- without checksums, so that the lies are believed ----------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        struct.pack("<H", 0),  # no magic
        struct.pack("<HHH", 0xF30A, 5, 4),  # more entries than room
        struct.pack("<HHH", 0xF30A, 400, 400),
        struct.pack("<HHHH", 0xF30A, 1, 4, 0xFFFF),  # too deep
        struct.pack("<HHHH", 0xF30A, 1, 4, 4),  # deeper than the next block says
    ],
)
def test_extent_trees_that_lie(extents: bytes, tmp_path: Path, change: bytes) -> None:
    raw = bytearray(extents)
    place = inode_place(extents, tmp_path, "/scattered") + 0x28
    raw[place : place + len(change)] = change
    with pytest.raises(DamagedError):
        read_all(raw)


def test_extent_tree_that_points_at_itself(extents: bytes, tmp_path: Path) -> None:
    raw = bytearray(extents)
    node = blocks_of(extents, tmp_path, "blocks /scattered")[0]
    raw[node * 1024 : node * 1024 + 12] = struct.pack("<HHHHI", 0xF30A, 84, 84, 1, 0)
    for number in range(84):
        raw[node * 1024 + 12 + 12 * number : node * 1024 + 24 + 12 * number] = struct.pack("<IIHH", number, node, 0, 0)
    place = inode_place(extents, tmp_path, "/scattered") + 0x28
    raw[place + 6 : place + 8] = b"\2\0"
    with pytest.raises(DamagedError):
        read_all(raw)


@pytest.mark.parametrize("block", [0, 8192, 0xFFFFFFFF])
def test_extents_outside_the_file_system(extents: bytes, tmp_path: Path, block: int) -> None:
    raw = bytearray(extents)
    place = inode_place(extents, tmp_path, "/etc/fstab") + 0x28
    raw[place + 20 : place + 24] = struct.pack("<I", block)
    with pytest.raises(DamagedError):
        read_all(raw)


def test_overlapping_extents(extents: bytes, tmp_path: Path) -> None:
    raw = bytearray(extents)
    node = blocks_of(extents, tmp_path, "blocks /scattered")[0] * 1024
    raw[node + 24 : node + 28] = struct.pack("<I", 0)  # the second begins where the first does
    with pytest.raises(DamagedError, match="order"):
        read_all(raw)


def test_block_maps_that_loop_or_leave(plain: bytes, tmp_path: Path) -> None:
    for block in (0xFFFFFFFF, 8192):
        raw = bytearray(plain)
        place = inode_place(plain, tmp_path, "/scattered") + 0x28
        raw[place + 48 : place + 52] = struct.pack("<I", block)
        with pytest.raises(DamagedError):
            read_all(raw)
    # A table that names itself on every level is only a strange file: its levels are counted, not followed.
    raw = bytearray(plain)
    table = blocks_of(plain, tmp_path, "blocks /scattered")[12] * 1024
    raw[table : table + 1024] = struct.pack("<I", table // 1024) * 256
    place = inode_place(plain, tmp_path, "/scattered")
    raw[place + 0x28 + 52 : place + 0x28 + 60] = struct.pack("<II", table // 1024, table // 1024)
    raw[place + 4 : place + 8] = struct.pack("<I", 0xFFFFFFFF)
    assert len(ExtFileSystem(memory(raw)).read("/scattered", 70 * MIB, 100_000)) == 100_000


def test_sizes_beyond_all_maps(plain: bytes, tmp_path: Path) -> None:
    raw = bytearray(plain)
    place = inode_place(plain, tmp_path, "/scattered")
    raw[place + 0x6C : place + 0x70] = b"\xff\xff\xff\x7f"
    with pytest.raises(DamagedError, match="larger than"):
        ExtFileSystem(memory(raw)).read("/scattered", 1 << 50, 100)
    with pytest.raises(BudgetError):
        ExtFileSystem(memory(raw)).read("/scattered", 0, 1 << 60)


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<IHBB", 12, 0, 1, 1),
        struct.pack("<IHBB", 12, 4, 1, 1),
        struct.pack("<IHBB", 12, 0xFFFC, 1, 1),
        struct.pack("<IHBB", 12, 12, 200, 1),
        struct.pack("<IHBB", 12, 1012, 0, 1),
        struct.pack("<IHBB", 12, 1012, 3, 1) + b"a/b",
        struct.pack("<IHBB", 12, 1012, 3, 1) + b"a\0b",
    ],
)
def test_directory_entries_that_lie(plain: bytes, tmp_path: Path, entry: bytes) -> None:
    raw = bytearray(plain)
    place = blocks_of(plain, tmp_path, "blocks /etc")[0] * 1024 + 12
    raw[place : place + len(entry)] = entry
    with pytest.raises(DamagedError):
        read_all(raw)


@pytest.mark.parametrize("number", [0x7FFFFFFF, 0xFFFFFFFF, 200])
def test_entries_of_inodes_that_do_not_exist(plain: bytes, tmp_path: Path, number: int) -> None:
    raw = bytearray(plain)
    place = blocks_of(plain, tmp_path, "blocks /")[0] * 1024
    at = raw.index(b"etc", place) - 8
    raw[at : at + 4] = struct.pack("<I", number)
    with pytest.raises(DamagedError):
        read_all(raw)


def test_directory_that_contains_itself(plain: bytes, tmp_path: Path) -> None:
    raw = bytearray(plain)
    place = blocks_of(plain, tmp_path, "blocks /")[0] * 1024
    at = raw.index(b"etc", place) - 8
    raw[at : at + 4] = struct.pack("<I", 2)
    system = ExtFileSystem(memory(raw))
    assert system.stat("/etc/etc/etc/etc") is not None
    with pytest.raises(BudgetError):
        system.stat("/etc" * 65)


def test_too_many_entries(checked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diskfmt.guest.ext.filesystem.MAX_ENTRIES", 2)
    assert base.MAX_ENTRIES == 100_000
    with pytest.raises(BudgetError):
        ExtFileSystem(memory(checked)).stat("/etc")


def test_links_that_lie(plain: bytes, tmp_path: Path) -> None:
    for size in (0, 5000, 0xFFFFFFFF):
        raw = bytearray(plain)
        place = inode_place(plain, tmp_path, "/etc/link")
        raw[place + 4 : place + 8] = struct.pack("<I", size)
        with pytest.raises(DamagedError):
            ExtFileSystem(memory(raw)).link("/etc/link")


def test_inline_data_that_lies(tmp_path: Path) -> None:
    image = small(tmp_path / "image", "-t", "ext4", "-b", "1024", "-O", "inline_data,^metadata_csum")
    good = inode_place(image, tmp_path, "/etc/fstab")
    assert read_all(image)["/etc/fstab"] == FSTAB
    for at, value in (
        (4, 200),
        (128 + 32 + 4 + 2, 0xFFFF),
        (128 + 32 + 4 + 4, 7),
        (128 + 32 + 4 + 8, 0xFFFF),
        (0x80, 0xFFFF),
        (128 + 34, 0),
    ):
        raw = bytearray(image)
        raw[good + at : good + at + 2] = value.to_bytes(2, "little")
        with pytest.raises(DamagedError):
            read_all(raw)


def test_file_system_cut_short(checked: bytes) -> None:
    for size in (0, 1024, 2047, 2048, 4096, 100_000):
        with pytest.raises(GuestError):
            read_all(checked[:size])


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_an_error_or_not_seen(data: st.DataObject, checked: bytes) -> None:
    """With checksums, a byte changed in metadata never changes what is read: it is the same, or an error."""
    good = read_all(checked)
    used = [number for number in range(1, 400) if any(checked[number * 1024 : (number + 1) * 1024])]
    raw = bytearray(checked)
    number = data.draw(st.sampled_from(used))
    place = number * 1024 + data.draw(st.integers(0, 1023))
    raw[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(GuestError):
        found = read_all(raw)
        # Contents of files and of links outside their inode have no checksums: only names and lengths are sure.
        assert {path: len(value) for path, value in found.items()} == {path: len(value) for path, value in good.items()}
        assert (found["/"], found["/etc"]) == (good["/"], good["/etc"])


@settings(max_examples=150)
@given(data=st.data())
def test_lies_are_errors_or_files(data: st.DataObject, extents: bytes, plain: bytes) -> None:
    raw = bytearray(data.draw(st.sampled_from([extents, plain])))
    used = [number for number in range(1, 400) if any(raw[number * 1024 : (number + 1) * 1024])]
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.sampled_from(used)) * 1024 + data.draw(st.integers(0, 1023))
        raw[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GuestError):
        read_all(raw)
