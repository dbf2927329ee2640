"""XFS: what mkfs.xfs and the kernel write, against the tree that it was made of, and xfs_db, xfs_logprint, blkid."""

import os
import random
import stat
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from diskfmt.disk import open_disk
from diskfmt.guest.base import DamagedError, FileKind, GuestError, UnsupportedError
from diskfmt.guest.checksums import crc32c
from diskfmt.guest.xfs import directories, filesystem, inodes, open_xfs
from diskfmt.guest.xfs.log import is_clean
from diskfmt.guest.xfs.superblock import read_superblock
from guest.raw import RawDevice, raw_device
from guest.trees import blkid, differences, make_tree, mounted, run, survives, tool

SIZE = 320 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("xfs") / "tree", many=600)


def protofile(tree: Path, target: Path) -> Path:
    """The tree in the language of mkfs.xfs -p."""

    def lines(directory: Path) -> list[str]:
        found = []
        for path in sorted(directory.iterdir()):
            info = path.lstat()
            head = f"{path.name} {{}}--{stat.S_IMODE(info.st_mode):03o} {info.st_uid} {info.st_gid}"
            if path.is_symlink():
                found.append(head.format("l") + f" {os.readlink(path)}")
            elif path.is_dir():
                found += [head.format("d"), *lines(path), "$"]
            else:
                found.append(head.format("-") + f" {path}")
        return found

    target.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", *lines(tree), "$"]) + "\n")
    return target


