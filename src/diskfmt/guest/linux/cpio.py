"""cpio archives as the kernel unpacks them into its first root: formats newc and crc.

Source: Documentation/driver-api/early-userspace/buffer-format.rst and init/initramfs.c of Linux.
"""

import binascii
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, MAX_READ, BudgetError, DamagedError

MAGICS: Final = (b"070701", b"070702")
HEADER: Final = 110
_MAX_NAME: Final = 4096  # PATH_MAX
_TRAILER: Final = b"TRAILER!!!"
_MODE_TYPE: Final = 0o170000
REGULAR: Final = 0o100000
DIRECTORY: Final = 0o040000
LINK: Final = 0o120000


class Source:
    """Bytes that come in pieces, read once from front to back. Raises BudgetError behind `limit` bytes."""

    def __init__(self, pieces: Iterable[bytes | memoryview], limit: int = MAX_READ) -> None:
        self._pieces = iter(pieces)
        self._held = memoryview(b"")
        self._limit = limit
        self.position = 0

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._held = memoryview(bytes(self._held) + piece if self._held else piece)
        return True

    def peek(self, length: int) -> bytes:
        """The next bytes, fewer at the end."""
        while len(self._held) < length and self._more():
            pass
        return bytes(self._held[:length])

    def skip(self, length: int) -> int:
        """How many bytes of `length` there were to go over."""
        if self.position + length > self._limit:
            raise BudgetError(f"more than {self._limit} bytes of content", offset=self.position)
        left = length
        while left:
            if not self._held and not self._more():
                break
            step = min(left, len(self._held))
            self._held = self._held[step:]
            left -= step
        self.position += length - left
        return length - left

    def take(self, length: int) -> bytes:
        """Exactly `length` bytes. Raises DamagedError where there are fewer."""
        data = self.peek(length)
        if len(data) < length:
            raise DamagedError("the archive ends too early", offset=self.position)
        self.skip(length)
        return data

    def skip_zeroes(self) -> None:
        """Go to the next byte that is not zero, or to the end."""
        while head := self.peek(4096):
            rest = head.lstrip(b"\0")
            self.skip(len(head) - len(rest))
            if rest:
                return


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its name without a leading `/` or `./`, its mode and content size in bytes."""

    name: bytes
    mode: int
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & _MODE_TYPE == REGULAR

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link; its content is the target."""
        return self.mode & _MODE_TYPE == LINK


def _plain(name: bytes) -> bytes:
    return name.removeprefix(b".").lstrip(b"/") if name[:2] in (b".", b"./") else name.lstrip(b"/")


class Archive:
    """The members of one archive, which begins at the source's position."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0

    def __iter__(self) -> Iterator[Member]:
        """Members up to the trailer; `content` gives the bytes of the last one. Raises DamagedError, BudgetError."""
        for _ in range(MAX_ENTRIES):
            at = self._source.position
            header = self._source.take(HEADER)
            if header[:6] not in MAGICS:
                raise DamagedError("no cpio header where one must be", offset=at)
            try:
                fields = struct.unpack(">13I", binascii.unhexlify(header[6:]))
            except binascii.Error:
                raise DamagedError("a cpio header that holds no numbers", offset=at) from None
            mode, size, name_size = fields[1], fields[6], fields[11]
            if not 0 < name_size <= _MAX_NAME:
                raise DamagedError(f"a cpio name of {name_size} bytes", offset=at)
            name = self._source.take(name_size).rstrip(b"\0")
            self._source.skip(-(HEADER + name_size) % 4)
            self._left = size + -size % 4
            if name == _TRAILER:
                self._finish()
                return
            yield Member(_plain(name), mode, size)
            self._finish()
        raise BudgetError(f"more than {MAX_ENTRIES} files in the archive")

    def content(self, member: Member) -> bytes:
        """The bytes of the member that came last. Call once, before the next one."""
        self._left -= member.size
        return self._source.take(member.size)

    def _finish(self) -> None:
        left, self._left = self._left, 0
        if self._source.skip(left) < left:
            raise DamagedError("the archive ends inside a file", offset=self._source.position)
