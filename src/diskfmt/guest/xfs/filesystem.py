"""Files by path."""

import stat as modes
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from diskfmt.guest.base import (
    MAX_DEPTH,
    MAX_FILE,
    MAX_READ,
    BudgetError,
    DamagedError,
    Device,
    Entry,
    FileKind,
    FsInfo,
    GuestError,
)
from diskfmt.guest.xfs.directories import entries
from diskfmt.guest.xfs.inodes import LOCAL, Inode, Inodes, checked_block
from diskfmt.guest.xfs.log import is_clean
from diskfmt.guest.xfs.superblock import Superblock, read_superblock

_MAX_LINK: Final = 1024
_LINK_HEADER: Final = 56
_KEPT: Final = 64

_KINDS: Final = {modes.S_IFREG: FileKind.FILE, modes.S_IFDIR: FileKind.DIRECTORY, modes.S_IFLNK: FileKind.LINK}


class Xfs:
    """An XFS file system as `base.FileSystem`."""

    def __init__(self, device: Device, superblock: Superblock) -> None:
        self._device = device
        self._super = superblock
        self._inodes = Inodes(device, superblock)
        self._directories: OrderedDict[int, dict[bytes, int]] = OrderedDict()

    @cached_property
    def info(self) -> FsInfo:
        """What the superblock and the log say. Free counts are None where the log has to be replayed first.

        `free_bytes` and `free_inodes` are the counts of the superblock; the kernel keeps a little back. `errors`: the
        file system asks for xfs_repair and cannot be mounted.
        """
        superblock = self._super
        clean = is_clean(self._device, superblock)
        return FsInfo(
            kind="xfs",
            uuid=superblock.uuid,
            label=superblock.label,
            size=superblock.blocks * superblock.block,
            block_size=superblock.block,
            clean=clean,
            errors="NEEDSREPAIR" in superblock.features,
            free_bytes=superblock.blocks_free * superblock.block if clean else None,
            free_inodes=self._free_inodes() if clean else None,
            features=superblock.features,
        )

    def _free_inodes(self) -> int:
        """As xfs_fs_statfs of the kernel counts them: those that exist, and those that would find room."""
        superblock = self._super
        per_block = superblock.block // superblock.inode
        total = superblock.inodes + superblock.blocks_free * per_block
        if superblock.inode_percent:
            total = min(total, superblock.blocks * superblock.inode_percent // 100 * per_block)
        return max(0, total - (superblock.inodes - superblock.inodes_free))

    def stat(self, path: str) -> Entry | None:
        """See `base.FileSystem`."""
        inode = self._find(path)
        if inode is None:
            return None
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
        inode = self._of_kind(path, FileKind.DIRECTORY)
        for name in self._directory(inode):
            yield name.decode("utf-8", "surrogateescape")

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """See `base.FileSystem`."""
        inode = self._of_kind(path, FileKind.FILE)
        if length > MAX_READ:
            raise BudgetError(f"{length} bytes are more than a check may read at once")
        return self._inodes.read(inode, offset, max(0, min(length, inode.size - offset)))

    def link(self, path: str) -> str:
        """See `base.FileSystem` (chapter "Symbolic Links")."""
        inode = self._of_kind(path, FileKind.LINK)
        if not 0 < inode.size <= _MAX_LINK:
            raise DamagedError(f"a link of {inode.size} bytes: {path}")
        if inode.form == LOCAL:
            target = inode.fork[: inode.size]
        elif not self._super.checked:
            target = self._inodes.read(inode, 0, inode.size)
        else:
            target = self._remote_link(inode)
        if len(target) != inode.size:
            raise DamagedError(f"the link of inode {inode.number} is cut short")
        return target.decode("utf-8", "surrogateescape")

    def _remote_link(self, inode: Inode) -> bytes:
        target = b""
        block = 0
        while len(target) < inode.size and block < _MAX_LINK // (512 - _LINK_HEADER) + 1:
            raw = self._inodes.read(inode, block * self._super.block, self._super.block)
            size = int.from_bytes(raw[8:12], "big")
            good = raw[:4] == b"XSLM" and int.from_bytes(raw[4:8], "big") == len(target)
            good = good and int.from_bytes(raw[32:40], "big") == inode.number and size <= len(raw) - _LINK_HEADER
            if not good or not checked_block(raw, 12):
                raise DamagedError(f"the link of inode {inode.number} is damaged")
            target += raw[_LINK_HEADER : _LINK_HEADER + size]
            block += 1
        return target

    def _of_kind(self, path: str, kind: FileKind) -> Inode:
        inode = self._find(path)
        if inode is None:
            raise GuestError(f"no such file: {path}")
        if _kind(inode) is not kind:
            raise GuestError(f"not a {kind}: {path}")
        return inode

    def _find(self, path: str) -> Inode | None:
        parts = [part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part]
        if len(parts) > MAX_DEPTH:
            raise BudgetError("a path that is too deep")
        inode = self._inodes.inode(self._super.root)
        for part in parts:
            if _kind(inode) is not FileKind.DIRECTORY:
                return None
            number = self._directory(inode).get(part)
            if number is None:
                return None
            inode = self._inodes.inode(number)
        return inode

    def _directory(self, inode: Inode) -> dict[bytes, int]:
        known = self._directories.get(inode.number)
        if known is None:
            known = self._directories[inode.number] = dict(entries(self._inodes, self._super, inode))
            if len(self._directories) > _KEPT:
                self._directories.popitem(last=False)
        return known


def _kind(inode: Inode) -> FileKind:
    return _KINDS.get(modes.S_IFMT(inode.mode), FileKind.OTHER)


def open_xfs(device: Device) -> Xfs:
    """The file system on `device`. Raises UnsupportedError, DamagedError: see `read_superblock`."""
    return Xfs(device, read_superblock(device))
