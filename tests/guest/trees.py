"""A tree of files that a file system is made of, and the comparison of what a reader says with it."""

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diskfmt.guest.base import FileKind


def tool(name: str) -> str:
    """A program; skips the test where it is missing."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: object, **options: Any) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace")


def make_tree(root: Path, *, links: bool = True, many: int = 900) -> Path:
    """Files of all sizes that matter: empty, tiny, one block, compressible, random, sparse; many in one directory."""
    noise = random.Random(4)
    for name in ("etc", "boot", "many", "deep/a/b/c"):
        (root / name).mkdir(parents=True)
    (root / "etc/fstab").write_text("UUID=1 / auto defaults 0 0\n")
    (root / "empty").touch()
    (root / "zero").write_bytes(bytes(4096))
    (root / "ünïcode").write_text("ü\n")
    (root / "boot/random").write_bytes(noise.randbytes(1_500_001))
    (root / "boot/text").write_text("".join(f"line {number} of a text\n" for number in range(70_000)))
    (root / "deep/a/b/c/mixed").write_bytes(b"".join(noise.randbytes(700) + bytes(900) for _ in range(300)))
    for number in range(many):
        (root / f"many/file-with-a-long-name-{number}").write_text(f"{number}\n")
    with (root / "hole").open("wb") as file:
        file.truncate(2_000_000)
        file.seek(1_200_000)
        file.write(b"end")
    if links:
        (root / "etc/link").symlink_to("fstab")
        (root / "etc/long").symlink_to("/" + "x" * 300)
    os.utime(root / "etc/fstab", (1_600_000_000, 1_600_000_000))
    return root


def differences(fs: Any, tree: Path, *, meta: bool = True, step: int = 25, skip: tuple[str, ...] = ()) -> list[str]:
    """What a reader says otherwise than the tree: names, kinds, sizes, bytes, parts, links, and modes and times."""
    found = []
    for directory, below, files in os.walk(tree):
        inside = "/" + os.path.relpath(directory, tree).removeprefix(".")
        host = {*below, *files} - set(skip)
        below[:] = [name for name in below if name not in skip]
        if set(fs.names(inside)) - set(skip) != host:
            found.append(f"names of {inside}: {set(fs.names(inside)) ^ host}")
        for name in sorted(host)[:: step if len(host) > 100 else 1]:
            found += _differs(fs, f"{inside.rstrip('/')}/{name}", Path(directory, name), meta)
    return found


def _differs(fs: Any, inside: str, path: Path, meta: bool) -> Iterator[str]:
    info, entry = path.lstat(), fs.stat(inside)
    if entry is None:
        yield f"{inside} is missing"
        return
    if meta and (entry.mode, entry.uid, entry.gid) != (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid):
        yield f"mode of {inside}: {entry}"
    if stat.S_ISLNK(info.st_mode):
        if entry.kind is not FileKind.LINK or fs.link(inside) != os.readlink(path):
            yield f"link {inside}"
    elif stat.S_ISDIR(info.st_mode):
        if entry.kind is not FileKind.DIRECTORY:
            yield f"kind of {inside}"
    else:
        data = path.read_bytes()
        if entry.kind is not FileKind.FILE or entry.size != len(data):
            yield f"size of {inside}: {entry}"
        if fs.read(inside, 0, len(data) + 10) != data:
            yield f"bytes of {inside}"
        for offset, length in ((0, 10), (5000, 9000), (len(data) // 2, 70_000), (max(0, len(data) - 7), 100)):
            if fs.read(inside, offset, length) != data[offset : offset + length]:
                yield f"bytes [{offset}, {offset} + {length}) of {inside}"


@contextmanager
def mounted(image: Path, where: Path, *options: str, kind: str = "auto") -> Iterator[Path]:
    """The image mounted by the kernel or by FUSE; skips where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", ",".join(("loop", *options)), str(image), str(where)],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip(f"this kernel does not mount it: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield where
    finally:
        run("umount", where)


def blkid(image: Path) -> dict[str, str]:
    """What libblkid finds in an image."""
    lines = run(tool("blkid"), "-p", "-o", "export", image).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def survives(act: Callable[[], object], allowed: type[Exception]) -> bool:
    """Whether it went through; any exception but `allowed` fails the test."""
    try:
        act()
    except allowed:
        return False
    return True
