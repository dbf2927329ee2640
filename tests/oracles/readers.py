"""The oracles as functions: an image's path in, the digest of its guest disk out."""

import atexit
import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oracles.digest import GuestDigest, digest_file

TIMEOUT = 60.0
_QEMU_NAMES = {"vhd": "vpc"}
_MODULES = {"qcow2": "pyqcow", "vhd": "pyvhdi", "vmdk": "pyvmdk"}


class OracleError(Exception):
    """The oracle did not read the image; the text is its own."""


class OracleTimeoutError(OracleError):
    """The oracle did not end in time and was killed."""


def _pieces(path: str, format: str) -> list[str]:
    """The files of a descriptor that carry its stem."""
    if format != "vmdk":
        return []
    folder, name = os.path.split(os.path.abspath(path))
    stem = os.path.splitext(name)[0]
    return [os.path.join(folder, other) for other in os.listdir(folder) if other.startswith(f"{stem}-")]


@contextmanager
def alone(path: str, format: str) -> Iterator[str]:
    """A path to the same image in a directory with nothing else in it but its pieces."""
    beside = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=beside, prefix=".oracle-") as empty:
        for name in (path, *_pieces(path, format)):
            _link(name, os.path.join(empty, os.path.basename(name)))
        yield os.path.join(empty, os.path.basename(path))


def _link(name: str, to: str) -> None:
    try:
        os.link(name, to)
    except OSError:
        shutil.copyfile(name, to)


def run(*command: str, timeout: float = TIMEOUT, accept: tuple[int, ...] = (0,)) -> str:
    """The standard output of a tool.

    Raises:
        OracleError: the exit code is none of `accept`.
        OracleTimeoutError: it did not end in time.

    """
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise OracleTimeoutError(f"{command[0]} did not end in {timeout} s") from None
    if done.returncode not in accept:
        text = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise OracleError(f"{command[0]} {command[1]}: exit {done.returncode}: {text[-500:]}")
    return done.stdout.decode()


class _Worker:
    """The child process of `worker.py`; restarted after a reader that hung or died."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: dict[str, str], timeout: float = TIMEOUT) -> dict[str, Any]:
        child = self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        ready, _, _ = select.select([child.stdout], [], [], timeout)
        line = child.stdout.readline() if ready else b""
        if not line:
            self.stop()
            if not ready:
                raise OracleTimeoutError(f"{request['oracle']} did not end in {timeout} s")
            raise OracleError(f"{request['oracle']} took its process down")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OracleError(f"{request['oracle']}: {answer['error']}")
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._child is None or self._child.poll() is not None or self._owner != os.getpid():
            script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")
            self._owner = os.getpid()
            self._child = subprocess.Popen(
                [sys.executable, script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child

    def stop(self) -> None:
        if self._child is not None and self._owner == os.getpid():
            child, self._child = self._child, None
            child.kill()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()
            child.wait()


_WORKER = _Worker()
atexit.register(_WORKER.stop)


def _read_python(oracle: str, path: str, format: str) -> GuestDigest:
    with alone(path, format) as copy:
        answer = _WORKER.ask({"oracle": oracle, "path": copy, "format": format})
    return GuestDigest(size=answer["size"], nz64k=answer["nz64k"])


def libyal(path: str, format: str) -> GuestDigest:
    """What libqcow, libvhdi or libvmdk reads."""
    return _read_python("libyal", path, format)


def dissect(path: str, format: str) -> GuestDigest:
    """What dissect.hypervisor reads."""
    return _read_python("dissect", path, format)


def qemu_img(path: str, format: str) -> GuestDigest:
    """What `qemu-img convert` to raw reads."""
    with alone(path, format) as copy:
        raw = os.path.join(os.path.dirname(copy), "guest.raw")
        run("qemu-img", "convert", "-f", _QEMU_NAMES.get(format, format), "-O", "raw", copy, raw)
        return digest_file(raw)


def qemu_check(path: str, format: str) -> dict[str, Any]:
    """The answer of `qemu-img check`; of qcow2 and vmdk only."""
    with alone(path, format) as copy:
        text = run("qemu-img", "check", "-f", format, "--output=json", copy, accept=(0, 2, 3))
    answer: dict[str, Any] = json.loads(text)
    return answer


def qemu_info(path: str, format: str) -> dict[str, Any]:
    """The answer of `qemu-img info`."""
    with alone(path, format) as copy:
        text = run("qemu-img", "info", "-f", _QEMU_NAMES.get(format, format), "--output=json", copy)
    answer: dict[str, Any] = json.loads(text)
    return answer


def qemu_map(path: str, format: str) -> list[dict[str, Any]]:
    """The answer of `qemu-img map`: rows of start, length, zero, data, offset …"""
    with alone(path, format) as copy:
        text = run("qemu-img", "map", "-f", _QEMU_NAMES.get(format, format), "--output=json", copy)
    answer: list[dict[str, Any]] = json.loads(text)
    return answer


def seven_zip(path: str, format: str) -> GuestDigest:
    """What 7-Zip unpacks."""
    kinds = {"qcow2": "QCOW", "vhd": "VHD", "vmdk": "VMDK"}
    with alone(path, format) as copy:
        out = os.path.join(os.path.dirname(copy), "out")
        run(seven_zip_name() or "7zz", "e", f"-t{kinds[format]}", "-y", f"-o{out}", copy)
        (name,) = os.listdir(out)
        return digest_file(os.path.join(out, name))


def seven_zip_name() -> str | None:
    """The 7-Zip of this machine, or None."""
    return next((name for name in ("7zz", "7z") if shutil.which(name)), None)


ORACLES: dict[str, Callable[[str, str], GuestDigest]] = {
    "qemu-img": qemu_img,
    "libyal": libyal,
    "dissect": dissect,
    "7zip": seven_zip,
}


def missing(oracle: str) -> str | None:
    """Why an oracle cannot be asked on this machine, or None."""
    if oracle == "qemu-img":
        return None if shutil.which("qemu-img") else "qemu-img is not installed"
    if oracle == "7zip":
        return None if seven_zip_name() else "7-Zip is not installed"
    modules = list(_MODULES.values()) if oracle == "libyal" else ["dissect"]
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{absent[0]} is not installed" if absent else None


def read_guest(path: str, format: str, oracle: str = "qemu-img") -> GuestDigest:
    """The guest disk of an image as one oracle sees it. A raw image needs no oracle: it is its own disk.

    Raises:
        OracleError: the oracle refuses, fails or does not end; see `known_error` for what is expected.

    """
    return digest_file(path) if format == "raw" else ORACLES[oracle](path, format)
