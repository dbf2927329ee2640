"""`diskfmt check`: the integrity of the container."""

from argparse import Namespace

from diskfmt.cli.session import Session


def run(options: Namespace, session: Session) -> int:
    """Print findings and a verdict; the exit code is that of the worst finding. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.cli import output

    report = api.check(
        options.image,
        format=options.source_format,
        deep=options.deep,
        follow=options.follow,
        below_format=options.below_format,
    )
    console = session.console
    if console.json:
        console.write_json(report.to_json())
    else:
        console.write_lines(output.check_lines(report, console.paint))
    return report.exit_code
