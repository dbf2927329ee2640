"""Inodes, and the extents of their data forks (chapters "On-disk Inode", "Data Extents")."""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from diskfmt.guest.base import DamagedError, Device, UnsupportedError
from diskfmt.guest.checksums import crc32c
from diskfmt.guest.xfs.superblock import Superblock

LOCAL, EXTENTS, BTREE = 1, 2, 3

_CORE: Final = struct.Struct(">2sHBBHIIIHH8s8x8s8xQQIIHBBIHHII")
_REALTIME: Final = 0x1
_BIG_TIME: Final = 0x8
_BIG_COUNTS: Final = 0x10
_MAX_LEVEL: Final = 9
_MAX_EXTENTS: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """What an inode says; `fork`: the raw data fork."""

    number: int
    mode: int
    form: int
    size: int
    uid: int
    gid: int
    mtime: int
    extents: int
    fork: bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """Blocks [start, start + count) of a file at a file system address. `unwritten` ones read as zero."""

    start: int
    address: int
    count: int
    unwritten: bool


def checked_block(raw: bytes, crc_at: int) -> bool:
    """Whether the CRC-32C that stands inside a block, in its place taken as zero, is right."""
    return crc32c(raw[:crc_at] + bytes(4) + raw[crc_at + 4 :]) == int.from_bytes(raw[crc_at : crc_at + 4], "little")


class Inodes:
    """Reads inodes and follows their forks."""

    def __init__(self, device: Device, superblock: Superblock) -> None:
        self._device = device
        self._super = superblock

    def inode(self, number: int) -> Inode:
        """An inode by number. Raises DamagedError where there is none, UnsupportedError for a real-time file."""
        raw = self._device.read_at(self._super.inode_offset(number), self._super.inode)
        core = _CORE.unpack_from(raw)
        magic, mode, version, form, _, uid, gid = core[:7]
        big_count, mtime, size, extents = core[10], core[11], core[12], core[15]
        forkoff, flags = core[17], core[21]
        if magic != b"IN" or version not in ((3,) if self._super.checked else (1, 2)) or not mode:
            raise DamagedError(f"inode {number} is not one")
        start, flags2 = 100, 0
        if version == 3:
            start, flags2 = 176, int.from_bytes(raw[120:128], "big")
            right = int.from_bytes(raw[152:160], "big") == number and raw[160:176] == self._super.node_id
            if not right or not checked_block(raw, 100):
                raise DamagedError(f"wrong checksum of inode {number}")
        if flags & _REALTIME:
            raise UnsupportedError("an XFS file on a real-time device")
        stop = start + forkoff * 8 if forkoff else len(raw)
        if stop > len(raw):
            raise DamagedError(f"inode {number} makes no sense")
        return Inode(
            number=number,
            mode=mode,
            form=form,
            size=size,
            uid=uid,
            gid=gid,
            mtime=_seconds(mtime, big=bool(flags2 & _BIG_TIME)),
            extents=int.from_bytes(big_count, "big") if flags2 & _BIG_COUNTS else extents,
            fork=raw[start:stop],
        )

    def extents(self, inode: Inode, first: int, last: int) -> Iterator[Extent]:
        """The extents that hold blocks of [first, last] of a file, in order."""
        end = 0
        for count, extent in enumerate(self._extents(inode, first, last)):
            if extent.start < end or count > _MAX_EXTENTS:
                raise DamagedError(f"the extents of inode {inode.number} are not in order")
            end = extent.start + extent.count
            if extent.start <= last and end > first:
                yield extent

    def _extents(self, inode: Inode, first: int, last: int) -> Iterator[Extent]:
        if inode.form == EXTENTS:
            if inode.extents * 16 > len(inode.fork):
                raise DamagedError(f"inode {inode.number} has more extents than room")
            yield from _records(inode.fork[: inode.extents * 16])
        elif inode.form == BTREE:
            level, count = struct.unpack_from(">HH", inode.fork)
            room = (len(inode.fork) - 4) // 16
            if not 1 <= level <= _MAX_LEVEL:
                raise DamagedError(f"inode {inode.number} has a tree of {level} levels")
            pointers = _pointers(inode.fork, 4, room, count, (first, last))
            yield from self._below(inode, level - 1, pointers, first, last)
        else:
            raise DamagedError(f"inode {inode.number} has no extents")

    def _below(self, inode: Inode, level: int, pointers: list[int], first: int, last: int) -> Iterator[Extent]:
        for address in pointers:
            raw = self._device.read_at(self._super.block_offset(address), self._super.block)
            magic, own_level, count = struct.unpack_from(">4sHH", raw)
            header = 72 if self._super.checked else 24
            good = magic == (b"BMA3" if self._super.checked else b"BMAP") and own_level == level
            if good and self._super.checked:
                good = int.from_bytes(raw[56:64], "big") == inode.number and checked_block(raw, 64)
            room = (len(raw) - header) // 16
            if not good or not 0 < count <= room:
                raise DamagedError(f"a block of the extents of inode {inode.number} is damaged")
            if level == 0:
                yield from _records(raw[header : header + count * 16])
            else:
                further = _pointers(raw, header, room, count, (first, last))
                yield from self._below(inode, level - 1, further, first, last)

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Bytes of the data fork, whose place on disk is in blocks. What no extent holds is zero."""
        out = bytearray(length)
        size = self._super.block
        if not length:
            return b""
        for extent in self.extents(inode, offset // size, (offset + length - 1) // size):
            first = max(offset, extent.start * size)
            last = min(offset + length, (extent.start + extent.count) * size)
            if extent.unwritten or first >= last:
                continue
            self._super.block_offset(extent.address + extent.count - 1)  # the whole extent must exist
            place = self._super.block_offset(extent.address) + first - extent.start * size
            out[first - offset : last - offset] = self._device.read_at(place, last - first)
        return bytes(out)


def _seconds(raw: bytes, *, big: bool) -> int:
    if big:
        return int.from_bytes(raw, "big") // 1_000_000_000 - (1 << 31)
    return int.from_bytes(raw[:4], "big", signed=True)


def _records(raw: bytes) -> Iterator[Extent]:
    for high, low in struct.iter_unpack(">QQ", raw):
        start = high >> 9 & ((1 << 54) - 1)
        yield Extent(start, (high & 0x1FF) << 43 | low >> 21, low & ((1 << 21) - 1), bool(high >> 63))


def _pointers(raw: bytes, at: int, room: int, count: int, wanted: tuple[int, int]) -> list[int]:
    """The pointers of a node that lead to keys of [first, last], which are `wanted`."""
    first, last = wanted
    if not 0 < count <= room:
        raise DamagedError("a node of extents with a count that makes no sense")
    keys = struct.unpack_from(f">{count}Q", raw, at)
    pointers = struct.unpack_from(f">{count}Q", raw, at + room * 8)
    if any(before >= after for before, after in pairwise(keys)):
        raise DamagedError("a node of extents that is not in order")
    return list(pointers[max(bisect_right(keys, first) - 1, 0) : bisect_right(keys, last)])
