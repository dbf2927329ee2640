"""From which buses this Windows can boot, and whether it has a driver for the network.

A bus is ready when each of its stages (the controller, and for some what hangs on it) is bound to a service that
starts at boot, is not overridden, and whose file is there. Looking at `Start` alone, or at the ids alone, is wrong on
real machines.
Source: OASIS, Virtual I/O Device (VIRTIO) 1.1, 4.1.2 (PCI ids 1af4:…); PCI class codes (NVMe 01.08.02, AHCI 01.06.01);
Microsoft, Hyper-V synthetic SCSI controller (VMBUS class id).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.windows.binding import Bindings, DriverIndex, HardwareId
from diskfmt.guest.windows.files import Files
from diskfmt.guest.windows.registry import CurrentSet, look
from diskfmt.guest.windows.services import DISABLED, Service, service


class Bus(StrEnum):
    """What a disk may hang on."""

    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    NVME = "nvme"
    AHCI = "ahci"
    IDE = "ide"
    HYPERV = "hyper-v"


@dataclass(frozen=True, slots=True)
class _Stage:
    """A device on the way to the disk, and the services that are known to drive it."""

    ids: tuple[HardwareId, ...]
    services: tuple[str, ...]


def _virtio(*devices: str) -> tuple[HardwareId, ...]:
    return tuple(HardwareId("PCI", f"VEN_1AF4&DEV_{device}", open_end=True) for device in devices)


_STAGES: Final[dict[Bus, tuple[_Stage, ...]]] = {
    Bus.VIRTIO_BLK: (_Stage(_virtio("1001", "1042"), ("viostor", "vrtioblk", "virtio_blk")),),
    Bus.VIRTIO_SCSI: (_Stage(_virtio("1004", "1048"), ("vioscsi",)),),
    Bus.NVME: (_Stage((HardwareId("PCI", "CC_010802"),), ("stornvme",)),),
    Bus.AHCI: (_Stage((HardwareId("PCI", "CC_010601"),), ("storahci", "msahci")),),
    # The controller is that of the i440FX machine, of Hyper-V, or any other; its channels are devices of their own.
    Bus.IDE: (
        _Stage(
            (
                HardwareId("PCI", "VEN_8086&DEV_7010"),
                HardwareId("PCI", "VEN_8086&DEV_7111"),
                HardwareId("PCI", "CC_0101", compatible=True),
            ),
            ("intelide", "pciide"),
        ),
        _Stage((HardwareId("", "Primary_IDE_Channel"), HardwareId("", "Internal_IDE_Channel")), ("atapi",)),
    ),
    Bus.HYPERV: (
        _Stage((HardwareId("ACPI", "VMBus"), HardwareId("root", "VMBus")), ("vmbus",)),
        _Stage((HardwareId("VMBUS", "{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}"),), ("storvsc",)),
    ),
}
_NET: Final = _Stage(_virtio("1000", "1041"), ("netkvm",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One device: the services that are there (bound or known by name), and the chains that lead to one.

    `bindings` is Unknown where the databases could not be read.
    """

    services: tuple[Service, ...]
    bindings: Fact[Bindings]

    @property
    def bound(self) -> tuple[str, ...]:
        """Names of the services that the device is bound to."""
        return self.bindings.value.services if isinstance(self.bindings, Known) else ()

    def named(self, name: str) -> Service | None:
        """The service with this name."""
        return next((found for found in self.services if found.name.lower() == name.lower()), None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the device does not work at boot; none: it does, or it is not known."""
        found = [entry.problem for entry in self.services if entry.problem and self._counts(entry)]
        if not self.services:
            found.append("no driver is installed")
        elif isinstance(self.bindings, Known):
            found += [f"{name}: the service does not exist" for name in self.bound if self.named(name) is None]
            if not self.bound:
                found += self.bindings.value.staged or ["no device is bound to the driver"]
        return tuple(found)

    @property
    def boots(self) -> bool | None:
        """Whether the device works when the machine boots; None: not everything could be looked at."""
        if not self.services:
            return False
        if isinstance(self.bindings, Unknown):
            return False if all(entry.boots is False for entry in self.services) else None
        answers = {entry.boots if entry else False for entry in map(self.named, self.bound)}
        if not answers:
            return False
        # Two drivers for one device, of which one would not start: which one wins is decided by ranks, not here.
        return answers.pop() if len(answers) == 1 else None

    def _counts(self, entry: Service) -> bool:
        return not self.bound or any(name.lower() == entry.name.lower() for name in self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusDrivers:
    """A bus: its stages from the controller to the disk."""

    bus: Bus
    stages: tuple[Driver, ...]

    @property
    def boots(self) -> bool | None:
        """Whether Windows finds its disk on this bus; None: not everything could be looked at."""
        answers = [stage.boots for stage in self.stages]
        return False if False in answers else None if None in answers else True

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it does not."""
        return tuple(problem for stage in self.stages for problem in stage.problems)

    @property
    def evidence(self) -> str:
        """The keys that decided."""
        places = [entry.place for stage in self.stages for entry in stage.services]
        return ", ".join(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDriver:
    """The driver of a network card. `staged`: keys of packages that plug and play installs when it meets the card."""

    service: Service | None
    staged: Fact[tuple[str, ...]]

    @property
    def works(self) -> bool | None:
        """Whether the card will work; None: not everything could be looked at."""
        if self.service is None:
            return bool(self.staged.value) if isinstance(self.staged, Known) else None
        if self.service.starts is None or self.service.starts >= DISABLED:
            return False
        return self.service.file.value if isinstance(self.service.file, Known) else None


def bus(current: CurrentSet, index: DriverIndex, files: Files, which: Bus) -> Known[BusDrivers]:
    """What there is for a bus. Raises GuestError."""
    found = BusDrivers(bus=which, stages=tuple(_driver(current, index, files, stage) for stage in _STAGES[which]))
    return Known(found, found.evidence)


def _driver(current: CurrentSet, index: DriverIndex, files: Files, stage: _Stage) -> Driver:
    bindings = look(lambda: Known(index.find(stage.ids)))
    bound = bindings.value.services if isinstance(bindings, Known) else ()
    names = {name.lower(): name for name in (*bound, *stage.services)}
    services = (service(current, files, name) for name in names.values())
    return Driver(services=tuple(found for found in services if found is not None), bindings=bindings)


def network(current: CurrentSet, index: DriverIndex, files: Files) -> Known[NetworkDriver]:
    """What there is for the network card of virtio. Raises GuestError."""
    found = next(filter(None, (service(current, files, name) for name in _NET.services)), None)
    if found is not None:
        return Known(NetworkDriver(service=found, staged=Known(())), found.place)
    chains = look(lambda: Known(index.find(_NET.ids, at_boot=False)))
    if isinstance(chains, Unknown):
        return Known(NetworkDriver(service=None, staged=chains))
    places = tuple(binding.place for binding in chains.value.bound)
    return Known(NetworkDriver(service=None, staged=Known(places)), ", ".join(places))
