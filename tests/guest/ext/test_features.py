"""Every way in which ext keeps files, made by mke2fs, debugfs or the kernel, compared byte for byte."""

import os
import re
from pathlib import Path

import pytest

from diskfmt.guest.base import FileKind, GuestError, UnsupportedError
from diskfmt.guest.ext import ExtFileSystem
from guest.ext.trees import FSTAB, MIB, file_system, make
from guest.kit import blkid, compare, device, mounted, need, run, sparse

VARIANTS = {
    "default": ("-t", "ext4"),
    "all-at-once": (
        *("-t", "ext4", "-O"),
        "inline_data,large_dir,casefold,ea_inode,verity,quota,orphan_file,metadata_csum_seed,mmp,project,bigalloc",
    ),
    "inline-data": ("-t", "ext4", "-O", "inline_data", "-I", "256"),
    "inline-data-512": ("-t", "ext4", "-O", "inline_data", "-I", "512"),
    "inline-data-1k": ("-t", "ext4", "-O", "inline_data", "-I", "1024", "-b", "4096"),
    "casefold": ("-t", "ext4", "-O", "casefold"),
    "ea-inode": ("-t", "ext4", "-O", "ea_inode"),
    "verity": ("-t", "ext4", "-O", "verity"),
    "quota": ("-t", "ext4", "-O", "quota,project"),
    "orphan-file": ("-t", "ext4", "-O", "orphan_file"),
    "encrypt": ("-t", "ext4", "-O", "encrypt"),
    "csum-seed": ("-t", "ext4", "-O", "metadata_csum_seed"),
    "large-dir": ("-t", "ext4", "-O", "large_dir"),
    "mmp": ("-t", "ext4", "-O", "mmp"),
    "bigalloc": ("-t", "ext4", "-O", "bigalloc", "-C", "65536"),
    "bigalloc-1k": ("-t", "ext4", "-O", "bigalloc", "-b", "1024"),
    "block-maps-1k": ("-t", "ext3", "-b", "1024"),
    "block-maps-4k": ("-t", "ext3", "-b", "4096"),
    "ext2": ("-t", "ext2", "-b", "1024"),
    "revision-0": ("-r", "0", "-b", "1024"),
    "32-bit": ("-t", "ext4", "-O", "^64bit"),
    "no-checksums": ("-t", "ext4", "-O", "^metadata_csum"),
    "no-journal": ("-t", "ext4", "-O", "^has_journal"),
    "small-inodes": ("-t", "ext4", "-I", "128"),
    "meta-bg-1k": ("-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"),
    "meta-bg-many": ("-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^flex_bg"),
    "meta-bg-32-bit": ("-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode,^flex_bg,^64bit"),
    "no-flex-bg": ("-t", "ext4", "-b", "1024", "-O", "^flex_bg"),
    "sparse-super2": ("-t", "ext4", "-b", "1024", "-g", "512", "-O", "sparse_super2,meta_bg,^resize_inode,^flex_bg"),
    "no-sparse-super": ("-t", "ext4", "-b", "1024", "-O", "^sparse_super,^resize_inode"),
    "no-filetype": ("-t", "ext2", "-O", "^filetype"),
    "64k-blocks": ("-t", "ext4", "-b", "65536"),
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_files_are_those_of_the_tree(tmp_path: Path, tree: Path, options: tuple[str, ...]) -> None:
    path = file_system(tmp_path / "fs", tree, *options)
    system = ExtFileSystem(device(path))
    assert compare(system, tree) > 300
    assert system.read("/etc/fstab") == FSTAB


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_superblock_says_what_dumpe2fs_prints(tmp_path: Path, options: tuple[str, ...]) -> None:
    need("mke2fs", "dumpe2fs")
    path = sparse(tmp_path / "fs", 64 * MIB)
    run("mke2fs", "-q", "-F", "-L", "the label", *options, path)
    printed = dict(re.findall(r"^([A-Z][A-Za-z ]+?): +(.+)$", run("dumpe2fs", "-h", path), re.MULTILINE))
    info = ExtFileSystem(device(path)).info
    assert " ".join(info.features) == printed["Filesystem features"].replace("(none)", "").strip()
    assert (info.uuid, info.label) == (printed["Filesystem UUID"], "the label")
    assert info.block_size == int(printed["Block size"])
    assert info.size == int(printed["Block count"]) * info.block_size
    assert info.free_bytes == int(printed["Free blocks"]) * info.block_size
    assert info.free_inodes == int(printed["Free inodes"])
    assert info.kind == blkid(path)["TYPE"]
    assert (info.clean, info.errors, info.error_count) == (True, False, 0)


def test_hash_trees_are_read_like_other_directories(tmp_path: Path, tree: Path) -> None:
    need("e2fsck", "debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4", "-b", "1024", "-O", "large_dir")
    # e2fsck -D writes the index that mke2fs does not; it reports that it changed something.
    os.system(f"PATH=$PATH:/sbin:/usr/sbin e2fsck -fyD {path} >/dev/null 2>&1")
    assert "Indirect levels: 0" in run("debugfs", "-R", "htree /many", path)
    assert compare(ExtFileSystem(device(path)), tree) > 300


def test_hash_trees_of_two_levels(tmp_path: Path) -> None:
    need("e2fsck", "debugfs")
    small = tmp_path / "tree"
    (small / "many").mkdir(parents=True)
    names = {f"{number:05}" + "n" * 200 for number in range(1200)}
    for name in names:
        (small / "many" / name).touch()
    path = file_system(tmp_path / "fs", small, "-t", "ext4", "-b", "1024", size=32 * MIB)
    os.system(f"PATH=$PATH:/sbin:/usr/sbin e2fsck -fyD {path} >/dev/null 2>&1")
    assert "Indirect levels: 1" in run("debugfs", "-R", "htree /many", path)
    assert set(ExtFileSystem(device(path)).names("/many")) == names


@pytest.mark.parametrize(
    "options", [("-t", "ext2", "-b", "1024"), ("-t", "ext4", "-b", "1024")], ids=["maps", "extents"]
)
def test_three_levels_of_tables(tmp_path: Path, options: tuple[str, ...]) -> None:
    small = tmp_path / "tree"
    small.mkdir()
    with (small / "file").open("wb") as file:
        for place in (11, 12, 267, 268, 65803, 65804, 70000):  # in blocks: each level's last, and the next one's first
            file.seek(place * 1024 + 1000)
            file.write(b"across the border of two blocks")
    system = ExtFileSystem(device(file_system(tmp_path / "fs", small, *options, size=8 * MIB)))
    compare(system, small)
    assert system.read("/file", 65803 * 1024 + 1000, 31) == b"across the border of two blocks"


def test_preallocated_blocks_read_as_zero(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    run("debugfs", "-w", "-R", "fallocate /few/one 0 40", path)
    run("debugfs", "-w", "-R", "set_inode_field /few/one size 100000", path)
    run("debugfs", "-R", f"dump /few/one {tmp_path / 'out'}", path)
    assert ExtFileSystem(device(path)).read("/few/one") == (tmp_path / "out").read_bytes()


def test_special_files_are_neither_file_nor_link(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    run("debugfs", "-w", "-R", "mknod fifo p", path)
    system = ExtFileSystem(device(path))
    entry = system.stat("/fifo")
    assert entry is not None
    assert entry.kind is FileKind.OTHER


def test_inode_flags_times_and_owners(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    for name, value in (("flags", "0x80010"), ("uid", "123456"), ("gid", "654321"), ("mtime", "20400101000000")):
        run("debugfs", "-w", "-R", f"set_inode_field /etc/size-4096 {name} {value}", path)
    entry = ExtFileSystem(device(path)).stat("/etc/size-4096")
    assert entry is not None
    assert (entry.flags, entry.uid, entry.gid) == (0x80010, 123456, 654321)
    assert entry.mtime == 2208988800


def test_encrypted_files_are_refused_and_others_read(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4", "-O", "encrypt")
    run("debugfs", "-w", "-R", "set_inode_field /few flags 0x80800", path)
    run("debugfs", "-w", "-R", "set_inode_field /etc/size-117 flags 0x80800", path)
    system = ExtFileSystem(device(path))
    assert system.read("/etc/fstab") == FSTAB
    for call in (
        lambda: system.read("/etc/size-117"),
        lambda: system.stat("/few/one"),
        lambda: list(system.names("/few")),
    ):
        with pytest.raises(UnsupportedError, match="encrypt"):
            call()


def test_casefolded_directories_find_names_in_any_case(tmp_path: Path) -> None:
    need("debugfs")
    small = tmp_path / "tree"
    (small / "dir").mkdir(parents=True)
    (small / "dir/Straße").write_bytes(b"1")
    (small / "dir/File").write_bytes(b"2")
    path = file_system(tmp_path / "fs", small, "-t", "ext4", "-O", "casefold", size=32 * MIB)
    assert ExtFileSystem(device(path)).stat("/dir/file") is None
    run("debugfs", "-w", "-R", "set_inode_field /dir flags 0x40080000", path)
    system = ExtFileSystem(device(path))
    assert system.read("/dir/file") == b"2"
    assert system.read("/dir/STRASSE") == b"1"
    assert system.stat("/DIR") is None


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("feature_incompat", 0x2C2 | 0x8, "journal_dev"),
        ("feature_incompat", 0x2C2 | 0x1, "compression"),
        ("feature_incompat", 0x2C2 | 0x1000, "dirdata"),
        ("feature_incompat", 0x2C2 | 0x100000, "FEATURE_I20"),
    ],
)
def test_unknown_features_are_refused_by_name(tmp_path: Path, tree: Path, field: str, value: int, name: str) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    run("debugfs", "-w", "-R", f"set_super_value {field} {value}", path)
    with pytest.raises(UnsupportedError, match=name):
        ExtFileSystem(device(path))


def test_unknown_features_that_only_writers_must_know_are_named(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    run("debugfs", "-w", "-R", f"set_super_value feature_ro_compat {0x46B | 1 << 24}", path)
    system = ExtFileSystem(device(path))
    assert "FEATURE_R24" in system.info.features
    assert system.read("/etc/fstab") == FSTAB


def test_state_and_errors(tmp_path: Path, tree: Path) -> None:
    need("debugfs")
    path = file_system(tmp_path / "fs", tree, "-t", "ext4")
    for field, value in (("state", 3), ("error_count", 12)):
        run("debugfs", "-w", "-R", f"set_super_value {field} {value}", path)
    info = ExtFileSystem(device(path)).info
    assert (info.clean, info.errors, info.error_count) == (True, True, 12)
    run("debugfs", "-w", "-R", "set_super_value state 0", path)
    assert ExtFileSystem(device(path)).info.clean is False


def test_what_is_no_file_link_or_directory_says_so(tmp_path: Path, tree: Path) -> None:
    system = ExtFileSystem(device(file_system(tmp_path / "fs", tree, "-t", "ext4")))
    assert system.stat("/none") is None
    assert system.stat("/etc/fstab/under") is None
    assert system.stat("/etc/link-1/under") is None
    assert system.stat("/") is not None
    for call in (
        lambda: system.read("/none"),
        lambda: system.read("/etc"),
        lambda: system.read("/etc/link-1"),
        lambda: system.link("/etc/fstab"),
        lambda: list(system.names("/etc/fstab")),
    ):
        with pytest.raises(GuestError):
            call()
    assert system.read("/etc/fstab", 5, 8) == FSTAB[5:13]
    assert system.read("/etc/fstab", 10_000) == b""


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext4"),
        ("-t", "ext4", "-O", "inline_data,large_dir,ea_inode"),
        ("-t", "ext4", "-O", "bigalloc"),
        ("-t", "ext4", "-b", "1024", "-O", "metadata_csum_seed,orphan_file"),
        ("-t", "ext3", "-b", "1024"),
        ("-t", "ext2"),
    ],
    ids=lambda options: "-".join(options).replace("--", "-"),
)
def test_what_the_kernel_wrote(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The running kernel makes the files: hash trees, inline directories and extended inodes as it writes them."""
    need("mke2fs")
    path = sparse(tmp_path / "fs", 160 * MIB)
    run("mke2fs", "-q", "-F", *options, path)
    with mounted(path, tmp_path / "point") as point:
        make(point / "tree", many=1500)
        for number in range(0, 1500, 2):
            (point / f"tree/many/a-name-that-takes-its-room-{number:06}").unlink()
        if "ea_inode" in str(options):
            os.setxattr(point / "tree/etc/size-117", "user.large", b"v" * 9000)
        twin = tmp_path / "twin"
        run("cp", "-a", "--sparse=always", point / "tree", twin)
    assert compare_below(path, twin) > 300


def compare_below(path: Path, twin: Path) -> int:
    (twin.parent / "whole").mkdir()
    twin.rename(twin.parent / "whole/tree")
    return compare(ExtFileSystem(device(path)), twin.parent / "whole")
