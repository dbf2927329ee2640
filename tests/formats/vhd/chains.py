"""Differencing VHDs for tests: chains of them, and what libvhdi reads of a chain."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from builders import vhd as build
from oracles.readers import seven_zip_name

EPOCH = 946684800

_READ = """
import os, sys, pyvhdi
files = []
for path in sys.argv[1:]:
    files.append(pyvhdi.file())
    files[-1].open(path)
for child, parent in zip(files, files[1:]):
    child.set_parent(parent)
size = files[0].get_media_size()
step = int(os.environ["STEP"])
for at in range(0, size, step):
    files[0].seek_offset(at, 0)
    sys.stdout.buffer.write(files[0].read_buffer(min(step, size - at)))
"""

Blocks = Mapping[int, tuple[bytes, bytes]]


def identity(level: int) -> bytes:
    """The unique id of the image at a level; 0 is the bottom."""
    return bytes([level + 1]) * 16


def write_chain(folder: Path, size: int, levels: Sequence[Blocks], *, block_size: int = 4096) -> list[Path]:
    """Write a chain, `levels[0]` at the bottom; returns the paths, the top first. The times agree."""
    paths = [folder / "level0.vhd"]
    paths[0].write_bytes(build.dynamic(size, levels[0], block_size=block_size, changed={"unique_id": identity(0)}))
    for level, blocks in enumerate(levels[1:], 1):
        stamp = EPOCH + 1000 * level
        os.utime(paths[-1], (stamp, stamp))
        name = paths[-1].name
        child = build.dynamic(
            size,
            blocks,
            block_size=block_size,
            disk_type=4,
            changed={"unique_id": identity(level)},
            changed_header=build.parent_fields(name, identity(level - 1), 1000 * level),
            locators=[(b"W2ru", f".\\{name}".encode("utf-16-le"))],
        )
        paths.append(folder / f"level{level}.vhd")
        paths[-1].write_bytes(child)
    return paths[::-1]


def guest(size: int, levels: Sequence[Blocks], *, block_size: int = 4096) -> bytes:
    """The disk that a chain shows."""
    disk = bytearray(len(range(0, size, block_size)) * block_size)
    for blocks in levels:
        for number, (bits, data) in blocks.items():
            stored = data.ljust(block_size, b"\0")
            for sector in range(block_size // 512):
                if bits[sector // 8] >> (7 - sector % 8) & 1:
                    at = number * block_size + sector * 512
                    disk[at : at + 512] = stored[sector * 512 : sector * 512 + 512]
    return bytes(disk[:size])


def clean(bits: bytes, data: bytes) -> bytes:
    """The data of a block with zeroes under clear bits: 7-Zip takes anything else there for damage."""
    wanted = "".join(f"{byte:08b}" for byte in bits)
    return b"".join(
        data[at : at + 512] if bit == "1" else bytes(512)
        for at, bit in zip(range(0, len(data), 512), wanted, strict=False)
    )


def seven_zip(top: Path) -> bytes:
    """The disk that 7-Zip reads of a chain whose images lie beside each other; skips where 7-Zip is missing."""
    if (tool := seven_zip_name()) is None:
        pytest.skip("7-Zip is not installed")
    out = top.parent / "7zip"
    subprocess.run([tool, "e", "-tVHD", "-y", f"-o{out}", str(top)], capture_output=True, timeout=60, check=True)
    (path,) = out.iterdir()
    return path.read_bytes()


def libvhdi(paths: Sequence[Path | str], *, step: int = 65536) -> bytes:
    """The disk that libvhdi reads of a chain, the top first, in steps of so many bytes; skips where it is missing.

    It errs on bitmaps whose runs do not start and end with a byte, and where a step goes over from block to block.
    """
    pytest.importorskip("pyvhdi")
    done = subprocess.run(
        [sys.executable, "-c", _READ, *map(str, paths)],
        env=os.environ | {"STEP": str(step)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
