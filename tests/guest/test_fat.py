"""FAT: what mkfs.fat and mtools write, against the files that were put in, and blkid."""

import os
import random
from pathlib import Path

import pytest

from diskfmt.disk import open_disk
from diskfmt.guest.base import DamagedError, FileKind, GuestError, UnsupportedError
from diskfmt.guest.fat import open_fat
from guest.raw import RawDevice, raw_device
from guest.trees import blkid, differences, make_tree, mounted, run, survives, tool

LAYOUTS = {  # bits, size in MiB, options of mkfs.fat
    "FAT12": ("12", 8, ["-s", "4"]),
    "FAT16": ("16", 60, ["-s", "2"]),
    "FAT32": ("32", 300, ["-s", "1"]),
    "FAT32 small": ("32", 35, []),
    "FAT32 4 KiB sectors": ("32", 400, ["-S", "4096"]),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("fat") / "tree", links=False, many=120)
    (root / "ünïcode").unlink()  # mtools makes a short name of it, in a code page that is not stored
    (root / "EFI/BOOT").mkdir(parents=True)
    (root / "EFI/BOOT/BOOTX64.EFI").write_bytes(random.Random(1).randbytes(300_000))
    (root / "A long directory name with ünïcode").mkdir()
    (root / "A long directory name with ünïcode/a.text.file").write_text("x")
    (root / "lower").mkdir()
    (root / "lower/short.txt").write_text("short")
    (root / "exactly-thirteen-times-two").write_text("26 characters: two entries, no end mark")
    return root


