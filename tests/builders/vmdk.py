"""VMDK images from the specification, packed by hand. Shares nothing with src/.

A hostile image is a good one with one field changed: `patch` changes a field of a header or footer, `entry` one of
a grain directory or table.
"""

import struct
import zlib
from collections.abc import Mapping

SECTOR = 512
ENTRIES = 512
FIELDS = {  # name: (offset, format) in the 512 bytes of a header: struct SparseExtentHeader of the specification
    "magicNumber": (0, "<I"),
    "version": (4, "<I"),
    "flags": (8, "<I"),
    "capacity": (12, "<Q"),
    "grainSize": (20, "<Q"),
    "descriptorOffset": (28, "<Q"),
    "descriptorSize": (36, "<Q"),
    "numGTEsPerGT": (44, "<I"),
    "rgdOffset": (48, "<Q"),
    "gdOffset": (56, "<Q"),
    "overHead": (64, "<Q"),
    "uncleanShutdown": (72, "<B"),
    "singleEndLineChar": (73, "<B"),
    "nonEndLineChar": (74, "<B"),
    "doubleEndLineChar1": (75, "<B"),
    "doubleEndLineChar2": (76, "<B"),
    "compressAlgorithm": (77, "<H"),
    "pad": (79, "<B"),
    "lastPad": (511, "<B"),
}
GD_AT_END = 0xFFFFFFFFFFFFFFFF
DESCRIPTOR_SECTORS = 20
RGD_AT = 21  # sectors, of the sparse images
STREAM_OVERHEAD = 128
DDB = (
    'ddb.adapterType = "ide"',
    'ddb.geometry.sectors = "63"',
    'ddb.geometry.heads = "16"',
    'ddb.geometry.cylinders = "10402"',
)


def header(**values: int) -> bytes:
    """512 bytes of a header; fields that are not named are those of an empty monolithicSparse disk."""
    fields = {
        "magicNumber": 0x564D444B,
        "version": 1,
        "flags": 3,
        "grainSize": 128,
        "descriptorOffset": 1,
        "descriptorSize": DESCRIPTOR_SECTORS,
        "numGTEsPerGT": ENTRIES,
        "overHead": 128,
        "singleEndLineChar": 10,
        "nonEndLineChar": 32,
        "doubleEndLineChar1": 13,
        "doubleEndLineChar2": 10,
    } | values
    data = bytearray(SECTOR)
    for name, value in fields.items():
        offset, form = FIELDS[name]
        struct.pack_into(form, data, offset, value)
    return bytes(data)


def patch(image: bytes, field: str, value: int, at: int = 0) -> bytes:
    """The image with one field of the header at `at` changed."""
    offset, form = FIELDS[field]
    data = bytearray(image)
    struct.pack_into(form, data, at + offset, value)
    return bytes(data)


def field(image: bytes, name: str, at: int = 0) -> int:
    """A field of the header at `at`."""
    offset, form = FIELDS[name]
    return int(struct.unpack_from(form, image, at + offset)[0])


def put(image: bytes, offset: int, data: bytes) -> bytes:
    """The image with `data` at `offset`."""
    return image[:offset] + data + image[offset + len(data) :]


