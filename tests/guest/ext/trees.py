"""Trees of files that reach every way in which ext keeps a file, and file systems made of them."""

import os
import random
import shutil
from pathlib import Path

from guest.kit import need, run, sparse

MIB = 1 << 20
FSTAB = b"UUID=5eed0000-0000-4000-8000-0000000000a1 / ext4 errors=remount-ro 0 1\n# what is longer than 60\n"


def make(tree: Path, *, many: int = 300) -> Path:
    """A small system: files of all lengths, links, directories of many names, sparse and scattered files."""
    chance = random.Random(7)
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/fstab").write_bytes(FSTAB)
    for size in (0, 1, 59, 60, 61, 100, 117, 155, 4095, 4096, 4097, 100_000):
        (tree / f"etc/size-{size}").write_bytes(chance.randbytes(size))
    for length in (1, 58, 59, 60, 61, 100, 1000):
        os.symlink("x" * length, tree / f"etc/link-{length}")
    (tree / "boot").mkdir()
    (tree / "boot/initrd.img").write_bytes(chance.randbytes(MIB + 12345))
    (tree / "many").mkdir()
    for number in range(many):
        (tree / f"many/a-name-that-takes-its-room-{number:06}").write_bytes(b"%d\n" % number)
    (tree / "few").mkdir()
    (tree / "few/one").write_bytes(b"1")
    deep = tree.joinpath(*(f"d{level}" for level in range(20)))
    deep.mkdir(parents=True)
    (deep / "end").write_bytes(b"deep")
    (tree / "Grüße ☃").write_bytes(b"utf-8")
    with (tree / "sparse").open("wb") as file:
        for place in (0, 5 * MIB):
            file.seek(place)
            file.write(chance.randbytes(5000))
    with (tree / "scattered").open("wb") as file:
        for number in range(600):
            file.seek(number * 8192)
            file.write(b"%d" % number * 10)
    for path in (tree / "etc/size-1", tree / "etc/size-117"):
        os.chmod(path, 0o4751)
    os.utime(tree / "etc/fstab", (1, 1_700_000_000))
    return tree


def file_system(path: Path, tree: Path, *options: str, size: int = 64 * MIB) -> Path:
    """An ext file system of a tree, by mke2fs."""
    need("mke2fs")
    sparse(path, size)
    run("mke2fs", "-q", "-F", *options, "-d", tree, path)
    return path


def copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target
