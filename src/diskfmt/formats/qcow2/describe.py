"""What `info` shows of a qcow2 image: the keys and values of `qemu-img info --output=json`, as plain JSON values."""

import os
from collections.abc import Sequence
from typing import Any

from construct import Array, Bytes, Int16ub, Int32ub, Struct

from diskfmt.formats.base import Reference
from diskfmt.formats.qcow2.extras import Bitmap, Snapshot
from diskfmt.formats.qcow2.records import (
    AES,
    BITMAPS,
    COMPRESSION_NAMES,
    CORRUPT,
    DATA_FILE,
    DIRTY,
    EXT_ENCRYPTION,
    EXTENDED_L2,
    LAZY_REFCOUNTS,
    LUKS,
    MAX_REFCOUNT_ORDER,
    RAW_DATA_FILE,
    Qcow2,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

# Source: LUKS On-Disk Format Specification 1.2.3, "partition header". Eight key slots, always.
_LUKS = Struct(
    "magic" / Bytes(6),
    "version" / Int16ub,
    "cipher" / Bytes(32),
    "mode" / Bytes(32),
    "hash" / Bytes(32),
    "payload_sector" / Int32ub,
    "key_bytes" / Int32ub,
    "digest" / Bytes(20),
    "salt" / Bytes(32),
    "iterations" / Int32ub,
    "uuid" / Bytes(40),
    "slots" / Array(8, Struct(
        "state" / Int32ub, "iterations" / Int32ub, "salt" / Bytes(32), "sector" / Int32ub, "stripes" / Int32ub,
    )),
)  # fmt: skip
_LUKS_MAGIC = b"LUKS\xba\xbe"
_SLOT_ACTIVE = 0x00AC71F3


def subformat(header: Qcow2) -> str:
    """Version and what sets this image apart, such as `v3+zstd`."""
    parts = {
        "extended_l2": header.incompatible & EXTENDED_L2,
        "zstd": header.compression_type == 1,
        "backing": header.backing_offset,
        "data_file": header.incompatible & DATA_FILE,
        "encrypted": header.crypt_method,
    }
    return "+".join([f"v{header.version}", *(name for name, there in parts.items() if there)])


def specific(source: SourceFile, header: Qcow2, references: Sequence[Reference],
             bitmaps: Sequence[Bitmap]) -> dict[str, object]:  # fmt: skip
    """What qemu-img prints under `format-specific`, `data`."""
    shown: dict[str, object] = {
        "compat": "0.10" if header.version == 2 else "1.1",
        "compression-type": COMPRESSION_NAMES.get(header.compression_type, str(header.compression_type)),
    }
    if header.refcount_order <= MAX_REFCOUNT_ORDER:
        shown["refcount-bits"] = 1 << header.refcount_order
    if header.version == 3:
        shown["lazy-refcounts"] = bool(header.compatible & LAZY_REFCOUNTS)
        shown["corrupt"] = bool(header.incompatible & CORRUPT)
        shown["extended-l2"] = bool(header.incompatible & EXTENDED_L2)
        if header.autoclear & BITMAPS and bitmaps:
            shown["bitmaps"] = [bitmap.shown() for bitmap in bitmaps]
        if header.incompatible & DATA_FILE:
            shown["data-file"] = next((ref.name for ref in references if ref.kind == "data-file"), "")
            shown["data-file-raw"] = bool(header.autoclear & RAW_DATA_FILE)
    if header.crypt_method == AES:
        shown["encrypt"] = {"format": "aes"}
    elif header.crypt_method == LUKS:
        shown["encrypt"] = {"format": "luks", **_luks(source, header)}
    return shown


def extra(source: SourceFile, header: Qcow2, references: Sequence[Reference],
          snapshots: Sequence[Snapshot]) -> dict[str, object]:  # fmt: skip
    """The keys that qemu-img prints only of some images."""
    shown: dict[str, object] = {"dirty-flag": bool(header.incompatible & DIRTY)}
    if header.crypt_method:
        shown["encrypted"] = True
    if snapshots:
        shown["snapshots"] = [snapshot.shown() for snapshot in snapshots]
    backing = next((reference for reference in references if reference.kind == "backing"), None)
    if backing and backing.name:
        shown["backing-filename"] = backing.name
        shown["full-backing-filename"] = _full_name(source.path, backing.name)
        if backing.format is not None:
            shown["backing-filename-format"] = backing.format
    return shown


def _full_name(image: str, name: str) -> str:
    """The name as seen from here: a relative one counts from the image's directory, `protocol:…` stays."""
    colon, slash = name.find(":"), name.find("/")
    if colon >= 0 and (slash < 0 or colon < slash):
        return name
    return os.path.join(os.path.dirname(image), name)


def _luks(source: SourceFile, header: Qcow2) -> dict[str, object]:
    """What the LUKS header says of cipher and key slots; empty where it is not readable."""
    pointer = header.extension(EXT_ENCRYPTION)
    if pointer is None or pointer.length < 16:
        return {}
    offset = int.from_bytes(source.read_at(pointer.offset, 8))
    if offset + _LUKS.sizeof() > source.size:
        return {}
    luks = _LUKS.parse(source.read_at(offset, _LUKS.sizeof()))
    if luks.magic != _LUKS_MAGIC or luks.version != 1:
        return {}
    mode, _, generator = _text(luks.mode).partition("-")
    generator, _, generator_hash = generator.partition(":")
    bits = luks.key_bytes * (4 if mode == "xts" else 8)  # XTS has two keys of half the length
    shown: dict[str, object] = {
        "cipher-alg": f"{_text(luks.cipher)}-{bits}",
        "cipher-mode": mode,
        "ivgen-alg": generator,
        "hash-alg": _text(luks.hash),
        "payload-offset": luks.payload_sector * SECTOR,
        "master-key-iters": luks.iterations,
        "uuid": _text(luks.uuid),
        "slots": [_slot(slot) for slot in luks.slots],
    }
    return shown | ({"ivgen-hash-alg": generator_hash} if generator_hash else {})


def _slot(slot: Any) -> dict[str, object]:
    shown: dict[str, object] = {"active": slot.state == _SLOT_ACTIVE, "key-offset": slot.sector * SECTOR}
    return shown | ({"iters": slot.iterations, "stripes": slot.stripes} if shown["active"] else {})


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")
