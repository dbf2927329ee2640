"""The bytes of a file: inline, regular, preallocated, compressed extents, and holes between them."""

import struct
from typing import Final

from diskfmt.guest.base import DamagedError, UnsupportedError
from diskfmt.guest.btrfs.chunks import ChunkMap
from diskfmt.guest.btrfs.codecs import decompress
from diskfmt.guest.btrfs.superblock import Superblock
from diskfmt.guest.btrfs.tree import Forest, Root
from diskfmt.guest.checksums import ALGORITHMS, digests

_EXTENT_DATA: Final = 108
_CHECKSUM: Final = 128
_CHECKSUM_OBJECT: Final = (1 << 64) - 10
_INLINE, _REGULAR, _PREALLOCATED = 0, 1, 2

_HEAD: Final = struct.Struct("<QQBBHB")
_BODY: Final = struct.Struct("<QQQQ")
_MAX_COMPRESSED: Final = 128 << 10  # BTRFS_MAX_UNCOMPRESSED, BTRFS_MAX_COMPRESSED
_PART: Final = 1 << 20


class Extents:
    """Reads ranges of files. Data is verified against the tree of checksums."""

    def __init__(self, superblock: Superblock, chunks: ChunkMap, forest: Forest, checksums: Root) -> None:
        self._super = superblock
        self._chunks = chunks
        self._forest = forest
        self._checksums = checksums

    def read(self, root: Root, inode: int, offset: int, length: int, *, checked: bool) -> bytes:
        """Bytes [offset, offset + length) of a file; what no extent holds is zero.

        Raises:
            UnsupportedError: encrypted, or compressed in a way that this reader does not know.
            DamagedError: an extent that makes no sense, or data with a wrong checksum.

        """
        out = bytearray(length)
        if not length:
            return b""
        start = (inode, _EXTENT_DATA, offset)
        before = self._forest.at_or_before(root, start)
        if before is not None and before[:2] == start[:2]:
            start = before
        end = 0
        for (_, _, at), raw in self._forest.items(root, start, (inode, _EXTENT_DATA, offset + length - 1)):
            if at < end:
                raise DamagedError(f"extents of inode {inode} overlap")
            end = at + self._take(raw, at, offset, out, checked=checked)
        return bytes(out)

    def _take(self, raw: bytes, at: int, offset: int, out: bytearray, *, checked: bool) -> int:
        """Put what an extent at file offset `at` holds into `out`, whose first byte is at `offset`; its length."""
        if len(raw) < _HEAD.size:
            raise DamagedError("an extent is cut short")
        _, ram, codec, encryption, encoding, kind = _HEAD.unpack_from(raw)
        if encryption or encoding:
            raise UnsupportedError("btrfs: an encrypted extent")
        if kind == _INLINE:
            data = raw[_HEAD.size :]
            if ram > _MAX_COMPRESSED:
                raise DamagedError("an inline extent that is too long")
            if codec:
                data = decompress(codec, data, ram, self._super.sector_size)
            first = max(offset, at)
            last = min(offset + len(out), at + min(ram, len(data)))
            if first < last:
                out[first - offset : last - offset] = data[first - at : last - at]
            return int(ram)
        if len(raw) != _HEAD.size + _BODY.size or kind not in (_REGULAR, _PREALLOCATED):
            raise DamagedError("an extent that makes no sense")
        address, stored, skip, size = _BODY.unpack_from(raw, _HEAD.size)
        first, last = max(offset, at), min(offset + len(out), at + size)
        if kind == _PREALLOCATED or address == 0 or first >= last:
            return int(size)
        if skip + size > ram:
            raise DamagedError("an extent that is longer than its data")
        into = memoryview(out)[first - offset : last - offset]
        if codec:
            if ram > _MAX_COMPRESSED or stored > _MAX_COMPRESSED:
                raise DamagedError("a compressed extent that is too long")
            data = decompress(codec, self._data(address, stored, checked=checked), ram, self._super.sector_size)
            part = data[first - at + skip : last - at + skip]
            into[: len(part)] = part
            return int(size)
        if skip + size > stored:
            raise DamagedError("an extent that is longer than its data")
        self._plain(address, first - at + skip, into, checked=checked)
        return int(size)

    def _plain(self, address: int, skip: int, into: memoryview, *, checked: bool) -> None:
        sector = self._super.sector_size
        done = 0
        while done < len(into):
            start = (skip + done) // sector * sector
            cut = skip + done - start
            wanted = min(len(into) - done, _PART - cut)
            data = self._data(address + start, -(-(cut + wanted) // sector) * sector, checked=checked)
            into[done : done + wanted] = data[cut : cut + wanted]
            done += wanted

    def _data(self, address: int, length: int, *, checked: bool) -> bytes:
        sector = self._super.sector_size
        if address % sector or length % sector:
            raise DamagedError(f"data at logical address {address} is not made of sectors")
        expected = self._expected(address, length) if checked else None
        kind, size = self._super.checksum, ALGORITHMS[self._super.checksum][0]
        return self._chunks.read(
            address,
            length,
            lambda data: expected is None or b"".join(part[:size] for part in digests(kind, data, sector)) == expected,
        )

    def _expected(self, address: int, length: int) -> bytes:
        """The checksums of the sectors of a range; without one for each the kernel does not read it either."""
        size, sector = ALGORITHMS[self._super.checksum][0], self._super.sector_size
        start = (_CHECKSUM_OBJECT, _CHECKSUM, address)
        before = self._forest.at_or_before(self._checksums, start)
        if before is not None and before[:2] == start[:2]:
            start = before
        found = bytearray()
        at = address
        last = (_CHECKSUM_OBJECT, _CHECKSUM, address + length - 1)
        for (_, _, first), raw in self._forest.items(self._checksums, start, last):
            sums = memoryview(raw)[(at - first) // sector * size :] if first <= at else b""
            part = bytes(sums[: (address + length - at) // sector * size])
            found += part
            at += len(part) // size * sector
        if at != address + length:
            raise DamagedError(f"data at logical address {at} has no checksum")
        return bytes(found)
