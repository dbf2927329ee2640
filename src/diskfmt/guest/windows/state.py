"""Work that Windows has not finished: updates, setup, hibernation.

Source: Microsoft, servicing (`pending.xml`, `RebootPending`), Sysprep (`ImageState`), hibernation file signatures.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from diskfmt.guest.base import UnsupportedError
from diskfmt.guest.fact import Known
from diskfmt.guest.windows.files import WINDOWS, Files
from diskfmt.guest.windows.registry import CurrentSet, Registry

_CBS: Final = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"
_UPDATE: Final = "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired"
_STATE: Final = "Microsoft\\Windows\\CurrentVersion\\Setup\\State"
_MANAGER: Final = "Control\\Session Manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReboot:
    """What waits for a restart, each with its place. `renames`: files to be renamed, which alone mean nothing."""

    pending_xml: bool
    servicing: tuple[str, ...]
    update: bool
    renames: int


def pending_reboot(current: CurrentSet, software: Registry, files: Files) -> Known[PendingReboot]:
    """What waits. Raises GuestError."""
    marks = tuple(mark for mark in ("RebootPending", "PackagesPending") if software.at(f"{_CBS}\\{mark}") is not None)
    manager = current.at(_MANAGER)
    xml = f"{WINDOWS}/WinSxS/pending.xml"
    # Old and new names come in pairs, a deletion has an empty new name; empty ones were dropped.
    renames = len(manager.texts("PendingFileRenameOperations")) if manager is not None else 0
    found = PendingReboot(
        pending_xml=files.exists(xml),
        servicing=marks,
        update=software.at(_UPDATE) is not None,
        renames=renames,
    )
    places = [xml] if found.pending_xml else []
    places += [f"{software.name}\\{_CBS}\\{mark}" for mark in marks]
    return Known(found, ", ".join(places) or f"{software.name}\\{_CBS}")


def hotfixes(software: Registry) -> Known[frozenset[str]]:
    """The updates that are installed, as `KB4474419`. Raises DamagedError where Windows keeps no list, GuestError."""
    packages = software.need(f"{_CBS}\\Packages")
    found = set()
    for name in packages.names():
        _, mark, rest = name.partition("_for_KB")
        number = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if mark and number:
            found.add(f"KB{number}")
    return Known(frozenset(found), packages.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupState:
    """Where setup and Sysprep stand. `image_state` as in the registry, `IMAGE_STATE_COMPLETE` where all is done."""

    in_progress: bool
    setup_type: int
    command: str
    oobe: bool
    image_state: str | None
    generalized: bool


def setup_state(system: Registry, software: Registry, files: Files) -> Known[SetupState]:
    """Where setup stands. Raises GuestError."""
    setup = system.at("Setup")
    state = software.at(_STATE)
    found = SetupState(
        in_progress=bool(setup and setup.number("SystemSetupInProgress")),
        setup_type=(setup.number("SetupType") if setup else None) or 0,
        command=(setup.text("CmdLine") if setup else None) or "",
        oobe=bool(setup and setup.number("OOBEInProgress")),
        image_state=state.text("ImageState") if state else None,
        generalized=files.exists(f"{WINDOWS}/System32/Sysprep/Sysprep_succeeded.tag"),
    )
    return Known(found, setup.place if setup else f"{software.name}\\{_STATE}")


class Hibernation(StrEnum):
    """What the hibernation file says."""

    NONE = "none"
    ACTIVE = "active"
    RESUMED = "resumed"


_SIGNATURES: Final = {
    b"hibr": Hibernation.ACTIVE,
    b"wake": Hibernation.RESUMED,
    b"rstr": Hibernation.ACTIVE,
    b"\0\0\0\0": Hibernation.NONE,
    b"": Hibernation.NONE,
}


def hibernation(files: Files) -> Known[Hibernation]:
    """What `hiberfil.sys` says. Raises UnsupportedError for a signature that nobody knows, GuestError."""
    path = "/hiberfil.sys"
    if not files.exists(path):
        return Known(Hibernation.NONE, f"no {path}")
    signature = files.read_at(path, 0, 4).lower()
    if signature not in _SIGNATURES:
        raise UnsupportedError(f"{path} begins with {signature!r}")
    return Known(_SIGNATURES[signature], f"{path}@0")


def fast_startup(current: CurrentSet) -> Known[bool]:
    """Whether a shutdown hibernates the kernel: clients do by default, so alone it means nothing. Raises GuestError."""
    power = current.at(f"{_MANAGER}\\Power")
    return Known(bool(power and power.number("HiberbootEnabled")), power.place if power else "")
