"""How a network interface is set up: the record that the readers of all configurations share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A configured interface.

    `system`: whose configuration it is (`netplan`, `ifupdown`, `ifcfg`, `NetworkManager`, `networkd`, `wicked`).
    `name`: the interface or a pattern, empty where any or none is named. `dhcp4`, `dhcp6`: whether it asks for an
    address.
    `addresses`: fixed ones. `mac`: the hardware address that it is bound to, empty for none. `automatic`: it comes up
    with the machine. `kind`: `ethernet`, `loopback`, `bridge`, `bond`, `vlan`, `wifi` or what the file says.
    """

    system: str
    source: str
    line: int
    name: str
    kind: str = "ethernet"
    dhcp4: bool = False
    dhcp6: bool = False
    addresses: tuple[str, ...] = ()
    mac: str = ""
    automatic: bool = True

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"

    @property
    def is_static(self) -> bool:
        """Whether it has fixed addresses only."""
        return bool(self.addresses) and not (self.dhcp4 or self.dhcp6)

    @property
    def any_name(self) -> bool:
        """Whether it fits an interface that nobody knows the name of."""
        return not self.name or "*" in self.name or "?" in self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRule:
    """A rule that gives a name to the interface with one hardware address: udev's persistent-net, or a .link file."""

    source: str
    line: int
    mac: str
    name: str

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"


def is_mac(text: str) -> bool:
    """Whether it is a hardware address of six bytes."""
    parts = text.replace("-", ":").split(":")
    return len(parts) == 6 and all(
        len(part) == 2 and all(c in "0123456789abcdefABCDEF" for c in part) for part in parts
    )
