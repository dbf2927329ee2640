"""References and disguises: decided from the metadata, nothing that the image names is opened."""

import re
from typing import Final

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.readiness.facts import Facts
from diskfmt.readiness.profiles import Profile
from diskfmt.readiness.rules.base import Outcome, failed, passed, rule, warned

_FLATTEN: Final = "where the other file can be trusted: diskfmt convert --follow DIR IMAGE TARGET"
_PROTOCOL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def _names(facts: Facts, *kinds: str) -> list[tuple[str, str]]:
    """Name and place of what the image refers to."""
    image = facts.container.image
    found = image.references if image is not None else ()
    return [(one.name, "" if one.offset is None else f"offset {one.offset:#x}") for one in found if one.kind in kinds]


def _refers(facts: Facts, what: str, *kinds: str) -> Outcome | None:
    if facts.container.image is None:
        return None
    for name, place in _names(facts, *kinds):
        return failed(f'refers to "{name[:200]}" as its {what}', place, remedy=_FLATTEN)
    return passed(f"no {what}")


@rule("safety-backing-file", "Does it stand alone, without a backing file?")
def backing_file(facts: Facts, profile: Profile) -> Outcome | None:
    return _refers(facts, "backing file", "backing")


@rule("safety-data-file", "Are its data in itself?")
def data_file(facts: Facts, profile: Profile) -> Outcome | None:
    return _refers(facts, "data file", "data-file")


@rule("safety-parent-locator", "Does it stand alone, without a parent?")
def parent_locator(facts: Facts, profile: Profile) -> Outcome | None:
    return _refers(facts, "parent", "parent")


@rule("safety-pseudo-protocol", "Does it name nothing on the network?")
def pseudo_protocol(facts: Facts, profile: Profile) -> Outcome | None:
    if facts.container.image is None:
        return None
    for name, place in _names(facts, "backing", "data-file", "parent", "piece"):
        scheme = _PROTOCOL.match(name)
        if scheme:
            return failed(f"names something of the protocol {scheme[1]}:", place, remedy="do not use this image")
    return passed("no protocols")


@rule("safety-vmdk-extent-path", "Do its pieces lie beside it?")
def vmdk_extent_path(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None or image.format != "vmdk":
        return None
    for name, place in _names(facts, "piece"):
        if set(name) & set("/\\:") or name in ("", ".", ".."):
            return failed(
                f'a piece points outside of the folder: "{name[:200]}"', place, remedy="convert it at its source"
            )
    return passed("pieces lie beside the descriptor, or there are none")


@rule("safety-vmdk-descriptor", "Is its descriptor what every reader takes it for?")
def vmdk_descriptor(facts: Facts, profile: Profile) -> Outcome | None:
    if "vmdk" not in facts.container.claims:
        return None
    finding = _worst(facts, Reason.DIFFERENTIAL, Severity.ERROR)
    if finding is not None:
        return failed(finding.message, _place(finding), remedy=finding.remedy)
    return passed("nothing in it that readers differ on")


@rule("safety-polyglot", "Is it one thing only?")
def polyglot(facts: Facts, profile: Profile) -> Outcome | None:
    for reason in (Reason.AMBIGUOUS_FORMAT, Reason.NESTED_FORMAT):
        finding = _worst(facts, reason, Severity.WARNING)
        if finding is not None:
            make = failed if finding.severity >= Severity.ERROR else warned
            return make(finding.message, _place(finding), remedy="find out how it was made", cured=True)
    return passed("one format fits")


@rule("safety-size-bomb", "Is what it promises bounded by what it holds?")
def size_bomb(facts: Facts, profile: Profile) -> Outcome | None:
    for reason in (Reason.LIMIT_SIZE, Reason.LIMIT_METADATA, Reason.LIMIT_EXPANSION):
        finding = _worst(facts, reason, Severity.ERROR)
        if finding is not None:
            return failed(finding.message, _place(finding), remedy="do not use this image")
    return passed("within limits") if facts.container.image is not None else None


@rule("safety-table-loop", "Do its tables keep away from themselves?")
def table_loop(facts: Facts, profile: Profile) -> Outcome | None:
    for reason in (Reason.OVERLAP, Reason.SHARED_CLUSTERS):
        finding = _worst(facts, reason, Severity.ERROR)
        if finding is not None:
            return failed(finding.message, _place(finding), remedy=finding.remedy)
    return passed("tables and data apart") if facts.container.image is not None else None


def _worst(facts: Facts, reason: Reason, least: Severity) -> Finding | None:
    found = [one for one in facts.container.findings if one.reason is reason and one.severity >= least]
    return max(found, key=lambda one: one.severity, default=None)


def _place(finding: Finding) -> str:
    return "" if finding.offset is None else f"offset {finding.offset:#x}"
