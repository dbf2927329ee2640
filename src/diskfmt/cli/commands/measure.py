"""`diskfmt measure`: how large an output will be."""

from argparse import Namespace

from diskfmt.cli.commands.convert import merge_options, require_format
from diskfmt.cli.session import Session


def run(options: Namespace, session: Session) -> int:
    """Print the sizes as qemu-img does. Raises DiskfmtError."""
    from diskfmt import api

    measurement = api.measure(
        options.image,
        format=require_format(options),
        source_format=options.source_format,
        options=merge_options(options.options),
        compress=options.compress,
        exact=options.exact,
        follow=options.follow,
        below_format=options.below_format,
        snapshot=options.snapshot,
    )
    if session.console.json:
        session.console.write_json(measurement.to_json())
    else:
        bound = f" (within {measurement.error_bound})" if measurement.error_bound else ""
        session.console.write(f"required size: {measurement.required}{bound}\n")
        session.console.write(f"fully allocated size: {measurement.fully_allocated}\n")
    return 0
