"""Files by path: directories, inodes, extents of one subvolume and of those that hang below it."""

import stat as modes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
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
    FileKind,
    FsInfo,
    GuestError,
    UnsupportedError,
)
from diskfmt.guest.btrfs.chunks import CHUNK_ITEM, CHUNK_TREE_OBJECT, ChunkMap
from diskfmt.guest.btrfs.extents import Extents
from diskfmt.guest.btrfs.subvolumes import (
    DIR_ITEM,
    FIRST_FILE,
    ROOT_ITEM,
    TOP,
    DirItem,
    RootTree,
    Subvolume,
    dir_items,
    name_hash,
)
from diskfmt.guest.btrfs.superblock import Superblock, read_superblock
from diskfmt.guest.btrfs.tree import Forest, Root

_INODE_ITEM: Final = 1
_DIR_INDEX: Final = 96
_BLOCK_GROUP: Final = 192
_EXTENT_TREE: Final = 2
_CHECKSUM_TREE: Final = 7
_BLOCK_GROUP_TREE: Final = 11
_MAX_CHUNKS: Final = 1 << 16
_MAX_CHUNKS_COUNTED: Final = 1024
_MAX_LINK: Final = 4096
_NO_CHECKSUMS: Final = 1  # an inode's flag NODATASUM
_ENCRYPTED_NAME: Final = 0x80

_INODE: Final = struct.Struct("<QQQQQIIIIQQQ32x12x12xqI12x")


@dataclass(frozen=True, slots=True)
class _Place:
    """An inode: the number of its subvolume, where that tree starts, its own number; None: an empty directory."""

    tree: int
    root: Root
    number: int | None


@dataclass(frozen=True, slots=True)
class _Inode:
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    checked: bool


_KINDS: Final = {modes.S_IFREG: FileKind.FILE, modes.S_IFDIR: FileKind.DIRECTORY, modes.S_IFLNK: FileKind.LINK}


