"""The readiness check of one image for one cloud.

here:      open ─► gate's assessment ─► rules about the container
in a child that can do nothing else (TM-1303): the open files ─► facts of the guest ─► rules about it
─► ReadinessReport
"""

import encodings
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, Final

import diskfmt.formats
import diskfmt.guest
import diskfmt.readiness
from diskfmt.chain import Layer
from diskfmt.clearance import Assessment
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError
from diskfmt.formats import by_name
from diskfmt.guest.base import MAX_READ, GuestError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.fact import Unknown
from diskfmt.guest.worker import run
from diskfmt.readiness.facts import Facts
from diskfmt.readiness.gather import container_facts, gather
from diskfmt.readiness.model import Bar, Impact, ReadinessReport, RuleFinding, Span, Verdict
from diskfmt.readiness.picture import bars
from diskfmt.readiness.profiles import Profile, load
from diskfmt.readiness.qcow2_size import predicted
from diskfmt.readiness.rules import CONTAINER_AREAS, RULES, judge
from diskfmt.readiness.summary import summary
from diskfmt.stores.source import SourceFile

_LATE: Final = ("bz2", "gzip", "lzma", "sqlite3", "yaml", "zlib", "difflib", "numpy.ma")
"""Modules of others that readers import when they are needed."""


def assess_readiness(
    disk: Disk,
    assessment: Assessment,
    profile: Profile,
    *,
    waived: Sequence[str] = (),
    planned: bool = False,
    isolate: bool = True,
) -> ReadinessReport:
    """What the rules say of an open image that the gate has assessed.

    `waived`: ids of rules that no longer count; `planned`: what the conversion for the profile cures does not count.
    `isolate` False looks at the guest in this process (tests).
    """
    started = time.monotonic()
    container = container_facts(disk, assessment.findings)
    nothing = Unknown("not looked at here")
    facts = Facts(
        container=container,
        table=nothing,
        volumes=nothing,
        linux=nothing,
        windows=nothing,
        qcow2_size=lambda limit: predicted(disk, limit),
    )
    answer = _ask_guest(disk, assessment, profile, isolate=isolate)
    windows = bool(answer.get("windows"))
    findings = [*judge(facts, profile, areas=CONTAINER_AREAS, windows=windows)]
    findings += [_finding(fields) for fields in answer["findings"]]
    findings += _unwritten(profile, windows=windows)
    return ReadinessReport(
        path=disk.path,
        profile=profile.name,
        findings=tuple(findings),
        waived=tuple(waived),
        planned=planned,
        summary=answer["summary"],
        bars=tuple(_bar(fields) for fields in answer["bars"]),
        conversion=f"diskfmt convert -O {profile.convert.to} {disk.path} TARGET",
        seconds=time.monotonic() - started,
        bytes_read=answer["bytes-read"],
    )


def _ask_guest(disk: Disk, assessment: Assessment, profile: Profile, *, isolate: bool) -> dict[str, Any]:
    """What the child says; where it cannot, every rule about the guest is unknown."""
    if assessment.totals is None:
        return _blind("the disk cannot be read", profile)
    request = {
        "profile": os.path.abspath(profile.origin) if profile.origin.endswith(".toml") else profile.origin,
        "switches": list(profile.switched),
        "layers": [{"format": layer.format.name, "files": len(layer.files)} for layer in disk.layers],
        "paths": disk.paths,
    }
    try:
        value: dict[str, Any] = run("readiness", request, disk.fds, isolate=isolate).value
    except GuestError as error:
        return _blind(error.message, profile)
    return value


def _unwritten(profile: Profile, *, windows: bool) -> Iterator[RuleFinding]:
    """Rules that weigh in this cloud and that this version does not have: nobody looked, which is no pass."""
    for rule in profile.rules:
        weight = profile.severity(rule, windows=windows)
        other_guest = rule.startswith("win-") and not windows
        if rule not in RULES and weight in ("B", "X") and not other_guest:
            yield RuleFinding(
                rule=rule,
                area=rule.partition("-")[0],
                impact=Impact(weight),
                verdict=Verdict.UNKNOWN,
                message="this version of diskfmt does not look at it",
            )


