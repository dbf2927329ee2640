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


class DriverIndex:
    """The databases of one guest. What was listed is kept: there are thousands of ids, and several devices to find."""

    def __init__(self, current: CurrentSet, drivers: Registry) -> None:
        self._current, self._drivers = current, drivers
        self._listed: dict[str, tuple[str, ...]] = {}

    def find(self, ids: tuple[HardwareId, ...], *, at_boot: bool = True) -> Bindings:
        """What is registered for the devices; `at_boot`: only in SYSTEM, since DRIVERS is not read so early.

        Raises UnsupportedError where the hive has neither database, GuestError for what cannot be read.
        """
        database = self._current.system.at(_DATABASE)
        if database is None:
            critical = self._current.at(_CRITICAL)
            if critical is None:
                raise UnsupportedError(f"{self._current.system.name} has neither {_DATABASE} nor {_CRITICAL}")
            return self._critical(critical, ids)
        found = self._modern(database, ids)
        if found.bound or at_boot or self._drivers.missing:
            return found
        more = self._drivers.at(_DATABASE)
        if more is None:
            return found
        other = self._modern(more, ids)
        return Bindings(other.bound, found.staged + other.staged)

    def _names(self, parent: Node) -> tuple[str, ...]:
        if parent.place not in self._listed:
            self._listed[parent.place] = tuple(parent.names())
        return self._listed[parent.place]

    def _modern(self, database: Node, ids: tuple[HardwareId, ...]) -> Bindings:
        bound: list[Binding] = []
        staged: list[str] = []
        for wanted in ids:
            if wanted.compatible and bound:
                continue
            for device in self._devices(database, wanted):
                for inf in device.value_names():
                    if not inf.lower().endswith(".inf"):
                        continue
                    end = _follow(database, device, inf)
                    if isinstance(end, Binding):
                        bound.append(end)
                    else:
                        staged.append(end)
        return Bindings(tuple(bound), tuple(staged))

    def _devices(self, database: Node, wanted: HardwareId) -> list[Node]:
        parent = database.below("DeviceIds" + (f"\\{wanted.enumerator}" if wanted.enumerator else ""))
        if parent is None:
            return []
        names = filter(wanted.fits, self._names(parent)) if wanted.open_end else (wanted.id,)
        return [found for name in names if (found := parent.below(name)) is not None]

    def _critical(self, critical: Node, ids: tuple[HardwareId, ...]) -> Bindings:
        bound: list[Binding] = []
        staged: list[str] = []
        for wanted in ids:
            if wanted.compatible and bound:
                continue
            for name in self._names(critical):
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
