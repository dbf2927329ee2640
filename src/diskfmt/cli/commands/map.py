"""`diskfmt map`: the extents of the guest's disk, row by row however many there are."""

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import chain

from diskfmt.cli.session import Session
from diskfmt.results import MapRow


def run(options: Namespace, session: Session) -> int:
    """Print the map. Raises DiskfmtError: also after rows were printed; JSON then stays without its closing bracket."""
    from diskfmt import api
    from diskfmt.cli import output

    rows = api.map_rows(
        options.image,
        format=options.source_format,
        follow=options.follow,
        below_format=options.below_format,
        snapshot=options.snapshot,
    )
    first = next(rows, None)  # an image that is refused gives an error object, not an opened list
    found = rows if first is None else chain((first,), rows)
    session.console.write_lines(json_lines(found) if session.console.json else output.map_lines(found))
    return 0


def json_lines(rows: Iterable[MapRow]) -> Iterator[str]:
    """A JSON list with one row a line, as qemu-img prints it."""
    head = "["
    line = ""
    for row in rows:
        if line:
            yield f"{line},"
        line = head + json.dumps(row.to_json())
        head = ""
    yield f"{line or head}]"
