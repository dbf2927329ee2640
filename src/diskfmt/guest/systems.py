"""The file systems of a disk, and the operating systems in them.

VolumeTree ─► mount_all ─► file systems by volume ─► linux_root, windows_root: a tree as the guest sees it
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import Device, FileSystem, GuestError
from diskfmt.guest.btrfs import open_btrfs
from diskfmt.guest.ext import ExtFileSystem
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.fat import open_fat
from diskfmt.guest.linux.facts import is_linux
from diskfmt.guest.linux.fstab import parse_fstab
from diskfmt.guest.ntfs import open_ntfs
from diskfmt.guest.paths import MissingError, Root
from diskfmt.guest.volumes import Volume, VolumeTree
from diskfmt.guest.xfs import open_xfs

READERS: Final[Mapping[str, Callable[[Device], FileSystem]]] = {
    "ext2": ExtFileSystem,
    "ext3": ExtFileSystem,
    "ext4": ExtFileSystem,
    "xfs": open_xfs,
    "btrfs": open_btrfs,
    "vfat": open_fat,
    "ntfs": open_ntfs,
}
_LINUX: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
_HIVE: Final = "/Windows/System32/config/SYSTEM"
_SUBVOLUMES: Final = ("@", "root", "@rootfs")
"""Where distributions put the root of a Btrfs whose default subvolume was left at the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxSystem:
    """A Linux root with what its fstab mounts.

    `volume`: that of the root; `needed`: names of the volumes without which it does not come up (root, and what fstab
    mounts without nofail or noauto).
    """

    volume: str
    root: Root
    needed: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsSystem:
    """The system volume of a Windows, and every volume that may hold boot files, by name."""

    volume: str
    root: Root
    boot_volumes: Mapping[str, Root]


Systems = Mapping[str, Fact[FileSystem]]


def mount_all(tree: VolumeTree) -> Systems:
    """A reader for each volume that holds a known file system; unknown with its reason where that does not open."""
    found: dict[str, Fact[FileSystem]] = {}
    for volume in tree.volumes:
        reader = READERS.get(volume.content.kind)
        if reader is not None:
            found[volume.name] = _opened(volume, reader)
    return found


def _opened(volume: Volume, reader: Callable[[Device], FileSystem]) -> Fact[FileSystem]:
    if volume.device is None:
        return Unknown(f"{volume.name}: {volume.problem or 'it is not on this disk'}")
    try:
        return Known(reader(volume.device), volume.name)
    except GuestError as error:
        return Unknown(f"{volume.name}: {error.message}")


def linux_systems(tree: VolumeTree, systems: Systems) -> Fact[tuple[LinuxSystem, ...]]:
    """The Linux roots of the disk; unknown where none is found and a volume that could hold one cannot be read."""
    found, blind = [], []
    for volume in tree.volumes:
        if volume.content.kind not in _LINUX:
            continue
        system = systems[volume.name]
        if isinstance(system, Unknown):
            blind.append(system.reason)
            continue
        try:
            root = _linux_root(volume, system.value)
            if root is not None:
                found.append(_with_mounts(tree, systems, volume, root))
        except GuestError as error:
            blind.append(f"{volume.name}: {error.message}")
    if not found and blind:
        return Unknown("; ".join(blind))
    return Known(tuple(found), ", ".join(system.volume for system in found))


def _linux_root(volume: Volume, system: FileSystem) -> Root | None:
    candidates: list[FileSystem] = [system]
    if volume.content.kind == "btrfs" and volume.device is not None:
        candidates += _subvolumes(volume.device)
    return next((root for one in candidates if is_linux(root := Root({"/": one}))), None)


def _subvolumes(device: Device) -> list[FileSystem]:
    found: list[FileSystem] = []
    for name in _SUBVOLUMES:
        try:
            found.append(open_btrfs(device, name))
        except GuestError:
            continue  # there is none of this name
    return found


def _with_mounts(tree: VolumeTree, systems: Systems, volume: Volume, root: Root) -> LinuxSystem:
    """The root with the other file systems that its fstab names, as far as they are on this disk."""
    try:
        entries = parse_fstab(root.read("/etc/fstab")).mounts
    except MissingError:
        entries = ()
    mounts: dict[str, FileSystem] = {}
    needed = {volume.name}
    for entry in entries:
        for other in tree.find(entry.device):
            system = systems.get(other.name)
            if not entry.optional:
                needed.add(other.name)
            if entry.mount_point != "/" and entry.mount_point.startswith("/") and isinstance(system, Known):
                mounts[entry.mount_point] = _mounted_part(other, system.value, entry.options)
    return LinuxSystem(volume=volume.name, root=root.mounted(mounts), needed=frozenset(needed))


def _mounted_part(volume: Volume, system: FileSystem, options: Iterable[str]) -> FileSystem:
    """The subvolume that the options name, else the file system as it is."""
    name = next((option.partition("=")[2] for option in options if option.startswith("subvol=")), None)
    if name is None or volume.content.kind != "btrfs" or volume.device is None:
        return system
    return open_btrfs(volume.device, name)


def windows_systems(tree: VolumeTree, systems: Systems) -> Fact[tuple[WindowsSystem, ...]]:
    """The Windows system volumes; unknown where none is found and an NTFS cannot be read."""
    roots: dict[str, Root] = {}
    blind = []
    for volume in tree.volumes:
        system = systems.get(volume.name)
        if volume.content.kind not in ("ntfs", "vfat") or system is None:
            continue
        if isinstance(system, Unknown):
            blind.append(system.reason)
        else:
            roots[volume.name] = Root({"/": system.value}, ignore_case=True)
    found = []
    for name, root in roots.items():
        try:
            if root.exists(_HIVE):
                found.append(WindowsSystem(volume=name, root=root, boot_volumes=roots))
        except GuestError as error:
            blind.append(f"{name}: {error.message}")
    if not found and blind:
        return Unknown("; ".join(blind))
    return Known(tuple(found), ", ".join(system.volume for system in found))
