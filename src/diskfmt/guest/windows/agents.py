"""Programs that set the machine up, or belong to another hypervisor.

Source: cloudbase-init documentation (configuration file, metadata_services); names of services that the tools of
VMware, VirtualBox, Parallels, Xen and Citrix install.
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import DamagedError
from diskfmt.guest.fact import Known
from diskfmt.guest.windows.files import Files
from diskfmt.guest.windows.registry import CurrentSet

_TOOLS: Final = {
    "VMTools": "VMware Tools",
    "VGAuthService": "VMware Tools",
    "vmmemctl": "VMware Tools",
    "vmhgfs": "VMware Tools",
    "VBoxService": "VirtualBox Guest Additions",
    "VBoxGuest": "VirtualBox Guest Additions",
    "VBoxSF": "VirtualBox Guest Additions",
    "prl_tools": "Parallels Tools",
    "prl_fs": "Parallels Tools",
    "prl_tg": "Parallels Tools",
    "xenagent": "Xen tools",
    "xensvc": "Citrix tools",
    "xenbus_monitor": "Xen tools",
}
_FOLDERS: Final = (
    "/Program Files/Cloudbase Solutions/Cloudbase-Init",
    "/Program Files (x86)/Cloudbase Solutions/Cloudbase-Init",
)
_SERVICE: Final = "cloudbase-init"
_LIST: Final = "metadata_services"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmTools:
    """A service of a hypervisor's guest tools. `start`: as services have it."""

    service: str
    product: str
    start: int | None


def vm_tools(current: CurrentSet) -> Known[tuple[VmTools, ...]]:
    """Guest tools that are installed. Raises GuestError."""
    found = [
        VmTools(service=name, product=product, start=entry.number("Start"))
        for name, product in _TOOLS.items()
        if (entry := current.at(f"Services\\{name}")) is not None
    ]
    places = ", ".join(f"{current.system.name}\\{current.name}\\Services\\{tool.service}" for tool in found)
    return Known(tuple(found), places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloudbase:
    """cloudbase-init. `start` of its service; `services`: those that it asks, None: its default, all that it knows."""

    start: int | None
    config: str | None
    services: tuple[str, ...] | None

    def asks(self, name: str) -> bool:
        """Whether it asks a service, by module (`configdrive`); by default it asks all."""
        if self.services is None:
            return True
        return any(name.lower() in service.lower().split(".") for service in self.services)


def cloudbase(current: CurrentSet, files: Files) -> Known[Cloudbase | None]:
    """cloudbase-init as it is installed, None where it is not. Raises GuestError."""
    entry = current.at(f"Services\\{_SERVICE}")
    folder = next((path for path in _FOLDERS if files.exists(path)), None)
    if entry is None:
        return Known(None, folder or "")  # a folder that was left over runs nothing
    config = f"{folder}/conf/cloudbase-init.conf" if folder else None
    if config is None or not files.exists(config):
        return Known(Cloudbase(start=entry.number("Start"), config=None, services=None), entry.place)
    services, line = metadata_services(files.read(config))
    found = Cloudbase(start=entry.number("Start"), config=config, services=services)
    return Known(found, f"{config}:{line}" if line else config)


def metadata_services(content: bytes) -> tuple[tuple[str, ...] | None, int]:
    """The services of a configuration file and the line that names them, (None, 0) where none does.

    The last entry of `[DEFAULT]` counts; indented lines go on with the one before, as oslo.config reads it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedError("cloudbase-init.conf is not UTF-8", offset=error.start) from None
    section, collecting = "DEFAULT", False
    found: str | None = None
    where = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if line[0] in " \t":
            if collecting:
                found = f"{found},{stripped}"
            continue
        collecting = False
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1]
            continue
        key, equals, value = stripped.partition("=")
        if section == "DEFAULT" and equals and key.strip() == _LIST:
            found, where, collecting = value, number, True
    if found is None:
        return None, 0
    return tuple(part for part in (part.strip().strip("'\"") for part in found.split(",")) if part), where
