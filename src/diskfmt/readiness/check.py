"""Checking an image without converting it: the gate's view, the format's own, and with `deep` every frame."""

from collections.abc import Generator, Iterator

from diskfmt import extents
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError, Finding, first_error
from diskfmt.formats.base import Statistics
from diskfmt.kinds import Kind
from diskfmt.readiness.gate import assess, finding_from
from diskfmt.units import MIB

_DEEP_BLOCK = 4 * MIB


def check_disk(disk: Disk, *, deep: bool = False) -> tuple[tuple[Finding, ...], Statistics | None]:
    """All findings, each once, and what the format's check counted (None where it could not walk the tables)."""
    found = list(assess(disk).findings)
    statistics = None
    try:
        if first_error(disk.findings) is None:
            statistics = yield_into(found, disk.format.check(disk.image, disk.files, deep))
    except DiskfmtError as error:
        found.append(finding_from(error))
    if deep and first_error(found) is None:
        found += _decode_all(disk)
    return tuple(dict.fromkeys(found)), statistics


def yield_into(found: list[Finding], findings: Iterator[Finding]) -> Statistics | None:
    """Append what a check yields; the result is what it returns at its end."""
    if not isinstance(findings, Generator):
        found.extend(findings)
        return None
    while True:
        try:
            found.append(next(findings))
        except StopIteration as end:
            return end.value if isinstance(end.value, Statistics) else None


def _decode_all(disk: Disk) -> Iterator[Finding]:
    """One finding for each block of the disk in which a frame does not decode."""
    for rows in extents.chunks(disk.extents(), unit=_DEEP_BLOCK, max_units=1):
        if not (rows["kind"] == Kind.ENCODED).any():
            continue
        start = int(rows[0]["guest_off"])
        stop = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
        try:
            disk.read_into(start, bytearray(stop - start))
        except DiskfmtError as error:
            yield finding_from(error)