def entry_at(image: bytes, index: int, *, redundant: bool = False, at: int = 0) -> int:
    """Where the grain table entry number `index` of the disk is (bytes); `at`: the header or footer to go by."""
    directory = field(image, "rgdOffset" if redundant else "gdOffset", at) * SECTOR
    table = struct.unpack_from("<I", image, directory + 4 * (index // ENTRIES))[0]
    return int(table) * SECTOR + 4 * (index % ENTRIES)


def set_u32(image: bytes, offset: int, value: int) -> bytes:
    """The image with a little-endian number of four bytes at `offset`."""
    return put(image, offset, struct.pack("<I", value))


def get_u32(image: bytes, offset: int) -> int:
    """The little-endian number of four bytes at `offset`."""
    return int(struct.unpack_from("<I", image, offset)[0])


def text(
    create_type: str,
    extents: tuple[str, ...],
    *,
    head: tuple[str, ...] = ("version=1", "CID=fffffffe", "parentCID=ffffffff"),
    more: tuple[str, ...] = (),
    ddb: tuple[str, ...] = DDB,
) -> bytes:
    """The text of a descriptor, in the order of the specification's example."""
    lines = ("# Disk DescriptorFile", *head, f'createType="{create_type}"', *more, "# Extent description", *extents,
             "# The Disk Data Base", "#DDB", *ddb)  # fmt: skip
    return "".join(f"{line}\n" for line in lines).encode()


def sparse(
    grains: Mapping[int, bytes],
    *,
    capacity: int,
    grain: int = 128,
    zeroed: tuple[int, ...] = (),
    absent_tables: tuple[int, ...] = (),
    descriptor: bytes | None = None,
    **fields: int,
) -> bytes:
    """A monolithicSparse image; `capacity` and `grain` in sectors, `grains`: data by grain number, in file order."""
    tables = -(-capacity // (grain * ENTRIES))
    directory_sectors = -(-4 * tables // SECTOR)
    copy_sectors = directory_sectors + 4 * tables
    overhead = -(-(RGD_AT + 2 * copy_sectors) // grain) * grain
    entries = [0] * (tables * ENTRIES)
    body = bytearray()
    for number, data in grains.items():
        entries[number] = overhead + len(body) // SECTOR
        body += data.ljust(grain * SECTOR, b"\0")
    for number in zeroed:
        entries[number] = 1
    image = bytearray(overhead * SECTOR)
    if descriptor is None:
        descriptor = text("monolithicSparse", (f'RW {capacity} SPARSE "d.vmdk"',))
    image[:SECTOR] = header(
        **{"capacity": capacity, "grainSize": grain, "rgdOffset": RGD_AT, "gdOffset": RGD_AT + copy_sectors,
           "overHead": overhead, "version": 2 if zeroed else 1, "flags": 7 if zeroed else 3} | fields
    )  # fmt: skip
    image[SECTOR : SECTOR + len(descriptor)] = descriptor
    for start in (RGD_AT, RGD_AT + copy_sectors):
        for table in range(tables):
            place = start + directory_sectors + 4 * table
            if table not in absent_tables:
                struct.pack_into("<I", image, start * SECTOR + 4 * table, place)
                struct.pack_into(
                    f"<{ENTRIES}I", image, place * SECTOR, *entries[table * ENTRIES : (table + 1) * ENTRIES]
                )
    return bytes(image + body)


def marker(value: int, size: int, kind: int) -> bytes:
    """A sector with a metadata marker."""
    return struct.pack("<QII", value, size, kind).ljust(SECTOR, b"\0")


def frame(lba: int, data: bytes, size: int | None = None) -> bytes:
    """A grain marker and the compressed grain, whole sectors."""
    packed = zlib.compress(data, 1)
    whole = struct.pack("<QI", lba, len(packed) if size is None else size) + packed
    return whole.ljust(-(-len(whole) // SECTOR) * SECTOR, b"\0")


def stream(
    grains: Mapping[int, bytes],
    *,
    capacity: int,
    grain: int = 128,
    pad: bool = True,
    descriptor: bytes | None = None,
    **fields: int,
) -> bytes:
    """A streamOptimized image as the specification draws it; `grains` in ascending order.

    `pad`: a last grain that the disk ends in is filled up with zeroes, otherwise it is as long as its data.
    """
    tables = -(-capacity // (grain * ENTRIES))
    image = bytearray(STREAM_OVERHEAD * SECTOR)
    directory = [0] * tables
    for table in range(tables):
        entries = [0] * ENTRIES
        for number in range(table * ENTRIES, (table + 1) * ENTRIES):
            if number in grains:
                entries[number % ENTRIES] = len(image) // SECTOR
                image += frame(number * grain, grains[number].ljust(grain * SECTOR if pad else 0, b"\0"))
        if any(entries):
            image += marker(4, 0, 1)
            directory[table] = len(image) // SECTOR
            image += struct.pack(f"<{ENTRIES}I", *entries)
    packed = struct.pack(f"<{tables}I", *directory)
    packed = packed.ljust(-(-len(packed) // SECTOR) * SECTOR, b"\0")
    image += marker(len(packed) // SECTOR, 0, 2)
    place = len(image) // SECTOR
    image += packed
    if descriptor is None:
        descriptor = text("streamOptimized", (f'RW {capacity} SPARSE "d.vmdk"',))
    values = {"capacity": capacity, "grainSize": grain, "version": 3, "flags": 0x30001, "compressAlgorithm": 1,
              "gdOffset": GD_AT_END} | fields  # fmt: skip
    image[:SECTOR] = header(**values)
    image[SECTOR : SECTOR + len(descriptor)] = descriptor
    image += marker(1, 0, 3) + header(**values | {"gdOffset": place}) + marker(0, 0, 0)
    return bytes(image)


def footer_at(image: bytes) -> int:
    """Where the footer of a streamOptimized image is (bytes)."""
    return len(image) - 2 * SECTOR


def flat_text(sectors: int, piece: str = "d-flat.vmdk", start: int = 0) -> bytes:
    """The descriptor of a monolithicFlat disk."""
    return text("monolithicFlat", (f'RW {sectors} FLAT "{piece}" {start}',))


def cowd(
    grains: Mapping[int, bytes],
    *,
    capacity: int,
    grain: int = 1,
    absent_tables: tuple[int, ...] = (),
    **fields: int,
) -> bytes:
    """A COWD piece; `capacity` and `grain` in sectors, `grains`: data by grain number, in file order."""
    entries = 4096
    tables = -(-capacity // (grain * entries))
    present = [table for table in range(tables) if table not in absent_tables]
    directory_sectors = -(-4 * tables // SECTOR)
    first = 4 + directory_sectors + len(present) * entries * 4 // SECTOR
    values = {"magic": 0x44574F43, "version": 1, "flags": 3, "numSectors": capacity, "grainSize": grain, "gdOffset": 4,
              "numGDEntries": tables, "freeSector": 0} | fields  # fmt: skip
    image = bytearray(first * SECTOR)
    struct.pack_into("<8I", image, 0, *(values[name] for name in (
        "magic", "version", "flags", "numSectors", "grainSize", "gdOffset", "numGDEntries", "freeSector",
    )))  # fmt: skip
    struct.pack_into("<I", image, 1648, fields.get("uncleanShutdown", 0))
    for index, table in enumerate(present):
        struct.pack_into("<I", image, 2048 + 4 * table, 4 + directory_sectors + index * 32)
    for number, data in grains.items():
        index = present.index(number // entries)
        at = (4 + directory_sectors + index * 32) * SECTOR + 4 * (number % entries)
        struct.pack_into("<I", image, at, len(image) // SECTOR)
        image += data.ljust(grain * SECTOR, b"\0")
    return bytes(image)


SESPARSE_FIELDS = {  # sectors of the header, eight bytes each
    "magic": 0, "version": 8, "capacity": 16, "grainSize": 24, "grainTableSize": 32, "flags": 40, "reserved1": 48,
    "volatileHeader": 80, "volatileHeaderSize": 88, "journalHeader": 96, "journalHeaderSize": 104, "journal": 112,
    "journalSize": 120, "grainDirectory": 128, "grainDirectorySize": 136, "grainTables": 144, "grainTablesSize": 152,
    "freeBitmap": 160, "freeBitmapSize": 168, "backmap": 176, "backmapSize": 184, "grains": 192, "grainsSize": 200,
    "pad": 208,
}  # fmt: skip


def sesparse(grains: Mapping[int, bytes], *, capacity: int, other: Mapping[int, int] | None = None) -> bytes:
    """A seSparse piece; `grains`: 4 KiB of data by grain number, in file order; `other`: raw entries by number."""
    entries = 4096
    other = other or {}
    tables = -(-capacity // (8 * entries))
    used = sorted({number // entries for number in (*grains, *other)})
    directory = -(-8 * tables // SECTOR)
    at = {"volatileHeader": 1, "journalHeader": 2, "journal": 4, "grainDirectory": 8}
    at["grainTables"] = 8 + directory
    at["freeBitmap"] = at["grainTables"] + 64 * max(1, len(used))
    at["backmap"] = at["freeBitmap"] + 8
    at["grains"] = at["backmap"] + 8
    sizes = {"volatileHeader": 1, "journalHeader": 2, "journal": 4, "grainDirectory": directory,
             "grainTables": 64 * max(1, len(used)), "freeBitmap": 8, "backmap": 8, "grains": capacity + 8}  # fmt: skip
    image = bytearray(at["grains"] * SECTOR)
    values = {"magic": 0xCAFEBABE, "version": 0x200000001, "capacity": capacity, "grainSize": 8, "grainTableSize": 64}
    values |= at | {f"{name}Size": size for name, size in sizes.items()}
    for name, value in values.items():
        struct.pack_into("<Q", image, SESPARSE_FIELDS[name], value)
    struct.pack_into("<QQQQ", image, SECTOR, 0xCAFECAFE, 1, 1, 0)
    for index, table in enumerate(used):
        struct.pack_into("<Q", image, at["grainDirectory"] * SECTOR + 8 * table, 1 << 60 | index)

    def put_entry(number: int, value: int) -> None:
        table = at["grainTables"] * SECTOR + used.index(number // entries) * 64 * SECTOR
        struct.pack_into("<Q", image, table + 8 * (number % entries), value)

    for index, (number, data) in enumerate(grains.items()):
        # The low twelve bits of the grain's number stand above the rest.
        put_entry(number, 3 << 60 | (index & 0xFFF) << 48 | index >> 12)
        image += data.ljust(8 * SECTOR, b"\0")
    for number, value in other.items():
        put_entry(number, value)
    return bytes(image)


def set_u64(image: bytes, offset: int, value: int) -> bytes:
    """The image with a little-endian number of eight bytes at `offset`."""
    return put(image, offset, struct.pack("<Q", value))
