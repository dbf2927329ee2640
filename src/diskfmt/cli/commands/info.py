"""`diskfmt info`: what an image is."""

from argparse import Namespace

from diskfmt.cli.session import Session


def run(options: Namespace, session: Session) -> int:
    """Describe the image; opens nothing that it names. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.cli import output

    info = api.inspect(options.image, format=options.source_format)
    console = session.console
    if console.json:
        console.write_json([info.to_json()] if options.backing_chain else info.to_json())
    else:
        console.write_lines(output.info_lines(info, console.paint))
    return 0
