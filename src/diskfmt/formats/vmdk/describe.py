"""The text of a descriptor that is written, and the `-o` options that go into it."""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from diskfmt.errors import DiskfmtError, UsageError
from diskfmt.formats.vmdk.descriptor import NO_PARENT, parse
from diskfmt.units import GIB, SECTOR

IDE: Final = "ide"
ADAPTERS: Final = (IDE, "buslogic", "lsilogic", "lsisas1068", "pvscsi", "legacyESX")
DEFAULT_ADAPTER: Final = "lsilogic"  # IDE disks cannot be attached to many hosts
DEFAULT_HARDWARE: Final = {"pvscsi": "7"}  # the first version that has this adapter
DEFAULT_TOOLS: Final = "2147483647"  # "unmanaged": VMware does not offer to update its tools
OPTIONS: Final = ("adapter_type", "hwversion", "toolsversion", "cid", "uuid")
MAX_NUMBER: Final = 10  # digits
UUID_PREFIX: Final = bytes.fromhex("6000c290")  # how VMware's disk uuids start; the last half byte is free
EXAMPLE: Final = bytes(32)  # a fingerprint, to try a text with


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What the user chose of a descriptor; `cid` and `uuid` None: derived from the content."""

    adapter: str = DEFAULT_ADAPTER
    hardware: str = "4"
    tools: str = DEFAULT_TOOLS
    cid: int | None = None
    uuid: bytes | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """The style that `-o` pairs ask for. Raises UsageError."""
        for key in options:
            if key not in OPTIONS:
                raise UsageError(f"vmdk has no option {key!r}", remedy=f"use {', '.join(OPTIONS)}")
        adapter = options.get("adapter_type", DEFAULT_ADAPTER)
        if adapter not in ADAPTERS:
            raise UsageError(f"adapter_type cannot be {adapter!r}", remedy=f"use one of {', '.join(ADAPTERS)}")
        hardware = options.get("hwversion", DEFAULT_HARDWARE.get(adapter, "4"))
        tools = options.get("toolsversion", DEFAULT_TOOLS)
        for key, value in (("hwversion", hardware), ("toolsversion", tools)):
            if not (value.isascii() and value.isdecimal()) or len(value) > MAX_NUMBER:
                raise UsageError(f"{key} cannot be {value!r}", remedy="give a decimal number")
        return cls(
            adapter=adapter,
            hardware=hardware,
            tools=tools,
            cid=_cid(options["cid"]) if "cid" in options else None,
            uuid=_uuid(options["uuid"]) if "uuid" in options else None,
        )


def _cid(text: str) -> int:
    if not 1 <= len(text) <= 8 or set(text) - set("0123456789abcdefABCDEF"):
        raise UsageError(f"cid cannot be {text!r}", remedy="give one to eight hexadecimal digits")
    if int(text, 16) == NO_PARENT:
        raise UsageError("cid cannot be ffffffff, which means that there is no disk", remedy="give another one")
    return int(text, 16)


def _uuid(text: str) -> bytes:
    try:
        return uuid.UUID(text.replace(" ", "")).bytes
    except ValueError:
        raise UsageError(f"uuid cannot be {text!r}", remedy="give 32 hexadecimal digits") from None


def piece_name(name: str, word: str) -> str:
    """The name of a file that belongs to a descriptor called `name`: `vm.vmdk` → `vm-flat.vmdk`, `vm-s001.vmdk`."""
    return f"{os.path.splitext(name)[0]}-{word}.vmdk"


def geometry(size: int, adapter: str) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track as VMware gives them to a disk of `size` bytes.

    Source: VMware knowledge base 1026254, "Recreating a missing virtual disk descriptor file"; VMDK spec, "The Disk
    Database", for IDE.
    """
    if adapter == IDE:
        return max(1, min(size // (16 * 63 * SECTOR), 16383)), 16, 63
    heads, sectors = (64, 32) if size < GIB else (128, 32) if size <= 2 * GIB else (255, 63)
    return max(1, size // (heads * sectors * SECTOR)), heads, sectors


def describe(*, subformat: str, size: int, lines: Sequence[str], style: Style, fingerprint: bytes) -> bytes:
    """The text of a descriptor with these extent lines.

    Source: VMDK spec, "The Descriptor File".
    """
    cid = style.cid if style.cid is not None else int.from_bytes(fingerprint[:4], "big")
    if cid == NO_PARENT:
        cid -= 1
    identity = style.uuid or UUID_PREFIX[:3] + bytes([UUID_PREFIX[3] | fingerprint[4] & 15]) + fingerprint[5:17]
    digits = [f"{byte:02x}" for byte in identity]
    cylinders, heads, sectors = geometry(size, style.adapter)
    text = (
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={cid:08x}",
        "parentCID=ffffffff",
        f'createType="{subformat}"',
        "",
        "# Extent description",
        *lines,
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        f'ddb.adapterType = "{style.adapter}"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        f'ddb.geometry.heads = "{heads}"',
        f'ddb.geometry.sectors = "{sectors}"',
        # VMware's own rule: the content id is the end of the long one.
        f'ddb.longContentID = "{fingerprint[17:29].hex()}{cid:08x}"',
        f'ddb.toolsVersion = "{style.tools}"',
        f'ddb.uuid = "{" ".join(digits[:8])}-{" ".join(digits[8:])}"',
        f'ddb.virtualHWVersion = "{style.hardware}"',
        "",
    )
    return "\n".join(text).encode()


def require_name(piece: str) -> None:
    """Raise UsageError unless a descriptor can name the file `piece` so that all readers understand it."""
    line = f'RW 1 SPARSE "{piece}"'
    try:
        parse(describe(subformat="custom", size=SECTOR, lines=(line,), style=Style(), fingerprint=EXAMPLE))
    except (DiskfmtError, UnicodeEncodeError):
        raise UsageError(f"a descriptor cannot name a file {piece!r}", remedy="choose a plain name") from None
