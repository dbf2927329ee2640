r"""Which driver Windows loads for a device: from the hardware id to the service.

Windows 8 and later (`DriverDatabase`, in SYSTEM for what is needed at boot and in DRIVERS for all):

    DeviceIds\PCI\<id>: <name>.inf ─► DriverInfFiles\<name>.inf: Active ─► DriverPackages\<active>
        ├ Descriptors\PCI\<id>: Configuration ──┐
        └ Configurations\<configuration>: Service ◄┘

Where the chain breaks, the driver is *staged*: its files lie there, and nothing loads it at boot.
Up to Windows 7: `Control\CriticalDeviceDatabase\pci#<id>: Service`.
Source: read from hives of Windows 7, 8.1 and 10; Microsoft, Device and driver installation (hardware ids).
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import UnsupportedError
from diskfmt.guest.windows.registry import CurrentSet, Node, Registry

_DATABASE: Final = "DriverDatabase"
_CRITICAL: Final = "Control\\CriticalDeviceDatabase"


@dataclass(frozen=True, slots=True)
class HardwareId:
    """An id under its enumerator. `open_end`: what begins so counts (`VEN_…&DEV_…` without subsystem and revision).

    `compatible`: of a class of devices; it counts where no id of the device itself is bound.
    """

    enumerator: str
    id: str
    open_end: bool = False
    compatible: bool = False

    def fits(self, name: str) -> bool:
        """Whether a key is of this device."""
        given, wanted = name.lower(), self.id.lower()
        return given == wanted or (self.open_end and given.startswith(f"{wanted}&"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A device and the service that its chain ends at. `place`: the key that names the service."""

    hardware_id: str
    service: str
    place: str


@dataclass(frozen=True, slots=True)
class Bindings:
    """All that is registered for some devices: chains that end at a service, and why others do not."""

    bound: tuple[Binding, ...] = ()
    staged: tuple[str, ...] = ()

    @property
    def services(self) -> tuple[str, ...]:
        """The services at the ends, each once in any case."""
        return tuple({binding.service.lower(): binding.service for binding in self.bound}.values())


def find(current: CurrentSet, ids: tuple[HardwareId, ...], drivers: Registry | None = None) -> Bindings:
    """What is registered for the devices. `drivers`: the hive DRIVERS, for devices that are not needed at boot.

    Raises UnsupportedError where the hive has neither database, GuestError for what cannot be read.
    """
    database = current.system.at(_DATABASE)
    if database is not None:
        found = _modern(database, ids)
        if found.bound or drivers is None or drivers.missing:
            return found
        more = drivers.at(_DATABASE)
        if more is not None:
            other = _modern(more, ids)
            found = Bindings(other.bound, found.staged + other.staged)
        return found
    critical = current.at(_CRITICAL)
    if critical is None:
        raise UnsupportedError(f"{current.system.name} has neither {_DATABASE} nor {_CRITICAL}")
    return _critical(critical, ids)


def _modern(database: Node, ids: tuple[HardwareId, ...]) -> Bindings:
    bound: list[Binding] = []
    staged: list[str] = []
    for wanted in ids:
        if wanted.compatible and bound:
            continue
        for device in _devices(database, wanted):
            for inf in device.value_names():
                if not inf.lower().endswith(".inf"):
                    continue
                end = _follow(database, device, inf)
                if isinstance(end, Binding):
                    bound.append(end)
                else:
                    staged.append(end)
    return Bindings(tuple(bound), tuple(staged))


def _devices(database: Node, wanted: HardwareId) -> list[Node]:
    branch = "DeviceIds" + (f"\\{wanted.enumerator}" if wanted.enumerator else "")
    if not wanted.open_end:
        exact = database.below(f"{branch}\\{wanted.id}")
        return [exact] if exact is not None else []
    parent = database.below(branch)
    names = [name for name in parent.names() if wanted.fits(name)] if parent is not None else []
    return [found for found in (database.below(f"{branch}\\{name}") for name in names) if found is not None]


def _follow(database: Node, device: Node, inf: str) -> Binding | str:
    """The end of the chain, or where it breaks."""
    hardware_id = device.path.partition("\\DeviceIds\\")[2]
    file = database.below(f"DriverInfFiles\\{inf}")
    active = file.text("Active") if file is not None else None
    if not active:
        return f"{hardware_id}: {inf} has no active package"
    package = database.below(f"DriverPackages\\{active}")
    descriptor = package.below(f"Descriptors\\{hardware_id}") if package is not None else None
    configuration = descriptor.text("Configuration") if descriptor is not None else None
    if package is None or not configuration:
        return f"{hardware_id}: the package {active} does not describe it"
    configured = package.below(f"Configurations\\{configuration}")
    service = configured.text("Service") if configured is not None else None
    if configured is None or not service:
        return f"{hardware_id}: the configuration {configuration} of {active} names no service"
    return Binding(hardware_id=hardware_id, service=service, place=configured.place)


def _critical(critical: Node, ids: tuple[HardwareId, ...]) -> Bindings:
    bound: list[Binding] = []
    staged: list[str] = []
    names = tuple(critical.names())
    for wanted in ids:
        if wanted.compatible and bound:
            continue
        for name in names:
            kind, _, device = name.rpartition("#")
            if kind.lower() != wanted.enumerator.lower() or not wanted.fits(device):
                continue
            entry = critical.below(name)
            service = entry.text("Service") if entry is not None else None
            if entry is None or not service:
                staged.append(f"{name}: names no service")
            else:
                bound.append(Binding(hardware_id=name, service=service, place=entry.place))
    return Bindings(tuple(bound), tuple(staged))
