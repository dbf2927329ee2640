"""Running the command line: in this process, or as a program of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from diskfmt.cli import main

SECTOR = 512
SIZE = 4 << 20


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line on stderr: anything else fails here."""
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("diskfmt: ")
        return self.err


def require_decent(ran: Ran) -> None:
    """What holds for every run: no traceback, and nothing but printable ASCII."""
    assert "Traceback" not in ran.err
    for stream in (ran.out, ran.err):
        assert all(char == "\n" or 0x20 <= ord(char) < 0x7F for char in stream), stream


@pytest.fixture
def cli(capsys) -> Callable[..., Ran]:
    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        ran = Ran(code, captured.out, captured.err)
        require_decent(ran)
        return ran

    return run


def program(*words: object) -> list[str]:
    return [sys.executable, "-m", "diskfmt", *map(str, words)]


@pytest.fixture
def spawn() -> Callable[..., Ran]:
    """Run `python -m diskfmt`."""

    def run(*words: object, **env: str) -> Ran:
        done = subprocess.run(
            program(*words), capture_output=True, text=True, env={**os.environ, **env}, timeout=120, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw disk with an MBR, 64 KiB of data at 1 MiB and holes elsewhere."""
    path = tmp_path / "disk.raw"
    boot = bytearray(SECTOR)
    boot[446:462] = bytes.fromhex("80010100830505050008000000100000")
    boot[510:] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(boot)
        file.seek(1 << 20)
        file.write(bytes(range(256)) * 256)
        file.truncate(SIZE)
    return path


@pytest.fixture
def made(raw: Path, tmp_path: Path, qemu_img: str) -> Callable[..., Path]:
    """Images of that disk as qemu-img writes them: `made("vmdk", "-o", "subformat=streamOptimized")`."""

    def make(format: str, *words: str, name: str = "made") -> Path:
        path = tmp_path / f"{name}.{format}"
        subprocess.run([qemu_img, "convert", "-f", "raw", "-O", format, *words, str(raw), str(path)], check=True)
        return path

    return make
