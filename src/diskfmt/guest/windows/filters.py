"""Filter drivers of the disk classes: one that is named and missing stops the machine with 0x7B.

Source: Microsoft, UpperFilters and LowerFilters of a device setup class; class GUIDs of disks, SCSI and IDE controllers
and volumes.
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.fact import Known
from diskfmt.guest.windows.files import Files
from diskfmt.guest.windows.registry import CurrentSet
from diskfmt.guest.windows.services import DISABLED, Service, service

CLASSES: Final = {
    "DiskDrive": "{4d36e967-e325-11ce-bfc1-08002be10318}",
    "SCSIAdapter": "{4d36e97b-e325-11ce-bfc1-08002be10318}",
    "HDC": "{4d36e96a-e325-11ce-bfc1-08002be10318}",
    "Volume": "{71a27cdd-812a-11d0-bec7-08002be2092f}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A filter of a class; `kind` is `UpperFilters` or `LowerFilters`; `service` None: there is no such service."""

    class_name: str
    kind: str
    name: str
    service: Service | None
    place: str

    @property
    def loads(self) -> bool | None:
        """Whether Windows can load it; None: it is not known whether its file is there."""
        if self.service is None or self.service.starts is None or self.service.starts >= DISABLED:
            return False
        return self.service.file.value if isinstance(self.service.file, Known) else None


def filters(current: CurrentSet, files: Files) -> Known[tuple[Filter, ...]]:
    """The filters of all disk classes. Raises GuestError."""
    found: list[Filter] = []
    for class_name, guid in CLASSES.items():
        entry = current.at(f"Control\\Class\\{guid}")
        if entry is None:
            continue
        for kind in ("UpperFilters", "LowerFilters"):
            found += (
                Filter(
                    class_name=class_name,
                    kind=kind,
                    name=name,
                    service=service(current, files, name),
                    place=f"{entry.place}: {kind}",
                )
                for name in entry.texts(kind)
            )
    return Known(tuple(found), f"{current.system.name}\\{current.name}\\Control\\Class")
