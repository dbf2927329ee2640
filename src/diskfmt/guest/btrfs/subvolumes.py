"""Subvolumes: the trees that hold files, how they are called, and where in another tree they hang."""

import struct
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_DEPTH, MAX_ENTRIES, BudgetError, DamagedError, GuestError
from diskfmt.guest.btrfs.tree import Forest, Root
from diskfmt.guest.checksums import crc32c_raw

TOP: Final = 5
FIRST_FILE: Final = 256
_LAST_TREE: Final = (1 << 64) - 256
_DIRECTORY_OF_ROOTS: Final = 6

INODE_REF: Final = 12
DIR_ITEM: Final = 84
ROOT_ITEM: Final = 132
ROOT_BACKREF: Final = 144
ROOT_REF: Final = 156

_REF: Final = struct.Struct("<QQH")
_INODE_REF: Final = struct.Struct("<QH")
_DIR: Final = struct.Struct("<QBQQHHB")
_READ_ONLY: Final = 1


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A subvolume or snapshot. `path` is below the top level, as mount's `subvol=` takes it, "" for the top itself."""

    number: int
    path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class DirItem:
    """An entry of a directory: what it points to, as (object, type of item, offset), and its kind."""

    name: bytes
    location: tuple[int, int, int]
    kind: int


def name_hash(name: bytes) -> int:
    """The hash by which a directory finds a name (btrfs_name_hash of the kernel)."""
    return crc32c_raw(name, 0xFFFFFFFE)


def dir_items(raw: bytes) -> list[DirItem]:
    """The entries of one item: several where names have the same hash."""
    found = []
    at = 0
    while at < len(raw):
        if at + _DIR.size > len(raw):
            raise DamagedError("a directory entry is cut short")
        oid, kind, offset, _, data, length, what = _DIR.unpack_from(raw, at)
        at += _DIR.size
        if at + length + data > len(raw):
            raise DamagedError("a directory entry is cut short")
        found.append(DirItem(raw[at : at + length], (oid, kind, offset), what))
        at += length + data
    return found


class RootTree:
    """The tree of trees."""

    def __init__(self, forest: Forest, root: Root) -> None:
        self._forest = forest
        self._root = root

    def root(self, number: int) -> Root | None:
        """Where the tree `number` starts."""
        raw = self._item(number)
        if raw is None:
            return None
        if len(raw) < 239:
            raise DamagedError(f"the root of tree {number} is cut short")
        generation = int.from_bytes(raw[160:168], "little")
        return Root(int.from_bytes(raw[176:184], "little"), raw[238], generation)

    def _item(self, number: int) -> bytes | None:
        rows = self._forest.items(self._root, (number, ROOT_ITEM, 0), (number, ROOT_ITEM, (1 << 64) - 1))
        return next((data for _, data in rows), None)

    def default(self) -> int:
        """The subvolume that a mount without `subvol=` shows."""
        key = (_DIRECTORY_OF_ROOTS, DIR_ITEM, name_hash(b"default"))
        for entry in dir_items(self._forest.find(self._root, key) or b""):
            if entry.name == b"default" and entry.location[1] == ROOT_ITEM:
                return entry.location[0]
        return TOP

    def hangs_at(self, parent: int, directory: int, name: bytes, child: int) -> bool:
        """Whether `child` is a subvolume there; in a snapshot the entries of its source's subvolumes are empty."""
        raw = self._forest.find(self._root, (parent, ROOT_REF, child))
        return raw is not None and self._reference(raw) == (directory, name)

    @staticmethod
    def _reference(raw: bytes) -> tuple[int, bytes]:
        if len(raw) < _REF.size:
            raise DamagedError("a reference to a subvolume is cut short")
        directory, _, length = _REF.unpack_from(raw)
        return directory, raw[_REF.size : _REF.size + length]

    def subvolumes(self) -> tuple[Subvolume, ...]:
        """All that hang somewhere below the top level, and the top level itself."""
        found = []
        rows = self._forest.items(self._root, (FIRST_FILE, ROOT_ITEM, 0), (_LAST_TREE, ROOT_ITEM, 0))
        numbers = [TOP, *dict.fromkeys(key[0] for key, _ in rows if key[1] == ROOT_ITEM)]
        if len(numbers) > MAX_ENTRIES:
            raise BudgetError("more subvolumes than a check may look at")
        for number in numbers:
            raw = self._item(number) or b""
            path = self.path(number)
            if path is not None and len(raw) >= 216:
                read_only = bool(int.from_bytes(raw[208:216], "little") & _READ_ONLY)
                found.append(Subvolume(number, path, read_only))
        return tuple(found)

    def path(self, number: int) -> str | None:
        """Where a subvolume hangs, None for one that is deleted."""
        parts: list[bytes] = []
        while number != TOP:
            if len(parts) > 2 * MAX_DEPTH:
                raise DamagedError("subvolumes hang in a circle")
            rows = self._forest.items(self._root, (number, ROOT_BACKREF, 0), (number, ROOT_BACKREF, (1 << 64) - 1))
            found = next(rows, None)
            if found is None:
                return None
            (_, _, parent), raw = found
            directory, name = self._reference(raw)
            parts = [*self._directory(parent, directory), name, *parts]
            number = parent
        return "/".join(part.decode("utf-8", "surrogateescape") for part in parts)

    def _directory(self, tree: int, directory: int) -> list[bytes]:
        root = self.root(tree)
        if root is None:
            raise GuestError("a subvolume hangs in one that is not there")
        parts: list[bytes] = []
        while directory != FIRST_FILE:
            rows = self._forest.items(root, (directory, INODE_REF, 0), (directory, INODE_REF, (1 << 64) - 1))
            found = next(rows, None)
            if found is None or len(found[1]) < _INODE_REF.size or len(parts) > MAX_DEPTH:
                raise DamagedError("a subvolume hangs in a directory that cannot be found")
            _, length = _INODE_REF.unpack_from(found[1])
            parts.insert(0, found[1][_INODE_REF.size : _INODE_REF.size + length])
            directory = found[0][2]
        return parts
