"""What is known of a guest: a value with where it was read, or why it is not known.

Unknown is never a value: a rule that meets it says "unknown", never "pass".
"""

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """A value. `evidence`: where it was read, `file:line` or `file@offset`."""

    value: T
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody could look. `reason`: why."""

    reason: str


Fact: TypeAlias = Known[T] | Unknown
