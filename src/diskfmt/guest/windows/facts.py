"""Everything that the rules want to know of a Windows, in one frozen record."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, TypeVar

from diskfmt.guest.base import DamagedError
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.windows.agents import Cloudbase, VmTools, cloudbase, vm_tools
from diskfmt.guest.windows.bcd import BootStore, boot_store
from diskfmt.guest.windows.binding import DriverIndex
from diskfmt.guest.windows.files import Files
from diskfmt.guest.windows.filters import Filter, filters
from diskfmt.guest.windows.hives import BootVolume, Hives
from diskfmt.guest.windows.reach import Dhcp, RemoteDesktop, dhcp, remote_desktop
from diskfmt.guest.windows.registry import ControlSet, CurrentSet, HiveState, Node, Registry, control_set, look
from diskfmt.guest.windows.state import (
    Hibernation,
    PendingReboot,
    SetupState,
    fast_startup,
    hibernation,
    hotfixes,
    pending_reboot,
    setup_state,
)
from diskfmt.guest.windows.storage import Bus, BusDrivers, NetworkDriver, bus, network

T = TypeVar("T")

_VERSION: Final = "Microsoft\\Windows NT\\CurrentVersion"
_ENVIRONMENT: Final = "Control\\Session Manager\\Environment"
_MACHINES: Final = {"amd64": "x86_64", "x86": "i386", "arm64": "arm64"}
_BOOT_FILES: Final = {
    "bootmgr": "/bootmgr",
    "bootmgfw": "/EFI/Microsoft/Boot/bootmgfw.efi",
    "fallback-x86_64": "/EFI/BOOT/BOOTX64.EFI",
    "fallback-arm64": "/EFI/BOOT/BOOTAA64.EFI",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsFacts:
    """A Windows as it lies on the disk.

    `hives`: SYSTEM and SOFTWARE. `version` is (major, minor): (6, 1) for Windows 7 and Server 2008 R2,
    (10, 0) for 10, 11 and Server 2016 and later, which `build` tells apart. `installation_type`: `Client`, `Server` …
    `buses`: from where it can boot. `bios_store`, `uefi_store`: None where the volume has no such store.
    `boot_files`: `bootmgr`, `bootmgfw`, `fallback-…` → the volume that has it, None: no volume. `san_policy`: 1 means
    that all disks come online. `utc_clock`: the hardware clock is not local time. `hotfixes`: as `KB4474419`.
    """

    hives: Mapping[str, Fact[HiveState]]
    product: Fact[str]
    version: Fact[tuple[int, int]]
    build: Fact[int]
    installation_type: Fact[str]
    edition: Fact[str]
    architecture: Fact[str]
    control_set: Fact[ControlSet]
    buses: Mapping[Bus, Fact[BusDrivers]]
    network: Fact[NetworkDriver]
    filters: Fact[tuple[Filter, ...]]
    vm_tools: Fact[tuple[VmTools, ...]]
    cloudbase: Fact[Cloudbase | None]
    dhcp: Fact[Dhcp]
    remote_desktop: Fact[RemoteDesktop]
    hibernation: Fact[Hibernation]
    fast_startup: Fact[bool]
    pending_reboot: Fact[PendingReboot]
    setup: Fact[SetupState]
    bios_store: Fact[BootStore | None]
    uefi_store: Fact[BootStore | None]
    boot_files: Mapping[str, Fact[str | None]]
    san_policy: Fact[int | None]
    utc_clock: Fact[bool]
    device_install_disabled: Fact[bool]
    hotfixes: Fact[frozenset[str]]
    xen_hidden_devices: Fact[str]


def gather(files: Files, hives: Hives, boot_volumes: Iterable[BootVolume] = ()) -> WindowsFacts:
    """The facts of the Windows on a system volume. Raises nothing: what cannot be read is Unknown, field by field."""
    volumes = tuple(boot_volumes)
    selected = look(lambda: control_set(hives.system))

    def current() -> CurrentSet:
        if isinstance(selected, Unknown):
            raise DamagedError(selected.reason)
        return CurrentSet(hives.system, selected.value.name)

    @cache
    def index() -> DriverIndex:
        return DriverIndex(current(), hives.drivers)

    def ask(question: Callable[[CurrentSet], Known[T]]) -> Fact[T]:
        return look(lambda: question(current()))

    def version_text(*names: str) -> Fact[str]:
        return look(lambda: _version_text(hives.software, *names))

    return WindowsFacts(
        hives=MappingProxyType({registry.name: registry.state for registry in (hives.system, hives.software)}),
        product=version_text("ProductName"),
        version=look(lambda: _version(hives.software)),
        build=look(lambda: _build(hives.software)),
        installation_type=version_text("InstallationType"),
        edition=version_text("EditionID"),
        architecture=ask(_architecture),
        control_set=selected,
        buses=MappingProxyType(
            {which: ask(lambda found, which=which: bus(found, index(), files, which)) for which in Bus}  # type: ignore[misc]
        ),
        network=ask(lambda found: network(found, index(), files)),
        filters=ask(lambda found: filters(found, files)),
        vm_tools=ask(vm_tools),
        cloudbase=ask(lambda found: cloudbase(found, files)),
        dhcp=ask(dhcp),
        remote_desktop=ask(remote_desktop),
        hibernation=look(lambda: hibernation(files)),
        fast_startup=ask(fast_startup),
        pending_reboot=ask(lambda found: pending_reboot(found, hives.software, files)),
        setup=look(lambda: setup_state(hives.system, hives.software, files)),
        bios_store=_store(hives.bios_store),
        uefi_store=_store(hives.uefi_store),
        boot_files=MappingProxyType({name: _volume_with(path, volumes) for name, path in _BOOT_FILES.items()}),
        san_policy=ask(_san_policy),
        utc_clock=ask(lambda found: _flag(found.at("Control\\TimeZoneInformation"), "RealTimeIsUniversal")),
        device_install_disabled=ask(
            lambda found: _flag(found.at("Services\\PlugPlay\\Parameters"), "DeviceInstallDisabled")
        ),
        hotfixes=look(lambda: hotfixes(hives.software)),
        xen_hidden_devices=ask(_xen_hidden_devices),
    )


def _version_text(software: Registry, *names: str) -> Known[str]:
    key = software.need(_VERSION)
    for name in names:
        value = key.text(name)
        if value:
            return Known(value, f"{key.place}: {name}")
    raise DamagedError(f"{key.place} has no {names[0]}")


def _version(software: Registry) -> Known[tuple[int, int]]:
    """From Windows 10 on the numbers are values of their own, and `CurrentVersion` stays at 6.3."""
    key = software.need(_VERSION)
    major, minor = key.number("CurrentMajorVersionNumber"), key.number("CurrentMinorVersionNumber")
    if major is not None and minor is not None:
        return Known((major, minor), f"{key.place}: CurrentMajorVersionNumber")
    text = _version_text(software, "CurrentVersion")
    parts = text.value.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts):
        raise DamagedError(f"{key.place}: CurrentVersion is {text.value!r}")
    return Known((int(parts[0]), int(parts[1])), text.evidence)


def _build(software: Registry) -> Known[int]:
    text = _version_text(software, "CurrentBuildNumber", "CurrentBuild")
    if not (text.value.isascii() and text.value.isdecimal() and len(text.value) < 10):
        raise DamagedError(f"{text.evidence} is {text.value!r}")
    return Known(int(text.value), text.evidence)


def _architecture(current: CurrentSet) -> Known[str]:
    key = current.need(_ENVIRONMENT)
    text = key.text("PROCESSOR_ARCHITECTURE") or ""
    if text.lower() not in _MACHINES:
        raise DamagedError(f"{key.place}: PROCESSOR_ARCHITECTURE is {text!r}")
    return Known(_MACHINES[text.lower()], f"{key.place}: PROCESSOR_ARCHITECTURE")


def _store(store: Registry) -> Fact[BootStore | None]:
    if store.missing:
        return Known(None, store.name)

    def read() -> Known[BootStore | None]:
        found = boot_store(store)
        return Known(found.value, found.evidence)

    return look(read)


def _volume_with(path: str, volumes: tuple[BootVolume, ...]) -> Fact[str | None]:
    def read() -> Known[str | None]:
        for volume in volumes:
            if volume.files.exists(path):
                return Known(volume.name, f"{volume.name}:{path}")
        return Known(None, path)

    return look(read)


def _san_policy(current: CurrentSet) -> Known[int | None]:
    key = current.at("Services\\partmgr\\Parameters")
    return Known(key.number("SanPolicy") if key else None, f"{key.place}: SanPolicy" if key else "")


def _xen_hidden_devices(current: CurrentSet) -> Known[str]:
    """What Xen's drivers keep from Windows; it is written as a text or as a list."""
    key = current.at("Services\\XenPCI\\Parameters")
    return Known(" ".join(key.texts("hide_devices")) if key else "", f"{key.place}: hide_devices" if key else "")


def _flag(key: Node | None, name: str) -> Known[bool]:
    return Known(bool(key and key.number(name)), f"{key.place}: {name}" if key else "")
