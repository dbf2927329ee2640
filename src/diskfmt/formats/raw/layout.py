"""What goes where in a raw disk that is written: every byte in its own place, zeros left out."""

from collections.abc import Sequence
from typing import Final

from diskfmt.engine import Placement
from diskfmt.errors import UsageError
from diskfmt.extents import U64
from diskfmt.formats.base import Finale, Output, Piece, Request
from diskfmt.units import KIB

UNIT: Final = 64 * KIB
"""Guest bytes that are written or, when they are zero, left out as one."""
MAX_VIRTUAL_SIZE: Final = (1 << 63) - 512


def layout(request: Request) -> Output:
    """The layout of a raw disk.

    Raises:
        UsageError: a subformat, option, compression or size that a raw disk cannot have.

    """
    if request.subformat != "raw":
        raise UsageError(f"raw cannot be {request.subformat!r}", remedy="leave the subformat out")
    if request.options:
        raise UsageError(f"raw has no option {min(request.options)!r}", remedy="leave it out")
    if request.compress is not None:
        raise UsageError("raw has no compression", remedy="leave it out, or choose qcow2 or vmdk:streamOptimized")
    if not 0 < request.virtual_size <= MAX_VIRTUAL_SIZE:
        raise UsageError(f"a raw disk cannot have {request.virtual_size} bytes", remedy="choose another size")
    return Output.single(_Raw(request.virtual_size))


class _Raw:
    """The guest's bytes and nothing else."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.full_size = size
        self.placement = Placement(unit=UNIT, guest_size=size, fixed=True)

    def add(
        self,
        first_unit: int,  # noqa: ARG002
        places: U64,  # noqa: ARG002
        stored: U64,  # noqa: ARG002
        end: int,
    ) -> tuple[Sequence[Piece], int]:
        """Nothing to note: the places follow from the guest offsets."""
        return (), end

    def finish(self, end: int, fingerprint: bytes) -> Finale:  # noqa: ARG002
        """Only the length, which brings a hole at the end."""
        return Finale(pieces=(), size=self._size)
