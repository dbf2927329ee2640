"""Directories: short ones inside the inode, others in blocks (chapter "Directories").

They are read from front to back; the hash index behind the entries is not needed for that.
"""

import struct
from collections.abc import Iterator
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, BudgetError, DamagedError
from diskfmt.guest.xfs.inodes import LOCAL, Inode, Inodes, checked_block
from diskfmt.guest.xfs.superblock import Superblock

_LEAF_OFFSET: Final = 1 << 35  # bytes: entries below, their index above
_FREE: Final = 0xFFFF


def entries(inodes: Inodes, superblock: Superblock, inode: Inode) -> Iterator[tuple[bytes, int]]:
    """(name, inode number) of each entry without `.` and `..`.

    Raises:
        DamagedError: a block that makes no sense, wrong checksum.
        BudgetError: more than MAX_ENTRIES.

    """
    found = _short(inode, superblock) if inode.form == LOCAL else _long(inodes, superblock, inode)
    for count, entry in enumerate(found):
        if count >= MAX_ENTRIES:
            raise BudgetError(f"more than {MAX_ENTRIES} entries in a directory")
        yield entry


def _short(inode: Inode, superblock: Superblock) -> Iterator[tuple[bytes, int]]:
    raw = inode.fork[: inode.size]
    if inode.size > len(inode.fork) or len(raw) < 6:
        raise DamagedError(f"the directory {inode.number} makes no sense")
    width = 8 if raw[1] else 4
    at = 2 + width
    for _ in range(raw[0]):
        size = raw[at] if at < len(raw) else 0
        end = at + 3 + size + superblock.ftype + width
        if not size or end > len(raw):
            raise DamagedError(f"the directory {inode.number} makes no sense")
        yield raw[at + 3 : at + 3 + size], int.from_bytes(raw[end - width : end], "big")
        at = end


def _long(inodes: Inodes, superblock: Superblock, inode: Inode) -> Iterator[tuple[bytes, int]]:
    size = superblock.directory_block
    per = size // superblock.block
    behind = -1
    for extent in inodes.extents(inode, 0, _LEAF_OFFSET // superblock.block - 1):
        first, last = extent.start // per, (extent.start + extent.count - 1) // per
        for number in range(max(first, behind + 1), last + 1):
            if number * size >= min(inode.size, _LEAF_OFFSET):
                return
            yield from _block(inodes.read(inode, number * size, size), superblock, inode)
            behind = number


def _block(raw: bytes, superblock: Superblock, inode: Inode) -> Iterator[tuple[bytes, int]]:
    magic, stop, at = raw[:4], len(raw), 16
    good = magic in ((b"XDB3", b"XDD3") if superblock.checked else (b"XD2B", b"XD2D"))
    if superblock.checked:
        at = 64
        good = good and int.from_bytes(raw[40:48], "big") == inode.number and checked_block(raw, 4)
    if good and magic in (b"XDB3", b"XD2B"):
        stop -= 8 + int.from_bytes(raw[-8:-4], "big") * 8
    if not good or stop < at:
        raise DamagedError(f"a block of the directory {inode.number} is damaged")
    while at < stop:
        free, length = struct.unpack_from(">HH", raw, at)
        if free != _FREE:
            name, number, length = _entry(raw, at, superblock)
            if name not in (b".", b".."):
                yield name, number
        if length < 8 or length % 8 or at + length > stop:
            raise DamagedError(f"a block of the directory {inode.number} is damaged")
        at += length


def _entry(raw: bytes, at: int, superblock: Superblock) -> tuple[bytes, int, int]:
    number, size = struct.unpack_from(">QB", raw, at) if at + 9 <= len(raw) else (0, 0)
    length = -(-(9 + size + superblock.ftype + 2) // 8) * 8
    if not size:
        raise DamagedError("a directory entry without a name")
    return raw[at + 9 : at + 9 + size], number, length
