"""The hives and boot files of a Windows: found by path, opened by whoever can read hives."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import GuestError
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.windows.files import WINDOWS, Files
from diskfmt.guest.windows.registry import Hive, Registry

MAX_HIVE: Final = 256 << 20
_CONFIG: Final = f"{WINDOWS}/System32/config"
_BIOS_STORE: Final = "/Boot/BCD"
_UEFI_STORE: Final = "/EFI/Microsoft/Boot/BCD"


@dataclass(frozen=True, slots=True)
class BootVolume:
    """A volume that may hold boot files: the ESP, System Reserved, or the system volume itself."""

    name: str
    files: Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Hives:
    """The hives that are read. `bios_store`, `uefi_store`: the boot stores that the two firmwares use."""

    system: Registry
    software: Registry
    drivers: Registry
    bios_store: Registry
    uefi_store: Registry


def open_hives(files: Files, boot_volumes: Iterable[BootVolume], open_hive: Callable[[bytes], Hive]) -> Hives:
    """The hives of a system volume and the boot stores of all volumes; the first store that there is counts.

    Raises nothing: what cannot be read is Unknown, what does not exist is Known(None).
    """
    volumes = tuple(boot_volumes)

    def config(name: str) -> Registry:
        return Registry(name, _opened(files, f"{_CONFIG}/{name}", open_hive))

    def store(path: str) -> Registry:
        for volume in volumes:
            hive = _opened(volume.files, path, open_hive)
            if isinstance(hive, Unknown) or hive.value is not None:
                return Registry(f"{volume.name}:{path}", hive)
        return Registry(path, Known(None))

    return Hives(
        system=config("SYSTEM"),
        software=config("SOFTWARE"),
        drivers=config("DRIVERS"),
        bios_store=store(_BIOS_STORE),
        uefi_store=store(_UEFI_STORE),
    )


def _opened(files: Files, path: str, open_hive: Callable[[bytes], Hive]) -> Fact[Hive | None]:
    try:
        if not files.exists(path):
            return Known(None, path)
        return Known(open_hive(files.read(path, MAX_HIVE)), path)
    except GuestError as error:
        return Unknown(f"{path}: {error.message}")
