"""The fixed records of a qcow2 file: bytes → Construct → frozen dataclass. No rule is applied here.

Source: qemu, docs/interop/qcow2.rst, here "spec", sections "Header", "Header extensions", "Snapshots",
"Bitmap directory".
"""

from dataclasses import dataclass
from typing import Any, Final

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from diskfmt.units import KIB, MIB, TIB, align_up, ceil_div

MAGIC: Final = b"QFI\xfb"
HEADER_V2_SIZE: Final = 72
HEADER_V3_SIZE: Final = 104

# Limits: what is larger is refused before anything of that size is read.
MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
MIN_EXTENDED_CLUSTER_BITS: Final = 14
MAX_VIRTUAL_SIZE: Final = 64 * TIB
MAX_HEADER: Final = 4096
MAX_EXTENSION: Final = 64 * KIB
MAX_EXTENSIONS: Final = 64
MAX_NAME: Final = 1023
MAX_FORMAT_NAME: Final = 15
MAX_L1: Final = 32 * MIB
MAX_REFCOUNT_TABLE: Final = 8 * MIB
MAX_REFCOUNT_ORDER: Final = 6
MAX_SNAPSHOTS: Final = 65_536
MAX_SNAPSHOT_TABLE: Final = 64 * MIB
MAX_SNAPSHOT_EXTRA: Final = 1024
MAX_BITMAPS: Final = 65_535
MAX_BITMAP_DIRECTORY: Final = 64 * MIB

DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
DATA_FILE: Final = 1 << 2
COMPRESSION_TYPE: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4
KNOWN_INCOMPATIBLE: Final = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2
LAZY_REFCOUNTS: Final = 1 << 0
KNOWN_COMPATIBLE: Final = LAZY_REFCOUNTS
BITMAPS: Final = 1 << 0
RAW_DATA_FILE: Final = 1 << 1
KNOWN_AUTOCLEAR: Final = BITMAPS | RAW_DATA_FILE

COMPRESSION_NAMES: Final = {0: "zlib", 1: "zstd"}
AES: Final = 1
LUKS: Final = 2

EXT_END: Final = 0
EXT_BACKING_FORMAT: Final = 0xE2792ACA
EXT_FEATURE_TABLE: Final = 0x6803F857
EXT_BITMAPS: Final = 0x23852875
EXT_ENCRYPTION: Final = 0x0537BE77
EXT_DATA_FILE: Final = 0x44415441
EXTENSION_NAMES: Final = {
    EXT_BACKING_FORMAT: "backing file format",
    EXT_FEATURE_TABLE: "feature name table",
    EXT_BITMAPS: "bitmaps",
    EXT_ENCRYPTION: "full disk encryption header",
    EXT_DATA_FILE: "external data file",
}

# Spec, "Feature name table": (type of feature, bit) → the name that a reader without it shows.
_FEATURE_NAMES: Final = {
    (0, 0): "dirty bit",
    (0, 1): "corrupt bit",
    (0, 2): "external data file",
    (0, 3): "compression type",
    (0, 4): "extended L2 entries",
    (1, 0): "lazy refcounts",
    (2, 0): "bitmaps",
}

# L1 and L2 entries: spec, "Cluster mapping".
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
OFFSET_MASK: Final = (1 << 56) - (1 << 9)
L1_RESERVED: Final = ((1 << 63) - (1 << 56)) | 0x1FF
L2_RESERVED: Final = ((1 << 62) - (1 << 56)) | 0x1FE
ZERO_FLAG: Final = 1
SUBCLUSTERS: Final = 32  # of a cluster, where L2 entries are extended
MAX_HOST_OFFSET: Final = 1 << 56

