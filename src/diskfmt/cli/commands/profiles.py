"""`diskfmt profiles`: the clouds that are known, and what one of them takes."""

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from diskfmt.cli.session import Session
from diskfmt.escape import escape

if TYPE_CHECKING:
    from diskfmt.readiness.profiles import Profile


def run(options: Namespace, session: Session) -> int:
    """List the profiles, or explain one. Raises UsageError: there is no such profile."""
    from diskfmt.readiness import profiles

    console = session.console
    if options.name is not None:
        profile = profiles.load(options.name)
        if console.json:
            console.write_json(_document(profile))
        else:
            console.write_lines(_explained(profile))
        return 0
    loaded = [profiles.load(name) for name in profiles.names()]
    if console.json:
        console.write_json([{"name": one.name, "title": one.title, "switches": dict(one.switches)} for one in loaded])
    else:
        width = max(len(one.name) for one in loaded) + 2
        console.write_lines(f"{one.name:<{width}}{one.title}" for one in loaded)
    return 0


def _values(profile: "Profile") -> Iterator[tuple[str, object]]:
    """Every value that the profile states, by its key in the file."""
    from dataclasses import fields

    from diskfmt.readiness.profile import SECTIONS

    for section in SECTIONS:
        part = getattr(profile, section)
        for field in fields(part):
            value = getattr(part, field.name)
            if value not in (None, (), "", False) and not (hasattr(value, "items") and not value):
                yield f"{section}.{field.name.replace('_', '-')}", value
    yield from ((f"limits.{name}", value) for name, value in profile.limits.items())


def _explained(profile: "Profile") -> Iterator[str]:
    yield f"{profile.name}: {profile.title}"
    for key, value in _values(profile):
        source = profile.source(key)
        tail = f"   [{source.title}, {source.date}]" if source is not None else ""
        yield escape(f"    {key}: {_text(value)}{tail}", 2048)
    for name, about in profile.switches.items():
        yield escape(f"    +{name}: {about}", 2048)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if hasattr(value, "items"):
        return "; ".join(f"{key}: {_text(item) or 'any'}" for key, item in value.items())
    return str(value)


def _document(profile: "Profile") -> dict[str, object]:
    def plain(value: object) -> object:
        if hasattr(value, "items"):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return {
        "name": profile.name,
        "title": profile.title,
        "values": {key: plain(value) for key, value in _values(profile)},
        "rules": {
            rule: {"severity": weight.severity, "windows": weight.windows, "error": weight.error}
            for rule, weight in profile.rules.items()
        },
        "sources": {key: [source.title, source.date] for key, source in profile.sources.items()},
        "switches": dict(profile.switches),
    }
