"""Who else writes to a file (TM-1101), and keeping qemu from it (TM-1102)."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diskfmt.errors import Reason, Severity
from diskfmt.stores import locking
from diskfmt.stores.source import SourceFile

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    return path


@pytest.fixture
def source(path: Path) -> Iterator[SourceFile]:
    with SourceFile(path) as source:
        yield source


@pytest.fixture
def leases(source: SourceFile) -> None:
    """Skips where this file system gives no leases."""
    try:
        fcntl.fcntl(source.fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(source.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        pytest.skip(f"no leases here: {error}")


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said one line and waits for one."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdout.readline()
            yield child
        finally:
            child.kill()


def writer(path: Path, mode: str = "r+b") -> "contextmanager[subprocess.Popen[str]]":
    code = f"f = open({str(path)!r}, {mode!r}); print('ready', flush=True); input()"
    return process(sys.executable, "-c", code)


def test_file_that_nobody_has_is_free(source: SourceFile) -> None:
    assert source.in_use() is None
    assert source.in_use() is None


def test_process_that_writes_is_seen(source: SourceFile, path: Path, leases: None) -> None:
    with writer(path):
        finding = source.in_use()
    assert finding is not None
    assert (finding.reason, finding.severity) == (Reason.IN_USE, Severity.ERROR)
    assert source.in_use() is None


def test_process_that_reads_is_no_matter(source: SourceFile, path: Path) -> None:
    with writer(path, "rb"):
        assert source.in_use() is None


def test_own_descriptor_for_writing_counts(source: SourceFile, path: Path, leases: None) -> None:
    with path.open("r+b"):
        assert source.in_use() is not None
    assert source.in_use() is None


def test_lease_is_given_back_at_once(source: SourceFile, path: Path) -> None:
    source.in_use()
    assert fcntl.fcntl(source.fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK
    with path.open("r+b") as file:
        file.write(b"x")


def test_writer_that_breaks_the_lease_does_not_end_this_process(
    source: SourceFile, path: Path, leases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes between taking and giving back: the usual signal, SIGIO, would."""
    control = fcntl.fcntl
    signals = []

    def slow(fd: int, command: int, argument: int | bytes = 0) -> int | bytes:
        if command == fcntl.F_SETLEASE and argument == fcntl.F_UNLCK:
            signals.append(control(fd, fcntl.F_GETSIG))
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        return control(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", slow)
    assert source.in_use() is None
    assert signals == [signal.SIGURG]


@pytest.mark.parametrize(
    ("byte", "seen"), [(100, None), (101, "open for writing"), (103, "resize"), (200, "lets nobody read"), (201, None)]
)
def test_lock_of_another_program_is_read_as_qemu_means_it(
    source: SourceFile, path: Path, byte: int, seen: str | None
) -> None:
    other = os.open(path, os.O_RDONLY)
    try:
        lock = struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)
        finding = source.in_use()
    finally:
        os.close(other)
    if seen is None:
        assert finding is None
    else:
        assert finding is not None
        assert seen in finding.message
        assert finding.offset == byte


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOLCK, errno.EACCES, errno.EOPNOTSUPP, errno.EPERM])
def test_system_that_cannot_tell_is_no_error(source: SourceFile, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    assert source.in_use() is None
    with source.hold():
        pass


def test_busy_device_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: str, flags: int) -> int:
        assert flags & os.O_EXCL
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "open", busy)
    seen = locking.writer_of_device(5)
    assert seen is not None
    assert "mounted" in seen.message


def test_hold_takes_and_gives_back_shared_locks(source: SourceFile, path: Path) -> None:
    with SourceFile(path) as other:
        with source.hold(), other.hold():
            held = {byte for byte in range(90, 210) if locking._is_locked(other.fd, byte)}
            assert source.in_use() is None
        assert held == {100, 201, 203}
        assert not any(locking._is_locked(other.fd, byte) for byte in held)


def qemu(program: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments, "-f", "raw", str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_qemu_that_writes_is_seen(source: SourceFile, path: Path, qemu_io: str) -> None:
    with subprocess.Popen(
        [qemu_io, "-f", "raw", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("write 0 512\n")
        child.stdin.flush()
        while "wrote" not in child.stdout.readline():
            pass
        finding = source.in_use()
        child.stdin.write("quit\n")
        child.stdin.close()
        child.stdout.read()
    assert finding is not None
    assert "virtual machine" in finding.message
    assert source.in_use() is None


def test_held_file_is_read_by_qemu_and_not_written(source: SourceFile, path: Path, qemu_io: str, qemu_img: str) -> None:
    write = ("-c", "write 0 512")
    with source.hold():
        assert qemu(qemu_img, path, "info").returncode == 0
        assert qemu(qemu_io, path, "-r", "-c", "read 0 512").returncode == 0
        refused = qemu(qemu_io, path, *write)
        assert refused.returncode != 0
        assert "lock" in refused.stderr
    assert qemu(qemu_io, path, *write).returncode == 0
