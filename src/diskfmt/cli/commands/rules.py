"""`diskfmt rules`: the rules of the readiness check, and what one of them means to each cloud."""

from argparse import Namespace
from collections.abc import Iterator

from diskfmt.cli.session import Session

MEANINGS = {
    "B": "the import is refused",
    "X": "imported, then it does not boot or is not reached",
    "W": "it boots degraded, or a page forbids it",
    "A": "advice",
}


def run(options: Namespace, session: Session) -> int:
    """List the rules, or explain one. Raises UsageError: there is no such rule."""
    from diskfmt.readiness.rules import RULES, require_known

    console = session.console
    if options.id is not None:
        require_known([options.id])
        wanted = [RULES[options.id]]
    else:
        wanted = list(RULES.values())
    if console.json:
        console.write_json(
            [{"id": one.id, "area": one.area, "title": one.title, "clouds": weights(one.id)} for one in wanted]
        )
    elif options.id is not None:
        console.write_lines(_explained(options.id, wanted[0].title))
    else:
        width = max(len(one.id) for one in wanted) + 2
        console.write_lines(f"{one.id:<{width}}{one.title}" for one in wanted)
    return 0


def weights(rule: str) -> dict[str, str]:
    """What the rule means to each cloud that asks it."""
    from diskfmt.readiness import profiles

    found = {name: profiles.load(name).severity(rule) for name in profiles.names()}
    return {name: weight for name, weight in found.items() if weight is not None}


def _explained(rule: str, title: str) -> Iterator[str]:
    yield f"{rule}: {title}"
    for name, weight in weights(rule).items():
        yield f"    {name}: {weight}, {MEANINGS[weight]}"
