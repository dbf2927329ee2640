"""Windows for tests: hives as dictionaries, hives of real files through another reader, volumes through other tools."""

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path

import pytest

from diskfmt.guest.base import BudgetError, DamagedError
from diskfmt.guest.fact import Fact, Known
from diskfmt.guest.windows.hives import Hives
from diskfmt.guest.windows.registry import Registry

Flat = Mapping[str, Mapping[str, object]]
"""Keys by path, each with its values by name."""


class DictKey:
    def __init__(self, name: str, values: Mapping[str, object], subkeys: Iterable[str]) -> None:
        self._values, self._subkeys = values, tuple(subkeys)

    def subkeys(self) -> Iterable[str]:
        return self._subkeys

    def values(self) -> Iterable[str]:
        return tuple(self._values)

    def value(self, name: str) -> object:
        return next((value for key, value in self._values.items() if key.lower() == name.lower()), None)


class DictHive:
    """A hive that a test writes down. Names are found in any case, as Windows does."""

    pending_logs = False

    def __init__(self, flat: Flat) -> None:
        self._names: dict[str, str] = {"": ""}
        self._values: dict[str, Mapping[str, object]] = {}
        self._below: dict[str, dict[str, str]] = {}
        for path, values in flat.items():
            self._values[path.lower()] = values
            parts = path.split("\\")
            for depth, part in enumerate(parts):
                parent = "\\".join(parts[:depth]).lower()
                self._below.setdefault(parent, {})[part.lower()] = part
                self._names["\\".join(parts[: depth + 1]).lower()] = part

    def key(self, path: str) -> DictKey | None:
        lower = path.strip("\\").lower()
        if lower not in self._names:
            return None
        return DictKey(self._names[lower], self._values.get(lower, {}), self._below.get(lower, {}).values())


class RegfHive:
    """A hive file, read by python-registry; whatever that raises is damage."""

    def __init__(self, content: bytes) -> None:
        registry = pytest.importorskip("Registry.Registry")
        self._module = registry
        self.pending_logs = content[4:8] != content[8:12]
        self._hive = _guarded(lambda: registry.Registry(BytesIO(content)))

    def key(self, path: str) -> "RegfKey | None":
        def find():
            key = self._hive.root()
            for name in filter(None, path.split("\\")):
                try:
                    key = key.subkey(name)
                except self._module.RegistryKeyNotFoundException:
                    return None
            return RegfKey(key)

        return _guarded(find)


class RegfKey:
    def __init__(self, key) -> None:
        self._key = key

    def subkeys(self) -> Iterable[str]:
        return _guarded(lambda: [key.name() for key in self._key.subkeys()])

    def values(self) -> Iterable[str]:
        return _guarded(lambda: [value.name() for value in self._key.values()])

    def value(self, name: str) -> object:
        def find():
            for value in self._key.values():
                if value.name().lower() == name.lower():
                    return value.value()
            return None

        return _guarded(find)


def _guarded(read: Callable):
    try:
        return read()
    except Exception as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


class DictFiles:
    """A volume that a test writes down."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {path.lower(): content for path, content in files.items()}

    def exists(self, path: str) -> bool:
        lower = path.lower()
        return lower in self._files or any(other.startswith(f"{lower}/") for other in self._files)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        content = self._files[path.lower()]
        if len(content) > limit:
            raise BudgetError("too long")
        return content

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self._files[path.lower()][offset : offset + length]


class ToolFiles:
    """A file system in a file, read by ntfs-3g's tools or by mtools."""

    def __init__(self, image: Path, kind: str) -> None:
        self._image, self._kind = str(image), kind
        self._paths = self._list()

    def _list(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._kind == "vfat":
            for line in _run(["mdir", "-i", self._image, "-/", "-b"]).decode().splitlines():
                path = line.removeprefix("::").rstrip("/")
                found[path.lower()] = path
            return found
        folder = ""
        for line in _run(["ntfsls", "-R", "-f", "-p", "/", self._image]).decode().splitlines():
            if line.startswith("/") and line.endswith(":"):
                folder = line[:-1].rstrip("/")
                found[folder.lower()] = folder
            elif line and line not in (".", ".."):
                found[f"{folder}/{line}".lower()] = f"{folder}/{line}"
        return found

    def exists(self, path: str) -> bool:
        return path.lower() in self._paths

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        real = self._paths[path.lower()]
        if self._kind == "vfat":
            return _run(["mtype", "-i", self._image, f"::{real}"])
        return _run(["ntfscat", "-f", self._image, real])

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path)[offset : offset + length]


def _run(command: list[str]) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, check=True, capture_output=True).stdout


def hives(system: Flat | None = None, software: Flat | None = None, **others: Flat | None) -> Hives:
    """Hives of dictionaries; those that are not given do not exist."""

    def registry(name: str, flat: Flat | None) -> Registry:
        return Registry(name, Known(DictHive(flat) if flat is not None else None))

    return Hives(
        system=registry("SYSTEM", system),
        software=registry("SOFTWARE", software),
        drivers=registry("DRIVERS", others.get("drivers")),
        bios_store=registry("/Boot/BCD", others.get("bios_store")),
        uefi_store=registry("/EFI/Microsoft/Boot/BCD", others.get("uefi_store")),
    )


