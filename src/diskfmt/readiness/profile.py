"""What a cloud takes, as one frozen record. `profiles.py` makes it from TOML; the fields here are the files' schema.

A key `max-virtual` in the table `[size]` is the field `Size.max_virtual`. Sizes are bytes. An empty tuple or None means
that no source states anything, so that nothing is refused for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

Severity = Literal["B", "X", "W", "A"]
Check = Callable[[object], Any]
"""Turns a value of TOML into that of the field. Raises ValueError that says what is allowed."""

T = TypeVar("T")

SEVERITIES: Final = ("B", "X", "W", "A")
FORMATS: Final = (
    *("raw", "qcow2", "vhd", "vmdk", "vhdx", "vdi", "qcow1", "qed", "iso", "ova", "ploop"),
    *("ami", "aki", "ari", "zvhd", "zvhd2", "oci", "gce-tar"),
)
SUBFORMATS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "vhd": ("fixed", "dynamic", "differencing"),
        "vmdk": (
            *("monolithicSparse", "monolithicFlat", "streamOptimized", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"),
            *("vmfs", "vmfsSparse", "seSparse", "custom"),
        ),
        "qcow2": ("v2", "v3"),
    }
)
CONVERSIONS: Final = (
    *("raw", "qcow2", "vhd:fixed", "vhd:dynamic"),
    *("vmdk:streamOptimized", "vmdk:monolithicSparse", "vmdk:monolithicFlat"),
)
LIMITS: Final = (
    *("first-partition-lba-min", "bash-history-max", "client-alive-max", "min-free-root", "min-free-boot"),
    *("min-free-windows", "min-free-inodes", "image-name-max"),
)


def one_of(*allowed: str) -> Check:
    """One of these words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return check


def text(value: object) -> str:
    """Any text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("text in quotes")
    return value


def flag(value: object) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - the loader catches one exception for all checks
    return value


def number(value: object) -> int:
    """A size or count: an integer above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 63:
        raise ValueError("a whole number above zero")
    return value


