"""VHD images from the specification, packed by hand. Shares nothing with src/.

A hostile image is a good one with one field changed: `patch` changes a field and mends the checksum of the record
that it is in, so that only this one thing is wrong; `patch(…, mend=False)` leaves the checksum as it is.
"""

import struct
from collections.abc import Mapping, Sequence

SECTOR = 512
FOOTER = {  # name: (offset, format) in the 512 bytes of a footer
    "cookie": (0, "8s"),
    "features": (8, ">I"),
    "version": (12, ">I"),
    "data_offset": (16, ">Q"),
    "timestamp": (24, ">I"),
    "creator": (28, "4s"),
    "creator_version": (32, ">I"),
    "creator_os": (36, "4s"),
    "original_size": (40, ">Q"),
    "current_size": (48, ">Q"),
    "cylinders": (56, ">H"),
    "heads": (58, "B"),
    "sectors": (59, "B"),
    "disk_type": (60, ">I"),
    "checksum": (64, ">I"),
    "unique_id": (68, "16s"),
    "saved_state": (84, "B"),
    "hidden": (85, "B"),
    "reserved": (511, "B"),
}
HEADER = {  # the same for the 1024 bytes of a dynamic header
    "cookie": (0, "8s"),
    "data_offset": (8, ">Q"),
    "table_offset": (16, ">Q"),
    "version": (24, ">I"),
    "max_entries": (28, ">I"),
    "block_size": (32, ">I"),
    "checksum": (36, ">I"),
    "parent_id": (40, "16s"),
    "parent_timestamp": (56, ">I"),
    "reserved1": (60, "4s"),
    "parent_name": (64, "512s"),
    "locators": (576, "192s"),
    "reserved2": (1023, "B"),
}
HEADER_AT = 512
TABLE_AT = 1536


def checksum(record: bytes, at: int) -> int:
    """The checksum of a record whose checksum field is at `at`, as the specification's C code counts it."""
    total = 0
    for index, value in enumerate(record):
        if not at <= index < at + 4:
            total = (total + value) & 0xFFFFFFFF
    return total ^ 0xFFFFFFFF


def _record(fields: Mapping[str, tuple[int, str]], length: int, values: Mapping[str, object]) -> bytes:
    record = bytearray(length)
    for name, value in values.items():
        at, form = fields[name]
        struct.pack_into(form, record, at, value)
    at = fields["checksum"][0]
    if "checksum" not in values:
        struct.pack_into(">I", record, at, checksum(record, at))
    return bytes(record)


def footer(size: int, disk_type: int, **changed: object) -> bytes:
    """512 bytes: creator Hyper-V, largest geometry (which every reader takes by current size)."""
    values = {
        "cookie": b"conectix", "features": 2, "version": 0x10000,
        "data_offset": 0xFFFFFFFFFFFFFFFF if disk_type == 2 else HEADER_AT,
        "timestamp": 86400, "creator": b"win ", "creator_version": 0x60003, "creator_os": b"Wi2k",
        "original_size": size, "current_size": size, "cylinders": 65535, "heads": 16, "sectors": 255,
        "disk_type": disk_type, "unique_id": bytes(range(16)),
    }  # fmt: skip
    return _record(FOOTER, 512, values | changed)


def header(entries: int, block_size: int, **changed: object) -> bytes:
    """1024 bytes of a dynamic header whose BAT follows directly."""
    values = {
        "cookie": b"cxsparse", "data_offset": 0xFFFFFFFFFFFFFFFF, "table_offset": TABLE_AT, "version": 0x10000,
        "max_entries": entries, "block_size": block_size,
    }  # fmt: skip
    return _record(HEADER, 1024, values | changed)


def fixed(data: bytes, **changed: object) -> bytearray:
    """A fixed disk; `changed` are fields of its footer."""
    return bytearray(data + footer(len(data), 2, **changed))


