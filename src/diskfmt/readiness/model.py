"""What the readiness check says: findings of rules, and the report that they make.

    Facts × Profile ─► rules ─► RuleFinding … ─► ReadinessReport

A rule's *verdict* is about the image (pass, warn, fail, unknown), its *impact* about the cloud: what happens to an
image that fails it. Unknown is never pass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from diskfmt.errors import NotReadyError, Reason


class Impact(StrEnum):
    """What an image that fails a rule meets in the cloud. The values are those of the rule catalogue."""

    BLOCKS = "B"  # the service refuses the import
    BREAKS = "X"  # it is imported, and then does not boot or cannot be reached
    WARNS = "W"  # it boots degraded, or a page forbids it
    ADVISES = "A"  # worth knowing


class Verdict(StrEnum):
    """What a rule found."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """The report in one word, the worst first."""

    REFUSED = "refused"
    BOOTS_NOT = "boots-not"
    REACHABLE_NOT = "reachable-not"
    UNKNOWN = "unknown"
    READY = "ready"


STATUS_TEXT: Mapping[Status, str] = {
    Status.REFUSED: "the cloud will refuse it",
    Status.BOOTS_NOT: "it will be imported, and then not boot",
    Status.REACHABLE_NOT: "it will boot, and not be reachable",
    Status.UNKNOWN: "not everything could be looked at",
    Status.READY: "ready",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """One rule's word about one image and one cloud.

    `evidence`: where it was seen, as `file:line`, `offset 0x…` or text. `remedy`: the command that mends it, or what to
    do. `error_code`: what the cloud itself would say. `cured`: the conversion for this profile mends it. `area`: the
    group of the rule, which says what breaks.
    """

    rule: str
    area: str
    impact: Impact
    verdict: Verdict
    message: str
    evidence: tuple[str, ...] = ()
    remedy: str | None = None
    error_code: str | None = None
    cured: bool = False

    @property
    def grave(self) -> bool:
        """Whether it speaks against the import: a fail or unknown of weight."""
        weighty = self.impact in (Impact.BLOCKS, Impact.BREAKS)
        return weighty and self.verdict in (Verdict.FAIL, Verdict.UNKNOWN)

    def to_json(self) -> dict[str, object]:
        """All of it; what does not exist is left out."""
        document: dict[str, object] = {
            "rule": self.rule,
            "area": self.area,
            "impact": self.impact.value,
            "verdict": self.verdict.value,
            "message": self.message,
            "evidence": list(self.evidence),
            "remedy": self.remedy,
            "error-code": self.error_code,
            "cured-by-conversion": self.cured,
        }
        return {key: value for key, value in document.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a bar, in bytes. `kind` chooses its colour: `fs`, `swap`, `data`, `zero`, `free`, `unknown` …"""

    start: int
    length: int
    kind: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Something that is drawn to scale: the disk, a file system, the container's file. `size` in bytes."""

    title: str
    size: int
    spans: tuple[Span, ...]


# Areas whose failed rules mean that the machine runs and nobody gets in.
_REACH = frozenset({"agent", "network", "security"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessReport:
    """What the check of one image for one cloud said.

    `waived`: rules that the caller decided to overrule; they no longer count. `planned`: the image is about to be
    converted for this profile, so that what the conversion cures does not count either. `summary`: facts worth
    showing (operating system, kernel, partitions …), plain JSON values. `bars`: what a drawing of the disk shows.
    `conversion`: the command that makes what the cloud wants.
    `seconds` of wall time, `bytes_read` of the guest's disk.
    """

    path: str
    profile: str
    findings: tuple[RuleFinding, ...]
    waived: tuple[str, ...] = ()
    planned: bool = False
    summary: Mapping[str, object] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    conversion: str = ""
    seconds: float = 0.0
    bytes_read: int = 0

    @property
    def open(self) -> tuple[RuleFinding, ...]:
        """What keeps the image from being ready."""
        return tuple(
            found
            for found in self.findings
            if found.grave and found.rule not in self.waived and not (self.planned and found.cured)
        )

    @property
    def converts(self) -> bool:
        """Whether a conversion for this profile mends all that is open."""
        return bool(self.open) and all(found.cured for found in self.open)

    @property
    def ready(self) -> bool:
        """Whether the cloud will import it, and it will boot and be reachable."""
        return not self.open

    @property
    def status(self) -> Status:
        """The worst of what is open."""
        failed = [found for found in self.open if found.verdict is Verdict.FAIL]
        if any(found.impact is Impact.BLOCKS for found in failed):
            return Status.REFUSED
        if any(found.area not in _REACH for found in failed):
            return Status.BOOTS_NOT
        if failed:
            return Status.REACHABLE_NOT
        return Status.UNKNOWN if self.open else Status.READY

    def raise_if_blocked(self) -> None:
        """Return if the image is ready. Raises NotReadyError for the first open finding."""
        for found in self.open:
            raise NotReadyError(
                f"{found.message} (rule {found.rule})",
                reason=Reason.NOT_READY,
                path=self.path,
                remedy=found.remedy,
            )

    def to_json(self) -> dict[str, object]:
        """The report as docs/readiness.md describes it."""
        return {
            "filename": self.path,
            "profile": self.profile,
            "status": self.status.value,
            "ready": self.ready,
            "cured-by-conversion": self.converts,
            "findings": [found.to_json() for found in ordered(self.findings)],
            "waived": list(self.waived),
            "summary": dict(self.summary),
            "seconds": round(self.seconds, 3),
            "bytes-read": self.bytes_read,
        }


_WEIGHT = {Impact.BLOCKS: 0, Impact.BREAKS: 1, Impact.WARNS: 2, Impact.ADVISES: 3}
_ORDER = {Verdict.FAIL: 0, Verdict.UNKNOWN: 1, Verdict.WARN: 2, Verdict.PASS: 3}


def ordered(findings: Iterable[RuleFinding]) -> list[RuleFinding]:
    """The gravest first: what is open, then by verdict, weight and name."""
    return sorted(
        findings,
        key=lambda found: (not found.grave, _ORDER[found.verdict], _WEIGHT[found.impact], found.rule),
    )
