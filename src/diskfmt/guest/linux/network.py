"""How the guest's network is set up: all configurations together, and who reads them."""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import GuestError
from diskfmt.guest.linux import network_files as files
from diskfmt.guest.linux.interface import Interface, NameRule
from diskfmt.guest.linux.root import Root, content, drop_in_files, first_existing, sorted_names
from diskfmt.guest.linux.text import matches

_MAX_SOURCES: Final = 200
_NETPLAN: Final = ("/etc/netplan", "/lib/netplan")
_NETWORKD: Final = ("/etc/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network")
_UDEV: Final = "/etc/udev/rules.d"
_CLIENTS: Final = {
    "dhclient": ("/usr/sbin/dhclient", "/sbin/dhclient"),
    "dhcpcd": ("/usr/sbin/dhcpcd", "/sbin/dhcpcd"),
    "udhcpc": ("/usr/sbin/udhcpc", "/sbin/udhcpc", "/bin/busybox"),
    "NetworkManager": ("/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"),
    "networkd": ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"),
    "wicked": ("/usr/sbin/wicked", "/usr/sbin/wickedd"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network configuration.

    `interfaces`: without loopback, of all systems. `names`: rules that bind a name to a hardware address. `clients`:
    programs that ask for addresses, name → path. `unread`: (file, reason).
    """

    interfaces: tuple[Interface, ...]
    names: tuple[NameRule, ...]
    clients: dict[str, str]
    unread: tuple[tuple[str, str], ...]

    @property
    def dhcp(self) -> tuple[Interface, ...]:
        """The interfaces that ask for an address when the machine starts."""
        return tuple(found for found in self.interfaces if (found.dhcp4 or found.dhcp6) and found.automatic)

    @property
    def static(self) -> tuple[Interface, ...]:
        """Those that have fixed addresses only."""
        return tuple(found for found in self.interfaces if found.is_static)

    @property
    def bound(self) -> tuple[tuple[str, str], ...]:
        """What is bound to a hardware address: (where, address)."""
        return (
            *((found.where, found.mac) for found in self.interfaces if found.mac),
            *((rule.where, rule.mac) for rule in self.names),
        )


class _Collector:
    def __init__(self, root: Root) -> None:
        self.root = root
        self.interfaces: list[Interface] = []
        self.names: list[NameRule] = []
        self.unread: list[tuple[str, str]] = []

    def each(self, paths: list[str], read: Callable[[bytes, str], None]) -> None:
        """Hand each file on; what cannot be read is told."""
        for path in paths[:_MAX_SOURCES]:
            try:
                data = content(self.root, path)
                if data is not None:
                    read(data, path)
            except GuestError as error:
                self.unread.append((path, error.message))

    def ifupdown(self) -> None:
        todo, seen = ["/etc/network/interfaces"], set[str]()

        def read(data: bytes, path: str) -> None:
            found, sources = files.interfaces(data, path)
            self.interfaces += found
            todo.extend(entry for source in sources for entry in self._sourced(source))

        while todo and len(seen) < _MAX_SOURCES:
            path = todo.pop(0)
            if path not in seen:
                seen.add(path)
                self.each([path], read)

    def _sourced(self, pattern: str) -> list[str]:
        directory, name = posixpath.split(posixpath.join("/etc/network", pattern))
        return [
            posixpath.join(directory, found) for found in sorted_names(self.root, directory) if matches(found, name)
        ]

    def ifcfg(self, directory: str, *, wicked: bool) -> None:
        names = [name for name in sorted_names(self.root, directory) if name.startswith("ifcfg-")]
        left_over = (".bak", ".orig", ".rpmnew", ".rpmsave", ".old", "~", ".template", ".swp")
        paths = [posixpath.join(directory, name) for name in names if not name.endswith(left_over)]
        self.each(paths, lambda data, path: self.interfaces.append(files.ifcfg(data, path, wicked=wicked)))

    def rest(self) -> None:
        root = self.root
        self.each(drop_in_files(root, _NETPLAN, ".yaml"), lambda d, p: self.interfaces.extend(files.netplan(d, p)))
        for directory in ("/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"):
            paths = [f"{directory}/{name}" for name in sorted_names(root, directory)]
            self.each(paths, lambda d, p: self.interfaces.append(files.keyfile(d, p)))
        own = [f"{_NETWORKD[0]}/{name}" for name in sorted_names(root, _NETWORKD[0], ".network")]
        self.each(own, lambda d, p: self.interfaces.append(files.networkd(d, p)))
        rules = [f"{_UDEV}/{name}" for name in sorted_names(root, _UDEV, ".rules") if "net" in name]
        self.each(rules, lambda d, p: self.names.extend(files.udev_rules(d, p)))
        self.each(drop_in_files(root, _NETWORKD, ".link"), self._link)

    def _link(self, data: bytes, path: str) -> None:
        rule = files.link_file(data, path)
        if rule is not None:
            self.names.append(rule)


def examine(root: Root) -> Network:
    """The network configuration. Raises GuestError only where directories cannot be read."""
    found = _Collector(root)
    found.rest()
    found.ifupdown()
    found.ifcfg("/etc/sysconfig/network-scripts", wicked=False)
    found.ifcfg("/etc/sysconfig/network", wicked=True)
    clients = {name: first_existing(root, *paths) for name, paths in _CLIENTS.items()}
    return Network(
        interfaces=tuple(interface for interface in found.interfaces if interface.kind != "loopback"),
        names=tuple(found.names),
        clients={name: path for name, path in clients.items() if path is not None},
        unread=tuple(found.unread),
    )
