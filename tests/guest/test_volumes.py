"""What volumes hold, against blkid on what the real tools make, and on the corpus."""

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Corpus, corpus_ids

from diskfmt.disk import open_disk
from diskfmt.guest.base import GuestError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.ext import ExtFileSystem
from diskfmt.guest.signatures import EMPTY, UNKNOWN, Content, probe
from diskfmt.guest.volumes import VolumeKind, VolumeTree, scan
from guest.kit import MIB, Memory, blkid, device, memory, need, run, sparse

UUID = "5eed0000-0000-4000-8000-0000000000a1"

MADE = {
    "ext2": ("mke2fs -q -F -t ext2 -L label", 8),
    "ext3": ("mke2fs -q -F -t ext3 -L label", 16),
    "ext4": ("mke2fs -q -F -t ext4 -L a-label-of-16-ch", 16),
    "ext4-no-journal": ("mke2fs -q -F -t ext4 -O ^has_journal", 16),
    "jbd": ("mke2fs -q -F -O journal_dev", 16),
    "xfs": ("mkfs.xfs -q -L label", 300),
    "btrfs": ("mkfs.btrfs -q -L a-label", 120),
    "fat12": ("mkfs.vfat -F 12 -n LABEL", 4),
    "fat16": ("mkfs.vfat -F 16", 20),
    "fat32": ("mkfs.vfat -F 32 -n ESP", 40),
    "fat32-4k": ("mkfs.vfat -F 32 -S 4096", 300),
    "ntfs": ("mkntfs -q -F -L System", 8),
    "swap": ("mkswap -L label", 4),
    "swap-64k": ("mkswap -p 65536", 8),
    "luks1": (
        "cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-file=/dev/urandom --keyfile-size=8",
        8,
    ),
    "luks2": (
        (
            "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label x"
            " --key-file=/dev/urandom --keyfile-size=8"
        ),
        32,
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_content_is_what_blkid_says(tmp_path: Path, name: str) -> None:
    command, size = MADE[name]
    program, *options = command.split()
    need(program)
    path = sparse(tmp_path / "d", size * MIB)
    run(program, *options, path)
    content = probe(device(path))
    said = blkid(path)
    assert (content.kind, content.uuid, content.label) == (said["TYPE"], said.get("UUID", ""), said.get("LABEL", ""))
    assert (content.others, content.problem) == ((), "")
    if content.kind in {"ext4", "xfs", "btrfs", "vfat", "swap"}:
        assert 0.9 * path.stat().st_size <= content.size <= path.stat().st_size


def test_iso(tmp_path: Path) -> None:
    need("xorriso")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x")
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "INSTALL", "-o", tmp_path / "d", tmp_path / "tree")
    content, said = probe(device(tmp_path / "d")), blkid(tmp_path / "d")
    assert (content.kind, content.uuid, content.label) == (said["TYPE"], said["UUID"], said["LABEL"])


def test_iso_that_is_a_disk_too(tmp_path: Path) -> None:
    need("xorriso", "sfdisk")
    (tmp_path / "tree").mkdir()
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "INSTALL", "-o", tmp_path / "d", tmp_path / "tree")
    with (tmp_path / "d").open("r+b") as file:
        file.truncate(4 * MIB)
    run(
        "sfdisk",
        "-q",
        "--no-reread",
        "-w",
        "never",
        "-W",
        "never",
        tmp_path / "d",
        stdin="label: dos\nstart=2048, type=83\n",
    )
    tree = scan(device(tmp_path / "d"))
    assert (tree.whole.kind, [v.name for v in tree.volumes]) == ("iso9660", ["p1"])


# These formats are only named, or blkid looks at checksums and subtleties that decide nothing here.
NAMED_ONLY = {"bcache": "bcache", "f2fs": "f2fs", "reiserfs": "reiserfs"}


