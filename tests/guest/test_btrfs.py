"""Btrfs: what mkfs.btrfs and the kernel write, against the tree that it was made of."""

import os
import random
import struct
from pathlib import Path

import pytest

from diskfmt.disk import open_disk
from diskfmt.guest.base import DamagedError, FileKind, GuestError, UnsupportedError
from diskfmt.guest.btrfs import open_btrfs
from diskfmt.guest.btrfs.chunks import Chunk
from diskfmt.guest.btrfs.superblock import MIRRORS
from diskfmt.guest.btrfs.tree import Forest
from diskfmt.guest.checksums import crc32c
from guest.raw import RawDevice, raw_device
from guest.trees import blkid, differences, make_tree, mounted, run, survives, tool


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("btrfs") / "tree", many=600)


def make(path: Path, *options: object, size: int = 160 << 20) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    run(tool("mkfs.btrfs"), "-q", *options, path)
    return path


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("btrfs") / "image", "-L", "système", "-m", "single", "-r", tree)


def reseal(path: Path, place: int, size: int) -> None:
    """Give a changed structure its checksum, so that what is inside is looked at."""
    with path.open("r+b") as file:
        file.seek(place + 32)
        total = crc32c(file.read(size - 32))
        file.seek(place)
        file.write(total.to_bytes(4, "little"))


def patched(source: Path, target: Path, place: int, data: bytes, seal: tuple[int, int]) -> Path:
    run("cp", "--sparse=always", source, target)
    with target.open("r+b") as file:
        file.seek(place)
        file.write(data)
    reseal(target, *seal)
    return target


@pytest.mark.parametrize("checksum", ["crc32c", "xxhash", "sha256", "blake2"])
def test_each_checksum(tree: Path, tmp_path: Path, checksum: str) -> None:
    path = make(tmp_path / "image", "--csum", checksum, "-r", tree)
    with raw_device(path) as device:
        assert not differences(open_btrfs(device), tree)


@pytest.mark.parametrize(
    "options", [["-n", "4096"], ["-n", "65536"], ["-M"], ["-O", "^no-holes"], ["-m", "dup", "-d", "dup"]]
)
def test_each_layout(tree: Path, tmp_path: Path, options: list[str]) -> None:
    path = make(tmp_path / "image", *options, "-r", tree)
    with raw_device(path) as device:
        assert not differences(open_btrfs(device), tree)


def test_info_is_what_blkid_and_btrfs_say(image: Path) -> None:
    told = blkid(image)
    super_block = run(tool("btrfs"), "inspect-internal", "dump-super", image)
    with raw_device(image) as device:
        info = open_btrfs(device).info
    assert (info.kind, info.uuid, info.label) == ("btrfs", told["UUID"], "système")
    assert (info.size, info.block_size, info.clean, info.errors) == (160 << 20, 4096, True, False)
    assert {name for name in info.features if name in super_block} == set(info.features)
    assert "NO_HOLES" in info.features


def test_subvolumes_of_a_flat_file_system(image: Path) -> None:
    with raw_device(image) as device:
        fs = open_btrfs(device)
        assert [(entry.number, entry.path) for entry in fs.subvolumes] == [(5, "")]
        with pytest.raises(GuestError, match="no subvolume 'root'"):
            fs.at("root")
        assert fs.stat("/etc/nothing") is None
        assert fs.stat("/etc/fstab/below-a-file") is None
        with pytest.raises(GuestError, match="not a file"):
            fs.read("/etc")


CODECS = ["zlib", "zstd:1", "zstd:15", "lzo", "none"]


@pytest.mark.root
@pytest.mark.parametrize("codec", CODECS)
def test_what_the_kernel_writes(tree: Path, tmp_path: Path, codec: str) -> None:
    """Compression, overwritten and shared extents, preallocation, nested subvolumes, snapshots, a default subvolume."""
    path = make(tmp_path / "image", *(["-d", "raid0"] if codec == "none" else []), size=640 << 20)
    reference = tmp_path / "reference"
    with mounted(path, tmp_path / "mount", "nodatasum" if codec == "none" else f"compress-force={codec}") as where:
        for name in ("@", "plain"):
            run("btrfs", "subvolume", "create", where / name)
        run("cp", "-a", f"{tree}/.", where / "@")
        run("btrfs", "subvolume", "create", where / "@/nested")
        (where / "@/nested/file").write_text("in\n")
        (where / "plain/dir").mkdir()
        with (where / "@/prealloc").open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 300_000)
            file.seek(100_000)
            file.write(b"abc")
        noise = random.Random(2)
        with (where / "@/pieces").open("w+b", buffering=0) as file:
            file.write(b"line of text\n" * 100_000)
            os.fsync(file.fileno())
            for number in range(300):
                file.seek(noise.randrange(1_200_000))
                file.write(bytes([number & 255]) * noise.randrange(1, 9000))
                if number % 30 == 0:
                    os.fsync(file.fileno())
        run("cp", "--reflink=always", where / "@/pieces", where / "@/shared")
        os.truncate(where / "@/shared", 1_000_001)
        run("btrfs", "subvolume", "snapshot", "-r", where / "@", where / "plain/dir/snapshot")
        run("btrfs", "subvolume", "set-default", where / "@")
        run("sync", "-f", where)
        state = os.statvfs(where)
        run("cp", "-a", f"{where}/.", reference)
    with raw_device(path) as device:
        fs = open_btrfs(device)
        assert fs.read("/nested/file") == b"in\n"
        assert not differences(fs, reference / "@")
        assert not differences(fs.at(5), reference, skip=("@", "many"))
        assert [(entry.path, entry.read_only) for entry in fs.subvolumes] == [
            ("", False),
            ("@", False),
            ("plain", False),
            ("@/nested", False),
            ("plain/dir/snapshot", True),
        ]
        assert list(fs.at("/plain/dir/snapshot").names("/nested")) == []
        assert fs.at("plain").stat("/dir") is not None
        free = fs.info.free_bytes
        assert free is not None
        assert 0 <= free - state.f_bfree * state.f_frsize < 16 << 20  # what the kernel keeps for itself


