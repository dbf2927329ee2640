"""An ext2, ext3 or ext4 file system by path."""

import unicodedata
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from diskfmt.guest.base import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_FILE,
    MAX_READ,
    BudgetError,
    DamagedError,
    Device,
    Entry,
    FsInfo,
    GuestError,
    UnsupportedError,
)
from diskfmt.guest.ext import directory, inline
from diskfmt.guest.ext.inodes import CASEFOLD, ENCRYPTED, INLINE, ROOT, Blocks, Inode, Inodes, is_fast_link
from diskfmt.guest.ext.journal import Journal
from diskfmt.guest.ext.mapping import runs
from diskfmt.guest.ext.superblock import NEEDS_RECOVERY, OFFSET, SIZE, require_readable

_KEPT: Final = 200_000  # names of the directories used last
_MAX_LINK: Final = 4096
_MAX_DIRECTORY: Final = 32 << 20  # bytes; 100,000 entries of the longest names take 26 MiB


class ExtFileSystem:
    """Files by path; satisfies `base.FileSystem`.

    Where the journal was not replayed, files are what they will be when the guest has replayed it; `replayed` is how
    many blocks that concerns. The superblock stays as it is on the disk.

    Raises:
        UnsupportedError: an incompatible feature that is not known, by its name.
        DamagedError: no such file system, or damaged so that nothing can be read.

    """

    def __init__(self, device: Device) -> None:
        self.superblock = require_readable(device.read_at(OFFSET, SIZE))
        self._blocks = Blocks(device, self.superblock)
        self._inodes = Inodes(self._blocks, self.superblock)
        self.replayed = 0
        if self.superblock.incompat & NEEDS_RECOVERY:
            self._replay(device)
        self._directories: OrderedDict[int, dict[bytes, int]] = OrderedDict()

    def _replay(self, device: Device) -> None:
        """Read through the journal from here on."""
        superblock = self.superblock
        if not superblock.journal:
            raise UnsupportedError("needs_recovery with an external journal")
        journal = Journal(self._blocks, self._inodes.get(superblock.journal), checked=superblock.checked)
        self.replayed = len(journal.copies)

        def newer(number: int) -> bytes | None:
            copy = journal.copies.get(number)
            return None if copy is None else journal.read(copy)

        if journal.copies:
            self._blocks = Blocks(device, superblock, newer)
            self._inodes = Inodes(self._blocks, superblock)

    @property
    def info(self) -> FsInfo:
        """What the superblock says."""
        return self.superblock.info()

    def stat(self, path: str) -> Entry | None:
        """What is at `path`; None: nothing. Raises GuestError."""
        inode = self._find(path)
        return None if inode is None else inode.entry()

    def names(self, path: str) -> Iterator[str]:
        """The names in a directory. Raises GuestError: no directory, damaged, encrypted, more than MAX_ENTRIES."""
        inode = self._require(path)
        if not inode.is_directory:
            raise GuestError(f"{path} is no directory")
        return (name.decode("utf-8", "surrogateescape") for name in tuple(self._directory(inode)))

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """Bytes of a regular file. Raises GuestError; UnsupportedError("encrypt")."""
        inode = self._require(path)
        if inode.is_directory or inode.is_link:
            raise GuestError(f"{path} is no file")
        return self._read(inode, offset, length)

    def link(self, path: str) -> str:
        """The text of a symbolic link. Raises GuestError."""
        inode = self._require(path)
        if not inode.is_link:
            raise GuestError(f"{path} is no link")
        if inode.flags & ENCRYPTED:
            raise UnsupportedError("encrypt")
        if not 0 < inode.size <= _MAX_LINK:
            raise DamagedError(f"link of {inode.size} bytes")
        if not inode.flags & INLINE and is_fast_link(inode, self.superblock):
            if inode.size >= inline.HEAD:
                raise DamagedError(f"link of {inode.size} bytes in an inode")
            text = inode.body[: inode.size]
        else:
            text = self._read(inode, 0, inode.size)
        return text.decode("utf-8", "surrogateescape")

    def _require(self, path: str) -> Inode:
        inode = self._find(path)
        if inode is None:
            raise GuestError(f"there is no {path}")
        return inode

    def _find(self, path: str) -> Inode | None:
        """The inode at `path`, links not followed."""
        parts = [part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part not in {b"", b"."}]
        if len(parts) > MAX_DEPTH:
            raise BudgetError(f"{len(parts)} directories deep")
        inode = self._inodes.get(ROOT)
        for part in parts:
            if not inode.is_directory:
                return None
            names = self._directory(inode)
            number = names.get(part)
            if number is None and inode.flags & CASEFOLD:
                number = _folded(names).get(_fold(part))
            if number is None:
                return None
            inode = self._inodes.get(number)
        return inode

    def _directory(self, inode: Inode) -> dict[bytes, int]:
        """Names and inode numbers of a directory; the last used are kept."""
        known = self._directories.get(inode.number)
        if known is not None:
            self._directories.move_to_end(inode.number)
            return known
        names: dict[bytes, int] = {}
        for part in self._parts(inode):
            for name, number in directory.entries(part, inode):
                names[name] = number
                if len(names) > MAX_ENTRIES:
                    raise BudgetError(f"directory {inode.number} has more than {MAX_ENTRIES} entries")
        self._directories[inode.number] = names
        while sum(map(len, self._directories.values())) > _KEPT and len(self._directories) > 1:
            self._directories.popitem(last=False)
        return names

    def _parts(self, inode: Inode) -> Iterator[bytes]:
        """The pieces of a directory in which entries do not cross the end."""
        if inode.flags & ENCRYPTED:
            raise UnsupportedError("encrypt")
        if inode.flags & INLINE:
            whole = inline.contents(inode)
            yield whole[4 : inline.HEAD]  # the first four bytes are the parent's number
            yield whole[inline.HEAD :]
            return
        size = self._blocks.size
        if inode.size > _MAX_DIRECTORY or inode.size % size:
            raise DamagedError(f"directory {inode.number} of {inode.size} bytes")
        for position in range(inode.size // size):
            block = self._read(inode, position * size, size)
            if self.superblock.checked:
                directory.check(block, inode, position)
            yield block

    def _read(self, inode: Inode, offset: int, length: int) -> bytes:
        if inode.flags & ENCRYPTED:
            raise UnsupportedError("encrypt")
        if offset < 0 or length < 0:
            raise ValueError("offset and length cannot be negative")
        stop = min(offset + length, inode.size)
        if offset >= stop:
            return b""
        if stop - offset > MAX_READ:
            raise BudgetError(f"{stop - offset} bytes of one file")
        if inode.flags & INLINE:
            return inline.contents(inode)[offset:stop]
        size = self._blocks.size
        first = offset // size
        out = bytearray()
        for run in runs(self._blocks, inode, first, -(-stop // size) - first, checked=self.superblock.checked):
            out += bytes(run.count * size) if run.place is None else self._blocks.read(run.place, run.count)
        return bytes(out[offset - first * size : stop - first * size])


def _fold(name: bytes) -> str:
    """A name as a casefolded directory compares it (Unicode 12.1: decomposed, case folded), near enough to find it."""
    text = unicodedata.normalize("NFD", name.decode("utf-8", "surrogateescape"))
    return unicodedata.normalize("NFD", text.casefold())


def _folded(names: dict[bytes, int]) -> dict[str, int]:
    return {_fold(name): number for name, number in names.items()}
