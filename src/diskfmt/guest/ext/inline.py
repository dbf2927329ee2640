"""Contents that lie in the inode itself. Source: ext4 doc, "Inline Data", "Extended Attributes"."""

from typing import Final

from diskfmt.guest.base import DamagedError
from diskfmt.guest.ext.inodes import Inode

HEAD: Final = 60  # in place of the block map; what is longer continues in the attribute system.data
_MAGIC: Final = b"\0\0\x02\xea"
_SYSTEM: Final = 7


def contents(inode: Inode) -> bytes:
    """The bytes of a file, link or directory that has no blocks. Raises DamagedError."""
    if inode.size <= HEAD and not inode.is_directory:
        return inode.body[: inode.size]
    tail = _attribute(inode, _SYSTEM, b"data")
    if tail is None or HEAD + len(tail) < inode.size:
        raise DamagedError(f"inode {inode.number} has fewer bytes than its size says")
    return (inode.body + tail)[: inode.size]


def _attribute(inode: Inode, index: int, wanted: bytes) -> bytes | None:
    """The value of an extended attribute that lies in the inode; None where there is none."""
    raw = inode.raw
    start = 128 + int.from_bytes(raw[0x80:0x82], "little")
    if raw[start : start + 4] != _MAGIC:
        return None
    base = at = start + 4
    while at + 16 <= len(raw) and any(raw[at : at + 4]):
        length = raw[at]
        name = raw[at + 16 : at + 16 + length]
        if raw[at + 1] == index and name == wanted:
            place = base + int.from_bytes(raw[at + 2 : at + 4], "little")
            elsewhere = int.from_bytes(raw[at + 4 : at + 8], "little")
            size = int.from_bytes(raw[at + 8 : at + 12], "little")
            if elsewhere or place + size > len(raw):
                raise DamagedError(f"attribute of inode {inode.number} is not inside it")
            return raw[place : place + size]
        at += 16 + (length + 3 & ~3)
    return None
