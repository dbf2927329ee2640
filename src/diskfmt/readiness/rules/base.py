"""What a rule is, and how all of them are asked."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.errors import UsageError
from diskfmt.guest.fact import Fact, Known, T, Unknown
from diskfmt.readiness.facts import Facts
from diskfmt.readiness.model import Impact, RuleFinding, Verdict
from diskfmt.readiness.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule says. `cured`: a conversion for the profile mends it."""

    verdict: Verdict
    message: str
    evidence: tuple[str, ...] = ()
    remedy: str | None = None
    cured: bool = False


Check = Callable[[Facts, Profile], Outcome | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `title` says what is asked, in one line; its weight is the profile's business.

    `check` returns None where the question does not arise (a Windows rule for Linux).
    """

    id: str
    area: str
    title: str
    check: Check


RULES: Final[dict[str, Rule]] = {}
CONTAINER_AREAS: Final = frozenset({"container", "safety", "size"})
"""Areas whose rules parse nothing of the guest."""


def rule(id: str, title: str) -> Callable[[Check], Check]:
    """Enter a function as a rule; its module's name is the area."""

    def enter(check: Check) -> Check:
        area = check.__module__.rpartition(".")[2]
        if id in RULES:
            raise ValueError(f"two rules are called {id}")
        RULES[id] = Rule(id=id, area=area, title=title, check=check)
        return check

    return enter


def passed(message: str, *evidence: str) -> Outcome:
    """All is well."""
    return Outcome(verdict=Verdict.PASS, message=message, evidence=_told(evidence))


def warned(message: str, *evidence: str, remedy: str | None = None, cured: bool = False) -> Outcome:
    """It may go wrong."""
    return Outcome(verdict=Verdict.WARN, message=message, evidence=_told(evidence), remedy=remedy, cured=cured)


def failed(message: str, *evidence: str, remedy: str | None = None, cured: bool = False) -> Outcome:
    """It will go wrong."""
    return Outcome(verdict=Verdict.FAIL, message=message, evidence=_told(evidence), remedy=remedy, cured=cured)


def unknown(reason: str, *evidence: str) -> Outcome:
    """It could not be looked at."""
    return Outcome(verdict=Verdict.UNKNOWN, message=reason, evidence=_told(evidence))


def _told(evidence: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for text in evidence if text)


def known(fact: Fact[T], then: Callable[[T, str], Outcome | None]) -> Outcome | None:
    """What `then` says of a known value and its evidence; unknown for an unknown one."""
    if isinstance(fact, Unknown):
        return unknown(f"could not be looked at: {fact.reason}")
    return then(fact.value, fact.evidence)


def value_of(fact: Fact[T], otherwise: T) -> T:
    """The value, or `otherwise` where nothing hangs on its being known."""
    return fact.value if isinstance(fact, Known) else otherwise


def judge(
    facts: Facts, profile: Profile, *, areas: Collection[str] | None = None, windows: bool = False
) -> Iterator[RuleFinding]:
    """What every rule says that the profile gives weight to. A rule that raises is a bug, and blocks.

    `areas`: only rules of these, None: all but those that look at the container only. `windows`: the weights for it.
    """
    for entry in RULES.values():
        weight = profile.severity(entry.id, windows=windows)
        if weight is None or (entry.area not in areas if areas is not None else entry.area in CONTAINER_AREAS):
            continue
        impact = Impact(weight)
        try:
            outcome = entry.check(facts, profile)
        except Exception as error:  # noqa: BLE001 - whatever a rule raises, it must not look like a pass
            outcome = unknown(f"the rule failed: {type(error).__name__}: {error}")
            impact = Impact.BLOCKS
        if outcome is not None:
            yield RuleFinding(
                rule=entry.id,
                area=entry.area,
                impact=impact,
                verdict=outcome.verdict,
                message=outcome.message,
                evidence=outcome.evidence,
                remedy=outcome.remedy,
                error_code=profile.error_code(entry.id) if outcome.verdict is not Verdict.PASS else None,
                cured=outcome.cured and outcome.verdict is not Verdict.PASS,
            )


def require_known(ids: Collection[str]) -> None:
    """Return if there are rules with all these ids. Raises UsageError naming the nearest."""
    from difflib import get_close_matches

    for name in ids:
        if name not in RULES:
            near = ", ".join(get_close_matches(name, RULES, n=3)) or "see diskfmt rules"
            raise UsageError(f"there is no rule {name!r}", remedy=f"did you mean: {near}")
