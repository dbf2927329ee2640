"""A value that was looked for in a guest: known, with where it was seen, or unknown, with why."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """A value, and where it was seen: `file:line`, `offset 0x…`, or text."""

    value: T
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a value could not be looked at. It never counts as any value."""

    reason: str


Fact = Known[T] | Unknown
