"""qcow2 images from the specification, packed by hand. Shares nothing with src/.

A hostile image is a good one with one field changed: `patch` changes a field of the header, `poke` any number.
"""

import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import zstandard

HEADER = {  # name: (offset, format)
    "magic": (0, "4s"),
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_size": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "crypt_method": (32, ">I"),
    "l1_size": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"),
    "refcount_table_clusters": (56, ">I"),
    "nb_snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "compression_type": (104, "B"),
}
COPIED = 1 << 63
COMPRESSED = 1 << 62

BACKING_FORMAT = 0xE2792ACA
FEATURE_TABLE = 0x6803F857
BITMAPS = 0x23852875
ENCRYPTION = 0x0537BE77
DATA_FILE = 0x44415441

Cluster = tuple[str, bytes]
"""What a guest cluster is: `data`, `deflate` or `zstd` with its bytes; `zero` or `zero_allocated`, without.

Where entries are extended also `sub STORED ZERO`, with the two bitmaps in hex and the bytes of the cluster; one that
stores nothing has a place if it has bytes."""

ALL = 0xFFFF_FFFF


@dataclass(kw_only=True)
class Built:
    """An image and where its parts are: `l2` by L1 index, `places` and `lengths` by guest cluster."""

    data: bytearray = field(repr=False)
    cluster: int
    l1: int
    l2: dict[int, int] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    table: int = 0
    block: int = 0
    extended: bool = False

    def entry(self, guest_cluster: int) -> int:
        """Where the L2 entry of a guest cluster is in the file."""
        size = 16 if self.extended else 8
        index, at = divmod(guest_cluster, self.cluster // size)
        return self.l2[index] + size * at

    def patch(self, **fields: int | bytes) -> "Built":
        """Change fields of the header."""
        for name, value in fields.items():
            offset, form = HEADER[name]
            struct.pack_into(form, self.data, offset, value)
        return self

    def poke(self, offset: int, value: int, form: str = ">Q") -> "Built":
        """Change a number anywhere."""
        struct.pack_into(form, self.data, offset, value)
        return self

    def peek(self, offset: int, form: str = ">Q") -> int:
        """A number of the file."""
        value: int = struct.unpack_from(form, self.data, offset)[0]
        return value


def extension(kind: int, data: bytes) -> bytes:
    """One header extension with its padding."""
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def feature_name(kind: int, bit: int, name: str) -> bytes:
    """One entry of the feature name table."""
    return bytes((kind, bit)) + name.encode().ljust(46, b"\0")


def snapshot(l1_offset: int, l1_size: int, *, id: bytes = b"1", name: bytes = b"one",
             extra: bytes = bytes(16)) -> bytes:  # fmt: skip
    """One entry of the snapshot table."""
    times = (1_700_000_000, 5, 7_000_000_008)
    entry = struct.pack(">QIHHIIQII", l1_offset, l1_size, len(id), len(name), *times, 9, len(extra))
    entry += extra + id + name
    return entry.ljust(-(-len(entry) // 8) * 8, b"\0")


def bitmap(
    table_offset: int,
    table_size: int,
    *,
    flags: int = 2,
    kind: int = 1,
    bits: int = 16,
    name: bytes = b"b",
    extra: bytes = b"",
) -> bytes:
    """One entry of the bitmap directory."""
    entry = struct.pack(">QIIBBHI", table_offset, table_size, flags, kind, bits, len(name), len(extra)) + extra + name
    return entry.ljust(-(-len(entry) // 8) * 8, b"\0")


def encode(kind: str, data: bytes) -> bytes:
    """A frame."""
    if kind == "zstd":
        return zstandard.ZstdCompressor().compress(data)
    deflate = zlib.compressobj(wbits=-12)
    return deflate.compress(data) + deflate.flush()


def image(
    clusters: Mapping[int, Cluster],
    *,
    size: int,
    bits: int = 12,
    version: int = 3,
    extensions: Sequence[bytes] = (),
    backing: bytes = b"",
    order: int = 4,
    shuffle: int | None = None,
    pad: bool = True,
    extended: bool = False,
) -> Built:
    """An image without a fault. `shuffle` puts the clusters in a random order; `pad` fills the last one."""
    cluster = 1 << bits
    per_table = cluster // (16 if extended else 8)
    l1_size = max(1, -(-size // (cluster * per_table)))
    l1_clusters = -(-l1_size * 8 // cluster)
    built = Built(data=bytearray(cluster * (2 + l1_clusters)), cluster=cluster, l1=2 * cluster, table=cluster,
                  extended=extended)  # fmt: skip
    zstd = any(kind == "zstd" for kind, _ in clusters.values())
    for index in sorted({number // per_table for number in clusters}):
        built.l2[index] = len(built.data)
        struct.pack_into(">Q", built.data, built.l1 + 8 * index, len(built.data) | COPIED)
        built.data += bytes(cluster)
    numbers = list(clusters)
    if shuffle is not None:
        random.Random(shuffle).shuffle(numbers)
    for number in numbers:
        _store(built, number, *clusters[number])
    counts = _counts(built, l1_clusters)
    if pad:
        _align(built)
        _refcounts(built, counts, order)
    header = _header(size=size, bits=bits, version=version, l1_size=l1_size, order=order, zstd=zstd)
    if extended:
        header = header[:72] + struct.pack(">Q", 16 | 8 * zstd) + header[80:]
    area = b"".join(extensions) + struct.pack(">II", 0, 0)
    built.data[: len(header) + len(area)] = header + area
    if backing:
        offset = len(header) + len(area)
        built.data[offset : offset + len(backing)] = backing
        built.patch(backing_offset=offset, backing_size=len(backing))
    return built


def _align(built: Built) -> None:
    built.data += bytes(-len(built.data) % built.cluster)


def _bitmaps(kind: str) -> tuple[int, int]:
    """Which subclusters of a cluster are stored, and which read as zero."""
    if kind.startswith("sub "):
        stored, zero = (int(word, 16) for word in kind.split()[1:])
        return stored, zero
    return ALL if kind == "data" else 0, ALL if kind.startswith("zero") else 0


def _store(built: Built, number: int, kind: str, data: bytes) -> None:
    if built.extended:
        stored, zero = _bitmaps(kind)
        built.poke(built.entry(number) + 8, stored | zero << 32)
        if not stored and not data and kind not in ("zero_allocated", "deflate", "zstd"):
            return
    elif kind == "zero":
        built.poke(built.entry(number), 1)
        return
    if kind in ("deflate", "zstd"):
        frame = encode(kind, data.ljust(built.cluster, b"\0"))
        offset = len(built.data)
        sectors = (offset + len(frame) - 1) // 512 - offset // 512
        shift = 62 - (built.cluster.bit_length() - 1 - 8)
        built.poke(built.entry(number), offset | sectors << shift | COMPRESSED)
        built.data += frame
        built.lengths[number] = len(frame)
    else:
        _align(built)
        offset = len(built.data)
        built.poke(built.entry(number), offset | COPIED | (kind == "zero_allocated" and not built.extended))
        built.data += data.ljust(built.cluster, b"\0")
    built.places[number] = offset


def _counts(built: Built, l1_clusters: int) -> dict[int, int]:
    """References to each cluster by what is there so far."""
    counts = dict.fromkeys(range(2 + l1_clusters), 1)
    ranges = [(offset, built.cluster) for offset in built.l2.values()]
    ranges += [(offset, built.lengths.get(number, built.cluster)) for number, offset in built.places.items()]
    for offset, length in ranges:
        for index in range(offset // built.cluster, (offset + length - 1) // built.cluster + 1):
            counts[index] = counts.get(index, 0) + 1
    return counts


def _refcounts(built: Built, counts: dict[int, int], order: int) -> None:
    """Append refcount blocks that describe everything and themselves; the table has one cluster."""
    per_block = built.cluster * 8 >> order
    used = len(built.data) // built.cluster
    blocks = 1
    while used + blocks > blocks * per_block:
        blocks += 1
    assert blocks <= built.cluster // 8, "the refcount table has one cluster"
    built.block = len(built.data)
    packed = 0
    for index in range(used, used + blocks):
        counts[index] = 1
    for index, count in counts.items():
        if order < 3:  # the lowest bits of a byte are the first entry
            packed |= count << index * (1 << order)
    for index in range(blocks):
        built.poke(built.table + 8 * index, built.block + index * built.cluster)
    if order < 3:
        built.data += packed.to_bytes(blocks * built.cluster, "little")
        return
    area = bytearray(blocks * built.cluster)
    for index, count in counts.items():
        struct.pack_into(">" + "BHIQ"[order - 3], area, index << order - 3, count)
    built.data += area


def _header(*, size: int, bits: int, version: int, l1_size: int, order: int, zstd: bool) -> bytes:
    cluster = 1 << bits
    tables = (l1_size, 2 * cluster, cluster, 1)
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, size, 0, *tables, 0, 0)
    if version == 2:
        return header
    header += struct.pack(">QQQII", 8 if zstd else 0, 0, 0, order, 112)
    return header + bytes((zstd, 0, 0, 0, 0, 0, 0, 0))


def sparse(path: str, *, size: int, bits: int) -> int:
    """Write an image of which every L2 table is there, as a sparse file; its last cluster is data. Returns its length.

    Only what is not zero is written. `size`: a multiple of what an L2 table describes.
    """
    cluster = 1 << bits
    tables = size // cluster // (cluster // 8)
    first = cluster + -(-tables * 8 // cluster) * cluster
    data = first + tables * cluster
    block, blocks = data + cluster, 1
    while block + (blocks + 1) * cluster > blocks * (cluster // 2) * cluster:
        blocks += 1
    table = block + blocks * cluster
    assert blocks * 8 <= cluster, "the refcount table has one cluster"
    used = table // cluster + 1
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, bits, size, 0, tables, cluster, table, 1, 0, 0)
    parts = {
        0: header + struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(16),
        cluster: b"".join(struct.pack(">Q", first + index * cluster | COPIED) for index in range(tables)),
        data - 8: struct.pack(">Q", data | COPIED) + b"x" * cluster,
        block: struct.pack(">H", 1) * used,
        table: b"".join(struct.pack(">Q", block + index * cluster) for index in range(blocks)),
    }
    with open(path, "wb") as file:
        for at, content in parts.items():
            file.seek(at)
            file.write(content)
        file.truncate(used * cluster)
    return used * cluster
