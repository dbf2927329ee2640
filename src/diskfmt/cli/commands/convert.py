"""`diskfmt convert`: the conversion."""

from argparse import Namespace
from typing import TYPE_CHECKING

from diskfmt.cli.session import Session
from diskfmt.errors import UsageError

if TYPE_CHECKING:
    from diskfmt.results import ConversionResult


def run(options: Namespace, session: Session) -> int:
    """Convert, then say what was done. Raises DiskfmtError; no file is left then."""
    from diskfmt import api
    from diskfmt.cli import output
    from diskfmt.cli.progress import make_display
    from diskfmt.conversion.progress import Progress

    format_name = require_format(options)
    pairs = merge_options(options.options)
    with make_display(options.progress) as display:

        def watch(progress: Progress) -> None:
            session.interrupts.check()
            display.update(progress)

        with session.interrupts.deferred():
            result = api.convert(
                options.source,
                options.target,
                format=format_name,
                source_format=options.source_format,
                options=pairs,
                compress=options.compress,
                verify=options.verify,
                force=options.force,
                sync=not options.no_sync,
                threads=options.threads,
                waive=options.waive,
                below=options.below,
                recompress=options.recompress,
                follow=options.follow,
                below_format=options.below_format,
                snapshot=options.snapshot,
                progress=watch,
            )
        display.finish()
    _tell_findings(result, session)
    if session.console.json:
        session.console.write_json(result.to_json())
    else:
        session.console.write_lines(output.conversion_lines(result))
    number = session.interrupts.missed
    if number is not None:
        session.console.tell(session.interrupts.farewell)
        return 128 + number
    return 0


def _tell_findings(result: "ConversionResult", session: Session) -> None:
    from diskfmt.cli import failure

    name = failure.shown_path(result.source)
    for finding in result.findings:
        session.console.tell(f"{name}: {failure.detail(finding)}", finding.severity)
    for finding in result.waived:
        session.console.tell(f"{name}: waived: {failure.detail(finding)}", finding.severity)


def require_format(options: Namespace) -> str:
    """What `-O` names. Raises UsageError, listing the formats: without it there is nothing to do."""
    if options.format is None:
        from diskfmt.formats import FORMATS

        names = ", ".join(entry.name for entry in FORMATS)
        raise UsageError("the format to write is missing", remedy=f"give -O with one of {names}")
    return str(options.format)


def merge_options(texts: list[str]) -> dict[str, str]:
    """The pairs of all `-o`, later ones winning. Raises UsageError."""
    from diskfmt.conversion.target import parse_options

    pairs: dict[str, str] = {}
    for text in texts:
        pairs |= parse_options(text)
    return pairs
