"""`diskfmt compare`: are two guest disks equal?"""

from argparse import Namespace

from diskfmt.cli.session import Session
from diskfmt.errors import Severity


def run(options: Namespace, session: Session) -> int:
    """Compare; returns 0 for equal, 1 for different. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.cli import output
    from diskfmt.cli.progress import make_display

    with make_display(options.progress) as display:
        comparison = api.compare(
            options.first,
            options.second,
            formats=(options.source_format, options.second_format),
            strict=options.strict,
            follow=options.follow,
            below_format=options.below_format,
            progress=display.update,
        )
        display.finish()
    console = session.console
    one, other = comparison.sizes
    if one != other and not options.strict:
        console.tell(f"the disks have {one} and {other} bytes", Severity.WARNING)
    if console.json:
        console.write_json(comparison.to_json())
    else:
        console.write_lines(output.comparison_lines(comparison))
    return 0 if comparison.equal else 1