@pytest.mark.root
def test_a_log_that_waits_is_not_clean(tmp_path: Path) -> None:
    path, copy = make(tmp_path / "image"), tmp_path / "copy"
    with mounted(path, tmp_path / "mount") as where:
        (where / "first").write_text("1")
        run("sync", "-f", where)
        with (where / "second").open("w") as file:
            file.write("2")
            file.flush()
            os.fsync(file.fileno())
            run("cp", "--sparse=always", path, copy)
    if not int(run("btrfs", "inspect-internal", "dump-super", copy).split("log_root")[1].split()[0]):
        pytest.skip("this kernel committed instead of logging")
    with raw_device(copy) as device:
        assert open_btrfs(device).info.clean is False
    with raw_device(path) as device:
        assert open_btrfs(device).info.clean is True


def test_the_guest_of_the_corpus(corpus) -> None:
    case = corpus.cases["guest-fedora39-btrfs-qcow2"]
    with open_disk(corpus.path("guest-fedora39-btrfs-qcow2")) as disk:
        for part in case["content"]["partitions"]:
            if part.get("fs", {}).get("type") == "btrfs":
                fs = open_btrfs(_Part(disk, part["start"] * 512, part["sectors"] * 512))
                assert fs.info.uuid == part["fs"]["uuid"]
                found = {entry.path: entry for entry in fs.subvolumes}
                root = fs.at("root") if "root" in found else fs.at("")
                fstab = "/etc/fstab" if "root" in found else "/root/etc/fstab"
                assert root.read(fstab).decode() == case["facts"]["fstab"]
                return
    pytest.fail("no btrfs in the case")


class _Part:
    sector_size = 512

    def __init__(self, disk, start: int, size: int) -> None:
        self._disk, self._start, self.size = disk, start, size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._disk.read_at(self._start + offset, length)


def test_the_file_system_of_hyper_v(corpus) -> None:
    """Written by another kernel years ago; a VHDX, which is not read here, so only where it is found."""
    case = corpus.cases.get("discutils-btrfs-vhdx")
    if case is None:
        pytest.skip("not in this corpus")
    pytest.importorskip("diskfmt.formats.vhdx", reason="VHDX is not read")
    with open_disk(corpus.path("discutils-btrfs-vhdx")) as disk:
        assert open_btrfs(_Part(disk, 0, disk.size)).info.kind == "btrfs"


