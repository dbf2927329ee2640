"""`diskfmt digest`: a digest of what the guest sees."""

from argparse import Namespace

from diskfmt.cli.session import Session


def run(options: Namespace, session: Session) -> int:
    """Print the digest and the name, as sha256sum does. Raises DiskfmtError."""
    from diskfmt import api
    from diskfmt.cli import failure
    from diskfmt.cli.progress import make_display

    with make_display(options.progress) as display:
        text = api.digest(
            options.image,
            format=options.source_format,
            follow=options.follow,
            below_format=options.below_format,
            snapshot=options.snapshot,
            progress=display.update,
        )
        display.finish()
    if session.console.json:
        session.console.write_json({"filename": options.image, "digest": text})
    else:
        session.console.write(f"{text}  {failure.shown_path(options.image)}\n")
    return 0
