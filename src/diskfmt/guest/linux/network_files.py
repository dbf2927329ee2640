"""Network configuration, file by file: bytes → interfaces.

Sources: netplan-yaml(5), interfaces(5), sysconfig.txt of initscripts, nm-settings-keyfile(5), systemd.network(5),
systemd.link(5), ifcfg(5) of wicked, udev(7).
"""

from collections.abc import Iterator
from typing import Final

from diskfmt.guest.linux.interface import Interface, NameRule, is_mac
from diskfmt.guest.linux.text import Section, Setting, assignments, decode, ini, joined
from diskfmt.guest.linux.yaml_safe import Node, load, mapping, sequence, text, truth

_NETPLAN_KINDS: Final = {
    "ethernets": "ethernet",
    "wifis": "wifi",
    "bridges": "bridge",
    "bonds": "bond",
    "vlans": "vlan",
    "modems": "modem",
}


def netplan(data: bytes, path: str) -> list[Interface]:
    """The interfaces of a netplan file. Raises GuestError for what is no YAML."""
    network = mapping(mapping(load(data, path)).get("network"))
    found = []
    for group, kind in _NETPLAN_KINDS.items():
        for identity, node in mapping(network.get(group)).items():
            said = mapping(node)
            match = mapping(said.get("match"))
            name = text(said.get("set-name")) or text(match.get("name"))
            if not name and not match:
                name = identity
            elif not text(match.get("name")) and match.get("macaddress"):
                name = text(said.get("set-name"))
            found.append(
                Interface(
                    system="netplan",
                    source=path,
                    line=_line_of_key(data, identity),
                    name=name,
                    kind=kind,
                    dhcp4=truth(said.get("dhcp4")) is True,
                    dhcp6=truth(said.get("dhcp6")) is True,
                    addresses=tuple(_address(node) for node in sequence(said.get("addresses"))),
                    mac=text(match.get("macaddress")).lower(),
                )
            )
    return found


def _address(node: Node) -> str:
    return next(iter(mapping(node)), "") if isinstance(node, dict) else text(node)


def _line_of_key(data: bytes, key: str) -> int:
    at = data.find(key.encode("utf-8", "replace") + b":")
    return data.count(b"\n", 0, max(at, 0)) + 1


def interfaces(data: bytes, path: str) -> tuple[list[Interface], list[str]]:
    """The interfaces of ifupdown, and the files and directories that it goes on with."""
    found: list[Interface] = []
    sources: list[str] = []
    automatic: set[str] = set()
    current: dict[str, str] = {}
    stanzas: list[tuple[int, str, str, str, dict[str, str]]] = []
    for number, line in joined(data):
        said = decode(line).split()
        if not said:
            continue  # separators that are blank to text only, such as \x1c
        if said[0] in ("source", "source-directory") and len(said) > 1:
            sources.append(said[1] if said[0] == "source" else said[1].rstrip("/") + "/*")
        elif said[0] == "auto" or said[0].startswith("allow-"):
            automatic.update(said[1:])
        elif said[0] == "iface" and len(said) >= 2:
            family = said[2] if len(said) > 2 else "inet"
            method = said[3] if len(said) > 3 else ""
            current = {}
            stanzas.append((number, said[1], family, method, current))
        elif said[0] in ("address", "hwaddress", "netmask", "bridge_ports", "bond-slaves"):
            current[said[0]] = said[-1]
    for number, name, family, method, options in stanzas:
        dhcp = method in ("dhcp", "auto")
        kind = "loopback" if method == "loopback" else "bridge" if "bridge_ports" in options else "ethernet"
        mac = options.get("hwaddress", "").lower()
        found.append(
            Interface(
                system="ifupdown",
                source=path,
                line=number,
                name=name,
                kind="bond" if "bond-slaves" in options else kind,
                dhcp4=dhcp and family == "inet",
                dhcp6=dhcp and family == "inet6",
                addresses=(options["address"],) if method == "static" and "address" in options else (),
                mac=mac if is_mac(mac) else "",
                automatic=name in automatic or not automatic,
            )
        )
    return found, sources


def _value(said: dict[str, Setting], *names: str) -> str:
    return next((said[name].value for name in names if name in said and said[name].value), "")


