"""From an open disk to facts. Nothing raises for what an image contains: what cannot be looked at is Unknown.

Disk ─► DiskDevice (bounded reads) ─► scan ─► mount_all ─► Linux, Windows ─► Facts
"""

import os
from collections.abc import Mapping

from diskfmt.disk import Disk
from diskfmt.errors import Finding
from diskfmt.guest.base import FsInfo, GuestError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.linux.facts import LinuxFacts
from diskfmt.guest.linux.facts import gather as gather_linux
from diskfmt.guest.partitions import Table, read_table
from diskfmt.guest.registry import Hive
from diskfmt.guest.systems import LinuxSystem, Systems, WindowsSystem, linux_systems, mount_all, windows_systems
from diskfmt.guest.volumes import VolumeTree, scan
from diskfmt.guest.windows.facts import WindowsFacts
from diskfmt.guest.windows.facts import gather as gather_windows
from diskfmt.guest.windows.hives import BootVolume, open_hives
from diskfmt.readiness.facts import ContainerFacts, Facts
from diskfmt.readiness.qcow2_size import predicted


def container_facts(disk: Disk, findings: tuple[Finding, ...]) -> ContainerFacts:
    """The file itself; `findings`: what identification, header, gate and check said."""
    file = disk.files[0]
    return ContainerFacts(
        path=disk.path,
        suffix=os.path.splitext(disk.path)[1],
        file_size=file.size,
        claims=disk.claims,
        image=disk.image,
        findings=findings,
    )


def gather(disk: Disk, container: ContainerFacts, device: DiskDevice) -> Facts:
    """All facts of an image; what is costly is looked at when a rule asks. `device` counts what is read."""
    table = _table(device)
    volumes = _volumes(device)
    systems: Systems = mount_all(volumes.value) if isinstance(volumes, Known) else {}
    linux, needed = _linux(volumes, systems)
    return Facts(
        container=container,
        table=table,
        volumes=volumes,
        file_systems=_infos(systems),
        linux=linux,
        windows=_windows(volumes, systems),
        system_volumes=_count(volumes, systems),
        needed_partitions=_partitions(volumes, needed),
        qcow2_size=lambda limit: predicted(disk, limit),
    )


def _table(device: DiskDevice) -> Fact[Table]:
    try:
        return Known(read_table(device))
    except GuestError as error:
        return Unknown(error.message)


def _volumes(device: DiskDevice) -> Fact[VolumeTree]:
    try:
        return Known(scan(device))
    except GuestError as error:
        return Unknown(error.message)


def _infos(systems: Systems) -> Mapping[str, Fact[FsInfo]]:
    found: dict[str, Fact[FsInfo]] = {}
    for name, system in systems.items():
        try:
            found[name] = system if isinstance(system, Unknown) else Known(system.value.info, name)
        except GuestError as error:
            found[name] = Unknown(f"{name}: {error.message}")
    return found


def _linux(volumes: Fact[VolumeTree], systems: Systems) -> tuple[Fact[LinuxFacts | None], frozenset[str]]:
    if isinstance(volumes, Unknown):
        return volumes, frozenset()
    found = linux_systems(volumes.value, systems)
    if isinstance(found, Unknown):
        return found, frozenset()
    if not found.value:
        return Known(None), frozenset()
    first: LinuxSystem = found.value[0]
    infos = tuple(info.value for info in _infos(systems).values() if isinstance(info, Known))
    return Known(gather_linux(first.root, infos), first.volume), first.needed


def _windows(volumes: Fact[VolumeTree], systems: Systems) -> Fact[WindowsFacts | None]:
    if isinstance(volumes, Unknown):
        return volumes
    found = windows_systems(volumes.value, systems)
    if isinstance(found, Unknown):
        return found
    if not found.value:
        return Known(None)
    first: WindowsSystem = found.value[0]
    boot = [BootVolume(name, root) for name, root in first.boot_volumes.items()]
    return Known(gather_windows(first.root, open_hives(first.root, boot, Hive), boot), first.volume)


def _count(volumes: Fact[VolumeTree], systems: Systems) -> Fact[tuple[str, ...]]:
    """The names of the volumes that hold an operating system."""
    if isinstance(volumes, Unknown):
        return volumes
    found = [linux_systems(volumes.value, systems), windows_systems(volumes.value, systems)]
    blind = [one.reason for one in found if isinstance(one, Unknown)]
    names = tuple(system.volume for one in found if isinstance(one, Known) for system in one.value)
    return Unknown("; ".join(blind)) if blind and not names else Known(names, ", ".join(names))


def _partitions(volumes: Fact[VolumeTree], needed: frozenset[str]) -> frozenset[int]:
    """The numbers of the partitions on which the needed volumes lie."""
    if isinstance(volumes, Unknown):
        return frozenset()
    tree = volumes.value
    direct = {volume.partition.number for volume in tree.volumes if volume.name in needed and volume.partition}
    if any(volume.logical is not None for volume in tree.volumes if volume.name in needed):
        direct |= {v.partition.number for v in tree.volumes if v.partition and v.content.kind == "LVM2_member"}
    return frozenset(direct)