@pytest.mark.parametrize("case", [case for case in corpus_ids(set="public") if case.startswith("utillinux-fs-")])
def test_corpus_of_libblkid(corpus: Corpus, case: str) -> None:
    path = Path(corpus.path(case))
    content, said = probe(device(path)), blkid(path)
    kind = said.get("TYPE", "")
    if kind in NAMED_ONLY:
        assert content.kind == kind
    elif kind in {"ext2", "jbd", "LVM2_member", "crypto_LUKS", "swap", "xfs", "vfat"}:
        assert (content.kind, content.uuid) == (kind, said.get("UUID", ""))
        if content.label.isascii():
            assert content.label == said.get("LABEL", "")
    else:
        assert content.kind in {UNKNOWN, EMPTY, kind, "iso9660", "erofs", "bcachefs"}


@pytest.mark.parametrize(
    ("magic", "kind"),
    [
        (b"S1SUSPEND\0", "swsuspend"),
        (b"S2SUSPEND\0", "swsuspend"),
        (b"LINHIB0001", "swsuspend"),
        (b"SWAP-SPACE", "swap"),
    ],
)
def test_hibernated_systems(tmp_path: Path, magic: bytes, kind: str) -> None:
    need("mkswap")
    path = sparse(tmp_path / "d", 4 * MIB)
    run("mkswap", path)
    with path.open("r+b") as file:
        file.seek(4086)
        file.write(magic)
    assert (probe(device(path)).kind, blkid(path)["TYPE"]) == (kind, kind)


def test_bitlocker_is_no_ntfs(tmp_path: Path) -> None:
    need("mkntfs")
    path = sparse(tmp_path / "d", 8 * MIB)
    run("mkntfs", "-q", "-F", path)
    raw = bytearray(path.read_bytes())
    raw[3:11] = b"-FVE-FS-"
    assert probe(memory(raw)).kind == "BitLocker"
    assert scan(memory(raw)).table.kind == "none"


def test_left_overs_are_told(tmp_path: Path) -> None:
    need("mkfs.xfs", "mkswap")
    path = sparse(tmp_path / "d", 300 * MIB)
    run("mkswap", path)
    kept = path.read_bytes()[4086:4096]
    run("mkfs.xfs", "-q", "-f", path)
    with path.open("r+b") as file:
        file.seek(4086)
        file.write(kept)
    content = probe(device(path))
    assert {content.kind, *content.others} == {"xfs", "swap"}


def test_empty_and_unknown() -> None:
    assert probe(memory(bytes(MIB))).kind == EMPTY
    assert probe(memory(random.Random(1).randbytes(MIB))).kind == UNKNOWN
    assert probe(memory(b"")).kind == EMPTY
    assert probe(memory(b"x" * 100)).kind == UNKNOWN


def test_what_cannot_be_read_is_no_empty_volume() -> None:
    class Failing(Memory):
        def read_at(self, offset: int, length: int) -> bytes:
            raise GuestError("a bad place")

    class Wrapped(DiskDevice):
        def read_at(self, offset: int, length: int) -> bytes:
            raise GuestError("a bad place")

    assert probe(Wrapped(Failing(bytes(MIB)))) == Content(kind=UNKNOWN, problem="a bad place")


# ---- md --------------------------------------------------------------------------------------------------------------