def list_of(check: Check) -> Check:
    """A list whose members pass `check`, each once."""

    def checked(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("a list in square brackets")  # noqa: TRY004
        try:
            members = tuple(check(member) for member in value)
        except ValueError as error:
            raise ValueError(f"a list, each member {error}") from None
        if len(set(members)) != len(members):
            raise ValueError("a list without repetitions")
        return members

    return checked


def table_of(check: Check, *keys: str) -> Check:
    """A table whose values pass `check`; its keys are free where none are given."""

    def checked(value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("a table in braces")  # noqa: TRY004
        for key in value:
            if keys and key not in keys:
                raise ValueError(f"a table with the keys {', '.join(keys)}")
        try:
            return MappingProxyType({str(key): check(member) for key, member in value.items()})
        except ValueError as error:
            raise ValueError(f"a table, each value {error}") from None

    return checked


def _subformats(value: object) -> Mapping[str, tuple[str, ...]]:
    checked: Mapping[str, tuple[str, ...]] = table_of(list_of(text), *SUBFORMATS)(value)
    for name, listed in checked.items():
        list_of(one_of(*SUBFORMATS[name]))(list(listed))
    return checked


def _key(default: T, check: Check) -> T:
    """A field that a profile may set."""
    made: T = field(default_factory=lambda: default, metadata={"check": check})
    return made


_TEXTS: Final = list_of(text)
_VERSIONS: Final = table_of(_TEXTS)
_NO_LISTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
_NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The file. `subformats`: those accepted of a format; a format that is missing there: any."""

    formats: tuple[str, ...] = _key((), list_of(one_of(*FORMATS)))
    subformats: Mapping[str, tuple[str, ...]] = _key(_NO_LISTS, _subformats)
    archives: tuple[str, ...] = _key((), list_of(one_of("gzip", "bzip2", "tar", "zip")))
    lower_case_extension: bool = _key(default=False, check=flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large. All in bytes, but `max_disks`.

    `max_virtual` is that of the disk; above `warn_virtual` the pages allow two readings. `max_qcow2`: the file, after
    the service has made a qcow2 of it. `align`: the disk has to be a multiple. A limit for one kind of guest goes
    before that for all.
    """

    max_virtual: int | None = _key(None, number)
    warn_virtual: int | None = _key(None, number)
    min_virtual: int | None = _key(None, number)
    max_virtual_linux: int | None = _key(None, number)
    min_virtual_linux: int | None = _key(None, number)
    max_virtual_windows: int | None = _key(None, number)
    min_virtual_windows: int | None = _key(None, number)
    max_file: int | None = _key(None, number)
    max_qcow2: int | None = _key(None, number)
    warn_qcow2: int | None = _key(None, number)
    align: int | None = _key(None, number)
    max_disks: int | None = _key(None, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the image will run on. `block`, `net`: kernel modules, the one that every machine needs first.

    `newer_block`, `newer_net`: what newer machine types need besides.
    """

    boot: tuple[str, ...] = _key((), list_of(one_of("bios", "uefi")))
    arm64_boot: tuple[str, ...] = _key((), list_of(one_of("bios", "uefi")))
    tables: tuple[str, ...] = _key((), list_of(one_of("mbr", "gpt")))
    architectures: tuple[str, ...] = _key((), list_of(one_of("x86_64", "i386", "arm64")))
    block: tuple[str, ...] = _key((), _TEXTS)
    newer_block: tuple[str, ...] = _key((), _TEXTS)
    net: tuple[str, ...] = _key((), _TEXTS)
    newer_net: tuple[str, ...] = _key((), _TEXTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What is expected inside.

    `windows`: taken at all. `agents`, `windows_agents`: one of these is wanted; `agent_versions`: the oldest that do.
    `datasources`: one of these has to be in cloud-init's list; `datasource_order`: those in the list have to come in
    this order; `only_datasources`: nothing else may be in it. `distributions`: ID of os-release → accepted versions,
    none: any. `kernels`: `ID:version` → accepted kernels. `root_file_systems`: of Linux. `qemu_ga`: `wanted` or not.
    """

    windows: bool = _key(default=True, check=flag)
    agents: tuple[str, ...] = _key((), _TEXTS)
    windows_agents: tuple[str, ...] = _key((), _TEXTS)
    agent_versions: Mapping[str, str] = _key(_NO_TEXTS, table_of(text))
    datasources: tuple[str, ...] = _key((), _TEXTS)
    datasource_order: tuple[str, ...] = _key((), _TEXTS)
    only_datasources: bool = _key(default=False, check=flag)
    cloudbase_services: tuple[str, ...] = _key((), _TEXTS)
    distributions: Mapping[str, tuple[str, ...]] = _key(_NO_LISTS, _VERSIONS)
    windows_versions: tuple[str, ...] = _key((), _TEXTS)
    kernels: Mapping[str, tuple[str, ...]] = _key(_NO_LISTS, _VERSIONS)
    kernel_min: str | None = _key(None, text)
    root_file_systems: tuple[str, ...] = _key((), _TEXTS)
    kernel_arguments: tuple[str, ...] = _key((), _TEXTS)
    qemu_ga: str | None = _key(None, one_of("wanted", "unwanted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What to convert to. `to`: as `-O` takes it. `align`: the disk is filled up to a multiple of this, bytes.

    `package`: what is made of the file afterwards: `gce-tar`, `disk.raw` in a gzipped archive of GNU's old tar format.
    """

    to: str = _key("", one_of(*CONVERSIONS))
    align: int = _key(1, number)
    package: str | None = _key(None, one_of("gce-tar"))


SECTIONS: Final[Mapping[str, type]] = MappingProxyType(
    {"image": Image, "size": Size, "machine": Machine, "guest": Guest, "convert": Conversion}
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value is stated: the title of the page, and when it was read (`YYYY-MM`)."""

    title: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleWeight:
    """What a rule means to a cloud. None: it is not asked there. `windows`: where it differs for Windows."""

    severity: Severity | None = None
    windows: Severity | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A cloud: what it takes, what breaks there, and how it says so.

    `origin`: the name or path that it was loaded by. `switches`: those that may be given, with what they mean;
    `switched`: those that are on. `limits`: numbers that
    single rules read. `rules`: the rules that the profile knows.
    """

    name: str
    title: str
    image: Image
    size: Size
    machine: Machine
    guest: Guest
    convert: Conversion
    limits: Mapping[str, int]
    rules: Mapping[str, RuleWeight]
    sources: Mapping[str, Source]
    switches: Mapping[str, str]
    switched: tuple[str, ...] = ()
    origin: str = ""

    def severity(self, rule_id: str, *, windows: bool = False) -> Severity | None:
        """What happens to an image that fails the rule; None: the profile does not ask, or has no such rule.

        `B` the import is refused, `X` the machine does not boot or is not reached, `W` it boots degraded, `A` advice.
        """
        weight = self.rules.get(rule_id)
        if weight is None:
            return None
        return weight.windows if windows and weight.windows is not None else weight.severity

    def asks(self, rule_id: str, *, windows: bool = False) -> bool:
        """Whether the rule is asked: it has a weight, or the profile has never heard of it."""
        return rule_id not in self.rules or self.severity(rule_id, windows=windows) is not None

    def error_code(self, rule_id: str) -> str | None:
        """What the service itself says to an image that fails the rule; None where that is not known."""
        weight = self.rules.get(rule_id)
        return weight.error if weight else None

    def source(self, key: str) -> Source | None:
        """Where a value is stated. `key` as in the file: `size.max-virtual`, `rules.net-dhcp.severity`."""
        return self.sources.get(key)

    def virtual_limits(self, *, windows: bool | None = None) -> tuple[int | None, int | None]:
        """The smallest and largest disk that is accepted, bytes; None where nothing is stated."""
        size = self.size
        low, high = {
            True: (size.min_virtual_windows, size.max_virtual_windows),
            False: (size.min_virtual_linux, size.max_virtual_linux),
            None: (None, None),
        }[windows]
        return low or size.min_virtual, high or size.max_virtual