class TestDamage:
    def test_a_bad_first_superblock_is_an_error_that_is_told(self, image: Path) -> None:
        with raw_device(image) as device:
            device.changed[MIRRORS[0] + 100] = b"\xff"
            fs = open_btrfs(device)
            assert fs.info.errors
            assert fs.read("/etc/fstab").startswith(b"UUID=1")

    def test_no_good_superblock(self, image: Path) -> None:
        with raw_device(image) as device:
            for mirror in MIRRORS[:2]:
                device.changed[mirror + 100] = b"\xff"
            with pytest.raises(DamagedError, match="wrong checksum of a superblock"):
                open_btrfs(device)

    @pytest.mark.parametrize(
        ("place", "data", "expected"),
        [
            (0xBC, (1 << 12).to_bytes(8, "little"), "ZONED"),
            (0xBC, (1 << 14).to_bytes(8, "little"), "RAID_STRIPE_TREE"),
            (0xBC, (1 << 40).to_bytes(8, "little"), "0x10000000000"),
            (0x88, (2).to_bytes(8, "little"), "2 devices"),
            (0x38, (1 << 33 | 1).to_bytes(8, "little"), "metadump"),
        ],
    )
    def test_what_is_not_understood_is_refused(
        self, image: Path, tmp_path: Path, place: int, data: bytes, expected: str
    ) -> None:
        path = patched(image, tmp_path / "image", MIRRORS[0] + place, data, (MIRRORS[0], 4096))
        with raw_device(path) as device, pytest.raises(UnsupportedError, match=expected):
            open_btrfs(device)

    def test_a_checksum_of_another_kind_is_refused(self, image: Path) -> None:
        with raw_device(image) as device:
            device.changed[MIRRORS[0] + 0xC4] = b"\x09"
            with pytest.raises(UnsupportedError, match="checksum 9"):
                open_btrfs(device)

    def test_data_with_one_changed_byte_is_not_given_out(self, image: Path) -> None:
        with raw_device(image) as device:
            fs = open_btrfs(device)
            start = device.reads[:]
            good = fs.read("/boot/random")
            place = max((read for read in device.reads if read not in start), key=lambda read: read[1])[0]
            device.changed[place + 5] = bytes([good[5] ^ 1])
            with pytest.raises(DamagedError, match="wrong checksum at logical address"):
                fs.read("/boot/random")

    def test_no_changed_byte_of_what_is_read_changes_an_answer(self, image: Path) -> None:
        """All that is read is under a checksum: an answer is the right one or an error."""
        noise = random.Random(7)
        paths = ("/etc/fstab", "/deep/a/b/c/mixed", "/many/file-with-a-long-name-7")
        with raw_device(image) as device:
            right = [open_btrfs(device).read(path) for path in paths]
            reads = sorted(set(device.reads))
            refused = 0
            for _ in range(150):
                place, length = noise.choice(reads)
                at = place + noise.randrange(length)
                device.changed = {at: bytes([noise.randrange(256)])}
                try:
                    assert [open_btrfs(device).read(path) for path in paths] == right
                except GuestError:
                    refused += 1
            assert refused > 100

    def test_nonsense_under_a_good_checksum_is_an_error_of_the_guest(
        self, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a hostile image has it: checksums are taken as right, any byte of the trees may be anything."""
        noise = random.Random(8)
        monkeypatch.setattr(Forest, "_is_good", lambda *_: True)
        with raw_device(image) as device:
            assert look(device)
            nodes = sorted({read for read in device.reads if read[1] == 16384})
            outcomes = [survives(lambda: look(device, changes(device, nodes, noise)), GuestError) for _ in range(250)]
        assert not all(outcomes)
        assert any(outcomes)

    def test_a_node_that_points_to_itself(self, image: Path, tmp_path: Path) -> None:
        with raw_device(image) as device:
            fs = open_btrfs(device)
            list(fs.names("/many"))
            offset, raw = next(
                (read, data)
                for read, length in device.reads
                if length == 16384 and (data := device.read_at(read, length))[100] == 1 and data[88] == 5
            )
        path = patched(image, tmp_path / "image", offset + 101 + 17, raw[48:56], (offset, 16384))
        with raw_device(path) as device, pytest.raises(DamagedError, match=r"wrong checksum|makes no sense|keys"):
            list(open_btrfs(device).names("/many"))


def changes(device: RawDevice, nodes: list[tuple[int, int]], noise: random.Random) -> None:
    device.changed = {}
    for _ in range(noise.randrange(1, 6)):
        place, _ = noise.choice(nodes)
        count = struct.unpack_from("<I", device.read_at(place, 16384), 96)[0]
        end = 101 + count * 25 if noise.random() < 0.6 else 16384
        device.changed[place + noise.randrange(96, end)] = bytes([noise.choice((0, 1, 255, noise.randrange(256)))])


def look(device: RawDevice, _: None = None) -> bool:
    fs = open_btrfs(device)
    assert fs.info.kind == "btrfs"
    assert fs.subvolumes
    for path in ("/", "/etc", "/many"):
        list(fs.names(path))
    for path in ("/etc/fstab", "/deep/a/b/c/mixed", "/hole"):
        entry = fs.stat(path)
        if entry is not None and entry.kind is FileKind.FILE:
            fs.read(path)
    return bool(fs.link("/etc/link"))


class TestChunks:
    """Where stripes lie (Btrfs documentation, "Block group profiles"), on one device."""

    def chunk(self, profile: int, places: list[int], sub: int = 1) -> Chunk:
        raw = struct.pack("<QQQQIIIHH", 1 << 20, 2, 65536, 1 | profile, 4096, 4096, 4096, len(places), sub)
        return Chunk(0, raw + b"".join(struct.pack("<QQ16s", 1, place, b"") for place in places))

    def test_single_and_mirrored(self) -> None:
        chunk = self.chunk(1 << 5, [1000, 9000])
        assert chunk.copies == 2
        assert list(chunk.pieces(5, 100_000, 1)) == [(1, 9005, 100_000)]

    def test_raid0(self) -> None:
        chunk = self.chunk(1 << 3, [0, 1 << 30])
        expected = [(1, 65530, 6), (1, 1 << 30, 65536), (1, 65536, 10)]
        assert list(chunk.pieces(65530, 65552, 0)) == expected

    def test_raid10(self) -> None:
        chunk = self.chunk(1 << 6, [0, 1 << 30, 2 << 30, 3 << 30], sub=2)
        assert chunk.copies == 2
        assert list(chunk.pieces(65536 * 3, 10, 1)) == [(1, (3 << 30) + 65536, 10)]

    @pytest.mark.parametrize("profile", [1 << 7, 1 << 8])
    def test_raid5_and_6_are_refused(self, profile: int) -> None:
        with pytest.raises(UnsupportedError, match="RAID 5 or 6"):
            self.chunk(profile, [0, 1 << 30])