def md(inner: bytes, version: str, *, level: int = 1, devices: int = 2) -> bytes:
    """A member of an array, from drivers/md/md_p.h."""
    if version == "0.90":
        size = (len(inner) + 65535) // 65536 * 65536
        raw = bytearray(size + 65536)
        raw[: len(inner)] = inner
        words = [0] * 1024
        words[0:4] = [0xA92B4EFC, 0, 90, 0]
        words[5] = 0x11111111
        words[7:11] = [level, size // 1024, devices, devices]
        words[13:16] = [0x22222222, 0x33333333, 0x44444444]
        raw[size : size + 4096] = struct.pack("<1024I", *words)
        return bytes(raw)
    offset = {"1.0": 0, "1.1": MIB, "1.2": MIB}[version]
    size = offset + len(inner) + (128 << 10)
    place = {"1.0": ((size >> 9) - 16 & ~7) << 9, "1.1": 0, "1.2": 4096}[version]
    raw = bytearray(size)
    raw[offset : offset + len(inner)] = inner
    sb = bytearray(256)
    struct.pack_into("<IIII16s32s", sb, 0, 0xA92B4EFC, 1, 0, 0, b"U" * 16, b"host:0")
    struct.pack_into("<QiIQIII", sb, 64, 0, level, 0, len(inner) >> 9, 0, devices, 0)
    struct.pack_into("<QQQ", sb, 128, offset >> 9, len(inner) >> 9, place >> 9)
    raw[place : place + 256] = sb
    total = sum(struct.unpack("<64I", sb)) + sum(struct.unpack("<0H", b""))
    struct.pack_into("<I", raw, place + 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(raw)


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need("mke2fs")
    base = tmp_path_factory.mktemp("md")
    (base / "tree").mkdir()
    (base / "tree/file").write_bytes(b"in the array")
    path = sparse(base / "d", 8 * MIB)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-d", base / "tree", path)
    return path.read_bytes()


@pytest.mark.parametrize("version", ["0.90", "1.0", "1.1", "1.2"])
def test_mirrors_are_read_and_others_are_not(tmp_path: Path, ext4: bytes, version: str) -> None:
    raw = md(ext4, version)
    (tmp_path / "d").write_bytes(raw)
    tree = scan(device(tmp_path / "d"))
    assert tree.whole.kind == "linux_raid_member"
    said = blkid(tmp_path / "d")
    if "TYPE" in said:  # blkid wants a right checksum
        assert (tree.whole.uuid, tree.whole.version) == (said["UUID"], said["VERSION"])
    member, array = tree.volumes
    assert (member.content.kind, array.kind, array.content.kind, array.content.uuid) == (
        "linux_raid_member",
        VolumeKind.ARRAY,
        "ext4",
        UUID,
    )
    assert array.device is not None
    assert ExtFileSystem(array.device).read("/file") == b"in the array"
    assert array.size == len(ext4)

    (_, other) = scan(memory(md(ext4, version, level=5, devices=3))).volumes
    assert other.device is None
    assert "level 5" in other.problem


# ---- the tree --------------------------------------------------------------------------------------------------------

LAYOUT = """label: gpt
start=2048, size=16384, type=U, name="ESP", uuid=5EED0000-0000-4000-8000-000000000001
start=18432, size=32768, type=L, name="root", uuid=5EED0000-0000-4000-8000-000000000002
start=51200, size=8192, type=5808C8AA-7E8F-42E0-85D2-E1E90434CFB3
"""


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("sfdisk", "mke2fs", "mkfs.vfat")
    base = tmp_path_factory.mktemp("tree")
    path = sparse(base / "d", 40 * MIB)
    run("sfdisk", "-q", path, stdin=LAYOUT)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-L", "rootfs", "-E", f"offset={9 * MIB}", path, "16384k")
    esp = sparse(base / "esp", 8 * MIB)
    run("mkfs.vfat", "-n", "ESP", "-i", "5eed0001", esp)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(esp.read_bytes())
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"UUID={UUID}", "p2"),
        (f"UUID={UUID.upper()}", "p2"),
        (f'UUID="{UUID}"', "p2"),
        ("UUID=5eed-0001", "p1"),
        ("UUID=5EED-0001", "p1"),
        ("LABEL=rootfs", "p2"),
        ("LABEL=ROOTFS", None),
        ("PARTUUID=5eed0000-0000-4000-8000-000000000002", "p2"),
        ("PARTLABEL=root", "p2"),
        (f"/dev/disk/by-uuid/{UUID}", "p2"),
        ("/dev/disk/by-partuuid/5eed0000-0000-4000-8000-000000000001", "p1"),
        ("/dev/disk/by-label/ESP", "p1"),
        ("/dev/disk/by-partlabel/ESP", "p1"),
        ("/dev/sda1", None),
        ("UUID=", None),
        ("", None),
        ("LABEL=", None),
    ],
)
def test_names_find_volumes(disk: Path, text: str, name: str | None) -> None:
    assert [volume.name for volume in scan(device(disk)).find(text)] == ([] if name is None else [name])


