"""The permission to convert, and what it is made from.

The engine runs only with a `Clearance`. There are three ways to one: an assessment without an open blocker, an
assessment whose blockers are waived by name, or an explicit `ungated` with a reason. Each is recorded in the result.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from diskfmt.errors import Finding, InUseError, NotReadyError, Reason, Severity, UsageError, error_from
from diskfmt.formats.base import Statistics
from diskfmt.stores.source import Identity

# What a user may decide to overrule. Everything else means that the right bytes are not known.
WAIVABLE: Final = frozenset({Reason.NESTED_FORMAT, Reason.IN_USE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a walk over the whole map counted, in bytes: guest bytes stored plain, guest bytes stored compressed."""

    plain: int
    encoded: int

    @property
    def stored(self) -> int:
        """Guest bytes that some file stores."""
        return self.plain + self.encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the gate found, bound to the identities of the files.

    `totals` and `statistics` (what the format's check counted) are None where the map could not be walked.
    """

    path: str
    identities: tuple[Identity, ...]
    findings: tuple[Finding, ...]
    totals: Totals | None
    statistics: Statistics | None = None

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """The findings that keep the image from being converted."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """The permission to convert one image, as it was when it was assessed."""

    identities: tuple[Identity, ...]
    findings: tuple[Finding, ...] = ()
    waived: tuple[Finding, ...] = ()
    ungated_reason: str | None = None
    totals: Totals | None = None

    @classmethod
    def from_assessment(cls, assessment: Assessment, *, waive: Iterable[Reason] = ()) -> Self:
        """The clearance that an assessment gives.

        Raises:
            DiskfmtError: the first open blocker, as the exception that its reason means; NotReadyError for a refusal.
            UsageError: `waive` names a reason that cannot be waived.

        """
        waivers = frozenset(waive)
        for reason in sorted(waivers - WAIVABLE):
            raise UsageError(f"{reason} cannot be waived", remedy=f"only {', '.join(sorted(WAIVABLE))} can")
        waived = []
        for finding in assessment.blockers:
            if finding.reason not in waivers:
                raise _blocked(finding, assessment.path)
            waived.append(finding)
        return cls(
            identities=assessment.identities,
            findings=assessment.findings,
            waived=tuple(waived),
            totals=assessment.totals,
        )

    @classmethod
    def ungated(cls, identities: Iterable[Identity], *, reason: str) -> Self:
        """A clearance without an assessment. `reason` is recorded in the result."""
        return cls(identities=tuple(identities), ungated_reason=reason)

    def require(self, identities: Iterable[Identity], path: str) -> None:
        """Prove that the files are still those that were assessed. Raises InUseError: SOURCE_CHANGED."""
        if tuple(identities) != self.identities:
            raise InUseError(
                "the file is not the one that was checked",
                reason=Reason.SOURCE_CHANGED,
                path=path,
                remedy="stop what writes to it and start again",
            )


def _blocked(finding: Finding, path: str) -> Exception:
    error = error_from(finding, path=path)
    if error.exit_code != 1:
        return error
    return NotReadyError(
        finding.message,
        reason=finding.reason,
        path=path,
        offset=finding.offset,
        guest_offset=finding.guest_offset,
        remedy=finding.remedy,
    )