def ifcfg(data: bytes, path: str, *, wicked: bool = False) -> Interface:
    """The interface of an ifcfg file of initscripts or NetworkManager, with `wicked` of SUSE's wicked."""
    said = assignments(data)
    default = path.rsplit("ifcfg-", 1)[-1]
    protocol = _value(said, "BOOTPROTO").lower()
    addresses = tuple(value.value for name, value in said.items() if name.startswith("IPADDR") and value.value)
    binding = "LLADDR" if wicked else "HWADDR"
    name = default if wicked else _value(said, "DEVICE")
    kind = _value(said, "TYPE").lower() or "ethernet"
    started = _value(said, "STARTMODE").lower() in ("auto", "boot", "onboot", "hotplug", "nfsroot") if wicked else None
    return Interface(
        system="wicked" if wicked else "ifcfg",
        source=path,
        line=said[binding].line if binding in said else said["BOOTPROTO"].line if "BOOTPROTO" in said else 1,
        name=name,
        kind="loopback" if name == "lo" or default == "lo" else kind,
        dhcp4=protocol in ("dhcp", "bootp", "dhcp4", "dhcp+autoip") or "dhcp4" in protocol,
        dhcp6=_value(said, "DHCPV6C", "IPV6_AUTOCONF").lower() == "yes"
        or protocol == "dhcp6"
        or (wicked and protocol == "dhcp"),
        addresses=addresses,
        mac=_value(said, binding).lower(),
        automatic=started if started is not None else _value(said, "ONBOOT").lower() != "no",
    )


def _section(sections: list[Section], *names: str) -> dict[str, Setting]:
    return next((section.values for section in sections if section.name in names), {})


def keyfile(data: bytes, path: str) -> Interface:
    """The interface of a NetworkManager connection."""
    sections = ini(data, b"#")
    connection = _section(sections, "connection")
    ethernet = _section(sections, "ethernet", "802-3-ethernet")
    four, six = _section(sections, "ipv4"), _section(sections, "ipv6")
    addresses = [
        value.value.split(",")[0] for part in (four, six) for name, value in part.items() if name.startswith("address")
    ]
    match = _section(sections, "match")
    kind = _value(connection, "type")
    mac = _value(ethernet, "mac-address").lower()
    return Interface(
        system="NetworkManager",
        source=path,
        line=ethernet["mac-address"].line if mac else four["method"].line if "method" in four else 1,
        name=_value(connection, "interface-name") or _value(match, "interface-name"),
        kind="ethernet" if kind in ("ethernet", "802-3-ethernet", "") else kind,
        dhcp4=_value(four, "method") == "auto" or (not four and kind in ("ethernet", "802-3-ethernet")),
        dhcp6=_value(six, "method") in ("auto", "dhcp"),
        addresses=tuple(address for address in addresses if address and "/" in address),
        mac=mac,
        automatic=_value(connection, "autoconnect").lower() not in ("false", "0", "no"),
    )


def networkd(data: bytes, path: str) -> Interface:
    """The interface of a .network file of systemd-networkd."""
    sections = ini(data)
    match, network = _section(sections, "Match"), _section(sections, "Network")
    dhcp = _value(network, "dhcp").lower()
    addresses = [text for section in sections if section.name == "Network" for text in section.lists.get("address", [])]
    addresses += [
        section.values["address"].value
        for section in sections
        if section.name == "Address" and "address" in section.values
    ]
    mac = _value(match, "macaddress", "permanentmacaddress").lower()
    kind = _value(match, "type").lower()
    name = _value(match, "name")
    return Interface(
        system="networkd",
        source=path,
        line=match["macaddress"].line if "macaddress" in match else network["dhcp"].line if "dhcp" in network else 1,
        name=name,
        kind="loopback" if name == "lo" else "ethernet" if kind in ("", "ether") else kind,
        dhcp4=dhcp in ("yes", "true", "ipv4", "both", "1", "on", "v4"),
        dhcp6=dhcp in ("yes", "true", "ipv6", "both", "1", "on", "v6"),
        addresses=tuple(addresses),
        mac=mac,
    )


def udev_rules(data: bytes, path: str) -> Iterator[NameRule]:
    """The rules that give a name by hardware address: `ATTR{address}=="…", NAME="eth0"`."""
    for number, line in joined(data):
        said = decode(line)
        mac = _quoted(said, "ATTR{address}==") or _quoted(said, "ATTRS{address}==") or _quoted(said, "SYSFS{address}==")
        name = _quoted(said, "NAME=") or _quoted(said, "NAME:=")
        if mac and name:
            yield NameRule(source=path, line=number, mac=mac.lower(), name=name)


def _quoted(line: str, key: str) -> str:
    """The text in the quotes behind a key. `NAME=` is not the end of another key."""
    at = line.find(key)
    while at > 0 and (line[at - 1].isalnum() or line[at - 1] == "_"):
        at = line.find(key, at + 1)
    rest = line[at + len(key) :].lstrip() if at >= 0 else ""
    return rest[1:].partition('"')[0] if rest.startswith('"') else ""


def link_file(data: bytes, path: str) -> NameRule | None:
    """The rule of a .link file that is bound to a hardware address and names the interface."""
    sections = ini(data)
    match, link = _section(sections, "Match"), _section(sections, "Link")
    mac = _value(match, "macaddress", "permanentmacaddress")
    if not mac:
        return None
    line = match["macaddress"].line if "macaddress" in match else match["permanentmacaddress"].line
    return NameRule(source=path, line=line, mac=mac.lower(), name=_value(link, "name"))