def known(fact: Fact):
    """The value; fails where it is not known."""
    assert isinstance(fact, Known), fact
    return fact.value


SELECT = {"Select": {"Current": 1, "Default": 1, "Failed": 0, "LastKnownGood": 2}, "ControlSet001": {}}


def service(name: str, start: int | None = 0, override: int | None = None, **values: object) -> dict[str, dict]:
    """A boot driver."""
    here = f"ControlSet001\\Services\\{name}"
    found: dict[str, dict] = {here: {"Type": 1, **({"Start": start} if start is not None else {}), **values}}
    if override is not None:
        found[f"{here}\\StartOverride"] = {"0": override}
    return found


def chain(device: str, name: str, *, inf: str = "oem3.inf", without: str = "") -> dict[str, dict]:
    """The chain of Windows 8 and later from a device to a service; `without` leaves one link out."""
    package = f"{inf}_amd64_0123456789abcdef"
    database = "DriverDatabase"
    links: dict[str, dict[str, dict]] = {
        "device": {f"{database}\\DeviceIds\\{device}": {inf: b"\x01\xff\x00\x00"}},
        "inf": {f"{database}\\DriverInfFiles\\{inf}": {"Active": package}},
        "descriptor": {
            f"{database}\\DriverPackages\\{package}\\Descriptors\\{device}": {"Configuration": "disk_install"}
        },
        "configuration": {f"{database}\\DriverPackages\\{package}\\Configurations\\disk_install": {"Service": name}},
    }
    found: dict[str, dict] = {database: {}}
    for link, keys in links.items():
        if link != without:
            found.update(keys)
    return found


def critical(device: str, name: str) -> dict[str, dict]:
    """The entry of Windows 7 for a device."""
    return {f"ControlSet001\\Control\\CriticalDeviceDatabase\\{device.replace(chr(92), '#')}": {"Service": name}}


def drivers(*names: str) -> dict[str, bytes]:
    """The files of drivers."""
    return {f"/Windows/System32/drivers/{name}.sys": b"MZ" for name in names}


def regf(tmp_path: Path, flat: Flat) -> bytes:
    """A real hive with these keys, filled by hivexregedit."""
    hive, text = tmp_path / "hive", tmp_path / "hive.reg"
    hive.write_bytes(_empty_regf())
    paths: dict[str, Mapping[str, object]] = {}
    for path, values in flat.items():
        parts = path.split("\\")
        for depth in range(1, len(parts)):
            paths.setdefault("\\".join(parts[:depth]), {})
        paths[path] = values
    lines = ["Windows Registry Editor Version 5.00"]
    for path in sorted(paths):
        lines += ["", f"[\\{path}]", *(f'"{_quoted(name)}"={_reg(value)}' for name, value in paths[path].items())]
    text.write_text("\n".join(lines) + "\n")
    _run(["hivexregedit", "--merge", str(hive), str(text)])
    return hive.read_bytes()


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _reg(value: object) -> str:
    if isinstance(value, int):
        return f"dword:{value:08x}"
    if isinstance(value, str):
        return "hex(1):" + (value + "\0").encode("utf-16-le").hex(",")
    if isinstance(value, bytes):
        return "hex(3):" + value.hex(",")
    return "hex(7):" + "".join(f"{member}\0" for member in (*value, "")).encode("utf-16-le").hex(",")  # type: ignore[attr-defined]


def _empty_regf() -> bytes:
    """A hive with nothing but a root: base block, one hbin with root key, security descriptor and a free cell."""
    sd = bytes.fromhex("010004801400000024000000000000003400000001020000000000052000000020020000")
    sd += bytes.fromhex("010200000000000520000000200200000200080000000000")
    root_at, sk_at = 0x20, 0x20 + 0x60
    name = b"$$$PROTO.HIV"
    nk = struct.pack("<2sHQ", b"nk", 0x2C, 0) + struct.pack("<15I", 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 0,
        0xFFFFFFFF, sk_at, 0xFFFFFFFF, 0, 0, 0, 0, 0) + struct.pack("<HH", len(name), 0) + name  # fmt: skip
    sk = struct.pack("<2sHIIII", b"sk", 0, sk_at, sk_at, 1, len(sd)) + sd
    cells = struct.pack("<i", -0x60) + nk.ljust(0x5C, b"\0")
    cells += struct.pack("<i", -0x80) + sk.ljust(0x7C, b"\0")
    free = 0x1000 - 0x20 - len(cells)
    cells += struct.pack("<i", free) + bytes(free - 4)
    hbin = struct.pack("<4sIIQQI", b"hbin", 0, 0x1000, 0, 0, 0) + cells
    base = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 3, 0, 1, root_at, 0x1000, 1).ljust(508, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", base):
        checksum ^= word
    return (base + struct.pack("<I", checksum)).ljust(0x1000, b"\0") + hbin
