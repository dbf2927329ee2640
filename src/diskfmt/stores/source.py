"""Files that are read: opened once, never by a name from inside an image, never mapped into memory."""

import os
from dataclasses import dataclass

from diskfmt.errors import CorruptError, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells whether a file is still the one that was checked (TM-303)."""

    device: int
    inode: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class SourceFile:
    """A file or block device open for reading.

    `size` is in bytes. `path` is the name that the caller used, for messages only.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        self.size = os.fstat(self.fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`.

        Raises:
            CorruptError: TRUNCATED, the file ends before.
            IOFailedError: READ_ERROR.

        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptError(f"the file ends before {offset + length:#x}", reason=Reason.TRUNCATED,
                               path=self.path, offset=self.size, remedy="copy the image again")
        return os.pread(self.fd, length, offset)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
