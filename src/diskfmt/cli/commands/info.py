"""`diskfmt info`: what an image is."""

from argparse import Namespace

from diskfmt.cli.session import Session


def run(options: Namespace, session: Session) -> int:
    """Describe the image, and with --backing-chain those below it. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.cli import output

    console = session.console
    if not options.backing_chain:
        info = api.inspect(options.image, format=options.source_format)
        if console.json:
            console.write_json(info.to_json())
        else:
            console.write_lines(output.info_lines(info, console.paint))
        return 0
    infos = api.inspect_chain(
        options.image, format=options.source_format, follow=options.follow, below_format=options.below_format
    )
    if console.json:
        console.write_json([info.to_json() for info in infos])
    else:
        for index, info in enumerate(infos):
            console.write_lines([""] * min(index, 1))
            console.write_lines(output.info_lines(info, console.paint))
    return 0
