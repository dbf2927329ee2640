"""What is on a disk: partitions, the arrays and volume groups made of them, and what each volume holds.

scan(device) ─► VolumeTree ─► volume.device ─► a reader of that kind of file system
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from diskfmt.guest import gpt, lvm, mbr
from diskfmt.guest.base import Device, GuestError
from diskfmt.guest.device import SECTOR, Slice
from diskfmt.guest.partitions import Partition, Table, TableKind, read_table
from diskfmt.guest.signatures import EMPTY, UNKNOWN, Content, probe

_RAID1: Final = 1
_LDM: Final = frozenset({f"{mbr.DYNAMIC_DISK:x}", *gpt.DYNAMIC_DISK})


class VolumeKind(StrEnum):
    """What a volume is a part of."""

    DISK = "disk"
    PARTITION = "partition"
    ARRAY = "array"
    LOGICAL = "logical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Something that can hold a file system.

    `name`: `disk`, `p1`, `md:` and the array's UUID, or `group/volume`. `size` in bytes, for a partition what the disk
    has of it; `offset`: on the disk, None where it is in pieces. `device` is None where it cannot be read; `problem`
    says why. `logical`: what the metadata of its volume group says.
    """

    name: str
    kind: VolumeKind
    size: int
    content: Content
    offset: int | None = None
    partition: Partition | None = None
    logical: lvm.Logical | None = None
    problem: str = ""
    device: Device | None = field(default=None, compare=False, repr=False)

    @property
    def partuuid(self) -> str:
        """The PARTUUID as blkid prints it; empty where it has none."""
        return self.partition.partuuid if self.partition is not None else ""

    @property
    def names(self) -> tuple[str, ...]:
        """The device names that mean this volume on every machine: those of LVM, in both forms."""
        if self.kind is not VolumeKind.LOGICAL:
            return ()
        group, name = self.name.split("/")
        return f"/dev/{group}/{name}", f"/dev/mapper/{_mapped(group)}-{_mapped(name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeTree:
    """All volumes of a disk.

    `whole`: what the disk as a whole looks like, also where it has partitions (an ISO image may). `groups`: the volume
    groups. `dynamic`: numbers of the partitions that belong to a Windows dynamic disk. `made_for_4096`: the MBR counts
    in sectors of 4096 bytes, so that nothing is where the disk's 512-byte sectors say. `problems`: what could not be
    understood of arrays and volume groups.
    """

    table: Table
    whole: Content
    volumes: tuple[Volume, ...]
    groups: tuple[lvm.VolumeGroup, ...] = ()
    dynamic: tuple[int, ...] = ()
    made_for_4096: bool = False
    problems: tuple[str, ...] = ()

    def find(self, text: str) -> tuple[Volume, ...]:
        """The volumes that `UUID=…`, `LABEL=…`, `PARTUUID=…`, `PARTLABEL=…`, `/dev/disk/by-…` or an LVM name means.

        UUIDs are compared without regard to case. Empty where it means none of this disk, or is not such a name.
        """
        kind, _, value = text.partition("=")
        for prefix, meant in _BY.items():
            if text.startswith(prefix):
                kind, value = meant, text[len(prefix) :]
        value = value.strip("\"'")
        if not value:
            return tuple(volume for volume in self.volumes if text in volume.names)
        return tuple(volume for volume in self.volumes if _means(volume, kind, value))


_BY: Final = {
    "/dev/disk/by-uuid/": "UUID",
    "/dev/disk/by-label/": "LABEL",
    "/dev/disk/by-partuuid/": "PARTUUID",
    "/dev/disk/by-partlabel/": "PARTLABEL",
}


def _means(volume: Volume, kind: str, value: str) -> bool:
    match kind:
        case "UUID":
            return volume.content.uuid.lower() == value.lower()
        case "LABEL":
            return volume.content.label == value
        case "PARTUUID":
            return volume.partuuid.lower() == value.lower()
        case "PARTLABEL":
            return volume.partition is not None and volume.partition.name == value
        case _:
            return False


def _mapped(name: str) -> str:
    """A part of a device-mapper name: its hyphens are doubled."""
    return name.replace("-", "--")


def scan(device: Device) -> VolumeTree:
    """The volumes of a whole disk.

    Raises:
        GuestError: the first sector cannot be read. What else cannot be read is in the tree.

    """
    table = read_table(device)
    whole = probe(device)
    basic = tuple(_basic(device, table, whole))
    arrays, problems = _arrays(basic)
    groups, logical, more = _groups((*basic, *arrays))
    return VolumeTree(
        table=table,
        whole=whole,
        volumes=(*basic, *arrays, *logical),
        groups=groups,
        dynamic=tuple(p.number for p in table.partitions if p.type in _LDM),
        made_for_4096=_made_for_4096(device, table, basic),
        problems=(*problems, *more),
    )


