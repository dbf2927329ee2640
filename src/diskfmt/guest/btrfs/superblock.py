"""The superblock: three copies at fixed places, each with its own checksum."""

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import DamagedError, Device, GuestError, UnsupportedError
from diskfmt.guest.checksums import ALGORITHMS

MIRRORS: Final = (64 << 10, 64 << 20, 256 << 30)
SIZE: Final = 4096
_MAGIC: Final = b"_BHRfS_M"

# Names as `btrfs inspect-internal dump-super` prints them.
_INCOMPAT: Final = {
    0x1: "MIXED_BACKREF",
    0x2: "DEFAULT_SUBVOL",
    0x4: "MIXED_GROUPS",
    0x8: "COMPRESS_LZO",
    0x10: "COMPRESS_ZSTD",
    0x20: "BIG_METADATA",
    0x40: "EXTENDED_IREF",
    0x80: "RAID56",
    0x100: "SKINNY_METADATA",
    0x200: "NO_HOLES",
    0x400: "METADATA_UUID",
    0x800: "RAID1C34",
    0x10000: "SIMPLE_QUOTA",
}
_REFUSED: Final = {0x1000: "ZONED", 0x2000: "EXTENT_TREE_V2", 0x4000: "RAID_STRIPE_TREE", 0x20000: "REMAP_TREE"}
_COMPAT_RO: Final = {
    0x1: "FREE_SPACE_TREE",
    0x2: "FREE_SPACE_TREE_VALID",
    0x4: "VERITY",
    0x8: "BLOCK_GROUP_TREE",
}
_ERROR: Final = 1 << 2
# A dump without data, or a conversion by btrfstune that was cut off: the trees do not mean what they say.
_UNFINISHED: Final = {
    1 << 33: "metadump",
    1 << 34: "metadump",
    1 << 35: "changing the file system id",
    1 << 36: "changing the file system id",
    1 << 38: "changing to a block group tree",
    1 << 39: "changing data checksums",
    1 << 40: "changing metadata checksums",
}

_HEAD: Final = struct.Struct("<32s16sQQ8sQQQQQQQQQIIIIIQQQQHBBB")
_DEVICE: Final = struct.Struct("<QQQIIIQQQIBB16s16s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the trees start from. Addresses are logical bytes; `node_id` is the id that stands in every node."""

    fsid: bytes
    node_id: bytes
    generation: int
    root: int
    root_level: int
    chunk_root: int
    chunk_root_generation: int
    chunk_root_level: int
    log_root: int
    total_bytes: int
    bytes_used: int
    devices: int
    device_id: int
    device_bytes: int
    sector_size: int
    node_size: int
    checksum: int
    features: tuple[str, ...]
    label: str
    system_chunks: bytes
    errors: bool

    @property
    def uuid(self) -> str:
        """The id of the file system as blkid prints it."""
        return str(uuid.UUID(bytes=self.fsid))


def read_superblock(device: Device) -> Superblock:
    """The superblock of the file system on `device`.

    The first copy counts where it is good, as for the kernel; another copy is only taken where that one is damaged,
    and `errors` is set then: the kernel would not mount this.

    Raises:
        UnsupportedError: an incompatible feature or a checksum that this reader does not know.
        DamagedError: no good copy.

    """
    failure: GuestError = DamagedError("no btrfs superblock", offset=MIRRORS[0])
    others: list[tuple[int, bytes]] = []
    for place in MIRRORS:
        if place + SIZE > device.size:
            break
        raw = device.read_at(place, SIZE)
        try:
            _verify(raw, place)
        except GuestError as error:
            failure = error if place == MIRRORS[0] else failure
            continue
        if place == MIRRORS[0]:
            return _parse(raw, errors=False)
        others.append((int.from_bytes(raw[72:80], "little"), raw))
    if isinstance(failure, UnsupportedError) or not others:
        raise failure
    return _parse(max(others)[1], errors=True)


def _verify(raw: bytes, place: int) -> None:
    if raw[64:72] != _MAGIC:
        raise DamagedError("no btrfs superblock", offset=place)
    kind = int.from_bytes(raw[196:198], "little")
    if kind not in ALGORITHMS:
        raise UnsupportedError(f"btrfs checksum {kind}", offset=place)
    size, digest = ALGORITHMS[kind]
    if digest(raw[32:]) != raw[:size]:
        raise DamagedError("wrong checksum of a superblock", offset=place)
    if int.from_bytes(raw[48:56], "little") != place:
        raise DamagedError("a superblock that belongs to another place", offset=place)


def _parse(raw: bytes, *, errors: bool) -> Superblock:
    head = _HEAD.unpack_from(raw)
    flags, incompat, compat_ro = head[3], head[22], head[21]
    for bit, name in _UNFINISHED.items():
        if flags & bit:
            raise UnsupportedError(f"btrfs: {name}")
    features = [name for bit, name in _INCOMPAT.items() if incompat & bit]
    unknown = incompat & ~sum(_INCOMPAT)
    if unknown:
        bit = unknown & -unknown
        raise UnsupportedError(f"btrfs feature {_REFUSED.get(bit, hex(bit))}")
    features += [name for bit, name in _COMPAT_RO.items() if compat_ro & bit]
    features += [f"compat_ro:{1 << bit:#x}" for bit in range(64) if compat_ro >> bit & 1 and 1 << bit not in _COMPAT_RO]
    device = _DEVICE.unpack_from(raw, 0xC9)
    block = Superblock(
        fsid=head[1],
        node_id=raw[0x23B:0x24B] if incompat & 0x400 else head[1],
        generation=head[5],
        root=head[6],
        root_level=head[24],
        chunk_root=head[7],
        chunk_root_generation=head[19],
        chunk_root_level=head[25],
        log_root=head[8],
        total_bytes=head[10],
        bytes_used=head[11],
        devices=head[13],
        device_id=device[0],
        device_bytes=device[1],
        sector_size=head[14],
        node_size=head[15],
        checksum=head[23],
        features=tuple(features),
        label=raw[0x12B:0x22B].split(b"\0")[0].decode("utf-8", "backslashreplace"),
        system_chunks=raw[0x32B : 0x32B + min(head[18], 2048)],
        errors=errors or bool(flags & _ERROR),
    )
    for name, size, least in (("sector", block.sector_size, 512), ("node", block.node_size, 4096)):
        if size & (size - 1) or not least <= size <= 65536:
            raise DamagedError(f"a {name} size of {size} bytes")
    if block.node_size < block.sector_size or head[18] > 2048:
        raise DamagedError("a superblock that makes no sense")
    return block