def _blind(reason: str, profile: Profile) -> dict[str, Any]:
    findings = []
    for entry in RULES.values():
        weight = profile.severity(entry.id)
        if entry.area not in CONTAINER_AREAS and weight in ("B", "X"):
            findings.append(
                RuleFinding(
                    rule=entry.id,
                    area=entry.area,
                    impact=Impact(weight),
                    verdict=Verdict.UNKNOWN,
                    message=f"could not be looked at: {reason}",
                ).to_json()
            )
    return {"findings": findings, "summary": {}, "bars": [], "bytes-read": 0}


# ---- in the child ----------------------------------------------------------------------------------------------------


def prepare(arguments: Any) -> None:
    """Read what `look_inside` needs of the host's files, while the child still may: modules and the profile."""
    for package in (diskfmt.formats, diskfmt.guest, diskfmt.readiness):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name in _LATE:
        import_module(name)
    for module in walk_packages(encodings.__path__, "encodings."):
        with suppress(ImportError):  # those of other systems
            import_module(module.name)
    _profile(arguments["profile"], tuple(arguments["switches"]))


@cache
def _profile(origin: str, switches: tuple[str, ...]) -> Profile:
    return load(origin, switches)


def look_inside(fds: Sequence[int], arguments: Any) -> dict[str, Any]:
    """What the rules about the guest say; the worker's function `readiness`. Plain JSON in and out."""
    disk = _reopened(fds, arguments)
    profile = _profile(arguments["profile"], tuple(arguments["switches"]))
    device = DiskDevice(disk, budget=MAX_READ)
    facts = gather(disk, container_facts(disk, ()), device)
    found = [one.to_json() for one in judge(facts, profile, areas=None, windows=facts.is_windows)]
    return {
        "findings": found,
        "summary": dict(summary(facts)),
        "bars": [_bar_json(bar) for bar in bars(disk, facts)],
        "windows": facts.is_windows,
        "bytes-read": device.bytes_read,
    }


def _reopened(fds: Sequence[int], arguments: Any) -> Disk:
    """The same disk over descriptors that were inherited; no name is opened."""
    files = iter([SourceFile.of_descriptor(fd, path) for fd, path in zip(fds, arguments["paths"], strict=True)])
    layers = []
    for told in arguments["layers"]:
        found = by_name(told["format"])
        own = tuple(next(files) for _ in range(told["files"]))
        try:
            layers.append(Layer(image=found.open(own[0]), format=found, files=own))
        except DiskfmtError as error:
            raise GuestError(f"the image cannot be read: {error.message}") from error
    return Disk(layers)


# ---- plain data ------------------------------------------------------------------------------------------------------


def _finding(fields: dict[str, Any]) -> RuleFinding:
    return RuleFinding(
        rule=fields["rule"],
        area=fields["area"],
        impact=Impact(fields["impact"]),
        verdict=Verdict(fields["verdict"]),
        message=fields["message"],
        evidence=tuple(fields["evidence"]),
        remedy=fields.get("remedy"),
        error_code=fields.get("error-code"),
        cured=fields["cured-by-conversion"],
    )


def _bar_json(bar: Bar) -> dict[str, object]:
    spans = [[span.start, span.length, span.kind, span.label] for span in bar.spans]
    return {"title": bar.title, "size": bar.size, "spans": spans}


def _bar(fields: dict[str, Any]) -> Bar:
    spans: Iterator[Span] = (
        Span(start=start, length=length, kind=kind, label=label) for start, length, kind, label in fields["spans"]
    )
    return Bar(title=fields["title"], size=fields["size"], spans=tuple(spans))
