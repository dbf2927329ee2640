"""Initramfs files made by cpio and every compressor, and damaged ones."""

import contextlib
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.guest.base import BudgetError, DamagedError, GuestError, UnsupportedError
from diskfmt.guest.linux import cpio as archive
from diskfmt.guest.linux import initramfs, lz4
from diskfmt.guest.linux.cpio import Archive, Source
from guest.linux.initramfs_tools import COMPRESSORS, compressed, cpio, need, tree

NOISE = random.Random(4).randbytes(300_000)
FILES = {
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/block/virtio_blk.ko": b"\x7fELF" + bytes(9000) + NOISE,
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/virtio/virtio-pci.ko.xz": b"x" * 70_000,
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/net/virtio_net.ko.zst": b"",
    "usr/lib/modules/6.1.0-9-amd64/modules.dep": b"",
    "usr/lib/modules/5.0/kernel/fs/ext4.ko.gz": b"1",
    "usr/sbin/lvm": b"#!",
    "usr/share/doc/mdadm": b"not the tool",
    "conf/modules": b"virtio_blk\n",
    "etc/modprobe.d/hard.conf": b"blacklist nvme\ninstall vfat /bin/true\n",
    "init": b"#!/bin/sh\n",
}
MODULES = {"6.1.0-9-amd64": {"virtio_blk", "virtio_pci", "virtio_net"}, "5.0": {"ext4"}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return cpio(tree(tmp_path_factory.mktemp("main"), FILES))


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    files = {"kernel/x86/microcode/GenuineIntel.bin": b"code" * 5000, "early_cpio": b"1\n"}
    return cpio(tree(tmp_path_factory.mktemp("early"), files))


def holds_all(found: initramfs.Initramfs) -> None:
    assert found.modules == MODULES
    assert found.tools == {"lvm"}
    assert found.kept["conf/modules"] == b"virtio_blk\n"
    assert found.modprobe.where("nvme") == "initrd(etc/modprobe.d/hard.conf):1"
    assert found.modprobe.where("vfat") == "initrd(etc/modprobe.d/hard.conf):2"
    assert found.modprobe.where("virtio-blk") is None
    assert not found.problem
    assert not found.hidden


@pytest.mark.parametrize("how", ["none", *(name for name in COMPRESSORS if name != "lzo")])
def test_every_compression_with_and_without_microcode(how: str, plain: bytes, early: bytes) -> None:
    main = plain if how == "none" else compressed(plain, how)
    alone = initramfs.parse(main, "initrd")
    holds_all(alone)
    assert [part.compression for part in alone.parts] == [how]
    for padding in (0, 4, 512, 4096 + 512):
        both = initramfs.parse(early + bytes(padding) + main, "initrd")
        holds_all(both)
        assert [part.compression for part in both.parts] == ["none", how]
        assert both.files == alone.files + 5
    behind = initramfs.parse(
        main + bytes(8) + early, "initrd"
    )  # a boot loader loads several files one behind the other
    holds_all(behind)
    assert [part.compression for part in behind.parts] == [how, "none"]


def test_the_names_are_those_that_cpio_lists(plain: bytes, tmp_path: Path) -> None:
    names = {os.fsdecode(member.name) for member in Archive(Source([plain]))}
    everything = tree(tmp_path, FILES)
    assert names == {str(path.relative_to(everything)) for path in everything.rglob("*")}


def test_pieces_of_any_size_give_the_same(plain: bytes) -> None:
    whole = [(member.name, member.size) for member in Archive(Source([plain]))]
    for step in (37, 110, 4096):
        pieces = (plain[at : at + step] for at in range(0, len(plain), step))
        assert [(member.name, member.size) for member in Archive(Source(pieces))] == whole


def test_a_format_that_is_not_read_is_unsupported(plain: bytes) -> None:
    with pytest.raises(UnsupportedError, match="lzo"):
        initramfs.parse(compressed(plain, "lzo"), "initrd")


def test_content_that_is_not_looked_into_is_named(tmp_path: Path) -> None:
    data = cpio(tree(tmp_path, {"squash-root.img": b"hsqs", "init": b""}))
    assert initramfs.parse(data, "initrd").hidden == ("squash-root.img",)


def test_links_to_modules_count_where_they_lead_to_one(tmp_path: Path) -> None:
    top = tree(
        tmp_path, {"usr/lib/modules/4.18.0-1/extra/virtio_blk.ko.xz": b"1", "sbin/real": b"", "usr/lib/systemd/x": b""}
    )
    weak = top / "usr/lib/modules/4.18.0-2/weak-updates"
    weak.mkdir(parents=True)
    (weak / "virtio_blk.ko.xz").symlink_to("/lib/modules/4.18.0-1/extra/virtio_blk.ko.xz")
    (weak / "nvme.ko.xz").symlink_to("../../../../../outside/nvme.ko.xz")
    (top / "sbin/mdadm").symlink_to("real")
    found = initramfs.parse(cpio(top), "initrd")
    assert found.modules == {"4.18.0-1": {"virtio_blk"}, "4.18.0-2": {"virtio_blk"}}
    assert found.tools == {"mdadm"}  # a directory called systemd is not systemd


@pytest.mark.parametrize("how", ["none", "gzip", "xz", "lzma", "bzip2", "zstd", "lz4"])
def test_a_file_that_is_cut_short_is_damaged(how: str, plain: bytes) -> None:
    main = plain if how == "none" else compressed(plain, how)
    for length in (0, 3, 100, len(main) // 2, len(main) - 1500):
        with pytest.raises(DamagedError):
            initramfs.parse(main[:length], "initrd")


def test_what_follows_the_archives_is_told(plain: bytes) -> None:
    found = initramfs.parse(plain + b"garbage!", "initrd")
    assert "no archive" in found.problem
    assert found.modules == MODULES


def test_not_an_initramfs() -> None:
    for data in (b"", bytes(5000), b"MZ" + bytes(1000), b"070707" + bytes(500)):
        with pytest.raises(DamagedError):
            initramfs.parse(data, "initrd")


def header(**fields: int) -> bytes:
    names = ["ino", "mode", "uid", "gid", "nlink", "mtime", "size", "maj", "min", "rmaj", "rmin", "namesize", "check"]
    return b"070701" + b"".join(b"%08x" % fields.get(name, 0) for name in names)


@pytest.mark.parametrize(
    "data",
    [
        header(namesize=0),
        header(namesize=5000) + bytes(6000),
        header(namesize=4, size=0xFFFFFFFF) + b"abc\0",
        header(namesize=4).replace(b"00000004", b" 0000004") + b"abc\0",
        header(namesize=4).replace(b"00000004", b"-0000004") + b"abc\0",
        header(namesize=4) + b"abc\0" + b"junk",
    ],
)
def test_hostile_headers(data: bytes) -> None:
    with pytest.raises((DamagedError, BudgetError)):
        initramfs.parse(data, "initrd")


def test_more_content_than_is_looked_at_is_a_budget_error(monkeypatch: pytest.MonkeyPatch, plain: bytes) -> None:
    monkeypatch.setattr(initramfs, "MAX_READ", 100_000)
    with pytest.raises(BudgetError):
        initramfs.parse(compressed(plain, "gzip"), "initrd")


def test_more_files_than_are_looked_at(monkeypatch: pytest.MonkeyPatch, plain: bytes) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(BudgetError):
        initramfs.parse(plain, "initrd")


@settings(max_examples=60)
@given(st.data())
def test_one_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(["none", "gzip", "xz", "bzip2", "zstd", "lz4"]))
    main = bytearray(MAIN[how])
    if not main:
        return
    main[data.draw(st.integers(0, len(main) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(GuestError):
        initramfs.parse(bytes(main), "initrd")


MAIN: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = {name: data[:200] for name, data in FILES.items()}
    small = cpio(tree(tmp_path_factory.mktemp("small"), files))
    MAIN["none"] = small
    for how in ("gzip", "xz", "bzip2", "zstd", "lz4"):
        MAIN[how] = compressed(small, how)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([b"a", b"abc", b"0123456789" * 9, bytes(70), b"\xff" * 300, NOISE[:40]]), max_size=60))
def test_lz4_blocks_of_the_tool(pieces: list[bytes]) -> None:
    need("lz4")
    plain = b"".join(pieces)
    made = compressed(plain, "lz4")
    assert b"".join(decoded for decoded, _ in lz4.blocks(made, 0)) == plain


def test_lz4_matches_of_every_distance() -> None:
    for distance in range(1, 20):
        for length in range(4, 40):
            seed = bytes(range(65, 65 + distance))
            token = bytes([min(distance, 15) << 4 | min(length - 4, 15)])
            more = bytes([distance - 15]) if distance >= 15 else b""
            extra = bytes([length - 19]) if length >= 19 else b""
            block = token + more + seed + struct.pack("<H", distance) + extra + b"\x10Z"
            assert lz4.block(block, 1000) == (seed * 50)[: distance + length] + b"Z"


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xf0",
        b"\x50abc",
        b"\x10a\x02\x00",
        b"\x10a\x00\x00",
        b"\x1fa\x01\x00" + b"\xff" * 50,
        b"\x1fa\x01\x00\xff\xff\xff\x00",
    ],
)
def test_hostile_lz4_blocks(block: bytes) -> None:
    with pytest.raises(DamagedError):
        lz4.block(block, 500)


def test_the_version_of_a_kernel() -> None:
    head = bytearray(0x800)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = struct.pack("<H", 0x300)
    head[0x500:0x520] = b"6.1.0-9-amd64 (debian@x) #1 SMP\0"
    assert initramfs.embedded_version(bytes(head)) == "6.1.0-9-amd64"
    assert initramfs.embedded_version(b"MZ" + bytes(0x800)) is None
    head[0x20E:0x210] = b"\xff\xff"
    assert initramfs.embedded_version(bytes(head)) is None
