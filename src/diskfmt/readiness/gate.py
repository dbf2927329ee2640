"""The safety and integrity gate: may this image be converted?

It runs before every conversion. Nothing here raises for what an image contains: a check that stops becomes a finding.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Final

from diskfmt import engine, extents
from diskfmt.chain import about_layer, not_opened
from diskfmt.clearance import Assessment, Totals
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError, Finding, Reason, Severity, finding_from, first_error
from diskfmt.formats.base import BELOW_KINDS, Reference, Statistics
from diskfmt.formats.detect import nested_claims
from diskfmt.kinds import Codec, Kind
from diskfmt.units import KIB, MIB

NESTED_AREA: Final = 64 * KIB
"""Bytes at both ends of the guest's disk that are looked at for an image inside the image."""

_DEEP_BLOCK: Final = 4 * MIB


def assess(
    disk: Disk, *, deep: bool = False, alone: bool = False, progress: Callable[[int], None] | None = None
) -> Assessment:
    """What keeps the disk from being converted, and what is doubtful about it; each finding once.

    Looks at identification and header, whether somebody writes to the file (TM-1101), the whole map (TM-805), the
    codecs that it needs, what the format's own check says, and what the guest's first and last bytes look like
    (TM-405). `deep` makes the format's check thorough and decodes every frame. `alone`: the container is judged, not
    the disk, so that images below it that were not opened are only mentioned. `progress` is told the guest bytes
    whose map was walked.
    """
    findings = [*disk.findings, *(_unopened(reference, alone) for reference in disk.missing)]
    if alone:
        disk = disk.alone()
    readable = first_error(findings) is None
    for file in disk.files:
        finding = file.in_use()
        if finding is not None:
            findings.append(replace(finding, path=None if file is disk.files[0] else file.path))
    totals = statistics = None
    if readable:
        try:
            totals, codecs = _walk(disk, progress)
            for depth, layer in enumerate(disk.layers):
                found: list[Finding] = []
                counted = _collect(layer.format.check(layer.image, layer.files, deep), found)
                findings += about_layer(found, disk.layers[: depth + 1])
                statistics = statistics or counted
            findings += (_missing_codec(codec) for codec in sorted(codecs) if not engine.can_decode(codec))
            findings += _nested(disk)
            if deep and first_error(findings) is None:
                findings += _decode_all(disk)
        except DiskfmtError as error:
            findings.append(finding_from(error))
    return Assessment(
        path=disk.path,
        identities=disk.identities,
        findings=tuple(dict.fromkeys(findings)),
        totals=totals,
        statistics=statistics,
    )


def _unopened(reference: Reference, alone: bool) -> Finding:
    finding = not_opened(reference)
    return replace(finding, severity=Severity.WARNING) if alone and reference.kind in BELOW_KINDS else finding


def _collect(check: Generator[Finding, None, Statistics], findings: list[Finding]) -> Statistics:
    """What a check returns; what it yields goes to `findings`."""
    while True:
        try:
            findings.append(next(check))
        except StopIteration as end:
            statistics: Statistics = end.value
            return statistics


def _walk(disk: Disk, progress: Callable[[int], None] | None) -> tuple[Totals, set[Codec]]:
    plain = encoded = 0
    codecs: set[Codec] = set()
    for rows in disk.extents():
        kind = rows["kind"]
        plain += int(rows["length"][kind == Kind.DATA].sum())
        frames = kind == Kind.ENCODED
        if frames.any():
            encoded += int(rows["length"][frames].sum())
            codecs.update(codec for codec in Codec if (rows["codec"][frames] == codec).any())
        if progress is not None:
            progress(int(rows[-1]["guest_off"]) + int(rows[-1]["length"]))
    return Totals(plain=plain, encoded=encoded), codecs


def _missing_codec(codec: Codec) -> Finding:
    return Finding(
        reason=Reason.CODEC_MISSING,
        severity=Severity.ERROR,
        message=f"the image is compressed with {codec.name.lower()}, which this build cannot decode",
        remedy="install a build that has it; diskfmt --version lists the codecs",
    )


def _nested(disk: Disk) -> Iterator[Finding]:
    if disk.format.name == "raw":
        return  # the file is the guest disk: identification has looked at it
    head = disk.read_at(0, NESTED_AREA)  # covers the area of ISO 9660 at 32 KiB too
    tail = disk.read_at(max(0, disk.size - NESTED_AREA), NESTED_AREA)
    for claim in nested_claims(head, b"", tail, disk.size):
        yield Finding(
            reason=Reason.NESTED_FORMAT,
            severity=Severity.ERROR,
            guest_offset=claim.offset,
            message=f"the guest's disk looks like a {claim.name} image itself: the next tool may take it for one",
            remedy="if that is meant, give --waive NESTED_FORMAT",
        )


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