def test_partitions_and_dynamic_disks(disk: Path) -> None:
    tree = scan(device(disk))
    assert [(v.name, v.content.kind, v.offset, v.size) for v in tree.volumes] == [
        ("p1", "vfat", MIB, 8 * MIB),
        ("p2", "ext4", 9 * MIB, 16 * MIB),
        ("p3", "ldm", 25 * MIB, 4 * MIB),
    ]
    assert tree.dynamic == (3,)
    assert tree.table.issues == ()
    assert not tree.made_for_4096


def test_partition_past_the_end_is_cut_where_the_disk_ends(disk: Path) -> None:
    tree = scan(memory(disk.read_bytes()[: 20 * MIB]))
    root = tree.volumes[1]
    assert root.partition is not None
    assert (root.size, root.partition.size, root.content.size) == (11 * MIB, 16 * MIB, 16 * MIB)
    assert tree.volumes[2].size == 0


def test_mbr_made_for_sectors_of_4096_bytes(tmp_path: Path, ext4: bytes) -> None:
    raw = bytearray(40 * MIB)
    raw[446:462] = struct.pack("<B3sB3sII", 0x80, bytes(3), 0x83, bytes(3), 256, 8 * MIB // 4096)
    raw[510:512] = b"\x55\xaa"
    raw[MIB : MIB + len(ext4)] = ext4
    assert scan(memory(raw)).made_for_4096
    raw[256 * 512 : 256 * 512 + len(ext4) // 16] = ext4[: len(ext4) // 16]
    assert not scan(memory(raw)).made_for_4096


def tree_of(corpus: Corpus, case: str, tmp_path: Path, qemu_img: str) -> VolumeTree:
    path = corpus.path(case)
    if corpus.cases[case].get("subformat") == "twoGbMaxExtentSparse":
        run(qemu_img, "convert", "-O", "raw", path, tmp_path / "raw")
        path = str(tmp_path / "raw")
    with open_disk(path) as opened:
        source = DiskDevice(opened)
        tree = scan(source)
        assert source.bytes_read < 8 * MIB
    return tree


@pytest.mark.parametrize("case", corpus_ids(set="guests"))
def test_corpus_guests(corpus: Corpus, case: str, tmp_path: Path, qemu_img: str) -> None:
    content = corpus.cases[case]["content"]
    tree = tree_of(corpus, case, tmp_path, qemu_img)
    assert (tree.problems, tree.dynamic, tree.made_for_4096) == ((), (), False)
    partitions = {v.partition.number: v for v in tree.volumes if v.partition is not None}
    for part in content.get("partitions", []):
        if part["type"] in {"5", "f"} and part["n"] not in partitions:
            continue
        ours, theirs = partitions[part["n"]].content, part.get("fs", {})
        expected = (theirs.get("type"), theirs.get("uuid", ""), theirs.get("label", "").replace("\\ ", " "))
        assert (ours.kind or None, ours.uuid, ours.label) == expected or (not theirs and ours.kind in {UNKNOWN, EMPTY})
    whole = content["whole"]
    if content["table"] is None:
        assert (tree.whole.kind, tree.whole.uuid) == (whole["type"], whole["uuid"])
    if (facts := corpus.cases[case]["facts"].get("lvm")) is not None:
        assert [group.name for group in tree.groups] == [facts["vg"]]
        assert [volume.name for volume in tree.groups[0].volumes] == facts["lvs"]
        (root,) = tree.find("/dev/mapper/centos-root")
        assert (root.content.kind, root.content.label) == ("xfs", "root")


@settings(max_examples=40)
@given(data=st.data())
def test_any_damage_gives_a_tree(data: st.DataObject, disk: Path) -> None:
    with disk.open("rb") as file:
        raw = bytearray(file.read(10 * MIB))
    bases = [0, 512, 1024, MIB, MIB + 512, 9 * MIB + 1024, 9 * MIB + 1024 + 256]
    for _ in range(data.draw(st.integers(1, 10))):
        raw[data.draw(st.sampled_from(bases)) + data.draw(st.integers(0, 255))] = data.draw(st.integers(0, 255))
    scan(DiskDevice(Memory(raw)))
