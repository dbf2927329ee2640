r"""Typed, bounded looks into registry hives; what has the wrong type is damage, not a value.

Offline there is no `CurrentControlSet`: `ControlSet` says which one `Select` names.
Source: Microsoft, Windows registry (HKLM\SYSTEM\Select, value types); names are case-insensitive.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, Protocol, TypeVar

from diskfmt.guest.base import MAX_ENTRIES, BudgetError, DamagedError, GuestError
from diskfmt.guest.fact import Fact, Known, Unknown

T = TypeVar("T")

MAX_TEXT: Final = 1 << 16


class Key(Protocol):
    """A key of a hive. Every method raises GuestError for what cannot be read."""

    def subkeys(self) -> Iterable[str]:
        """Names of the keys below."""
        ...

    def value(self, name: str) -> object:
        """A value: int, str, list or tuple of str, or bytes, by its type; None: there is no such value."""
        ...

    def values(self) -> Iterable[str]:
        """Names of the values."""
        ...


class Hive(Protocol):
    r"""A hive. Paths have `\` between names, in any case."""

    @property
    def pending_logs(self) -> bool:
        """Whether its two sequence numbers differ: changes may still be in its .LOG files."""
        ...

    def key(self, path: str) -> Key | None:
        """The key, None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """A key with its place, which is the evidence of what is read from it."""

    hive: Hive
    path: str
    place: str
    key: Key

    def below(self, path: str) -> "Node | None":
        """The key at a path below this one."""
        return node(self.hive, f"{self.path}\\{path}", f"{self.place}\\{path}")

    def names(self) -> Iterator[str]:
        """Names of the keys below, at most MAX_ENTRIES. Raises BudgetError above."""
        return _bounded(self.key.subkeys(), self.place)

    def value_names(self) -> Iterator[str]:
        """Names of the values, at most MAX_ENTRIES. Raises BudgetError above."""
        return _bounded(self.key.values(), self.place)

    def number(self, name: str) -> int | None:
        """A DWORD or QWORD, None where there is no such value."""
        value = self.key.value(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise DamagedError(f"{self.place}: {name} is not a number")

    def text(self, name: str) -> str | None:
        """A text without what stands behind its end, None where there is no such value."""
        value = self.key.value(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise DamagedError(f"{self.place}: {name} is not a text")
        return value[:MAX_TEXT].partition("\0")[0]

    def texts(self, name: str) -> tuple[str, ...]:
        """The members of a list that are not empty (hives of real machines end theirs with empty ones)."""
        value = self.key.value(name)
        if value is None:
            return ()
        if isinstance(value, str):
            value = (value,)  # a single name is often stored as REG_SZ
        if not isinstance(value, list | tuple) or not all(isinstance(member, str) for member in value):
            raise DamagedError(f"{self.place}: {name} is not a list of texts")
        members = (member.partition("\0")[0].strip() for member in value[:MAX_ENTRIES])
        return tuple(member for member in members if member)

    def binary(self, name: str) -> bytes | None:
        """Bytes, None where there is no such value."""
        value = self.key.value(name)
        if value is None or isinstance(value, bytes):
            return value
        raise DamagedError(f"{self.place}: {name} is not binary")


def _bounded(names: Iterable[str], place: str) -> Iterator[str]:
    iterator = iter(names)
    yield from islice(iterator, MAX_ENTRIES)
    for _ in iterator:
        raise BudgetError(f"{place} has more than {MAX_ENTRIES} entries")


def node(hive: Hive, path: str, place: str) -> Node | None:
    """The key at a path, None where there is none."""
    key = hive.key(path)
    return Node(hive, path, place, key) if key is not None else None


class HiveState(StrEnum):
    """Whether a hive is there. `PENDING`: changes may be in its logs; a running machine's copy is so as well."""

    MISSING = "missing"
    COMPLETE = "complete"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Registry:
    """One hive of a guest by its name, whether it could be opened or not."""

    name: str
    hive: Fact[Hive | None]

    @property
    def state(self) -> Fact[HiveState]:
        """Whether the hive is there and complete; Unknown where it cannot be read at all."""
        if isinstance(self.hive, Unknown):
            return self.hive
        if self.hive.value is None:
            return Known(HiveState.MISSING, self.hive.evidence)
        state = HiveState.PENDING if self.hive.value.pending_logs else HiveState.COMPLETE
        return Known(state, self.hive.evidence)

    @property
    def missing(self) -> bool:
        """Whether there is no such file (an unreadable one is not missing)."""
        return isinstance(self.hive, Known) and self.hive.value is None

    def at(self, path: str) -> Node | None:
        """The key at a path, None where there is none. Raises GuestError where the hive is missing or unreadable."""
        if isinstance(self.hive, Unknown):
            raise DamagedError(self.hive.reason)
        if self.hive.value is None:
            raise DamagedError(f"there is no hive {self.name}")
        return node(self.hive.value, path, f"{self.name}\\{path}")

    def need(self, path: str) -> Node:
        """The key at a path. Raises DamagedError where there is none."""
        found = self.at(path)
        if found is None:
            raise DamagedError(f"{self.name} has no key {path}")
        return found


def look(read: Callable[[], Known[T]]) -> Fact[T]:
    """What `read` returns, or why it could not."""
    try:
        return read()
    except GuestError as error:
        return Unknown(error.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSet:
    """The control set that boots. `failed`: the number of one that did not, 0: none."""

    number: int
    failed: int
    default: int | None
    last_known_good: int | None

    @property
    def name(self) -> str:
        """The key of it."""
        return f"ControlSet{self.number:03}"


def control_set(system: Registry) -> Known[ControlSet]:
    """What `Select` says. Raises DamagedError where it is missing or names no control set."""
    select = system.need("Select")
    current = select.number("Current")
    if current is None or not 0 < current < 1000:
        raise DamagedError(f"{select.place}: Current is {current}")
    found = ControlSet(
        number=current,
        failed=select.number("Failed") or 0,
        default=select.number("Default"),
        last_known_good=select.number("LastKnownGood"),
    )
    if system.at(found.name) is None:
        raise DamagedError(f"{select.place} names {found.name}, which does not exist")
    return Known(found, f"{select.place}: Current")


@dataclass(frozen=True, slots=True)
class CurrentSet:
    """The part of the hive SYSTEM that boots."""

    system: Registry
    name: str

    def at(self, path: str) -> Node | None:
        """A key of the control set, None where there is none."""
        return self.system.at(f"{self.name}\\{path}")

    def need(self, path: str) -> Node:
        """A key of the control set. Raises DamagedError where there is none."""
        return self.system.need(f"{self.name}\\{path}")
