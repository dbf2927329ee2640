"""NTFS: what mkntfs and ntfs-3g write, against the tree, ntfscat and blkid; and what must be refused."""

import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from diskfmt.disk import open_disk
from diskfmt.guest.base import DamagedError, FileKind, GuestError, UnsupportedError
from diskfmt.guest.mft import resident_attribute
from diskfmt.guest.ntfs import open_ntfs
from guest.raw import RawDevice, raw_device
from guest.trees import blkid, differences, make_tree, mounted, run, survives, tool

pytest.importorskip("pyfsntfs")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("ntfs") / "tree", links=False, many=400)


def make(path: Path, *options: object, size: int = 120 << 20) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    run(tool("mkntfs"), "-Q", "-F", "-q", "-L", "Système", *options, path, env={**os.environ, "LC_ALL": "C.UTF-8"})
    return path


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By wimlib, which needs no mount and no root."""
    base = tmp_path_factory.mktemp("ntfs")
    path, wim = make(base / "image"), base / "tree.wim"
    run(tool("wimlib-imagex"), "capture", tree, wim)
    run("wimlib-imagex", "apply", wim, "1", path)
    return path


def test_a_tree(image: Path, tree: Path) -> None:
    with raw_device(image) as device:
        assert not differences(open_ntfs(device), tree, meta=False)


@pytest.mark.parametrize("name", ["/etc/fstab", "/boot/text", "/hole"])
def test_bytes_are_what_ntfscat_says(image: Path, tmp_path: Path, name: str) -> None:
    run("sh", "-c", f"{tool('ntfscat')} -f {image} {name[1:]} > {tmp_path}/out")
    with raw_device(image) as device:
        fs = open_ntfs(device)
        assert fs.read(name, 0, 4 << 20) == (tmp_path / "out").read_bytes()
        assert fs.read(name.upper(), 0, 10) == fs.read(name, 0, 10)


@pytest.mark.parametrize("options", [["-c", "512"], ["-c", "2048"], ["-s", "4096", "-c", "4096"]])
def test_each_cluster_size(tree: Path, tmp_path: Path, options: list[str]) -> None:
    path, wim = make(tmp_path / "image", *options), tmp_path / "tree.wim"
    run(tool("wimlib-imagex"), "capture", tree, wim)
    run("wimlib-imagex", "apply", wim, "1", path)
    with raw_device(path) as device:
        assert not differences(open_ntfs(device), tree, meta=False)


@pytest.mark.parametrize("size", [8192, 65536])
def test_larger_clusters_are_refused(tmp_path: Path, size: int) -> None:
    with (
        raw_device(make(tmp_path / "image", "-c", size)) as device,
        pytest.raises(UnsupportedError, match=f"{size} bytes"),
    ):
        open_ntfs(device)


def test_info_is_what_blkid_and_ntfscluster_say(image: Path) -> None:
    told = blkid(image)
    clusters = run(tool("ntfscluster"), "-i", image)
    free = next(line for line in clusters.splitlines() if "bytes of free space" in line).split(":")[1]
    with raw_device(image) as device:
        info = open_ntfs(device).info
    assert (info.kind, info.uuid, info.label, info.clean) == ("ntfs", told["UUID"], "Système", True)
    assert (info.block_size, info.features, info.free_bytes) == (4096, ("NTFS 3.1",), int(free))


def test_the_dirty_mark(image: Path) -> None:
    with raw_device(image) as device:
        cluster, table = 4096, int.from_bytes(device.read_at(48, 8), "little")
        record = device.read_at(table * cluster + 3 * 1024, 1024)
        place = record.index((0x70).to_bytes(4, "little"))
        flags = place + int.from_bytes(record[place + 20 : place + 22], "little") + 10
        device.changed = {table * cluster + 3 * 1024 + flags: b"\x01"}
        assert open_ntfs(device).info.clean is False


@pytest.fixture(scope="module")
def rich(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """By ntfs-3g: LZNT1 compression, sparse files, streams, links of Windows, foreign reparse points, WOF files."""
    base = tmp_path_factory.mktemp("ntfs")
    path, reference, where = make(base / "image"), base / "reference", base / "mount"
    with mounted(path, where, "compression", "streams_interface=windows", kind="ntfs-3g"):
        (where / "compressed").mkdir()
        os.setxattr(where / "compressed", "system.ntfs_attrib_be", (0x800).to_bytes(4, "big"))
        for name in ("boot/text", "boot/random", "deep/a/b/c/mixed", "etc/fstab"):
            shutil.copyfile(tree / name, where / "compressed" / name.replace("/", "-"))
        shutil.copyfile(shutil.which("python3") or "/bin/sh", where / "compressed/program")
        with (where / "compressed/holes").open("wb") as file:
            file.write(b"abc" * 50_000)
            file.seek(2_000_000)
            file.write(b"end" * 10_000)
        run("cp", "-r", f"{tree}/etc", f"{tree}/many", where)
        (where / "etc/fstab:stream").write_text("not the file")
        with (where / "pieces").open("wb", buffering=0) as pieces:
            for number in range(200):
                pieces.write(b"x" * 4096)
                (where / f"between-{number}").write_bytes(b"y" * 5000)
        run("cp", "-r", f"{where}/.", reference)
        for name, tag, body in reparse_points():
            (where / name).mkdir() if name == "junction" else (where / name).touch()
            raw = struct.pack("<IHH", tag, len(body), 0) + body
            os.setxattr(where / name, "system.ntfs_reparse_data", raw, follow_symlinks=False)
        for name, way, size, stream in wof_streams(tree / "boot/text", base):
            with (where / name).open("wb") as file:
                file.truncate(size)
            (where / f"{name}:WofCompressedData").write_bytes(stream)
            raw = struct.pack("<IHHIIII", 0x80000017, 16, 0, 1, 2, 1, way)
            os.setxattr(where / name, "system.ntfs_reparse_data", raw, follow_symlinks=False)
        (where / "secret").touch()
    return path, reference


def reparse_points() -> list[tuple[str, int, bytes]]:
    def names(substitute: str, shown: str, flags: bytes) -> bytes:
        first, second = substitute.encode("utf-16-le"), shown.encode("utf-16-le")
        return struct.pack("<4H", 0, len(first), len(first), len(second)) + flags + first + second

    return [
        ("link", 0xA000000C, names("etc\\fstab", "etc\\fstab", b"\1\0\0\0")),
        ("junction", 0xA0000003, names("\\??\\C:\\etc", "C:\\etc", b"")),
        ("deduplicated", 0x80000013, bytes(8)),
    ]


def wof_streams(source: Path, base: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """(name, way of compression, size, bytes): a resource of a WIM has the form of a WofCompressedData stream."""
    if shutil.which("wimlib-imagex") is None:
        return
    (base / "one").mkdir()
    shutil.copyfile(source, base / "one/file")
    size = source.stat().st_size
    for way, kind, chunk in ((0, "XPRESS", 4096), (2, "XPRESS", 8192), (3, "XPRESS", 16384), (1, "LZX", 32768)):
        wim = base / f"{kind}-{chunk}.wim"
        run("wimlib-imagex", "capture", base / "one", wim, f"--compress={kind}", f"--chunk-size={chunk}", "--no-acls")
        raw = wim.read_bytes()
        table_size, table, _ = struct.unpack_from("<QQQ", raw, 0x30)
        for at in range(table, table + (table_size & ((1 << 56) - 1)), 50):
            stored, place, length = struct.unpack_from("<QQQ", raw, at)
            if length == size and stored >> 56 == 4:  # compressed, and not the metadata of the image
                yield f"wof-{kind}-{chunk}", way, size, raw[place : place + (stored & ((1 << 56) - 1))]


@pytest.mark.root
def test_compressed_sparse_fragmented(rich: tuple[Path, Path]) -> None:
    path, reference = rich
    with raw_device(path) as device:
        fs = open_ntfs(device)
        entry = fs.stat("/compressed/boot-text")
        assert entry is not None
        assert entry.flags & 0x800
        for directory in ("/compressed", "/etc", "/many"):
            assert not differences(_Below(fs, directory), reference / directory[1:], meta=False)
        assert fs.read("/pieces", 0, 1 << 20) == (reference / "pieces").read_bytes()
        assert (
            fs.read("/compressed/holes", 149_000, 1_900_000)
            == (reference / "compressed/holes").read_bytes()[149_000:2_049_000]
        )


@pytest.mark.root
def test_links_of_windows(rich: tuple[Path, Path]) -> None:
    with raw_device(rich[0]) as device:
        fs = open_ntfs(device)
        for name, target in (("/link", "etc/fstab"), ("/junction", "C:/etc")):
            entry = fs.stat(name)
            assert entry is not None
            assert (entry.kind, fs.link(name)) == (FileKind.LINK, target)
        with pytest.raises(GuestError, match="not a link"):
            fs.link("/etc/fstab")


@pytest.mark.root
def test_what_another_driver_keeps_is_refused(rich: tuple[Path, Path]) -> None:
    with raw_device(rich[0]) as device, pytest.raises(UnsupportedError, match="0x80000013"):
        open_ntfs(device).read("/deduplicated")


@pytest.mark.root
def test_files_that_windows_10_compresses(rich: tuple[Path, Path], tree: Path) -> None:
    """XPRESS is read right; LZX, of which the library makes wrong bytes, is refused."""
    data = (tree / "boot/text").read_bytes()
    with raw_device(rich[0]) as device:
        fs = open_ntfs(device)
        names = [name for name in fs.names("/") if name.startswith("wof-")]
        if not names:
            pytest.skip("wimlib-imagex is not installed")
        assert sorted(names) == ["wof-LZX-32768", "wof-XPRESS-16384", "wof-XPRESS-4096", "wof-XPRESS-8192"]
        for name in names:
            entry = fs.stat(f"/{name}")
            assert entry is not None
            assert (entry.kind, entry.size) == (FileKind.FILE, len(data))
            if "LZX" in name:
                with pytest.raises(UnsupportedError, match="compression 1 of provider 2"):
                    fs.read(f"/{name}")
            else:
                assert fs.read(f"/{name}", 0, 4 << 20) == data
                assert fs.read(f"/{name}", 1_000_000, 50_000) == data[1_000_000:1_050_000]


@pytest.mark.root
def test_an_encrypted_file_is_refused(rich: tuple[Path, Path]) -> None:
    """The flag is set by hand: nothing here can encrypt."""
    with raw_device(rich[0]) as device:
        table = int.from_bytes(device.read_at(48, 8), "little") * 4096
        name = "secret".encode("utf-16-le")
        record = next(
            number
            for number in range(64, 3000)
            if name in (raw := device.read_at(table + number * 1024, 1024)) and raw[:4] == b"FILE" and raw[22] & 1
        )
        raw = device.read_at(table + record * 1024, 1024)
        flags = raw.index((0x10).to_bytes(4, "little"), 56) + 24 + 32
        device.changed = {table + record * 1024 + flags: (0x4020).to_bytes(4, "little")}
        with pytest.raises(UnsupportedError, match="encrypted"):
            open_ntfs(device).read("/secret")


class _Below:
    """A directory of a file system as if it were the top."""

    def __init__(self, fs, top: str) -> None:
        self._fs, self._top = fs, top

    def __getattr__(self, name: str):
        return lambda path, *rest: getattr(self._fs, name)(self._top + path, *rest)


def test_what_is_no_ntfs(image: Path) -> None:
    with raw_device(image) as device:
        device.changed = {3: b"-FVE-FS-"}
        with pytest.raises(UnsupportedError, match="BitLocker"):
            open_ntfs(device)
        for place, data in ((3, b"EXFAT   "), (11, b"\x00\x03"), (13, b"\x03"), (40, b"\xff" * 8), (48, b"\xff" * 8)):
            device.changed = {place: data}
            with pytest.raises(GuestError):
                open_ntfs(device)


def test_paths(image: Path) -> None:
    with raw_device(image) as device:
        fs = open_ntfs(device)
        assert fs.stat("/nothing") is None
        assert fs.stat("/etc/fstab/below") is None
        assert {"$MFT", "$Bitmap"}.isdisjoint(fs.names("/"))
        for act in (lambda: fs.read("/etc"), lambda: fs.read("/nothing"), lambda: list(fs.names("/etc/fstab"))):
            with pytest.raises(GuestError, match="no such"):
                act()
        with pytest.raises(GuestError, match="does not allow"):
            fs.read("/etc\\fstab")


def test_errors_below_come_through_the_library(image: Path) -> None:
    class Failing(RawDevice):
        broken = False

        def read_at(self, offset: int, length: int) -> bytes:
            if self.broken:
                raise UnsupportedError("a cluster that is not here", offset=offset)
            return super().read_at(offset, length)

    device = Failing(image)
    try:
        fs = open_ntfs(device)
        device.broken = True
        with pytest.raises(UnsupportedError, match="a cluster that is not here"):
            fs.read("/boot/random")
    finally:
        device.close()


def test_nonsense_is_an_error_of_the_guest(image: Path) -> None:
    noise = random.Random(5)
    with raw_device(image) as device:
        look(device)
        reads = sorted({read for read in device.reads if read[1] <= 65536})
        outcomes = []
        for _ in range(200):
            device.changed = {}
            for _ in range(noise.randrange(1, 6)):
                place, length = noise.choice(reads)
                device.changed[place + noise.randrange(length)] = bytes(
                    [noise.choice((0, 1, 255, noise.randrange(256)))]
                )
            outcomes.append(survives(lambda: look(device), GuestError))
    assert any(outcomes)
    assert not all(outcomes)


def look(device: RawDevice) -> None:
    fs = open_ntfs(device)
    assert fs.info.kind == "ntfs"
    for path in ("/", "/etc", "/many"):
        list(fs.names(path))
    for path in ("/etc/fstab", "/deep/a/b/c/mixed", "/hole"):
        if fs.stat(path) is not None:
            fs.read(path)


def test_a_record_of_the_file_table() -> None:
    def record(*attributes: bytes) -> bytes:
        body = b"".join(attributes) + b"\xff\xff\xff\xff"
        head = (
            struct.pack("<4sHH12xHHI", b"FILE", 48, 3, 56, 1, 56 + len(body)).ljust(48, b"\0") + b"\7\7ab" + b"cd\0\0"
        )
        raw = bytearray((head + body).ljust(1024, b"\0"))
        raw[510:512] = raw[1022:1024] = b"\7\7"
        return bytes(raw)

    def attribute(kind: int, data: bytes) -> bytes:
        return struct.pack("<IIBB6xIH2x", kind, 24 + -(-len(data) // 8) * 8, 0, 0, len(data), 24) + data.ljust(
            -(-len(data) // 8) * 8
        )

    good = record(attribute(0x10, bytes(48)), attribute(0xC0, b"reparse"))
    assert resident_attribute(good, 0xC0) == b"reparse"
    assert resident_attribute(good, 0x30) is None
    with pytest.raises(DamagedError, match="not written wholly"):
        resident_attribute(good[:510] + b"\0\0" + good[512:], 0xC0)
    with pytest.raises(DamagedError):
        resident_attribute(b"BAAD" + good[4:], 0xC0)
    with pytest.raises(DamagedError, match="attribute"):
        resident_attribute(record(attribute(0x10, b"x")[:4] + (5).to_bytes(4, "little") + bytes(16)), 0xC0)


@pytest.mark.parametrize("case", ["guest-data-disk-ntfs", "guest-win2016-mbr-virtio-qcow2c", "guest-win2019-gpt-uefi"])
def test_the_guests_of_the_corpus(corpus, case: str) -> None:
    with open_disk(corpus.path(case), follow="pieces") as disk:
        for part in corpus.cases[case]["content"]["partitions"]:
            if part.get("fs", {}).get("type") == "ntfs":
                fs = open_ntfs(_Part(disk, part["start"] * 512, part["sectors"] * 512))
                assert (fs.info.uuid, fs.info.label) == (part["fs"]["uuid"], part["fs"]["label"].replace("\\ ", " "))
                if fs.stat("/Windows") is not None:
                    assert fs.read("/windows/system32/config/system", 0, 4) == b"regf"


def test_the_volume_of_windows(corpus) -> None:
    """Written by Windows itself."""
    parts = corpus.cases["grr-ntfs"]["content"]["partitions"]
    part = next(each for each in parts if each.get("fs", {}).get("type") == "ntfs")
    with raw_device(corpus.path("grr-ntfs"), start=part["start"] * 512, size=part["sectors"] * 512) as device:
        fs = open_ntfs(device)
        assert fs.info.uuid == part["fs"]["uuid"]
        names = set(fs.names("/"))
        assert names
        for name in names:
            entry = fs.stat(f"/{name}")
            assert entry is not None
            if entry.kind is FileKind.FILE:
                fs.read(f"/{name}")


class _Part:
    sector_size = 512

    def __init__(self, disk, start: int, size: int) -> None:
        self._disk, self._start, self.size = disk, start, size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._disk.read_at(self._start + offset, length)
