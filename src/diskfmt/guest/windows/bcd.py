r"""The boot store: which loader Windows' boot manager starts, and on which partition it looks for it.

A BCD is a registry hive: `Objects\{guid}\Elements\<type>: Element`.
Source: Microsoft, Boot Configuration Data WMI reference (object and element types); the device element was read from
stores of BIOS and UEFI machines.
"""

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from diskfmt.guest.base import DamagedError, UnsupportedError
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.windows.registry import Node, Registry, look

BOOTMGR: Final = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_OS_LOADER: Final = 0x10200003
_DEVICE, _PATH, _OS_DEVICE, _SYSTEM_ROOT, _DEFAULT = "11000001", "12000002", "21000001", "22000002", "23000003"

_TYPES: Final = {5: "boot", 6: "partition", 8: "locate"}
_HEADER: Final = struct.Struct("<16s4I")  # options object, type, flags, size, 0
_QUALIFIED: Final = struct.Struct("<16s2I16s16s")  # partition, device type, table, disk, 0
_GPT, _MBR = 0, 1
_HARD_DISK: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDevice:
    """Where something of the store lies.

    `kind`: `boot` (the partition that the firmware started), `locate` (the one that has the file), or `partition`. Then
    `table` is `gpt`, with the GUIDs of partition and disk, or `mbr`, with the partition's offset in bytes and the
    signature of the disk.
    """

    kind: str
    table: str | None = None
    partition_guid: str | None = None
    disk_guid: str | None = None
    offset: int | None = None
    signature: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStore:
    """What starts by default: the object, and the path of its loader as written; None: the store names none."""

    default: str | None
    path: str | None
    system_root: str | None
    device: Fact[BootDevice]
    os_device: Fact[BootDevice]

    @property
    def uefi(self) -> bool | None:
        """Whether the loader is that of UEFI machines, None: it is neither."""
        lower = (self.path or "").lower()
        return True if lower.endswith(".efi") else False if lower.endswith(".exe") else None


def boot_store(store: Registry) -> Known[BootStore]:
    """What a store starts. Raises GuestError where it cannot be read."""
    objects = store.need("Objects")
    default = _manager_default(objects) or _only_loader(objects)
    elements = objects.below(f"{default}\\Elements") if default is not None else None
    if elements is None:
        nothing = Unknown(f"{objects.place} names no loader")
        empty = BootStore(default=default, path=None, system_root=None, device=nothing, os_device=nothing)
        return Known(empty, objects.place)
    found = BootStore(
        default=default,
        path=_text(elements, _PATH),
        system_root=_text(elements, _SYSTEM_ROOT),
        device=look(lambda: Known(_device(elements, _DEVICE))),
        os_device=look(lambda: Known(_device(elements, _OS_DEVICE))),
    )
    return Known(found, f"{elements.place}\\{_PATH}")


def _manager_default(objects: Node) -> str | None:
    manager = objects.below(f"{BOOTMGR}\\Elements")
    return _text(manager, _DEFAULT) if manager is not None else None


def _only_loader(objects: Node) -> str | None:
    """Without a default the boot manager starts the only loader that there is."""
    loaders = []
    for name in objects.names():
        description = objects.below(f"{name}\\Description")
        if description is not None and description.number("Type") == _OS_LOADER:
            loaders.append(name)
    return loaders[0] if len(loaders) == 1 else None


def _text(elements: Node, kind: str) -> str | None:
    entry = elements.below(kind)
    return (entry.text("Element") or None) if entry is not None else None


def _device(elements: Node, kind: str) -> BootDevice:
    entry = elements.below(kind)
    value = entry.binary("Element") if entry is not None else None
    if value is None:
        raise DamagedError(f"{elements.place} has no device {kind}")
    return parse_device(value)


def parse_device(value: bytes) -> BootDevice:
    """The device that an element of type 1 names. Raises UnsupportedError for kinds that name no partition."""
    if len(value) < _HEADER.size:
        raise DamagedError(f"a boot device of {len(value)} bytes")
    _, kind, _, size, _ = _HEADER.unpack_from(value)
    if kind not in _TYPES:
        raise UnsupportedError(f"a boot device of type {kind}")
    if kind != 6:
        return BootDevice(kind=_TYPES[kind])
    if len(value) < _HEADER.size + _QUALIFIED.size - 16 or size > len(value) - 16:
        raise DamagedError(f"a boot device of {len(value)} bytes that says {size}")
    partition, device, table, disk, _ = _QUALIFIED.unpack_from(value.ljust(_HEADER.size + _QUALIFIED.size, b"\0"), 32)
    if device != _HARD_DISK or table not in (_GPT, _MBR):
        raise UnsupportedError(f"a boot device {device} with partition table {table}")
    if table == _GPT:
        return BootDevice(
            kind="partition",
            table="gpt",
            partition_guid=str(UUID(bytes_le=partition)),
            disk_guid=str(UUID(bytes_le=disk)),
        )
    return BootDevice(
        kind="partition",
        table="mbr",
        offset=int.from_bytes(partition[:8], "little"),
        signature=int.from_bytes(disk[:4], "little"),
    )
