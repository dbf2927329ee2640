"""What starts with the machine: systemd units, System V links, upstart jobs, OpenRC run levels.

Sources: systemd.unit(5), systemd.preset(5); Debian policy §9.3; upstart init(5); OpenRC's rc-update(8).
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, BudgetError
from diskfmt.guest.linux.root import Root, content, drop_in_files, is_file, link_text, sorted_names
from diskfmt.guest.linux.text import decode, matches, significant

UNIT_PATHS: Final = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_PRESETS: Final = ("/etc/systemd/system-preset", "/usr/lib/systemd/system-preset", "/lib/systemd/system-preset")
_RUN_LEVELS: Final = ("/etc/rc2.d", "/etc/rc3.d", "/etc/rc5.d", "/etc/rcS.d", "/etc/rc.d/rc3.d", "/etc/rc.d/rc5.d")
_RUN_LEVELS_SUSE: Final = ("/etc/init.d/rc3.d", "/etc/init.d/rc5.d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What starts.

    `units`: all unit files by name; `enabled`: name → the link that starts it; `masked`: name → the link to
    /dev/null. Names of services of other systems have no suffix. `presets`: (enable, pattern) in the order in which
    they count.
    """

    units: frozenset[str]
    enabled: Mapping[str, str]
    masked: Mapping[str, str]
    presets: tuple[tuple[bool, str], ...] = ()

    def starts(self, *names: str) -> str | None:
        """Where the first of these services (`sshd`, `ssh.socket`) is enabled and not masked, None where none is."""
        for name in names:
            for spelled in (name, f"{name}.service"):
                if spelled in self.enabled and spelled not in self.masked:
                    return self.enabled[spelled]
        return None

    def exists(self, *names: str) -> bool:
        """Whether one of these services is there at all."""
        spelled = {*names, *(f"{name}.service" for name in names)}
        return not spelled.isdisjoint(self.units) or not spelled.isdisjoint(self.enabled)

    def mask(self, *names: str) -> str | None:
        """Where the first of these services is masked."""
        for name in names:
            for spelled in (name, f"{name}.service"):
                if spelled in self.masked:
                    return self.masked[spelled]
        return None

    def preset(self, name: str) -> bool | None:
        """What the first boot of a machine without identity does: enable, disable, None where nothing is said."""
        spelled = name if "." in name else f"{name}.service"
        return next((enable for enable, pattern in self.presets if matches(spelled, pattern)), None)


def parse_preset(data: bytes) -> list[tuple[bool, str]]:
    """`enable PATTERN` and `disable PATTERN` lines."""
    found = []
    for _, line in significant(data, b"#;"):
        parts = decode(line).split()
        if len(parts) >= 2 and parts[0] in ("enable", "disable"):
            found.append((parts[0] == "enable", parts[1]))
    return found


class _Collector:
    def __init__(self, root: Root) -> None:
        self.root = root
        self.units: set[str] = set()
        self.enabled: dict[str, str] = {}
        self.masked: dict[str, str] = {}
        self._seen = 0

    def names(self, directory: str) -> list[str]:
        found = sorted_names(self.root, directory)
        self._seen += len(found)
        if self._seen > MAX_ENTRIES:
            raise BudgetError(f"more than {MAX_ENTRIES} service files")
        return found

    def systemd(self, directory: str) -> None:
        for name in self.names(directory):
            path = posixpath.join(directory, name)
            if name.endswith((".wants", ".requires")):
                for unit in self.names(path):
                    self.enabled.setdefault(unit, posixpath.join(path, unit))
            elif not name.endswith(".d"):
                target = link_text(self.root, path)
                if target == "/dev/null":
                    if name not in self.units:
                        self.masked[name] = path
                elif target is not None and directory == UNIT_PATHS[0]:
                    self.enabled.setdefault(name, path)  # an alias, which `enable` makes
                self.units.add(name)

    def system_v(self, directory: str) -> None:
        for name in self.names(directory):
            if len(name) > 3 and name[0] == "S" and name[1:3].isdigit():
                self.enabled.setdefault(name[3:], posixpath.join(directory, name))

    def upstart(self) -> None:
        for name in self.names("/etc/init"):
            job = name.removesuffix(".conf")
            path = posixpath.join("/etc/init", name)
            if job == name or not is_file(self.root, path):
                continue
            override = content(self.root, f"/etc/init/{job}.override", 64 << 10) or b""
            if not any(line == b"manual" for _, line in significant(override)):
                data = content(self.root, path) or b""
                if any(line.startswith(b"start on") for _, line in significant(data)):
                    self.enabled.setdefault(job, path)

    def openrc(self) -> None:
        for level in ("boot", "default", "sysinit"):
            for name in self.names(f"/etc/runlevels/{level}"):
                self.enabled.setdefault(name, f"/etc/runlevels/{level}/{name}")


def examine(root: Root) -> Services:
    """What starts with the machine. Raises GuestError."""
    found = _Collector(root)
    for directory in dict.fromkeys(UNIT_PATHS):
        found.systemd(directory)
    for directory in (*_RUN_LEVELS, *_RUN_LEVELS_SUSE):
        found.system_v(directory)
    found.upstart()
    found.openrc()
    presets: list[tuple[bool, str]] = []
    for path in drop_in_files(root, _PRESETS, ".preset"):
        presets += parse_preset(content(root, path) or b"")
    return Services(units=frozenset(found.units), enabled=found.enabled, masked=found.masked, presets=tuple(presets))
