"""Names in directories. Source: ext4 doc, "Directory Entries", "Hash Tree Directories".

Directories with a hash tree are read like others: its blocks look like empty entries to who does not know of it.
"""

from collections.abc import Iterator
from typing import Final

from diskfmt.guest.base import DamagedError
from diskfmt.guest.ext.crc import crc32c
from diskfmt.guest.ext.inodes import INDEXED, Inode

_TAIL: Final = 12
_TAIL_TYPE: Final = 0xDE


def entries(data: bytes, inode: Inode) -> Iterator[tuple[bytes, int]]:
    """Names and inode numbers in a block (or an inline directory's part) of `inode`, without `.` and `..`.

    Raises:
        DamagedError: an entry that does not fit.

    """
    at = 0
    while at < len(data):
        number = int.from_bytes(data[at : at + 4], "little")
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        # Blocks of 64 KiB: a length that does not fit 16 bits (fs/ext4/ext4.h, ext4_rec_len_from_disk).
        length = len(data) if len(data) == 65536 and length in {0, 0xFFFF} else length & ~3 | (length & 3) << 16
        size = data[at + 6] if at + 8 <= len(data) else 0
        if length < 8 or at + length > len(data) or size + 8 > length:
            raise DamagedError(f"directory {inode.number} has an entry of {length} bytes for a name of {size}")
        name = data[at + 8 : at + 8 + size]
        if number and name not in {b".", b".."}:
            if not name or b"/" in name or b"\0" in name:
                raise DamagedError(f"directory {inode.number} has a name that cannot be")
            yield name, number
        at += length


def check(block: bytes, inode: Inode, position: int) -> None:
    """Raises DamagedError where the checksum of block number `position` of a directory is wrong."""
    size = len(block)
    if inode.flags & INDEXED:
        count_at = _index_at(block, position)
        if count_at:
            _check_index(block, inode, count_at)
            return
    tail = block[size - _TAIL :]
    whole = tail[:4] == bytes(4) and tail[4:8] == bytes((_TAIL, 0, 0, _TAIL_TYPE))
    if not whole or crc32c(block[: size - _TAIL], inode.seed) != int.from_bytes(tail[8:], "little"):
        raise DamagedError(f"checksum of block {position} of directory {inode.number} is wrong")


def _index_at(block: bytes, position: int) -> int:
    """Where the count of index entries is; 0 for a block of names."""
    if position == 0:
        return 32
    length = int.from_bytes(block[4:6], "little")
    whole = len(block) if length in {0, 0xFFFF} and len(block) == 65536 else length
    return 8 if block[:4] == bytes(4) and whole == len(block) else 0


def _check_index(block: bytes, inode: Inode, at: int) -> None:
    limit = int.from_bytes(block[at : at + 2], "little")
    count = int.from_bytes(block[at + 2 : at + 4], "little")
    tail = at + 8 * limit
    if count > limit or tail + 8 > len(block):
        raise DamagedError(f"hash tree of directory {inode.number} makes no sense")
    crc = crc32c(block[: at + 8 * count], inode.seed)
    crc = crc32c(block[tail : tail + 4] + bytes(4), crc)
    if crc != int.from_bytes(block[tail + 4 : tail + 8], "little"):
        raise DamagedError(f"checksum of the hash tree of directory {inode.number} is wrong")
