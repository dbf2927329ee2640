"""The superblock and what follows from it: where blocks and inodes lie (chapter "Superblocks")."""

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import DamagedError, Device, UnsupportedError
from diskfmt.guest.checksums import crc32c

_SIZE: Final = 264
_HEAD: Final = struct.Struct(">4sIQQQ16sQQ16xIII4xIHHHH12s8B")
_COUNTS: Final = struct.Struct(">QQQ")

# Names as `mkfs.xfs` and `xfs_db -c version` print them.
_INCOMPAT: Final = {
    0x1: "FTYPE",
    0x2: "SPARSE_INODES",
    0x4: "META_UUID",
    0x8: "BIGTIME",
    0x10: "NEEDSREPAIR",
    0x20: "NREXT64",
    0x40: "EXCHANGE",
    0x80: "PARENT",
}
_REFUSED: Final = {0x100: "METADIR", 0x200: "ZONED", 0x400: "ZONE_GAPS"}
_RO_COMPAT: Final = {0x1: "FINOBT", 0x2: "RMAPBT", 0x4: "REFLINK", 0x8: "INOBTCNT"}

_V4_DIR2: Final = 0x2000
_V4_CASELESS: Final = 0x4000
_V4_MORE: Final = 0x8000
_V4_FTYPE: Final = 0x200
_V4_KNOWN: Final = 0xFFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """Sizes are bytes, addresses blocks; `node_id` is the id that stands in every block of version 5."""

    version: int
    block: int
    blocks: int
    sector: int
    fsid: bytes
    node_id: bytes
    label: str
    root: int
    groups: int
    group_blocks: int
    group_bits: int
    inode: int
    inode_bits: int
    directory_block: int
    log_start: int
    log_blocks: int
    inodes: int
    inodes_free: int
    blocks_free: int
    inode_percent: int
    ftype: bool
    features: tuple[str, ...]

    @property
    def checked(self) -> bool:
        """Whether blocks have checksums."""
        return self.version == 5

    @property
    def uuid(self) -> str:
        """The id of the file system as blkid prints it."""
        return str(uuid.UUID(bytes=self.fsid))

    def block_offset(self, address: int) -> int:
        """Where the block with a file system address (group and block in it) is, in bytes."""
        group, block = address >> self.group_bits, address & ((1 << self.group_bits) - 1)
        number = group * self.group_blocks + block
        if group >= self.groups or block >= self.group_blocks or number >= self.blocks:
            raise DamagedError(f"block {address:#x} is outside of the file system")
        return number * self.block

    def inode_offset(self, number: int) -> int:
        """Where an inode is, in bytes."""
        slot = number & ((1 << self.inode_bits) - 1)
        return self.block_offset(number >> self.inode_bits) + slot * self.inode


def read_superblock(device: Device) -> Superblock:
    """The first superblock: the only one that the kernel uses.

    Raises:
        UnsupportedError: an incompatible feature that this reader does not know, a real-time device.
        DamagedError: wrong checksum, or sizes that make no sense.

    """
    raw = device.read_at(0, 512)
    if raw[:4] != b"XFSB":
        raise DamagedError("no XFS superblock", offset=0)
    head = _HEAD.unpack_from(raw)
    version_word = head[12]
    version = version_word & 0xF
    if version not in (4, 5):
        raise UnsupportedError(f"XFS version {version}")
    sector, block, inode = head[13], head[1], head[14]
    block_bits, _, inode_size_bits, inode_bits, group_bits = head[17:22]
    sizes = all(size and not size & (size - 1) for size in (sector, block, inode))
    if not (sizes and 512 <= sector <= 32768 and 512 <= block <= 65536 and 256 <= inode <= min(2048, block)):
        raise DamagedError("an XFS superblock that makes no sense", offset=0)
    consistent = block == 1 << block_bits and inode == 1 << inode_size_bits and block == inode << inode_bits
    groups, group_blocks = head[10], head[9]
    consistent = consistent and 0 < group_blocks <= 1 << group_bits <= 1 << 31 and groups > 0
    consistent = consistent and (groups - 1) * group_blocks < head[2] <= groups * group_blocks
    if not consistent or raw[192] + block_bits > 16 or not head[11]:
        raise DamagedError("an XFS superblock that makes no sense", offset=0)
    if head[3] or head[4]:
        raise UnsupportedError("XFS with a real-time device")
    if version == 5:
        whole = device.read_at(0, sector)
        if crc32c(whole[:224] + bytes(4) + whole[228:]) != int.from_bytes(raw[224:228], "little"):
            raise DamagedError("wrong checksum of the XFS superblock", offset=0)
        ftype, features, node_id = _features_5(raw, head[5])
    else:
        ftype, features, node_id = _features_4(raw, version_word), ("V4",), head[5]
    inodes, inodes_free, blocks_free = _COUNTS.unpack_from(raw, 128)
    return Superblock(
        version=version,
        block=block,
        blocks=head[2],
        sector=sector,
        fsid=head[5],
        node_id=node_id,
        label=head[16].split(b"\0")[0].decode("utf-8", "backslashreplace"),
        root=head[7],
        groups=groups,
        group_blocks=group_blocks,
        group_bits=group_bits,
        inode=inode,
        inode_bits=inode_bits,
        directory_block=block << raw[192],
        log_start=head[6],
        log_blocks=head[11],
        inodes=inodes,
        inodes_free=inodes_free,
        blocks_free=blocks_free,
        inode_percent=raw[127],
        ftype=ftype,
        features=features,
    )


def _features_5(raw: bytes, fsid: bytes) -> tuple[bool, tuple[str, ...], bytes]:
    _, compat_ro, incompat, _ = struct.unpack_from(">IIII", raw, 208)
    unknown = incompat & ~sum(_INCOMPAT)
    if unknown:
        bit = unknown & -unknown
        raise UnsupportedError(f"XFS feature {_REFUSED.get(bit, hex(bit))}")
    features = ["V5", *(name for bit, name in _INCOMPAT.items() if incompat & bit)]
    features += [name for bit, name in _RO_COMPAT.items() if compat_ro & bit]
    features += [f"ro_compat:{1 << bit:#x}" for bit in range(32) if compat_ro >> bit & 1 and 1 << bit not in _RO_COMPAT]
    return bool(incompat & 1), tuple(features), raw[248:264] if incompat & 4 else fsid


def _features_4(raw: bytes, version_word: int) -> bool:
    if not version_word & _V4_DIR2:
        raise UnsupportedError("XFS directories of version 1")
    if version_word & _V4_CASELESS:
        raise UnsupportedError("XFS with names without case")
    return bool(version_word & _V4_MORE and int.from_bytes(raw[200:204], "big") & _V4_FTYPE)
