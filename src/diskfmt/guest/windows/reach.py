r"""Whether somebody will get in: addresses and remote desktop.

Source: Microsoft, Tcpip\Parameters\Interfaces (EnableDHCP), Terminal Server (fDenyTSConnections, PortNumber).
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.fact import Known
from diskfmt.guest.windows.registry import CurrentSet
from diskfmt.guest.windows.services import DISABLED

_INTERFACES: Final = "Services\\Tcpip\\Parameters\\Interfaces"
_SERVER: Final = "Control\\Terminal Server"
RDP_PORT: Final = 3389


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """An interface that has settings. `dhcp`: asks for an address; `addresses`: fixed ones (0.0.0.0 is none)."""

    guid: str
    dhcp: bool
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp:
    """How the guest gets its address. A new card has no settings yet and asks by default, if the client runs."""

    client_start: int | None
    interfaces: tuple[Interface, ...]

    @property
    def disabled(self) -> bool:
        """Whether the client never runs."""
        return self.client_start is None or self.client_start >= DISABLED

    @property
    def all_static(self) -> bool:
        """Whether there are settings, and all are fixed addresses."""
        return bool(self.interfaces) and not any(interface.dhcp for interface in self.interfaces)


def dhcp(current: CurrentSet) -> Known[Dhcp]:
    """How addresses are got. Raises GuestError."""
    client = current.at("Services\\Dhcp")
    parent = current.at(_INTERFACES)
    found: list[Interface] = []
    for guid in parent.names() if parent is not None else ():
        entry = parent.below(guid) if parent is not None else None
        asks = entry.number("EnableDHCP") if entry is not None else None
        if entry is None or asks is None:
            continue  # never configured (loopback, tunnels)
        addresses = tuple(address for address in entry.texts("IPAddress") if address != "0.0.0.0")  # noqa: S104
        found.append(Interface(guid=guid, dhcp=bool(asks), addresses=addresses))
    start = client.number("Start") if client is not None else None
    place = client.place if client is not None else f"{current.system.name}\\{current.name}\\Services\\Dhcp"
    return Known(Dhcp(client_start=start, interfaces=tuple(found)), f"{place}: Start; {_INTERFACES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDesktop:
    """Remote desktop. `denied`: switched off; `port`; `start`: of its service, None: there is none."""

    denied: bool
    port: int
    start: int | None

    @property
    def works(self) -> bool:
        """Whether it listens where clients look for it."""
        return not self.denied and self.port == RDP_PORT and self.start is not None and self.start < DISABLED


def remote_desktop(current: CurrentSet) -> Known[RemoteDesktop]:
    """Remote desktop as it is set. Raises DamagedError where Windows has no such setting, GuestError."""
    server = current.need(_SERVER)
    tcp = server.below("WinStations\\RDP-Tcp")
    term = current.at("Services\\TermService")
    denied = server.number("fDenyTSConnections")
    port = tcp.number("PortNumber") if tcp is not None else None
    found = RemoteDesktop(
        denied=denied != 0,  # off where nothing is said
        port=port if port is not None else RDP_PORT,
        start=term.number("Start") if term is not None else None,
    )
    return Known(found, f"{server.place}: fDenyTSConnections")