def make(path: Path, *options: object, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    run(tool("mkfs.xfs"), "-q", *options, path)
    return path


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("xfs")
    return make(base / "image", "-L", "wurzel", "-p", protofile(tree, base / "proto"))


# The rows of the matrix: versions, features, sizes.
LAYOUTS = {
    "v4 without ftype": ["-m", "crc=0", "-n", "ftype=0"],
    "v4": ["-m", "crc=0"],
    "v5 plain": ["-m", "crc=1,finobt=0,bigtime=0,reflink=0,inobtcount=0", "-i", "sparse=0"],
    "v5 rmapbt, nrext64": ["-m", "bigtime=1,rmapbt=1,reflink=1", "-i", "nrext64=1"],
    "1 KiB blocks, 8 KiB directories": ["-b", "size=1024", "-n", "size=8192"],
    "2 KiB inodes": ["-i", "size=2048"],
    "4 KiB sectors": ["-s", "size=4096"],
    "64 KiB directories": ["-n", "size=65536"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(tree: Path, tmp_path: Path, layout: str) -> None:
    path = make(tmp_path / "image", *LAYOUTS[layout], "-p", protofile(tree, tmp_path / "proto"))
    with raw_device(path) as device:
        fs = open_xfs(device)
        assert not differences(fs, tree)
        assert fs.info.clean is True


def test_info_is_what_blkid_and_xfs_db_say(image: Path) -> None:
    told = blkid(image)
    free = run(tool("xfs_db"), "-r", "-c", "sb 0", "-c", "p fdblocks ifree", image)
    version = run(tool("xfs_db"), "-r", "-c", "version", image)
    with raw_device(image) as device:
        info = open_xfs(device).info
    assert (info.kind, info.uuid, info.label) == ("xfs", told["UUID"], "wurzel")
    assert (info.size, info.block_size, info.clean, info.errors) == (SIZE, 4096, True, False)
    assert info.free_bytes == int(free.split()[2]) * 4096
    assert {name for name in info.features if name in version} >= {"V5", "FTYPE", "FINOBT", "BIGTIME"} - (
        set() if "BIGTIME" in version else {"BIGTIME"}
    )


def test_an_inode_is_what_xfs_db_says(image: Path) -> None:
    with raw_device(image) as device:
        entry = open_xfs(device).stat("/boot/random")
    told = run(tool("xfs_db"), "-r", "-c", "path /boot/random", "-c", "p core.size core.mtime.sec core.mode", image)
    assert entry is not None
    assert told.split()[2] == str(entry.size)


@pytest.mark.root
@pytest.mark.parametrize("layout", ["default", "1 KiB blocks, 8 KiB directories", "v5 rmapbt, nrext64"])
def test_what_the_kernel_writes(tree: Path, tmp_path: Path, layout: str) -> None:
    """Extents in trees of two levels, directories of every form, preallocation, remote links; log and free counts."""
    path = make(tmp_path / "image", *LAYOUTS.get(layout, []))
    reference, dirty = tmp_path / "reference", tmp_path / "dirty"
    with mounted(path, tmp_path / "mount") as where:
        run("cp", "-a", f"{tree}/.", where)
        with (where / "pieces").open("wb", buffering=0) as file:
            for number in range(1500):
                file.seek(number * 8192)
                file.write(bytes([number & 255]) * 4096)
        (where / "huge").mkdir()
        for number in range(2000):
            (where / f"huge/{number:060d}").touch()
        for number in range(0, 2000, 3):
            (where / f"huge/{number:060d}").unlink()
        with (where / "prealloc").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 1_000_000)
            file.seek(500_000)
            file.write(b"abc")
        os.setxattr(where / "etc/fstab", "user.long", b"x" * 900)
        run("sync", "-f", where)
        run("cp", "--sparse=always", path, dirty)
        state = os.statvfs(where)
        run("cp", "-a", f"{where}/.", reference)
    with raw_device(path) as device:
        fs = open_xfs(device)
        assert not differences(fs, reference, step=200)
        info = fs.info
        assert info.clean is True
        assert info.free_inodes == state.f_ffree
        assert info.free_bytes is not None
        assert 0 <= info.free_bytes - state.f_bfree * state.f_frsize < 24 << 20  # what the kernel keeps back
    with raw_device(dirty) as device:
        info = open_xfs(device).info
        assert (info.clean, info.free_bytes, info.free_inodes) == (False, None, None)
        assert "DIRTY" in run(tool("xfs_logprint"), "-t", dirty)


class _Memory:
    sector_size = 512

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        return self._data[offset : offset + length]


def ring(blocks: int, head: int, *, flags: int = 0x20, operations: int = 1) -> bytes:
    """A log whose last record, header and one block, ends before `head`: blocks from there on are of an older round."""
    log = [(7 - (number >= head)).to_bytes(4, "big") + bytes(508) for number in range(blocks)]
    at, behind = (head - 2) % blocks, (head - 1) % blocks
    old = 7 if behind < head else 6
    header = struct.pack(">IIIIQQIII", 0xFEEDBABE, 7 if at < head else 6, 2, 512, 0, 0, 0, 0, operations)
    log[at] = header.ljust(320, b"\0") + (32768).to_bytes(4, "big") + bytes(188)
    log[behind] = struct.pack(">IIBBH", old, 8, 0xAA, flags, 0) + bytes(500)
    return b"".join(log)


@pytest.mark.parametrize("head", [*range(5), 100, 127])
def test_the_head_of_the_log_is_found_wherever_it_is(image: Path, head: int) -> None:
    with raw_device(image) as device:
        superblock = replace(read_superblock(device), log_start=1, log_blocks=16)
    lead = bytes(superblock.block)
    assert is_clean(_Memory(lead + ring(128, head)), superblock) is True
    assert is_clean(_Memory(lead + ring(128, head, flags=0)), superblock) is False
    assert is_clean(_Memory(lead + ring(128, head, operations=2)), superblock) is False
    assert is_clean(_Memory(lead + bytes(128 * 512)), superblock) is False
    assert is_clean(_Memory(b""), replace(superblock, log_start=0)) is None


def test_the_guest_of_the_corpus(corpus) -> None:
    case = corpus.cases["guest-centos7-boot-xfs-lvm-vmdkso"]
    with open_disk(corpus.path("guest-centos7-boot-xfs-lvm-vmdkso"), follow="pieces") as disk:
        part = case["content"]["partitions"][0]
        fs = open_xfs(_Part(disk, part["start"] * 512, part["sectors"] * 512))
        assert (fs.info.uuid, fs.info.label) == (part["fs"]["uuid"], part["fs"]["label"])
        names = set(fs.names("/"))
        assert {case["facts"]["initramfs"], f"vmlinuz-{case['facts']['kernel']}"} <= names


class _Part:
    sector_size = 512

    def __init__(self, disk, start: int, size: int) -> None:
        self._disk, self._start, self.size = disk, start, size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._disk.read_at(self._start + offset, length)


def test_the_sample_of_libblkid(corpus) -> None:
    with raw_device(corpus.path("utillinux-fs-xfs-v5")) as device:
        info = open_xfs(device).info
    assert info.uuid == corpus.cases["utillinux-fs-xfs-v5"]["content"]["whole"]["uuid"]


class TestDamage:
    def sealed(self, device: RawDevice, place: int, data: bytes) -> None:
        """Change the superblock and give it the checksum that belongs to it."""
        raw = bytearray(device.read_at(0, 512))
        raw[place : place + len(data)] = data
        raw[224:228] = bytes(4)
        raw[224:228] = crc32c(bytes(raw)).to_bytes(4, "little")
        device.changed[0] = bytes(raw)

    @pytest.mark.parametrize(
        ("place", "data", "expected"),
        [
            (216, (0x101).to_bytes(4, "big"), "METADIR"),
            (216, (0x80000001).to_bytes(4, "big"), "0x80000000"),
            (16, (1000).to_bytes(8, "big"), "real-time"),
            (101, b"\xb6", "version 6"),
        ],
    )
    def test_what_is_not_understood_is_refused(self, image: Path, place: int, data: bytes, expected: str) -> None:
        with raw_device(image) as device:
            self.sealed(device, place, data)
            with pytest.raises(UnsupportedError, match=expected):
                open_xfs(device)

    def test_a_file_system_that_asks_for_repair(self, image: Path) -> None:
        with raw_device(image) as device:
            self.sealed(device, 219, bytes([device.read_at(219, 1)[0] | 0x10]))
            assert open_xfs(device).info.errors

    @pytest.mark.parametrize("place", [4, 84, 88, 100, 192, 300])
    def test_a_changed_superblock(self, image: Path, place: int) -> None:
        with raw_device(image) as device:
            device.changed[place] = bytes([device.read_at(place, 1)[0] ^ 0x41])
            with pytest.raises((DamagedError, UnsupportedError)):
                open_xfs(device)

    def test_no_changed_byte_of_metadata_changes_an_answer(self, image: Path) -> None:
        noise = random.Random(7)
        with raw_device(image) as device:
            right = answers(device)
            reads = sorted(metadata(device))
            refused = 0
            for _ in range(250):
                place, length = noise.choice(reads)
                at = place + noise.randrange(length)
                device.changed = {at: bytes([noise.randrange(256)])}
                try:
                    assert answers(device) == right
                except GuestError:
                    refused += 1
            assert refused > 150

    @pytest.mark.parametrize("layout", ["v5", "v4"])
    def test_nonsense_under_a_good_checksum_is_an_error_of_the_guest(
        self, image: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
    ) -> None:
        path = image
        if layout == "v4":
            path = make(tmp_path / "image", "-m", "crc=0", "-p", protofile(tree, tmp_path / "proto"))
        for module in (inodes, directories, filesystem):
            monkeypatch.setattr(module, "checked_block", lambda *_: True)
        noise = random.Random(9)
        with raw_device(path) as device:
            answers(device)
            reads = sorted(metadata(device))
            outcomes = []
            for _ in range(400):
                places = [noise.choice(reads) for _ in range(noise.randrange(1, 5))]
                device.changed = {
                    place + noise.randrange(min(length, 300)): bytes([noise.choice((0, 1, 255, noise.randrange(256)))])
                    for place, length in places
                }
                outcomes.append(survives(lambda: answers(device), GuestError))
        assert any(outcomes)
        assert not all(outcomes)


def answers(device: RawDevice) -> list[object]:
    device.reads.clear()
    fs = open_xfs(device)
    found: list[object] = [sorted(fs.names(path)) for path in ("/", "/etc", "/many")]
    for path in ("/etc/fstab", "/hole", "/many/file-with-a-long-name-7"):
        entry = fs.stat(path)
        found.append(entry)
        if entry is not None and entry.kind is FileKind.FILE:
            found.append(len(fs.read(path)))
    return [*found, fs.link("/etc/long")]


def metadata(device: RawDevice) -> set[tuple[int, int]]:
    """What was read but the superblock and what files hold."""
    return {(place, length) for place, length in device.reads if place and length in (512, 4096)}
