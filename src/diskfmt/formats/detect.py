"""Which format a file has: all detectors look at fixed areas of it, and one rule decides.

    source ─► head, tail ─► every detector ─► claims ─► decide ─► Identification

The rule, in this order:
1. An empty file is nothing.
2. The caller's word (`-f`) is binding: the file must show that format. `raw` is anything that is not packed.
3. Two containers, or a container and a partition table in the same place, are AMBIGUOUS_FORMAT.
4. A container that is read gives its name; one that is only recognised is refused by name.
5. Wrappers are refused with the command that unpacks them; programs and texts are named.
6. A partition table or file system makes the file raw. Without one nothing is guessed: UNKNOWN_FORMAT.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from diskfmt.errors import Finding, Reason, Severity, UsageError, error_from, first_error
from diskfmt.formats.known import KNOWN, NOT_WHEN_INSIDE, SUPPORTED, Claim, Kind
from diskfmt.formats.probes import CONTAINER_PROBES, LAST_PROBES, PROBES, Probe, View
from diskfmt.stores.source import SourceFile

HEAD_LENGTH: Final = 0x41000
"""Bytes looked at from the start: up to the last uberblock of a ZFS label."""
TAIL_LENGTH: Final = 0x20000
"""Bytes looked at from the end: an MD 0.90 superblock is up to 128 KiB away from it."""
ISO_AREA: Final = 0x8000
"""Where the descriptors of ISO 9660 and UDF start."""

_FOREIGN: Final = frozenset({("mbr", 0), ("gpt", 512), ("iso9660", ISO_AREA + 1), ("udf", ISO_AREA)})
"""Content that no container has in this place of its own file: one that shows both was made to deceive."""
_FORCE_RAW: Final = "give -f raw if it really is a raw disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """What a file is.

    `format` is the name of a format that is read, or None, and then `findings` has one of severity ERROR that says
    why. `claims` are the words of all detectors, in the order of their offsets.
    """

    format: str | None
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] = ()

    def require(self, path: str) -> str:
        """The format. Raises the `DiskfmtError` that says why there is none, about `path`."""
        error = first_error(self.findings)
        if error is not None or self.format is None:
            raise error_from(error or _unknown(self.claims), path=path)
        return self.format


def identify(source: SourceFile, expected: str | None = None) -> Identification:
    """What the file is; `expected` is the name of the format that the caller says it has (TM-404).

    Reads at most 392 KiB, always the same places.

    Raises:
        UsageError: `expected` is not a format that is read.
        IOFailedError: READ_ERROR.

    """
    if expected is not None and expected not in SUPPORTED:
        names = ", ".join(sorted(SUPPORTED))
        raise UsageError(f"no format is called {expected!r}", path=source.path, remedy=f"choose one of {names}")
    if source.size == 0:
        return _refuse((), Reason.TRUNCATED, "the file is empty", remedy="copy or download the image again")
    view = _view(source)
    claims = _claims(view, PROBES)
    if not any(one.kind is Kind.CONTAINER for one in claims):
        claims += _claims(view, LAST_PROBES)
    if expected is None:
        return _decide(claims)
    return _as_raw(claims) if expected == "raw" else _as_expected(claims, expected)


def nested_claims(head: bytes, iso_area: bytes, tail: bytes, size: int) -> tuple[Claim, ...]:
    """The containers that a guest's disk of `size` bytes looks like (TM-405).

    `head` starts at 0, `iso_area` at 32 KiB (empty where `head` covers it), `tail` ends at `size`. A disk
    that is one encrypted LUKS volume is an ordinary disk.
    """
    parts = ((0, head), (ISO_AREA, iso_area), (size - len(tail), tail))
    found = _claims(View(size=size, parts=tuple(part for part in parts if part[1])), CONTAINER_PROBES)
    return tuple(one for one in found if one.kind is Kind.CONTAINER and one.name not in NOT_WHEN_INSIDE)


def _view(source: SourceFile) -> View:
    if source.size <= HEAD_LENGTH + TAIL_LENGTH:
        return View(size=source.size, parts=((0, source.read_at(0, source.size)),))
    start = source.size - TAIL_LENGTH
    head = source.read_at(0, HEAD_LENGTH)
    return View(size=source.size, parts=((0, head), (start, source.read_at(start, TAIL_LENGTH))))


def _claims(view: View, probes: Iterable[Probe]) -> tuple[Claim, ...]:
    """All claims, one for each name and place, sorted by place."""
    found = {(one.offset, one.name): one for probe in probes for one in probe(view)}
    names = {name for _, name in found}
    hidden = set()
    if "bcache" in names:
        hidden.add("bcachefs")  # which has the same identifier in the same place
    if len(names) > 1:
        hidden.add("comments")  # any other name says more
    return tuple(found[key] for key in sorted(found) if key[1] not in hidden)


def _decide(claims: tuple[Claim, ...]) -> Identification:
    """The rule for a file of which nothing is said."""
    rivals = _rivals(claims)
    if len(rivals) > 1:
        return _refuse(
            claims,
            Reason.AMBIGUOUS_FORMAT,
            f"the file is several things at once: {_list(rivals)}",
            offset=rivals[1].offset,
            remedy="find out how it was made; -f FORMAT says which of them it is",
        )
    for one in rivals:
        if one.name in SUPPORTED:
            return Identification(format=one.name, claims=claims)
        return _refuse_by_name(claims, one)
    other = next((one for one in claims if one.kind is Kind.OTHER), None)
    if other is None and any(one.kind is Kind.CONTENT for one in claims):
        return Identification(format="raw", claims=claims, findings=_isohybrid(claims))
    return Identification(format=None, claims=claims, findings=(_unknown(claims),))


def _as_raw(claims: tuple[Claim, ...]) -> Identification:
    """The caller says raw: so it is, unless it is packed; what else it looks like is told."""
    packed = next((one for one in claims if one.kind is Kind.WRAPPER), None)
    if packed is not None:
        return _refuse(
            claims,
            Reason.FORMAT_MISMATCH,
            f"a raw disk was expected, found: {KNOWN[packed.name].title}",
            offset=packed.offset,
            remedy=KNOWN[packed.name].remedy,
        )
    findings = tuple(_looks_like(one) for one in claims if one.kind in {Kind.CONTAINER, Kind.OTHER})
    return Identification(format="raw", claims=claims, findings=findings)


def _as_expected(claims: tuple[Claim, ...], expected: str) -> Identification:
    """The caller names a container: the file has to show it; what else it shows is told."""
    rivals = _rivals(claims)
    if expected not in {one.name for one in rivals}:
        seen = _list(rivals or claims) if claims else "nothing that is known"
        remedy = "leave out -f, or give the format that it has" if rivals else "copy or download the image again"
        message = f"{expected} was expected, but the file shows {seen}"
        return _refuse(claims, Reason.FORMAT_MISMATCH, message, remedy=remedy)
    findings = tuple(
        Finding(
            reason=Reason.AMBIGUOUS_FORMAT,
            severity=Severity.WARNING,
            message=f"the file also looks like this: {KNOWN[one.name].title}; other programs may read that",
            offset=one.offset,
            remedy="find out how it was made",
        )
        for one in rivals
        if one.name != expected
    )
    return Identification(format=expected, claims=claims, findings=findings)


def _rivals(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """One claim for each thing that the whole file could be, containers first."""
    packed = [one for one in claims if one.kind in {Kind.CONTAINER, Kind.WRAPPER}]
    if any(one.kind is Kind.CONTAINER and one.offset < 512 for one in packed):
        packed += [one for one in claims if (one.name, one.offset) in _FOREIGN]
    firsts: dict[str, Claim] = {}
    for one in packed:
        firsts.setdefault(one.name, one)
    return tuple(firsts.values())


def _refuse_by_name(claims: tuple[Claim, ...], one: Claim) -> Identification:
    known = KNOWN[one.name]
    reason = Reason.ENCRYPTED if one.name == "luks" else Reason.UNSUPPORTED_SUBFORMAT
    return _refuse(claims, reason, f"not a format that is read: {known.title}", offset=one.offset, remedy=known.remedy)


def _refuse(
    claims: tuple[Claim, ...], reason: Reason, message: str, *, offset: int | None = None, remedy: str | None = None
) -> Identification:
    finding = Finding(reason=reason, severity=Severity.ERROR, message=message, offset=offset, remedy=remedy)
    return Identification(format=None, claims=claims, findings=(finding,))


def _unknown(claims: tuple[Claim, ...]) -> Finding:
    finding = Finding(
        reason=Reason.UNKNOWN_FORMAT,
        severity=Severity.ERROR,
        message="no disk format, partition table or file system is recognised",
        remedy=_FORCE_RAW,
    )
    other = next((one for one in claims if one.kind is Kind.OTHER), None)
    if other is None:
        return finding
    known = KNOWN[other.name]
    remedy = f"{known.remedy}, or {_FORCE_RAW}"
    return replace(finding, message=f"not a disk: {known.title}", offset=other.offset, remedy=remedy)


def _looks_like(one: Claim) -> Finding:
    """A warning about what a raw disk looks like."""
    title = KNOWN[one.name].title
    if one.name == "luks":
        reason, message = Reason.ENCRYPTED, f"the disk stays encrypted: {title}"
    elif one.kind is Kind.CONTAINER:
        reason, message = (
            Reason.NESTED_FORMAT,
            f"the raw disk looks like this: {title}; programs that guess may open that",
        )
    else:
        reason, message = Reason.FORMAT_MISMATCH, f"taken as a raw disk, but it looks like this: {title}"
    return Finding(
        reason=reason, severity=Severity.WARNING, message=message, offset=one.offset, remedy="check where it comes from"
    )


def _isohybrid(claims: tuple[Claim, ...]) -> tuple[Finding, ...]:
    names = {one.name for one in claims}
    if "iso9660" not in names or not names & {"mbr", "gpt"}:
        return ()
    message = "an isohybrid: an ISO 9660 file system and a partition table share the disk"
    return (Finding(reason=Reason.AMBIGUOUS_FORMAT, severity=Severity.NOTE, message=message, offset=ISO_AREA),)


def _list(claims: Iterable[Claim]) -> str:
    return ", ".join(map(str, claims))
