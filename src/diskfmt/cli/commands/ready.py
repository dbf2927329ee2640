"""`diskfmt ready`: will this cloud import it, and will it boot."""

from argparse import Namespace
from typing import TYPE_CHECKING

from diskfmt.cli.session import Session
from diskfmt.errors import IOFailedError, Reason

if TYPE_CHECKING:
    from diskfmt.readiness.model import ReadinessReport


def run(options: Namespace, session: Session) -> int:
    """Print the report; 0: ready, 1: not. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.readiness.render import html, junit, sarif, text

    report = api.check_readiness(
        options.image,
        profile=options.profile,
        format=options.source_format,
        follow=options.follow,
        below_format=options.below_format,
        waive=options.waive,
    )
    console = session.console
    if options.html is not None:
        _write(options.html, html.page(report))
    match options.output:
        case "json":
            console.write_json(report.to_json())
        case "sarif":
            console.write_json(sarif.document(report))
        case "junit":
            console.write(junit.document(report))
        case _:
            console.write_lines(text.lines(report, console.paint_verdict, verbose=options.verbose))
    return _code(report)


def _code(report: "ReadinessReport") -> int:
    return 0 if report.ready else 1


def _write(path: str, page: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise IOFailedError(
            f"cannot write the page: {error.strerror}",
            errno=error.errno,
            reason=Reason.WRITE_ERROR,
            path=path,
            remedy="choose another name",
        ) from error
