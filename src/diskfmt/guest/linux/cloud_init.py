"""How cloud-init is set up: which data sources it asks, and whether it starts.

Sources: cloud-init documentation, "Base configuration", "Order of operations", ds-identify (tools/ds-identify);
waagent.conf of the Azure Linux agent. Pieces are merged as cloud-init does it: later files win, mappings are merged,
lists replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import GuestError
from diskfmt.guest.linux.root import Root, content, first_existing, is_directory, sorted_names
from diskfmt.guest.linux.services import Services
from diskfmt.guest.linux.text import assignments, decode, significant
from diskfmt.guest.linux.yaml_safe import MAX_BYTES, MAX_NESTING, Node, load, mapping, sequence, text, truth

CONFIG: Final = "/etc/cloud/cloud.cfg"
DROP_INS: Final = "/etc/cloud/cloud.cfg.d"
_UNITS: Final = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
# cloud-init 24.3 joined its four processes into one service.
_MAIN: Final = ("cloud-init", "cloud-init-main", "cloud-init-network")
_PROGRAMS: Final = ("/usr/bin/cloud-init", "/bin/cloud-init", "/usr/local/bin/cloud-init")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudInit:
    """cloud-init on this guest.

    `program`: where it is, None where it is not installed as a file. `version`: empty where nothing says it.
    `datasources`: the list that counts and where it stands; None: cloud-init's own list. `policy`: ds-identify's
    settings.
    `disabled`: what keeps it from starting. `enabled`: its services that start, and where. `instance`: it ran already.
    `config`: all that cloud.cfg and its pieces say together; `files`: those that were read; `unread`: (file, reason).
    """

    program: str | None
    version: str
    datasources: tuple[str, ...] | None
    datasources_at: str
    policy: Mapping[str, str]
    disabled: tuple[str, ...]
    enabled: Mapping[str, str]
    masked: Mapping[str, str]
    instance: bool
    network_disabled: str
    config: Mapping[str, Node]
    files: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]

    @property
    def installed(self) -> bool:
        """Whether the program is there."""
        return self.program is not None

    @property
    def starts(self) -> bool:
        """Whether its main service starts and nothing disables it."""
        return not self.disabled and any(name in self.enabled for name in _MAIN)

    @property
    def ssh_delete_keys(self) -> bool:
        """Whether it makes new host keys on a new machine (its default)."""
        return truth(self.config.get("ssh_deletekeys")) is not False

    def modules(self, stage: str) -> tuple[str, ...]:
        """The modules of `cloud_init_modules`, `cloud_config_modules` or `cloud_final_modules`."""
        found = []
        for node in sequence(self.config.get(stage)):
            first = node[0] if isinstance(node, list) and node else node
            found.append(text(first).replace("_", "-"))
        return tuple(found)


def merge(first: Mapping[str, Node], second: Mapping[str, Node], depth: int = MAX_NESTING) -> dict[str, Node]:
    """Both, the second wins; mappings are merged."""
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict) and depth:
            merged[key] = merge(before, value, depth - 1)
        else:
            merged[key] = value
    return merged


@dataclass(slots=True)
class _Config:
    merged: dict[str, Node]
    files: list[str]
    unread: list[tuple[str, str]]
    datasources_at: str = ""
    network_at: str = ""


def _config(root: Root) -> _Config:
    found = _Config({}, [], [])
    paths = [CONFIG, *(f"{DROP_INS}/{name}" for name in sorted_names(root, DROP_INS, ".cfg"))]
    for path in paths:
        try:
            data = content(root, path, MAX_BYTES)
            if data is None:
                continue
            said = mapping(load(data, path))
        except GuestError as error:
            found.unread.append((path, error.message))
            continue
        found.files.append(path)
        found.merged = merge(found.merged, said)
        if "datasource_list" in said:
            found.datasources_at = f"{path}:{_line_of(data, b'datasource_list')}"
        if text(mapping(said.get("network")).get("config")) == "disabled":
            found.network_at = f"{path}:{_line_of(data, b'network')}"
    return found


def _line_of(data: bytes, key: bytes) -> int:
    at = 0 if data.startswith(key) else data.find(b"\n" + key) + 1
    return data.count(b"\n", 0, at) + 1


def _disabled(root: Root, args: tuple[str, ...], policy: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    if root.exists("/etc/cloud/cloud-init.disabled"):
        found.append("/etc/cloud/cloud-init.disabled")
    found += [f"kernel argument {arg}" for arg in args if arg in ("cloud-init=disabled", "cc:cloud-init=disabled")]
    if policy.get("policy") == "disabled":
        found.append("/etc/cloud/ds-identify.cfg")
    return tuple(found)


def _policy(root: Root) -> dict[str, str]:
    """`datasource: X` and `policy: …` lines of ds-identify.cfg."""
    data = content(root, "/etc/cloud/ds-identify.cfg", 64 << 10) or b""
    found = {}
    for _, line in significant(data):
        key, colon, value = decode(line).partition(":")
        if colon:
            found[key.strip()] = value.strip()
    return found


def _version(root: Root) -> str:
    """What cloudinit/version.py says, which every package of it has."""
    for top in ("/usr/lib", "/usr/local/lib", "/usr/lib64"):
        for python in (name for name in sorted_names(root, top) if name.startswith("python")):
            for packages in ("dist-packages", "site-packages"):
                path = f"{top}/{python}/{packages}/cloudinit/version.py"
                data = content(root, path, 64 << 10)
                if data is not None:
                    said = {name.strip(): value for name, value in assignments(data.replace(b" = ", b"=")).items()}
                    packaged = said["_PACKAGED_VERSION"].value if "_PACKAGED_VERSION" in said else ""
                    plain = said["__VERSION__"].value if "__VERSION__" in said else ""
                    return plain if packaged.startswith("@@") or not packaged else packaged
    return ""


def examine(root: Root, services: Services, args: tuple[str, ...]) -> CloudInit:
    """cloud-init's set-up; `args`: the kernel's arguments. Raises GuestError."""
    found = _config(root)
    policy = _policy(root)
    listed = found.merged.get("datasource_list")
    at = found.datasources_at
    sources = None if listed is None else tuple(text(node) for node in sequence(listed))
    if policy.get("datasource"):  # ds-identify writes this one alone into its list
        sources, at = (policy["datasource"],), "/etc/cloud/ds-identify.cfg"
    names = dict.fromkeys((*_UNITS, *_MAIN))
    starting = {name: services.starts(name) for name in names}
    masks = {name: services.mask(name) for name in names}
    return CloudInit(
        program=first_existing(root, *_PROGRAMS),
        version=_version(root),
        datasources=sources,
        datasources_at=at,
        policy=policy,
        disabled=_disabled(root, args, policy),
        enabled={name: where for name, where in starting.items() if where is not None},
        masked={name: where for name, where in masks.items() if where is not None},
        instance=root.exists("/var/lib/cloud/instance") or is_directory(root, "/var/lib/cloud/instances/i"),
        network_disabled=found.network_at,
        config=found.merged,
        files=tuple(found.files),
        unread=tuple(found.unread),
    )
