"""Initramfs files made by cpio and the compressors."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPRESSORS = {
    "gzip": ["gzip", "-9", "-n", "-c"],
    "xz": ["xz", "-c", "--check=crc32"],
    "lzma": ["xz", "-c", "--format=lzma"],
    "bzip2": ["bzip2", "-c"],
    "zstd": ["zstd", "-q", "-19", "-c"],
    "lz4": ["lz4", "-q", "-l", "-9", "-c"],
    "lzo": ["lzop", "-q", "-c"],
}


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def cpio(top: Path, *options: str) -> bytes:
    """The tree as a newc archive."""
    need("cpio")
    names = sorted(str(path.relative_to(top)) for path in top.rglob("*"))
    done = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", *options],
        cwd=top,
        input="".join(f"{name}\n" for name in names).encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout


def compressed(data: bytes, how: str) -> bytes:
    """The same bytes, compressed by the tool of that name, through a pipe as mkinitramfs does it."""
    command = COMPRESSORS[how]
    need(command[0])
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def tree(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top
