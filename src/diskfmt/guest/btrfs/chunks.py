"""Logical addresses to places on the one device: chunks, their profiles, and the copies they keep."""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from diskfmt.guest.base import DamagedError, Device, UnsupportedError
from diskfmt.guest.btrfs.superblock import Superblock

CHUNK_TREE_OBJECT: Final = 256
CHUNK_ITEM: Final = 228

_CHUNK: Final = struct.Struct("<QQQQIIIHH")
_STRIPE: Final = struct.Struct("<QQ16s")
_KEY: Final = struct.Struct("<QBQ")
_MAX_STRIPES: Final = 1024
_STRIPE_LENGTH: Final = 65536

_DATA: Final = 1
_RAID0, _RAID1, _DUP, _RAID10, _RAID5, _RAID6, _RAID1C3, _RAID1C4 = (1 << bit for bit in range(3, 11))
_PROFILES: Final = _RAID0 | _RAID1 | _DUP | _RAID10 | _RAID5 | _RAID6 | _RAID1C3 | _RAID1C4
_MIRRORED: Final = {0, _DUP, _RAID1, _RAID1C3, _RAID1C4}


class Chunk:
    """A range of logical addresses and where its stripes lie.

    `copies`: how often its bytes are stored. `holds_data`: files, not only trees.
    """

    def __init__(self, logical: int, raw: bytes) -> None:
        if len(raw) < _CHUNK.size:
            raise DamagedError(f"the chunk at logical address {logical} is cut short")
        self.logical = logical
        self.length, _, self._stripe, kind, _, _, _, count, sub = _CHUNK.unpack_from(raw)
        self._profile = kind & _PROFILES
        self.holds_data = bool(kind & _DATA)
        if self._profile & (_RAID5 | _RAID6):
            raise UnsupportedError("btrfs RAID 5 or 6")
        good = 1 <= count <= _MAX_STRIPES and len(raw) >= _CHUNK.size + count * _STRIPE.size and self.length
        if not good or self._stripe != _STRIPE_LENGTH:
            raise DamagedError(f"the chunk at logical address {logical} makes no sense")
        self._stripes = [_STRIPE.unpack_from(raw, _CHUNK.size + index * _STRIPE.size)[:2] for index in range(count)]
        if self._profile in _MIRRORED:
            self.copies = count
        elif self._profile == _RAID0:
            self.copies = 1
        elif self._profile == _RAID10 and sub > 0 and count % sub == 0:
            self.copies = sub
        else:
            raise DamagedError(f"the chunk at logical address {logical} has profile {self._profile:#x}")

    def pieces(self, offset: int, length: int, copy: int) -> Iterator[tuple[int, int, int]]:
        """(device id, place, length) of the parts of [offset, offset + length) of this chunk in one of its copies."""
        if self._profile in _MIRRORED:
            device, place = self._stripes[copy]
            yield device, place + offset, length
            return
        columns = len(self._stripes) // self.copies
        while length > 0:
            row, within = divmod(offset, _STRIPE_LENGTH)
            device, place = self._stripes[row % columns * self.copies + copy]
            part = min(length, _STRIPE_LENGTH - within)
            yield device, place + row // columns * _STRIPE_LENGTH + within, part
            offset += part
            length -= part


class ChunkMap:
    """Reads by logical address. It starts with the superblock's own chunks; the chunk tree adds the rest."""

    def __init__(self, device: Device, superblock: Superblock) -> None:
        self._device = device
        self._device_id = superblock.device_id
        self._chunks: dict[int, Chunk] = {}
        self._starts: list[int] = []
        raw, at = superblock.system_chunks, 0
        while at < len(raw):
            if at + _KEY.size + _CHUNK.size > len(raw):
                raise DamagedError("the superblock's chunks are cut short")
            _, kind, logical = _KEY.unpack_from(raw, at)
            if kind != CHUNK_ITEM:
                raise DamagedError("the superblock's chunks hold something else")
            stripes = _CHUNK.unpack_from(raw, at + _KEY.size)[7]
            size = _CHUNK.size + stripes * _STRIPE.size
            self.add(logical, raw[at + _KEY.size : at + _KEY.size + size])
            at += _KEY.size + size

    def __iter__(self) -> Iterator[Chunk]:
        return (self._chunks[start] for start in self._starts)

    def add(self, logical: int, raw: bytes) -> None:
        """Take a chunk item. A later one for the same address replaces that of the superblock."""
        chunk = Chunk(logical, raw)
        if logical not in self._chunks:
            at = bisect_right(self._starts, logical)
            before = self._chunks[self._starts[at - 1]] if at else None
            behind = self._starts[at] if at < len(self._starts) else None
            if (before and before.logical + before.length > logical) or (behind and logical + chunk.length > behind):
                raise DamagedError(f"two chunks hold the logical address {logical}")
            self._starts.insert(at, logical)
        self._chunks[logical] = chunk

    def read(self, logical: int, length: int, good: Callable[[bytes], bool]) -> bytes:
        """`length` bytes at a logical address: the first copy on this device that `good` accepts.

        Raises:
            DamagedError: no chunk there, or no copy is good.
            UnsupportedError: the bytes are on another device.

        """
        at = bisect_right(self._starts, logical) - 1
        chunk = self._chunks[self._starts[at]] if at >= 0 else None
        if chunk is None or logical + length > chunk.logical + chunk.length:
            raise DamagedError(f"no chunk holds the logical address {logical}")
        here = 0
        for copy in range(chunk.copies):
            pieces = list(chunk.pieces(logical - chunk.logical, length, copy))
            if any(device != self._device_id for device, _, _ in pieces):
                continue
            here += 1
            if any(place + size > self._device.size for _, place, size in pieces):
                continue
            data = b"".join(self._device.read_at(place, size) for _, place, size in pieces)
            if good(data):
                return data
        if not here:
            raise UnsupportedError("a file system whose data is on another device")
        raise DamagedError(f"wrong checksum at logical address {logical}")
