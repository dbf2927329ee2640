"""Files that are written: complete and durable under their final name, or not there at all (TM-1001).

    temp name (O_EXCL) ─► data, tables, header last ─► fsync ─► rename ─► fsync of the directory

Whatever happens before the rename, the temp is removed and the final name is untouched. All calls that can lose
data go through the engine's table of system calls.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from diskfmt import engine
from diskfmt.errors import IOFailedError, Reason, RefusedError
from diskfmt.escape import escape

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TargetFile:
    """A new file that gets its name at `commit`. A context manager: leaving it without commit removes everything.

    `path` is the final name, `temp_path` the name until then. `fd` is open for reading and writing.

    Raises:
        RefusedError: OUTPUT_EXISTS (without `force`), NOT_REGULAR.
        IOFailedError: the directory cannot be written.

    """

    def __init__(self, path: str, *, force: bool = False) -> None:
        self.path = path
        self._force = force
        self._directory, self._name = os.path.split(path)
        self._refuse_existing()
        self._dir_fd = -1
        self._replaces = False
        self.fd = -1
        # Names are limited in bytes, not in characters.
        self._temp = f".{os.fsdecode(os.fsencode(self._name)[:200])}.{secrets.token_hex(6)}.part"
        self.temp_path = os.path.join(self._directory, self._temp)
        try:
            self._dir_fd = os.open(self._directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # The kernel applies the umask to 0666; until commit nobody else may read the file.
            self.fd = os.open(self._temp, _FLAGS, 0o666, dir_fd=self._dir_fd)
            self._mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
            os.fchmod(self.fd, 0o600)
        except OSError as error:
            self._discard()
            reason = Reason.NO_SPACE if error.errno in engine.NO_SPACE else Reason.WRITE_ERROR
            raise IOFailedError(
                f"cannot create the output: {os.strerror(error.errno or 0)}",
                errno=error.errno,
                path=path,
                reason=reason,
                remedy="choose a directory that exists and can be written",
            ) from None

    def _refuse_existing(self) -> None:
        try:
            found = os.lstat(self.path)
            if stat.S_ISLNK(found.st_mode):
                with suppress(OSError):  # a link that leads nowhere
                    found = os.stat(self.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG or not self._name:
                raise _bad_name(self.path, error.errno or errno.EINVAL) from None
            return  # not there; what else is wrong is said when the temp is created
        except ValueError:  # a NUL inside the name, or characters that no name can have
            raise _bad_name(self.path, errno.EINVAL) from None
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise RefusedError(
                "the output is not a regular file",
                reason=Reason.NOT_REGULAR,
                path=self.path,
                remedy="name a file that does not exist yet",
            )
        if not self._force:
            raise RefusedError(
                "the output exists",
                reason=Reason.OUTPUT_EXISTS,
                path=self.path,
                remedy="choose another name, or give --force to replace it",
            )

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Raises IOFailedError."""
        engine.pwrite(self.fd, data, offset, self.path)

    def truncate(self, length: int) -> None:
        """Set the length. Raises IOFailedError."""
        engine.truncate(self.fd, length, self.path)

    def sync(self) -> None:
        """Make the content durable, and forget cached pages so that a later read shows what is stored."""
        engine.fsync(self.fd, self.path)
        with suppress(OSError):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Give the file its name; `sync_name` makes that durable.

        Raises:
            RefusedError: OUTPUT_EXISTS, somebody made a file of that name meanwhile.
            IOFailedError: the last write was lost, or the name cannot be given.

        """
        os.fchmod(self.fd, self._mode)
        fd, self.fd = self.fd, -1
        engine.close(fd, self.path)
        self._replaces = self._force and os.path.lexists(self.path)
        engine.rename(self._dir_fd, self._temp, self._name, replace=self._force, path=self.path)
        self._temp = ""

    def sync_name(self) -> None:
        """Make the name durable. Raises IOFailedError."""
        engine.fsync(self._dir_fd, self.path)

    def withdraw(self) -> None:
        """Take a committed file back, because it, or one that belongs to it, did not become durable.

        A file that replaced an older one stays: it is complete, and the older one is gone.
        """
        if not self._temp and not self._replaces:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._dir_fd)

    def _discard(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if self._dir_fd >= 0:
            if self._temp:
                with suppress(OSError):
                    os.unlink(self._temp, dir_fd=self._dir_fd)
            os.close(self._dir_fd)
        self.fd = self._dir_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._discard()


def _bad_name(path: str, number: int) -> IOFailedError:
    return IOFailedError(
        "no file can have this name",
        errno=number,
        reason=Reason.WRITE_ERROR,
        path=escape(path),
        remedy="choose another name, of at most 255 bytes",
    )
