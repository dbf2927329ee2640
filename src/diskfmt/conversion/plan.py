"""What a conversion will do, before it does anything."""

from dataclasses import dataclass

from diskfmt import engine
from diskfmt.conversion.inherit import Inheritance
from diskfmt.conversion.target import Target
from diskfmt.errors import Finding, Reason, RefusedError, Severity, UsageError
from diskfmt.formats.base import Below, Output, Request
from diskfmt.units import SECTOR, align_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One conversion: what is asked of the target, and what the user should know about it.

    `shared`: what an output that is a difference to another image leaves to it.
    """

    target: Target
    request: Request
    notes: tuple[Finding, ...] = ()
    shared: Inheritance | None = None

    @property
    def virtual_size(self) -> int:
        """Bytes of the target's guest disk."""
        return self.request.virtual_size

    def new_output(self) -> Output:
        """A fresh layout of all files of the output."""
        return self.target.format.layout(self.request)


def make_plan(
    size: int,
    target: Target,
    name: str,
    *,
    below: Below | None = None,
    shared: Inheritance | None = None,
    recompress: bool = False,
) -> Plan:
    """The plan for a guest disk of `size` bytes that goes to a file called `name` (no directory).

    A format that counts in sectors gets a disk that is filled up with zeroes to a whole sector; a note says so.
    `below`, `shared`: the image that the output is to be a difference to, as it is recorded and as it is read.
    `recompress`: make frames anew that could be kept.

    Raises:
        UsageError: options or a size that the format cannot have.
        RefusedError: CODEC_MISSING.
        LimitError: LIMIT_SIZE.

    """
    if size == 0:
        raise UsageError("the disk is empty", remedy="there is nothing to convert")
    virtual_size = size if target.format.name == "raw" else align_up(size, SECTOR)
    notes = []
    if virtual_size != size:
        notes.append(
            Finding(
                reason=Reason.BAD_VALUE,
                severity=Severity.WARNING,
                guest_offset=size,
                message=f"{target.format.name} counts in sectors: {virtual_size - size} zero bytes were appended",
                remedy="convert to raw to keep the odd size",
            )
        )
    request = Request(
        subformat=target.subformat,
        virtual_size=virtual_size,
        name=name,
        options=target.options,
        compress=target.compress,
        level=target.level,
        below=below,
        recompress=recompress,
    )
    plan = Plan(target=target, request=request, notes=tuple(notes), shared=shared)
    placement = plan.new_output().parts[0].layout.placement
    if below is not None and placement.zeroes is engine.Zeroes.SKIP:
        raise UsageError(
            f"{target.format.name}:{target.subformat} cannot be a difference to another image",
            remedy="leave -B out, or choose qcow2 or vhd:differencing",
        )
    if not engine.can_encode(placement.codec, placement.level, placement.window_bits):
        raise RefusedError(
            f"this build cannot compress with {placement.codec.name.lower()} at level {placement.level}",
            reason=Reason.CODEC_MISSING,
            remedy="choose another level or codec; diskfmt --version lists the codecs",
        )
    return plan