class Btrfs:
    """A subvolume of a Btrfs file system as `base.FileSystem`."""

    def __init__(self, superblock: Superblock, chunks: ChunkMap, forest: Forest, roots: RootTree, number: int) -> None:
        self._super = superblock
        self._chunks = chunks
        self._forest = forest
        self._roots = roots
        self._number = number
        root = roots.root(number)
        if root is None:
            raise DamagedError(f"the tree of subvolume {number} is missing")
        self._top = _Place(number, root, FIRST_FILE)
        checksums = roots.root(_CHECKSUM_TREE)
        if checksums is None:
            raise DamagedError("the tree of checksums is missing")
        self._extents = Extents(superblock, chunks, forest, checksums)

    @property
    def info(self) -> FsInfo:
        """What the superblock says. `clean` is False where a log has to be replayed.

        `free_bytes` are what the kernel's statfs calls free, before it subtracts what it reserves for itself (at most
        512 MiB); None where there are too many chunks to ask.
        """
        return FsInfo(
            kind="btrfs",
            uuid=self._super.uuid,
            label=self._super.label,
            size=self._super.total_bytes,
            block_size=self._super.sector_size,
            clean=not self._super.log_root,
            errors=self._super.errors,
            free_bytes=self._free(),
            features=self._super.features,
        )

    @property
    def subvolumes(self) -> tuple[Subvolume, ...]:
        """All subvolumes and snapshots, the top level first."""
        return self._roots.subvolumes()

    @property
    def default(self) -> int:
        """The number of the subvolume that is mounted where nothing is said."""
        return self._roots.default()

    def at(self, subvolume: str | int) -> "Btrfs":
        """Another subvolume of the same file system: by path as `subvol=` takes it, or by number as `subvolid=`.

        Raises GuestError where there is none.
        """
        if isinstance(subvolume, str):
            wanted = subvolume.strip("/")
            found = [entry.number for entry in self.subvolumes if entry.path == wanted]
            if not found:
                raise GuestError(f"no subvolume {wanted!r}")
            subvolume = found[0]
        elif self._roots.root(subvolume) is None:
            raise GuestError(f"no subvolume {subvolume}")
        return Btrfs(self._super, self._chunks, self._forest, self._roots, subvolume)

    def stat(self, path: str) -> Entry | None:
        """See `base.FileSystem`."""
        place = self._find(path)
        if place is None:
            return None
        if place.number is None:
            return Entry(kind=FileKind.DIRECTORY, size=0, mode=0o755)
        inode = self._inode(place)
        return Entry(
            kind=_kind(inode),
            size=inode.size,
            mode=modes.S_IMODE(inode.mode),
            uid=inode.uid,
            gid=inode.gid,
            mtime=inode.mtime,
        )

    def names(self, path: str) -> Iterator[str]:
        """See `base.FileSystem`."""
        place = self._find(path)
        if place is None:
            raise GuestError(f"no such directory: {path}")
        if place.number is None:
            return
        if _kind(self._inode(place)) is not FileKind.DIRECTORY:
            raise GuestError(f"not a directory: {path}")
        last = (place.number, _DIR_INDEX, (1 << 64) - 1)
        for count, (_, raw) in enumerate(self._forest.items(place.root, (place.number, _DIR_INDEX, 0), last)):
            if count >= MAX_ENTRIES:
                raise BudgetError(f"more than {MAX_ENTRIES} entries: {path}")
            for entry in dir_items(raw):
                yield _plain(entry).name.decode("utf-8", "surrogateescape")

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """See `base.FileSystem`. Checksums of the data are verified."""
        place, inode = self._file(path, FileKind.FILE)
        if length > MAX_READ:
            raise BudgetError(f"{length} bytes are more than a check may read at once")
        length = max(0, min(length, inode.size - offset))
        return self._extents.read(place.root, place.number or 0, offset, length, checked=inode.checked)

    def link(self, path: str) -> str:
        """See `base.FileSystem`."""
        place, inode = self._file(path, FileKind.LINK)
        if inode.size > _MAX_LINK:
            raise DamagedError(f"a link of {inode.size} bytes: {path}")
        raw = self._extents.read(place.root, place.number or 0, 0, inode.size, checked=inode.checked)
        return raw.decode("utf-8", "surrogateescape")

    def _file(self, path: str, kind: FileKind) -> tuple[_Place, _Inode]:
        place = self._find(path)
        if place is None:
            raise GuestError(f"no such file: {path}")
        inode = self._inode(place) if place.number is not None else None
        if inode is None or _kind(inode) is not kind:
            raise GuestError(f"not a {kind}: {path}")
        return place, inode

    def _find(self, path: str) -> _Place | None:
        parts = [part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part]
        if len(parts) > MAX_DEPTH:
            raise BudgetError("a path that is too deep")
        place = self._top
        for part in parts:
            if place.number is None or _kind(self._inode(place)) is not FileKind.DIRECTORY:
                return None
            raw = self._forest.find(place.root, (place.number, DIR_ITEM, name_hash(part))) or b""
            entry = next((entry for entry in dir_items(raw) if entry.name == part), None)
            if entry is None:
                return None
            place = self._enter(place, _plain(entry))
        return place

    def _enter(self, place: _Place, entry: DirItem) -> _Place:
        number, kind, _ = entry.location
        if kind == _INODE_ITEM:
            return _Place(place.tree, place.root, number)
        if kind != ROOT_ITEM:
            raise DamagedError("a directory entry points to something else than a file")
        if not self._roots.hangs_at(place.tree, place.number or 0, entry.name, number):
            return _Place(place.tree, place.root, None)
        root = self._roots.root(number)
        if root is None:
            raise DamagedError(f"the tree of subvolume {number} is missing")
        return _Place(number, root, FIRST_FILE)

    def _inode(self, place: _Place) -> _Inode:
        raw = self._forest.find(place.root, (place.number or 0, _INODE_ITEM, 0))
        if raw is None or len(raw) != _INODE.size:
            raise DamagedError(f"inode {place.number} of tree {place.tree} is missing or cut short")
        _, _, size, _, _, _, uid, gid, mode, _, flags, _, mtime, _ = _INODE.unpack(raw)
        return _Inode(size, mode, uid, gid, mtime, not flags & _NO_CHECKSUMS)

    def _free(self) -> int | None:
        chunks = list(self._chunks)
        groups = self._roots.root(_BLOCK_GROUP_TREE if "BLOCK_GROUP_TREE" in self._super.features else _EXTENT_TREE)
        if len(chunks) > _MAX_CHUNKS_COUNTED or groups is None:
            return None
        used, copies = 0, 1
        for chunk in chunks:
            raw = self._forest.find(groups, (chunk.logical, _BLOCK_GROUP, chunk.length))
            if raw is None:
                return None
            used += int.from_bytes(raw[:8], "little") * chunk.copies
            copies = max(copies, chunk.copies) if chunk.holds_data else copies
        return max(0, self._super.total_bytes - used) // copies


def _kind(inode: _Inode) -> FileKind:
    return _KINDS.get(modes.S_IFMT(inode.mode), FileKind.OTHER)


def _plain(entry: DirItem) -> DirItem:
    if entry.kind & _ENCRYPTED_NAME:
        raise UnsupportedError("btrfs: an encrypted name")
    return entry


def open_btrfs(device: Device, subvolume: str | int | None = None) -> Btrfs:
    """The file system on `device`, seen from `subvolume` (see `Btrfs.at`), by default the one it calls default.

    Raises:
        UnsupportedError: features that this reader does not know, RAID 5 or 6, several devices.
        DamagedError: a structure that makes no sense.

    """
    superblock = read_superblock(device)
    if superblock.devices != 1:
        raise UnsupportedError(f"btrfs over {superblock.devices} devices")
    chunks = ChunkMap(device, superblock)
    forest = Forest(superblock, chunks)
    tree = Root(superblock.chunk_root, superblock.chunk_root_level, superblock.chunk_root_generation)
    first = (CHUNK_TREE_OBJECT, CHUNK_ITEM, 0)
    rows = forest.items(tree, first, (CHUNK_TREE_OBJECT, CHUNK_ITEM, (1 << 64) - 1))
    for count, (key, raw) in enumerate(rows):
        if count >= _MAX_CHUNKS:
            raise BudgetError("more chunks than a check may look at")
        chunks.add(key[2], raw)
    roots = RootTree(forest, Root(superblock.root, superblock.root_level, superblock.generation))
    btrfs = Btrfs(superblock, chunks, forest, roots, roots.default() if subvolume is None else TOP)
    return btrfs if subvolume is None else btrfs.at(subvolume)
