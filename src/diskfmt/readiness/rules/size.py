"""How large: the disk, the file, what will become of it, and what is left free."""

from diskfmt.readiness.facts import Facts
from diskfmt.readiness.profiles import Profile
from diskfmt.readiness.rules.base import Outcome, failed, known, passed, rule, warned
from diskfmt.units import SECTOR, align_up, format_size

_SHRINK = "shrink file system and partition inside, then the disk: qemu-img resize --shrink IMAGE SIZE"


@rule("size-virtual-max", "Is the disk small enough?")
def virtual_max(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    _, limit = profile.virtual_limits(windows=facts.is_windows)
    if image is None or limit is None:
        return None
    size = image.virtual_size
    if size > limit:
        return failed(f"the disk has {format_size(size)}, the limit is {format_size(limit)}", remedy=_SHRINK)
    warn = profile.size.warn_virtual
    if warn is not None and size > warn:
        return warned(
            f"the disk has {size} bytes: the limit is {limit} if the pages mean GiB, {warn} if they mean GB",
            remedy=_SHRINK,
        )
    return passed(f"{format_size(size)} of {format_size(limit)}")


@rule("size-virtual-min", "Is the disk large enough?")
def virtual_min(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    limit, _ = profile.virtual_limits(windows=facts.is_windows)
    if image is None or limit is None:
        return None
    if image.virtual_size < limit:
        return failed(
            f"the disk has {format_size(image.virtual_size)}, the cloud wants at least {format_size(limit)}",
            remedy=f"qemu-img resize IMAGE {limit}",
        )
    return passed(f"{format_size(image.virtual_size)}, at least {format_size(limit)} are wanted")


@rule("size-actual-max", "Is what it holds small enough?")
def actual_max(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None:
        return None
    remedy = "free space inside: fstrim -av, or zerofree; then convert again"
    limit = profile.size.max_file
    if limit is not None and facts.container.file_size > limit:
        return failed(
            f"the file has {format_size(facts.container.file_size)}, the limit is {format_size(limit)}", remedy=remedy
        )
    limit = profile.size.max_qcow2
    if limit is None:
        return (
            None if profile.size.max_file is None else passed(f"the file has {format_size(facts.container.file_size)}")
        )

    def judged(size: int, evidence: str) -> Outcome:
        warn = profile.size.warn_qcow2
        if size > limit:
            text = f"it needs {format_size(size)} as qcow2, the limit is {format_size(limit)}"
            return failed(text, evidence, remedy=remedy)
        if warn is not None and size > warn:
            return warned(
                f"it needs {size} bytes as qcow2; the limit is {limit} or, in GB, {warn}", evidence, remedy=remedy
            )
        return passed(f"at most {format_size(size)} as qcow2, the limit is {format_size(limit)}", evidence)

    return known(facts.qcow2_size(limit if profile.size.warn_qcow2 is None else profile.size.warn_qcow2), judged)


@rule("size-alignment", "Has the disk the multiple of bytes that the cloud wants?")
def alignment(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None:
        return None
    size, unit = image.virtual_size, profile.size.align
    if unit is not None and size % unit:
        return failed(
            f"the disk has {size} bytes, no multiple of {format_size(unit)}",
            remedy=f"qemu-img resize IMAGE {align_up(size, unit)}",
        )
    if size % SECTOR:
        return warned(
            f"the disk has {size} bytes, no multiple of {SECTOR}", remedy="copy the image again if its end was lost"
        )
    return passed(f"{size} bytes")
