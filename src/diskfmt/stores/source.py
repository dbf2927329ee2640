"""Files that are read: opened once, never by a name from inside an image, never mapped into memory.

A `SourceFile` is opened by the name that the caller gave (or, with `open_beside`, by a bare name in the same
directory), and from then on only its descriptor is used: a name can be swapped, a descriptor cannot. Mapping
is out because a file that is cut short while it is mapped kills the process.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from diskfmt.errors import CorruptError, Finding, InUseError, IOFailedError, Reason, RefusedError
from diskfmt.escape import escape
from diskfmt.stores import locking

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MAX_OFFSET: Final = (1 << 63) - 1
_MAX_READ: Final = 1 << 30
"""Bytes asked of one pread: Linux returns at most 2 GiB - 4 KiB."""
_BLKSSZGET: Final = 0x1268
"""ioctl: the logical sector size of a block device, as an int. Source: linux/fs.h."""
_TRUSTED: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994})
"""statfs f_type of ext2/3/4, XFS, Btrfs, tmpfs: their answers about holes are believed (linux/magic.h)."""

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
)
_REMEDIES: Final = {
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EACCES: "make the file readable for this user",
    errno.EPERM: "make the file readable for this user",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "give the name of the file itself, not of a link",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells whether a file is still the one that was checked (TM-303). Bytes and nanoseconds."""

    device: int
    inode: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class SourceFile:
    """A regular file or block device, open for reading. A context manager.

    `size` is in bytes and stays what it was at the opening. `path` is the name that the caller used, for
    messages only. `sector_size` is the logical sector of a block device, 512 for a file. `identity` is
    that of the opening.

    Raises:
        RefusedError: NOT_REGULAR, a directory, pipe, socket or character device.
        IOFailedError: READ_ERROR, no such file, no permission, not readable.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.fspath(path)
        self._adopt(_open(name, name, None, _OPEN_FLAGS), name)

    @classmethod
    def of_descriptor(cls, fd: int, path: str) -> Self:
        """The file behind an open descriptor, which the result owns; `path` is for messages only."""
        source = cls.__new__(cls)
        source._adopt(fd, path)  # noqa: SLF001
        return source

    def _adopt(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        try:
            info = os.fstat(fd)
            self.is_block_device = stat.S_ISBLK(info.st_mode)
            if not self.is_block_device and not stat.S_ISREG(info.st_mode):
                raise _not_regular(info.st_mode, path)
            self.size = self._size_now(info)
            self.sector_size = _sector_size(fd) if self.is_block_device else 512
            self.identity = _identity(info, self.size)
        except OSError as error:
            self.close()
            raise _read_failed(error, path, None) from error
        except RefusedError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`.

        Raises:
            CorruptError: TRUNCATED, the file ends before.
            InUseError: SOURCE_CHANGED, the file became shorter after it was opened.
            IOFailedError: READ_ERROR.

        """
        end = offset + length
        if offset < 0 or length < 0 or end > _MAX_OFFSET:
            raise CorruptError(
                f"{length} bytes at {offset:#x} cannot be in any file",
                reason=Reason.OUT_OF_FILE,
                path=self.path,
                remedy="copy the image again",
            )
        if end > self.size:
            raise CorruptError(
                f"the file ends at {self.size:#x}, before {end:#x}",
                reason=Reason.TRUNCATED,
                path=self.path,
                offset=self.size,
                remedy="copy the image again",
            )
        first = self._pread(offset, length)
        if len(first) == length:
            return first
        parts = [first]
        done = len(first)
        while done < length:
            part = self._pread(offset + done, length - done)
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def _pread(self, offset: int, length: int) -> bytes:
        """At least one byte (none if none are asked for)."""
        try:
            data = os.pread(self.fd, min(length, _MAX_READ), offset)
        except OSError as error:
            raise _read_failed(error, self.path, offset) from error
        if length and not data:
            raise InUseError(
                "the file became shorter while it was read",
                reason=Reason.SOURCE_CHANGED,
                path=self.path,
                offset=offset,
                remedy="wait until nothing writes to it",
            )
        return data

    def identity_now(self) -> Identity:
        """The identity that the open file has now. Raises IOFailedError: READ_ERROR."""
        try:
            info = os.fstat(self.fd)
            return _identity(info, self._size_now(info))
        except OSError as error:
            raise _read_failed(error, self.path, None) from error

    def require_unchanged(self) -> None:
        """Return if the file still has the identity that it was opened with (TM-1103).

        Raises:
            InUseError: SOURCE_CHANGED, naming what differs.
            IOFailedError: READ_ERROR.

        """
        now = self.identity_now()
        changed = [name for name in Identity.__slots__ if getattr(now, name) != getattr(self.identity, name)]
        if changed:
            raise InUseError(
                f"the file changed while it was read: {', '.join(changed)} differs",
                reason=Reason.SOURCE_CHANGED,
                path=self.path,
                remedy="stop what writes to it, then start again",
            )

    def _size_now(self, info: os.stat_result) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END) if stat.S_ISBLK(info.st_mode) else info.st_size

    @property
    def trusts_holes(self) -> bool:
        """Whether SEEK_DATA and SEEK_HOLE of this file are believed (TM-1104): others have lied."""
        from diskfmt import engine

        return not self.is_block_device and engine.filesystem(self.fd) in _TRUSTED

    def open_beside(self, name: str, *, directory: str | None = None) -> "SourceFile":
        """The regular file `name` in `directory`, None for that of this file: a file that an image names.

        `name` has to be one bare component; links are not followed (TM-503). The caller decides whether the
        name may be opened at all, and closes the result.

        Raises:
            RefusedError: EXTERNAL_REFERENCE, any other name, a link, or this file itself; NOT_REGULAR.
            IOFailedError: READ_ERROR, no such file, no permission.

        """
        folder = os.path.dirname(self.path) if directory is None else directory
        shown = os.path.join(folder, escape(name))
        if not _is_bare(name):
            raise RefusedError(
                f'"{escape(name)}" is not the bare name of a file beside this one',
                reason=Reason.EXTERNAL_REFERENCE,
                path=self.path,
                remedy="put the pieces into one directory and name them without a path",
            )
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        parent = _open(folder or ".", folder or self.path, None, flags)
        try:
            fd = _open(name, shown, parent, _OPEN_FLAGS | os.O_NOFOLLOW)
        finally:
            os.close(parent)
        piece = SourceFile.__new__(SourceFile)
        piece._adopt(fd, shown)  # noqa: SLF001
        mode = piece.identity.mode
        same = (piece.identity.device, piece.identity.inode) == (self.identity.device, self.identity.inode)
        if same or piece.is_block_device:
            piece.close()
            if same:
                raise RefusedError(
                    f'the file names itself, "{escape(name)}", as a piece',
                    path=self.path,
                    reason=Reason.EXTERNAL_REFERENCE,
                    remedy="check the image's origin",
                )
            raise _not_regular(mode, shown)
        return piece

    def in_use(self) -> Finding | None:
        """A finding (IN_USE, ERROR) if somebody else has the file open for writing (TM-1101), else None.

        None also where the system cannot tell: a file system without leases, another user's file. Another
        descriptor of this process that is open for writing counts too. Looking inside `hold()` leaves no gap
        for a program that keeps to qemu's locks.
        """
        seen = locking.writer_of_device(self.fd) if self.is_block_device else locking.writer_of_file(self.fd)
        if seen is None:
            return None
        return Finding(
            reason=Reason.IN_USE,
            severity=seen.severity,
            message=seen.message,
            offset=seen.offset,
            remedy="shut the machine down, or copy a snapshot",
        )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While inside, qemu refuses to open the file for writing (TM-1102); readers are welcome.

        A file system without locks is read without them.
        """
        held = locking.hold(self.fd)
        try:
            yield
        finally:
            locking.release(self.fd, held)


def _open(name: str, shown: str, directory: int | None, flags: int) -> int:
    """A descriptor. `shown` is the name for messages."""
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what open says of a socket, and of a device without a driver
            raise RefusedError(
                "a socket or a device without a driver, not a file",
                reason=Reason.NOT_REGULAR,
                path=shown,
                remedy="give the name of a file or block device",
            ) from error
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise RefusedError(
                "a symbolic link, which an image may not name",
                reason=Reason.EXTERNAL_REFERENCE,
                path=shown,
                remedy="put the file itself there",
            ) from error
        raise _read_failed(error, shown, None) from error
    except ValueError as error:  # a NUL inside the name, or characters that no name can have
        raise IOFailedError(
            "no file can have this name", errno=errno.EINVAL, path=escape(shown), remedy="check the name"
        ) from error


def _is_bare(name: str) -> bool:
    """Whether a name is one path component everywhere: a backslash separates where many images come from."""
    if not name or name in {".", ".."} or len(name) > 255:
        return False
    return not any(char in "/\\" or ord(char) < 0x20 for char in name)


def _not_regular(mode: int, path: str) -> RefusedError:
    what = next((text for test, text in _KINDS if test(mode)), "a special file")
    return RefusedError(
        f"{what}, not a regular file",
        reason=Reason.NOT_REGULAR,
        path=path,
        remedy="give the name of a file or block device",
    )


def _read_failed(error: OSError, path: str, offset: int | None) -> IOFailedError:
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and copy the image elsewhere")
    return IOFailedError(f"cannot read: {text}", errno=error.errno, path=path, offset=offset, remedy=remedy)


def _identity(info: os.stat_result, size: int) -> Identity:
    return Identity(
        device=info.st_dev,
        inode=info.st_ino,
        mode=info.st_mode,
        size=size,
        mtime_ns=info.st_mtime_ns,
        ctime_ns=info.st_ctime_ns,
    )


def _sector_size(fd: int) -> int:
    raw = fcntl.ioctl(fd, _BLKSSZGET, bytes(4))
    return int.from_bytes(raw, sys.byteorder)
