"""Blocks, group descriptors and inodes. Source: ext4 doc, "Block Group Descriptors", "Inode Table"."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diskfmt.guest.base import DamagedError, Device, Entry, FileKind
from diskfmt.guest.ext.crc import crc32c
from diskfmt.guest.ext.superblock import BITS64, EA_INODE, LARGE_DIR, META_BG, SPARSE_SUPER, SPARSE_SUPER2, Superblock

ROOT: Final = 2

ENCRYPTED: Final = 0x800
INDEXED: Final = 0x1000
HAS_EXTENTS: Final = 0x80000
INLINE: Final = 0x10000000
CASEFOLD: Final = 0x40000000


class Blocks:
    """The blocks of a file system. `newer`: gives the contents that count where the journal has them, else None."""

    def __init__(
        self, device: Device, superblock: Superblock, newer: Callable[[int], bytes | None] | None = None
    ) -> None:
        self._device = device
        self._newer = newer
        self.size = superblock.block_size
        self.count = superblock.blocks

    def read(self, number: int, count: int = 1) -> bytes:
        """`count` blocks. Raises DamagedError where they are not in the file system."""
        if number <= 0 or count < 0 or number + count > self.count:
            raise DamagedError(f"block {number} is not in the file system", offset=number * self.size)
        data = self._device.read_at(number * self.size, count * self.size)
        if self._newer is None:
            return data
        parts = (self._newer(number + index) for index in range(count))
        return b"".join(
            data[index * self.size : (index + 1) * self.size] if part is None else part
            for index, part in enumerate(parts)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """An inode. `raw` is the whole record, `seed` what the checksums of what belongs to it begin with."""

    number: int
    raw: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    sectors: int
    flags: int
    xattr_block: int
    seed: int

    @property
    def body(self) -> bytes:
        """The 60 bytes that hold a block map, an extent tree, a link's text or the beginning of a file."""
        return self.raw[0x28:0x64]

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def entry(self) -> Entry:
        """The inode as all file systems show theirs."""
        kind = FileKind.OTHER
        if stat.S_ISREG(self.mode):
            kind = FileKind.FILE
        elif self.is_directory:
            kind = FileKind.DIRECTORY
        elif self.is_link:
            kind = FileKind.LINK
        return Entry(
            kind=kind,
            size=self.size,
            mode=stat.S_IMODE(self.mode),
            uid=self.uid,
            gid=self.gid,
            mtime=self.mtime,
            flags=self.flags,
        )


class Inodes:
    """The inode tables."""

    def __init__(self, blocks: Blocks, superblock: Superblock) -> None:
        self._blocks = blocks
        self._sb = superblock
        self._table = lru_cache(maxsize=4096)(self._table_place)

    def get(self, number: int) -> Inode:
        """The inode of that number. Raises DamagedError: no such number, checksum, or nothing in it."""
        sb = self._sb
        if not 1 <= number <= sb.inodes:
            raise DamagedError(f"there is no inode {number}")
        group, index = divmod(number - 1, sb.inodes_per_group)
        block, inside = divmod(index * sb.inode_size, sb.block_size)
        raw = self._blocks.read(self._table(group) + block)[inside : inside + sb.inode_size]
        inode = self._parse(number, raw)
        if sb.checked:
            self._check(inode)
        if inode.mode == 0:
            raise DamagedError(f"inode {number} is empty")
        return inode

    def _parse(self, number: int, raw: bytes) -> Inode:
        def field(at: int, size: int) -> int:
            return int.from_bytes(raw[at : at + size], "little")

        mode = field(0, 2)
        size = field(4, 4)
        # Only regular files always have the upper half: it was once the ACL of a directory.
        if stat.S_ISREG(mode) or self._sb.incompat & LARGE_DIR:
            size |= field(0x6C, 4) << 32
        mtime = int.from_bytes(raw[0x10:0x14], "little", signed=True)
        if _has(raw, 0x88):
            mtime += (field(0x88, 4) & 3) << 32
        seed = crc32c(raw[0x64:0x68], crc32c(number.to_bytes(4, "little"), self._sb.checksum_seed))
        return Inode(
            number=number,
            raw=raw,
            mode=mode,
            uid=field(2, 2) | field(0x78, 2) << 16,
            gid=field(0x18, 2) | field(0x7A, 2) << 16,
            size=size,
            mtime=mtime,
            sectors=field(0x1C, 4) | field(0x74, 2) << 32,
            flags=field(0x20, 4),
            xattr_block=field(0x68, 4) | field(0x76, 2) << 32,
            seed=seed,
        )

    @staticmethod
    def _check(inode: Inode) -> None:
        raw = inode.raw
        wide = _has(raw, 0x82, 2)
        stored = int.from_bytes(raw[0x7C:0x7E], "little")
        blank = raw[:0x7C] + bytes(2) + raw[0x7E:]
        if wide:
            stored |= int.from_bytes(raw[0x82:0x84], "little") << 16
            blank = blank[:0x82] + bytes(2) + blank[0x84:]
        if crc32c(blank, inode.seed) & (0xFFFFFFFF if wide else 0xFFFF) != stored:
            raise DamagedError(f"checksum of inode {inode.number} is wrong")

    def _table_place(self, group: int) -> int:
        """The first block of a group's inode table."""
        sb = self._sb
        per_block = sb.block_size // sb.desc_size
        which, index = divmod(group, per_block)
        raw = self._blocks.read(self._descriptors(which))[index * sb.desc_size : (index + 1) * sb.desc_size]
        if sb.checked:
            blank = raw[:0x1E] + bytes(2) + raw[0x20:]
            crc = crc32c(blank, crc32c(group.to_bytes(4, "little"), sb.checksum_seed)) & 0xFFFF
            if crc != int.from_bytes(raw[0x1E:0x20], "little"):
                raise DamagedError(f"checksum of group descriptor {group} is wrong")
        place = int.from_bytes(raw[8:12], "little")
        if sb.incompat & BITS64:
            place |= int.from_bytes(raw[0x28:0x2C], "little") << 32
        return place

    def _descriptors(self, which: int) -> int:
        """The block that holds group descriptors: all behind the superblock, or in each meta group its own."""
        sb = self._sb
        # With blocks of 1 KiB the superblock has block 1, also where bigalloc counts from block 0.
        first = 1 if sb.block_size == 1024 else sb.first_data_block
        if not sb.incompat & META_BG or which < sb.first_meta_bg:
            return first + 1 + which
        group = which * (sb.block_size // sb.desc_size)
        start = sb.first_data_block + group * sb.blocks_per_group
        if group == 0:
            return first + 1
        return start + self._has_superblock(group)

    def _has_superblock(self, group: int) -> bool:
        sb = self._sb
        if sb.compat & SPARSE_SUPER2:
            return group in sb.backup_groups
        if group <= 1 or not sb.ro_compat & SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def is_fast_link(inode: Inode, superblock: Superblock) -> bool:
    """Whether a link's text is in the inode (fs/ext4/inode.c, ext4_inode_is_fast_symlink)."""
    if superblock.incompat & EA_INODE:
        return 0 < inode.size < 60 and not inode.flags & HAS_EXTENTS
    return inode.sectors == (superblock.cluster_size >> 9 if inode.xattr_block else 0)


def _has(raw: bytes, at: int, size: int = 4) -> bool:
    """Whether the record is long enough to hold a field behind the first 128 bytes."""
    return len(raw) > 130 and at + size <= 128 + int.from_bytes(raw[0x80:0x82], "little") <= len(raw)


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