def make(path: Path, tree: Path, layout: str) -> Path:
    bits, size, options = LAYOUTS[layout]
    with path.open("wb") as file:
        file.truncate(size << 20)
    run(tool("mkfs.fat"), "-F", bits, *options, "-n", "ESP", "-i", "5EED0001", path)
    for entry in sorted(tree.iterdir()):
        run(
            tool("mcopy"),
            "-s",
            "-i",
            path,
            entry,
            "::",
            env={**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"},
        )
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(tree: Path, tmp_path: Path, layout: str) -> None:
    path = make(tmp_path / "image", tree, layout)
    with raw_device(path) as device:
        fs = open_fat(device)
        assert not differences(fs, tree, meta=False, step=1)
        info = fs.info
        assert info.features == (layout[:5],)
        assert (info.kind, info.clean, info.errors) == ("vfat", True, False)
        assert 0 <= (LAYOUTS[layout][1] << 20) - info.size < 32 << 10  # mkfs.fat fills whole tracks
        told = blkid(path)
        assert (info.uuid, info.label) == (told["UUID"], told["LABEL"])


@pytest.mark.root
@pytest.mark.parametrize("layout", ["FAT12", "FAT16", "FAT32 small"])
def test_free_space_and_the_dirty_mark_of_the_kernel(tree: Path, tmp_path: Path, layout: str) -> None:
    path, dirty = make(tmp_path / "image", tree, layout), tmp_path / "dirty"
    with mounted(path, tmp_path / "mount", "utf8", kind="vfat") as where:
        (where / "file").write_bytes(bytes(100_000))
        (where / "gone").touch()
        (where / "gone").unlink()
        run("sync", "-f", where)
        run("cp", path, dirty)
        state = os.statvfs(where)
    with raw_device(path) as device:
        fs = open_fat(device)
        assert fs.stat("/gone") is None
        assert (fs.info.clean, fs.info.free_bytes) == (True, state.f_bfree * state.f_frsize)
    with raw_device(dirty) as device:
        assert open_fat(device).info.clean is False


def test_free_space(tree: Path, tmp_path: Path) -> None:
    for layout in ("FAT12", "FAT16", "FAT32 small"):
        path = make(tmp_path / layout, tree, layout)
        told = next(line for line in run(tool("mdir"), "-i", path, "::").splitlines() if "bytes free" in line)
        number = int("".join(char for char in told if char.isdigit()))
        with raw_device(path) as device:
            assert open_fat(device).info.free_bytes == number


@pytest.fixture(scope="module", params=["FAT12", "FAT16", "FAT32 small"])
def image(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("fat") / "image", tree, request.param)


def test_names_match_in_any_case(image: Path) -> None:
    with raw_device(image) as device:
        fs = open_fat(device)
        assert fs.read("/lower/SHORT.TXT") == b"short"
        entry = fs.stat("/efi/boot/bootx64.efi")
        assert entry is not None
        assert (entry.kind, entry.size, entry.flags & 0x20) == (FileKind.FILE, 300_000, 0x20)
        assert fs.stat("/efi/boot/bootx64.efi/x") is None
        assert fs.stat("/nothing") is None
        with pytest.raises(GuestError, match="not a link"):
            fs.link("/lower/short.txt")


def test_marks_of_trouble(image: Path) -> None:
    with raw_device(image) as device:
        wide = open_fat(device).info.features == ("FAT32",)
        device.changed = {65 if wide else 37: b"\x01"}
        assert open_fat(device).info.clean is False
        device.changed = {65 if wide else 37: b"\x02"}
        assert open_fat(device).info.errors is True


def test_what_is_no_fat(image: Path) -> None:
    with raw_device(image) as device:
        device.changed = {3: b"EXFAT   "}
        with pytest.raises(UnsupportedError, match="exFAT"):
            open_fat(device)
        for place, data in (
            (11, b"\x00\x03"),
            (13, b"\x03"),
            (14, b"\x00\x00"),
            (16, b"\x00"),
            (21, b"\x01"),
            (22, b"\x01\x00"),
        ):
            device.changed = {place: data}
            with pytest.raises(DamagedError):
                open_fat(device)


def test_a_chain_that_comes_back_to_itself(image: Path) -> None:
    with raw_device(image) as device:
        fs = open_fat(device)
        table = fs._layout.table
        first = fs._find(["boot", "random"]).first
        bits = fs._layout.bits
        if bits == 12:
            pytest.skip("entries of 12 bits share bytes; the other two layouts show it")
        device.changed = {table + (first + 1) * bits // 8: (first).to_bytes(bits // 8, "little")}
        with pytest.raises(DamagedError, match="chain of clusters"):
            open_fat(device).read("/boot/random", 0, 2_000_000)


def test_nonsense_is_an_error_of_the_guest(image: Path) -> None:
    noise = random.Random(5)
    with raw_device(image) as device:
        look(device)
        reads = sorted(set(device.reads))
        outcomes = []
        for _ in range(300):
            device.changed = {}
            for _ in range(noise.randrange(1, 6)):
                place, length = noise.choice(reads)
                at = place + noise.randrange(min(length, 64 if place == 0 else 2048))
                device.changed[at] = bytes([noise.choice((0, 1, 255, noise.randrange(256)))])
            outcomes.append(survives(lambda: look(device), GuestError))
    assert any(outcomes)
    assert not all(outcomes)


def look(device: RawDevice) -> None:
    fs = open_fat(device)
    assert fs.info.kind == "vfat"
    for path in ("/", "/EFI/BOOT", "/many", "/lower"):
        list(fs.names(path))
    fs.read("/boot/text")
    fs.read("/lower/short.txt")


SAMPLES = [
    "utillinux-fs-fat32_cp850_O_tilde",
    "utillinux-fs-fat32_mkdosfs_label1_dosfslabel_NO_NAME",
    "utillinux-fs-fat32_mkdosfs_label1_mlabel_NO_NAME",
    "utillinux-fs-fat32_mkdosfs_label1_xp_label2",
    "utillinux-fs-fat32_mkdosfs_none_dosfslabel_label1",
    "utillinux-fs-fat32_mkdosfs_none_xp_label1_dosfslabel_label2",
    "utillinux-fs-fat32_xp_none_dosfslabel_label1",
    "utillinux-fs-small-fat32",
]


@pytest.mark.parametrize("case", SAMPLES)
def test_the_samples_of_libblkid(corpus, case: str) -> None:
    """Labels where they stand in one place and not in the other, by several systems."""
    told = corpus.cases[case]["content"]["whole"]
    with raw_device(corpus.path(case)) as device:
        info = open_fat(device).info
    assert info.uuid == told["uuid"]
    # The manifest has bytes outside of ASCII as `cat -v` prints them: 0xe5 as M-e.
    shown = info.label.encode("cp437").replace(b"\xe5", b"M-e").decode()
    assert shown == told.get("label", "").replace("\\ ", " ")


def test_the_guest_of_the_corpus(corpus) -> None:
    case = corpus.cases["guest-win2019-gpt-uefi"]
    part = next(each for each in case["content"]["partitions"] if each.get("fs", {}).get("type") == "vfat")
    with open_disk(corpus.path("guest-win2019-gpt-uefi"), follow="pieces") as disk:
        fs = open_fat(_Part(disk, part["start"] * 512, part["sectors"] * 512))
        assert (fs.info.uuid, fs.info.label) == (part["fs"]["uuid"], part["fs"]["label"])
        assert fs.stat("/EFI/Microsoft/Boot/BCD") is not None


class _Part:
    sector_size = 512

    def __init__(self, disk, start: int, size: int) -> None:
        self._disk, self._start, self.size = disk, start, size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._disk.read_at(self._start + offset, length)
