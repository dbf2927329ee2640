<<<<<<< HEAD
"""A value that was looked for in a guest: known, with where it was seen, or unknown, with why."""

from dataclasses import dataclass
from typing import Generic, TypeVar
=======
"""What is known of a guest: a value with where it was read, or why it is not known.

Unknown is never a value: a rule that meets it says "unknown", never "pass".
"""

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
>>>>>>> g-windows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
<<<<<<< HEAD
    """A value, and where it was seen: `file:line`, `offset 0x…`, or text."""
=======
    """A value. `evidence`: where it was read, `file:line` or `file@offset`."""
>>>>>>> g-windows

    value: T
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
<<<<<<< HEAD
    """Why a value could not be looked at. It never counts as any value."""
=======
    """Nobody could look. `reason`: why."""
>>>>>>> g-windows

    reason: str


<<<<<<< HEAD
Fact = Known[T] | Unknown
=======
Fact: TypeAlias = Known[T] | Unknown
>>>>>>> g-windows