def _basic(device: Device, table: Table, whole: Content) -> Iterator[Volume]:
    """The partitions, or the whole disk where it has none."""
    if table.kind is TableKind.NONE:
        yield Volume(name="disk", kind=VolumeKind.DISK, size=device.size, offset=0, content=whole, device=device)
    for partition in table.partitions:
        if partition.extended:
            continue
        size = max(0, min(partition.size, device.size - partition.start))
        part = Slice(device, partition.start, size, sector_size=table.sector_size)
        content = probe(part)
        if partition.type in _LDM and content.kind in {UNKNOWN, EMPTY}:
            content = replace(content, kind="ldm")
        yield Volume(
            name=f"p{partition.number}",
            kind=VolumeKind.PARTITION,
            size=size,
            offset=partition.start,
            partition=partition,
            content=content,
            problem=content.problem,
            device=part,
        )


def _arrays(volumes: Sequence[Volume]) -> tuple[tuple[Volume, ...], tuple[str, ...]]:
    """The mirrors among the md arrays, each read from the first of its members; others are only named."""
    arrays: dict[str, Volume] = {}
    problems = []
    for volume in volumes:
        raid, device = volume.content.raid, volume.device
        identity = volume.content.uuid
        if raid is None or device is None or identity in arrays:
            continue
        if raid.level != _RAID1 and raid.devices != 1:
            message = f"md array of level {raid.level} with {raid.devices} devices is not read"
            arrays[identity] = Volume(
                name=f"md:{identity}",
                kind=VolumeKind.ARRAY,
                size=raid.data_size,
                content=Content(kind=UNKNOWN, problem=message),
                problem=message,
            )
            problems.append(message)
            continue
        size = max(0, min(raid.data_size, device.size - raid.data_offset))
        part = Slice(device, raid.data_offset, size)
        content = probe(part)
        arrays[identity] = Volume(
            name=f"md:{identity}",
            kind=VolumeKind.ARRAY,
            size=size,
            offset=None if volume.offset is None else volume.offset + raid.data_offset,
            content=content,
            problem=content.problem,
            device=part,
        )
    return tuple(arrays.values()), tuple(problems)


def _groups(volumes: Sequence[Volume]) -> tuple[tuple[lvm.VolumeGroup, ...], tuple[Volume, ...], tuple[str, ...]]:
    """Volume groups, their visible logical volumes, and what could not be read of them."""
    devices: dict[str, Device] = {}
    groups: dict[str, lvm.VolumeGroup] = {}
    problems: list[str] = []
    silent: dict[str, str] = {}  # physical volumes without metadata: their group may tell of them
    for volume in volumes:
        if volume.content.kind != "LVM2_member" or volume.device is None:
            continue
        try:
            physical = lvm.read_physical(volume.device)
            if physical is None:
                continue
            devices[physical.id] = volume.device
            if not physical.areas:
                silent[physical.id] = f"{volume.name}: LVM physical volume without metadata"
                continue
            group = lvm.read_group(volume.device, physical)
        except GuestError as error:
            problems.append(f"{volume.name}: {error.message}")
            continue
        # Volumes that were away when the group changed have older metadata.
        if group is not None and (group.id not in groups or group.sequence > groups[group.id].sequence):
            groups[group.id] = group
    complete = [
        replace(group, missing=tuple(member.id for member in group.members if member.id not in devices))
        for group in groups.values()
    ]
    logical = tuple(
        _logical(group, volume, devices) for group in complete for volume in group.volumes if volume.visible
    )
    members = {member.id for group in complete for member in group.members}
    problems += [message for identity, message in silent.items() if identity not in members]
    return tuple(complete), logical, tuple(problems)


def _logical(group: lvm.VolumeGroup, logical: lvm.Logical, devices: dict[str, Device]) -> Volume:
    name = f"{group.name}/{logical.name}"
    try:
        device = lvm.LogicalDevice(logical, devices)
    except GuestError as error:
        return Volume(
            name=name,
            kind=VolumeKind.LOGICAL,
            size=logical.size,
            content=Content(kind=UNKNOWN, problem=error.message),
            logical=logical,
            problem=error.message,
        )
    content = probe(device)
    return Volume(
        name=name,
        kind=VolumeKind.LOGICAL,
        size=logical.size,
        content=content,
        logical=logical,
        problem=content.problem,
        device=device,
    )


def _made_for_4096(device: Device, table: Table, volumes: Sequence[Volume]) -> bool:
    """Whether the partitions of an MBR hold something only if its sectors have 4096 bytes."""
    if table.kind is not TableKind.MBR or table.sector_size != SECTOR:
        return False
    if not volumes or any(volume.content.kind not in {UNKNOWN, EMPTY} for volume in volumes):
        return False
    for partition in table.partitions:
        start = partition.start * 8
        if start < device.size and not partition.logical:
            size = min(partition.size * 8, device.size - start)
            if probe(Slice(device, start, size)).kind not in {UNKNOWN, EMPTY}:
                return True
    return False
