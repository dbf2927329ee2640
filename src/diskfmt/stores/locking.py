"""Who else writes to a file: qemu's advisory locks, leases, exclusive block devices.

qemu marks what it does to an image with shared locks on single bytes: byte 100 + n means "I use permission
n", byte 200 + n "I do not share permission n". Permission 0 is reading consistently, 1 writing, 3 resizing.
Nobody takes an exclusive lock; a test lock (F_OFD_GETLK) tells whether a byte is held. A lease of kind
F_RDLCK is refused while any process has the file open for writing, whatever locks it takes.

Looking must never fail a run: whatever the system answers that is not a clear "yes" means "could not tell".
Source: qemu, docs/system/images and block/file-posix.c (comments on RAW_LOCK_PERM_BASE); fcntl(2).
"""

import errno
import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from typing import Final

from diskfmt.errors import Severity

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock with 64-bit offsets: type, whence, start, length, pid."""
_WRITES: Final = 101
_RESIZES: Final = 103
_WANTS_ALONE: Final = 200
_HELD: Final = (100, 201, 203)
"""I read consistently; I do not share writing; I do not share resizing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen: a message, how much it weighs and the byte of the lock, if it was one."""

    message: str
    severity: Severity = Severity.ERROR
    offset: int | None = None


def writer_of_file(fd: int) -> Seen | None:
    """What shows that somebody writes to a regular file, or None."""
    for byte, message in (
        (_WRITES, "a virtual machine or qemu tool has the image open for writing"),
        (_RESIZES, "a virtual machine or qemu tool may resize the image"),
        (_WANTS_ALONE, "a qemu tool is changing the image and lets nobody read it"),
    ):
        if _is_locked(fd, byte):
            return Seen(message=message, offset=byte)
    if _refuses_lease(fd):
        return Seen(message="some process has the file open for writing")
    return None


def writer_of_device(fd: int) -> Seen | None:
    """What shows that a block device is mounted or belongs to somebody, or None."""
    try:
        # The same device through its descriptor: its name may lead elsewhere by now.
        second = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return Seen(message="the device is mounted or belongs to a volume or RAID set")
        return None
    os.close(second)
    return writer_of_file(fd)


def hold(fd: int) -> tuple[int, ...]:
    """Take shared locks on the bytes that keep qemu from writing; the bytes that could be taken."""
    return tuple(byte for byte in _HELD if _lock(fd, byte, fcntl.F_RDLCK))


def release(fd: int, held: tuple[int, ...]) -> None:
    """Give back what `hold` took."""
    for byte in held:
        _lock(fd, byte, fcntl.F_UNLCK)


def _is_locked(fd: int, byte: int) -> bool:
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, byte))
    except OSError:
        return False
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _lock(fd: int, byte: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(kind, byte))
    except OSError:
        return False
    return True


def _request(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def _refuses_lease(fd: int) -> bool:
    """Whether a read lease is refused because somebody writes. The lease is given back at once."""
    try:
        # A lease is broken by a signal. SIGIO, the usual one, ends the process; SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return False
