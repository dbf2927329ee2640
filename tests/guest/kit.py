"""What the tests of disks share: sources that are not images, tools, trees of files, and loop devices."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diskfmt.guest.base import FileSystem
from diskfmt.guest.device import DiskDevice

MIB = 1 << 20
ENVIRONMENT = {
    **os.environ,
    "LC_ALL": "C",
    "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    "LVM_SUPPRESS_FD_WARNINGS": "1",
}


class Memory:
    """A disk in memory, to change at will."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])


class File:
    """A file as a disk, opened for each read only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def device(path: Path, **options: int) -> DiskDevice:
    return DiskDevice(File(path), **options)


def memory(data: bytes | bytearray) -> DiskDevice:
    return DiskDevice(Memory(data))


def need(*programs: str) -> None:
    """Skip where a program is missing."""
    for program in programs:
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"{program} is not installed")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """What a program prints; its errors are ours."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env=ENVIRONMENT,
        input=stdin,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def blkid(path: Path, *options: str) -> dict[str, str]:
    """What blkid says of a file, unescaped."""
    need("blkid")
    command = ["blkid", "-p", "-o", "export", *options, str(path)]
    text = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=ENVIRONMENT).stdout
    return {key: value.replace("\\ ", " ") for key, _, value in (line.partition("=") for line in text.splitlines())}


@contextmanager
def loop(path: Path) -> Iterator[str]:
    """A loop device over a file; skips where there is none to be had."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    need("losetup")
    try:
        name = run("losetup", "--find", "--show", path).strip()
    except AssertionError as error:
        pytest.skip(f"no loop device: {error}")
    try:
        yield name
    finally:
        run("losetup", "--detach", name)


@contextmanager
def mounted(path: Path, point: Path, *options: str) -> Iterator[Path]:
    """A file system mounted by the running kernel; skips where it cannot."""
    point.mkdir(exist_ok=True)
    with loop(path) as name:
        try:
            run("mount", *options, name, point)
        except AssertionError as error:
            pytest.skip(f"this kernel does not mount it: {error}")
        try:
            yield point
        finally:
            run("umount", point)


def compare(system: FileSystem, tree: Path) -> int:
    """Prove that a file system has exactly the files of a directory; how many there are."""
    count = 0
    for directory, directories, files in os.walk(tree):
        here = "/" + os.path.relpath(directory, tree).removeprefix(".")
        assert set(system.names(here)) - {"lost+found"} == set(directories) - {"lost+found"} | set(files), here
        for name in files + [name for name in directories if os.path.islink(os.path.join(directory, name))]:
            path = os.path.join(directory, name)
            inside = os.path.join(here, name)
            status = os.lstat(path)
            entry = system.stat(inside)
            assert entry is not None, inside
            assert (entry.size, entry.mode) == (status.st_size, status.st_mode & 0o7777), inside
            assert (entry.uid, entry.gid) == (status.st_uid, status.st_gid), inside
            assert entry.mtime == int(status.st_mtime), inside
            if os.path.islink(path):
                assert entry.kind == "link"
                assert system.link(inside) == os.readlink(path)
            else:
                assert entry.kind == "file"
                assert system.read(inside, 0, max(entry.size, 1)) == Path(path).read_bytes(), inside
            count += 1
    return count