_HEADER = Struct(
    "magic" / Bytes(4),
    "version" / Int32ub,
    "backing_offset" / Int64ub,
    "backing_size" / Int32ub,
    "cluster_bits" / Int32ub,
    "virtual_size" / Int64ub,
    "crypt_method" / Int32ub,
    "l1_size" / Int32ub,
    "l1_offset" / Int64ub,
    "refcount_table_offset" / Int64ub,
    "refcount_table_clusters" / Int32ub,
    "snapshot_count" / Int32ub,
    "snapshots_offset" / Int64ub,
)
_FEATURES = Struct(
    "incompatible" / Int64ub,
    "compatible" / Int64ub,
    "autoclear" / Int64ub,
    "refcount_order" / Int32ub,
    "header_length" / Int32ub,
)
_EXTENSION = Struct("kind" / Int32ub, "length" / Int32ub)
_BITMAPS = Struct("count" / Int32ub, "reserved" / Int32ub, "size" / Int64ub, "offset" / Int64ub)
_SNAPSHOT = Struct(
    "l1_offset" / Int64ub,
    "l1_size" / Int32ub,
    "id_size" / Int16ub,
    "name_size" / Int16ub,
    "seconds" / Int32ub,
    "nanoseconds" / Int32ub,
    "clock" / Int64ub,
    "vm_state_size" / Int32ub,
    "extra_size" / Int32ub,
)
_BITMAP = Struct(
    "table_offset" / Int64ub,
    "table_size" / Int32ub,
    "flags" / Int32ub,
    "kind" / Int8ub,
    "granularity_bits" / Int8ub,
    "name_size" / Int16ub,
    "extra_size" / Int32ub,
)
EXTENSION_SIZE: Final = _EXTENSION.sizeof()
BITMAPS_SIZE: Final = _BITMAPS.sizeof()
SNAPSHOT_SIZE: Final = _SNAPSHOT.sizeof()
BITMAP_SIZE: Final = _BITMAP.sizeof()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One header extension: its type, and where its data is (bytes)."""

    kind: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class L1Table:
    """Where an L1 table is (bytes), and how many entries it has."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2:
    """What `Image.header` is for this format: the header with version 2's implied fields filled in.

    Sizes and offsets are in bytes, except `l1_size` and `snapshot_count` (entries) and
    `refcount_table_clusters`. `compression_type` 0 is deflate, 1 zstd. Of an image that is shown as it was at a
    snapshot, L1 table and virtual size are the snapshot's, and `present` is the table of the present disk.
    """

    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    virtual_size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshot_count: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = HEADER_V2_SIZE
    compression_type: int = 0
    extensions: tuple[Extension, ...] = ()
    present: L1Table | None = None

    @property
    def cluster_size(self) -> int:
        """Bytes per cluster."""
        return 1 << self.cluster_bits

    @property
    def extended(self) -> bool:
        """Whether L2 entries are extended: each cluster in 32 subclusters."""
        return bool(self.incompatible & EXTENDED_L2)

    @property
    def has_data_file(self) -> bool:
        """Whether the guest's clusters are in another file."""
        return bool(self.incompatible & DATA_FILE)

    @property
    def l2_entry_size(self) -> int:
        """Bytes of an L2 entry."""
        return 16 if self.extended else 8

    @property
    def l2_entries(self) -> int:
        """Guest clusters that one L2 table describes."""
        return self.cluster_size // self.l2_entry_size

    @property
    def clusters(self) -> int:
        """Guest clusters of the disk; the last one may end behind it."""
        return ceil_div(self.virtual_size, self.cluster_size)

    @property
    def l1_needed(self) -> int:
        """L1 entries that the guest's disk needs."""
        return ceil_div(self.clusters, self.l2_entries)

    @property
    def l1_end(self) -> int:
        """Where the L1 table ends in the file."""
        return self.l1_offset + 8 * self.l1_size

    @property
    def refblock_entries(self) -> int:
        """Host clusters that one refcount block describes; `refcount_order` must be sane."""
        return self.cluster_size * 8 >> self.refcount_order

    @property
    def host_limit(self) -> int:
        """Where files that this header can describe end at the latest.

        A writer must count every cluster it uses, so a pointer behind what the refcount table can cover is a
        lie; one before that may have been right until the file was cut.
        """
        entries = self.refcount_table_clusters * self.cluster_size // 8
        if self.refcount_order > MAX_REFCOUNT_ORDER or not entries:
            return MAX_HOST_OFFSET
        return min(MAX_HOST_OFFSET, entries * self.refblock_entries * self.cluster_size)

    def extension(self, kind: int) -> Extension | None:
        """The first extension of a type, or None."""
        return next((extension for extension in self.extensions if extension.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BitmapsHeader:
    """The data of the bitmaps extension: number of bitmaps, and their directory (bytes)."""

    count: int
    reserved: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """The fixed part of an entry of the snapshot table. `l1_size` in entries, `clock` in nanoseconds."""

    l1_offset: int
    l1_size: int
    id_size: int
    name_size: int
    seconds: int
    nanoseconds: int
    clock: int
    vm_state_size: int
    extra_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BitmapRecord:
    """The fixed part of an entry of the bitmap directory. `table_size` in entries."""

    table_offset: int
    table_size: int
    flags: int
    kind: int
    granularity_bits: int
    name_size: int
    extra_size: int


def _values(parsed: Any) -> dict[str, Any]:
    """The fields of a parsed record, without what Construct adds."""
    return {name: value for name, value in parsed.items() if not name.startswith("_")}


def parse_fixed(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Magic and fields of the 72 bytes that every version has."""
    fields = _values(_HEADER.parse(data))
    return fields.pop("magic"), fields


def parse_features(data: bytes) -> dict[str, Any]:
    """The fields that version 3 adds, from bytes 72 to 103."""
    return _values(_FEATURES.parse(data))


def parse_extension(data: bytes) -> tuple[int, int]:
    """Type and length of a header extension."""
    parsed = _EXTENSION.parse(data)
    return int(parsed.kind), int(parsed.length)


def parse_bitmaps(data: bytes) -> BitmapsHeader:
    """The bitmaps extension."""
    return BitmapsHeader(**_values(_BITMAPS.parse(data)))


def parse_snapshot(data: bytes) -> SnapshotRecord:
    """The fixed part of a snapshot table entry."""
    return SnapshotRecord(**_values(_SNAPSHOT.parse(data)))


def parse_bitmap(data: bytes) -> BitmapRecord:
    """The fixed part of a bitmap directory entry."""
    return BitmapRecord(**_values(_BITMAP.parse(data)))


def build_header(
    fields: dict[str, int], *, compression_type: int = 0, backing: bytes = b"", backing_format: bytes = b""
) -> bytes:
    """The header of a new image: extensions, the names of the features that version 3 has, name of the backing file.

    `fields` are those of `Qcow2` that are not zero. The names of the features are left out where the rest would not
    fit into a cluster with them. The result may be longer than a cluster only if `backing` is.
    """
    extensions = _build_extension(EXT_BACKING_FORMAT, backing_format) if backing_format else b""
    version_3 = b""
    if fields["version"] == 3:
        features = {
            "incompatible": COMPRESSION_TYPE if compression_type else 0,
            "compatible": 0,
            "autoclear": 0,
            "refcount_order": fields.get("refcount_order", 4),
            "header_length": HEADER_V3_SIZE + 8,
        }
        version_3 = _FEATURES.build(features) + bytes((compression_type,)).ljust(8, b"\0")
        names = b"".join(bytes(key) + name.encode().ljust(46, b"\0") for key, name in _FEATURE_NAMES.items())
        table = _build_extension(EXT_FEATURE_TABLE, names)
        room = (1 << fields["cluster_bits"]) - HEADER_V2_SIZE - len(version_3) - EXTENSION_SIZE
        if len(extensions) + len(table) + len(backing) <= room:
            extensions += table
    tail = version_3 + extensions + _build_extension(EXT_END, b"")
    named = {"backing_offset": HEADER_V2_SIZE + len(tail) if backing else 0, "backing_size": len(backing)}
    nothing = dict.fromkeys(("crypt_method", "snapshot_count", "snapshots_offset"), 0)
    fixed: bytes = _HEADER.build({"magic": MAGIC, **nothing, **fields, **named})
    return fixed + tail + backing


def _build_extension(kind: int, data: bytes) -> bytes:
    head: bytes = _EXTENSION.build({"kind": kind, "length": len(data)})
    return head + data.ljust(align_up(len(data), 8), b"\0")
