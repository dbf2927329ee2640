"""The records of a VHD as they lie in the file, their numbers and limits; nothing is read and judged here.

A fixed disk is the guest's bytes followed by a footer. A dynamic or differencing disk is

    copy of the footer | … dynamic header … block allocation table (BAT) … blocks … | footer

where each block is a sector bitmap followed by the block's data. All numbers are big-endian.
Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (October 11, 2006), here "VHD spec".
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from diskfmt.units import GIB, KIB, MIB, SECTOR, align_up, ceil_div

FOOTER_SIZE: Final = 512
OLD_FOOTER_SIZE: Final = 511  # Virtual PC before 2004 (VHD spec, "Hard Disk Footer Format")
FOOTER_COOKIE: Final = b"conectix"
DYNAMIC_SIZE: Final = 1024
DYNAMIC_COOKIE: Final = b"cxsparse"
VERSION: Final = 0x00010000
NO_OFFSET: Final = 0xFFFFFFFFFFFFFFFF
NO_OFFSET_OLD: Final = 0xFFFFFFFF  # what the specification's text says for the same field
UNUSED: Final = 0xFFFFFFFF  # a BAT entry without a block

FIXED: Final = 2
DYNAMIC: Final = 3
DIFFERENCING: Final = 4
TYPE_NAMES: Final = {FIXED: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}

FEATURE_TEMPORARY: Final = 1
FEATURE_RESERVED: Final = 2  # "must always be set to 1"

MAX_VIRTUAL_SIZE: Final = 2040 * GIB
MIN_BLOCK: Final = 4 * KIB
USUAL_MIN_BLOCK: Final = 512 * KIB
MAX_BLOCK: Final = 256 * MIB
EXTRA_ENTRIES_PERCENT: Final = 1
GROWN_ENTRIES: Final = 1 << 20  # XenServer makes the BAT large enough for a disk of 2 TiB, whatever the disk has now
MAX_LOCATOR_TEXT: Final = 64 * KIB  # bytes of a parent locator that are read: more than any name that Windows has

MAX_GEOMETRY: Final = (65535, 16, 255)
GEOMETRY_CREATORS: Final = frozenset({b"vpc ", b"qemu"})
SIZE_CREATORS: Final = frozenset({b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"})
"""Creators that all readers with a table of creators take by current size. Others are taken that way too, but
not by every reader."""

# Versions of tapdisk that go their own way; see `docs/formats/vhd.md`, "XenServer".
OLD_TAPDISK: Final = 0x00000001  # 0.1: sector bitmaps of little-endian words, UTF-16 in the byte order of the machine
TAPDISK_WITHOUT_MAP: Final = 0x00010001  # 1.1: the last that may lack a bat map; later ones cannot be read without
_HIDES_WITHOUT_CHECKSUM: Final = (OLD_TAPDISK, TAPDISK_WITHOUT_MAP)

EPOCH: Final = 946684800  # 2000-01-01T00:00:00Z in seconds since 1970: time stamps count from here

_FOOTER: Final = Struct(
    "cookie" / Bytes(8),
    "features" / Int32ub,
    "version" / Int32ub,
    "data_offset" / Int64ub,
    "timestamp" / Int32ub,
    "creator" / Bytes(4),
    "creator_version" / Int32ub,
    "creator_os" / Bytes(4),
    "original_size" / Int64ub,
    "current_size" / Int64ub,
    "cylinders" / Int16ub,
    "heads" / Int8ub,
    "sectors" / Int8ub,
    "disk_type" / Int32ub,
    "checksum" / Int32ub,
    "unique_id" / Bytes(16),
    "saved_state" / Int8ub,
    "hidden" / Int8ub,  # reserved in the specification; XenServer's mark
    "reserved" / Bytes(426),
)
_FOOTER_CHECKSUM_AT: Final = 64

_DYNAMIC: Final = Struct(
    "cookie" / Bytes(8),
    "data_offset" / Int64ub,
    "table_offset" / Int64ub,
    "version" / Int32ub,
    "max_entries" / Int32ub,
    "block_size" / Int32ub,
    "checksum" / Int32ub,
    "parent_id" / Bytes(16),
    "parent_timestamp" / Int32ub,
    "reserved1" / Bytes(4),
    "parent_name" / Bytes(512),
    "locators" / Bytes(192),
    "reserved2" / Bytes(256),
)
_DYNAMIC_CHECKSUM_AT: Final = 36
PARENT_NAME_AT: Final = 64
PARENT_NAME_SIZE: Final = 512
LOCATORS_AT: Final = 576
LOCATORS_SIZE: Final = 192

_LOCATOR: Final = Struct(
    "platform" / Bytes(4),
    "space" / Int32ub,
    "length" / Int32ub,
    "reserved" / Int32ub,
    "offset" / Int64ub,
)
_BAT_MAP: Final = Struct(
    "cookie" / Bytes(8),
    "offset" / Int64ub,
    "sectors" / Int32ub,
    "version" / Int32ub,
    "checksum" / Int32ub,
)
BAT_MAP_COOKIE: Final = b"tdbatmap"
BAT_MAP_VERSION: Final = 0x00010002
_LOCATOR_SIZE: Final = 24
_LOCATORS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """The fields of one copy of the footer. `checksum` is the stored one."""

    cookie: bytes = FOOTER_COOKIE
    features: int = FEATURE_RESERVED
    version: int = VERSION
    data_offset: int
    timestamp: int
    creator: bytes
    creator_version: int
    creator_os: bytes
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors: int
    disk_type: int
    checksum: int = 0
    unique_id: bytes
    saved_state: int = 0
    hidden: int = 0
    reserved: bytes = bytes(426)

    @property
    def geometry(self) -> tuple[int, int, int]:
        """Cylinders, heads, sectors per track."""
        return self.cylinders, self.heads, self.sectors

    @property
    def geometry_size(self) -> int:
        """Bytes of the disk by its geometry."""
        return self.cylinders * self.heads * self.sectors * SECTOR

    @property
    def virtual_size(self) -> int:
        """Bytes of the guest disk: by geometry or by current size, as the creator means it."""
        by_geometry = self.creator in GEOMETRY_CREATORS and self.geometry != MAX_GEOMETRY
        return self.geometry_size if by_geometry and self.geometry_size else self.current_size

    @property
    def tapdisk(self) -> bool:
        """Whether tapdisk or another tool of XenServer wrote the image."""
        return self.creator.startswith(b"tap")

    @property
    def old_bits(self) -> bool:
        """Whether the bits in each byte of the sector bitmaps go from the lowest to the highest."""
        return self.tapdisk and self.creator_version == OLD_TAPDISK


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicHeader:
    """The fields of the header of a dynamic or differencing disk. `max_entries`: entries of the BAT."""

    cookie: bytes = DYNAMIC_COOKIE
    data_offset: int = NO_OFFSET
    table_offset: int
    version: int = VERSION
    max_entries: int
    block_size: int
    checksum: int = 0
    parent_id: bytes = bytes(16)
    parent_timestamp: int = 0
    reserved1: bytes = bytes(4)
    parent_name: bytes = bytes(512)
    locators: bytes = bytes(192)
    reserved2: bytes = bytes(256)

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap in front of each block, whole sectors."""
        return bitmap_size(self.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Where the name of the parent is in one platform's spelling. `length` is in bytes.

    `space`: what is set apart for it, in sectors as the specification says, or in bytes as most writers mean it.
    """

    platform: bytes
    space: int
    length: int
    reserved: int
    offset: int

    @property
    def room(self) -> int:
        """Bytes that are set apart: less than 512 can only be sectors."""
        return self.space * SECTOR if self.space < SECTOR else self.space


@dataclass(frozen=True, slots=True, kw_only=True)
class BatMap:
    """XenServer's map of blocks of which all sectors are stored: `sectors` of bits at `offset`."""

    cookie: bytes
    offset: int
    sectors: int
    version: int
    checksum: int


def checksum(data: bytes, at: int) -> int:
    """One's complement of the sum of all bytes but the four at `at`. Source: VHD spec, "Checksum"."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def bitmap_size(block_size: int) -> int:
    """Bytes of the sector bitmap of a block: a bit per sector, padded to whole sectors."""
    return align_up(ceil_div(block_size // SECTOR, 8), SECTOR)


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track for a disk of `size` bytes.

    Source: VHD spec, appendix "CHS Calculation".
    """
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors, tracks = 17, total // 17
    heads = max(ceil_div(tracks, 1024), 4)
    if tracks >= heads * 1024 or heads > 16:
        sectors, heads, tracks = 31, 16, total // 31
    if tracks >= heads * 1024:
        sectors, heads, tracks = 63, 16, total // 63
    return tracks // heads, heads, sectors


def parse_footer(data: bytes) -> tuple[Footer, bool]:
    """The footer in 511 or 512 bytes, and whether its checksum is right. The cookie is not judged."""
    whole = data.ljust(FOOTER_SIZE, b"\0")
    footer = Footer(**_fields(_FOOTER, whole))
    total = checksum(whole, _FOOTER_CHECKSUM_AT)
    if footer.tapdisk and footer.creator_version in _HIDES_WITHOUT_CHECKSUM:
        return footer, footer.checksum in (total, (total + footer.hidden) & 0xFFFFFFFF)
    return footer, footer.checksum == total


def parse_dynamic(data: bytes) -> tuple[DynamicHeader, bool]:
    """The dynamic header in 1024 bytes, and whether its checksum is right. The cookie is not judged."""
    header = DynamicHeader(**_fields(_DYNAMIC, data))
    return header, header.checksum == checksum(data, _DYNAMIC_CHECKSUM_AT)


def parse_locators(data: bytes) -> tuple[Locator, ...]:
    """The parent locators in 192 bytes that are in use."""
    parts = [data[_LOCATOR_SIZE * i : _LOCATOR_SIZE * (i + 1)] for i in range(_LOCATORS)]
    return tuple(Locator(**_fields(_LOCATOR, part)) for part in parts if any(part))


def parse_bat_map(data: bytes) -> BatMap:
    """The header of a bat map in 28 bytes or more. The cookie is not judged."""
    return BatMap(**_fields(_BAT_MAP, data))


def pack_locator(locator: Locator) -> bytes:
    """The 24 bytes of a parent locator."""
    return bytes(_LOCATOR.build(asdict(locator)))


def _fields(struct: Struct, data: bytes) -> dict[str, Any]:
    # Construct adds keys of its own, which start with an underscore.
    return {name: value for name, value in struct.parse(data).items() if not name.startswith("_")}


def pack_footer(footer: Footer) -> bytes:
    """The 512 bytes of a footer, with its checksum."""
    return _pack(_FOOTER, asdict(footer), _FOOTER_CHECKSUM_AT)


def pack_dynamic(header: DynamicHeader) -> bytes:
    """The 1024 bytes of a dynamic header, with its checksum."""
    return _pack(_DYNAMIC, asdict(header), _DYNAMIC_CHECKSUM_AT)


def _pack(struct: Struct, values: dict[str, object], at: int) -> bytes:
    plain = bytes(struct.build(values | {"checksum": 0}))
    return bytes(struct.build(values | {"checksum": checksum(plain, at)}))