def bitmap_size(block_size: int) -> int:
    bits = block_size // SECTOR
    return -(-bits // (8 * SECTOR)) * SECTOR


def dynamic(
    size: int,
    blocks: Mapping[int, tuple[bytes, bytes]],
    *,
    block_size: int = 4096,
    disk_type: int = 3,
    changed: Mapping[str, object] | None = None,
    changed_header: Mapping[str, object] | None = None,
    locators: Sequence[tuple[bytes, bytes]] = (),
    bat_map: bytes = b"",
) -> bytearray:
    """A dynamic disk. `blocks`: number → (bits of the bitmap, data), stored in this order.

    `changed` are fields of both copies of the footer, `changed_header` of the dynamic header. Behind the BAT come
    `bat_map`, a header and a map in whole sectors, and the data of `locators`: (platform code, data).
    """
    entries = -(-size // block_size)
    table = [0xFFFFFFFF] * entries
    body = b""
    at = TABLE_AT + -(-entries * 4 // SECTOR) * SECTOR
    between, spelled = bytearray(bat_map), b""
    for platform, data in locators:
        spelled += struct.pack(">4sIIIQ", platform, -(-len(data) // SECTOR) * SECTOR, len(data), 0, at + len(between))
        between += data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
    if locators:
        changed_header = {"locators": spelled, **(changed_header or {})}
    at += len(between)
    for number, (bits, data) in blocks.items():
        table[number] = (at + len(body)) // SECTOR
        body += bits.ljust(bitmap_size(block_size), b"\0") + data.ljust(block_size, b"\0")
    end = footer(size, disk_type, **(changed or {}))
    packed = struct.pack(f">{entries}I", *table)
    packed += b"\xff" * (-len(packed) % SECTOR)
    return bytearray(end + header(entries, block_size, **(changed_header or {})) + packed + between + body + end)


def bat_map(at: int, bits: bytes, **changed: int) -> bytes:
    """XenServer's bat map for a place `at`: a sector with a header, then the bits in whole sectors."""
    bits = bits.ljust(-(-len(bits) // SECTOR) * SECTOR, b"\0")
    values = {"offset": at + SECTOR, "sectors": len(bits) // SECTOR, "version": 0x10002,
              "checksum": ~sum(bits) & 0xFFFFFFFF} | changed  # fmt: skip
    record = struct.pack(">8sQIII", b"tdbatmap", *values.values())
    return record.ljust(SECTOR, b"\0") + bits


def parent_fields(name: str, unique_id: bytes, modified: int = 0) -> dict[str, object]:
    """Fields of the dynamic header of a differencing disk."""
    return {
        "parent_id": unique_id,
        "parent_timestamp": modified,
        "parent_name": name.encode("utf-16-be").ljust(512, b"\0"),
    }


def full(block_size: int = 4096) -> bytes:
    """The bits of a block with all sectors set."""
    return b"\xff" * (block_size // SECTOR // 8)


def patch(image: bytearray, where: str, name: str, value: object, *, mend: bool = True) -> bytearray:
    """A copy of an image with one field changed. `where`: tail, head, both (footers) or header."""
    changed = bytearray(image)
    fields, length = (HEADER, 1024) if where == "header" else (FOOTER, 512)
    starts = {"tail": [len(image) - 512], "head": [0], "both": [0, len(image) - 512], "header": [HEADER_AT]}
    for start in starts[where]:
        at, form = fields[name]
        struct.pack_into(form, changed, start + at, value)
        if mend and name != "checksum":
            at = fields["checksum"][0]
            struct.pack_into(">I", changed, start + at, checksum(changed[start : start + length], at))
    return changed


def set_entry(image: bytearray, number: int, sector: int) -> bytearray:
    """A copy of an image with one entry of the BAT changed."""
    changed = bytearray(image)
    struct.pack_into(">I", changed, TABLE_AT + 4 * number, sector)
    return changed


def entry(image: bytearray, number: int) -> int:
    """The sector of a block."""
    sector: int = struct.unpack_from(">I", image, TABLE_AT + 4 * number)[0]
    return sector
