"""`diskfmt map`: where the guest's bytes are, or what the file's bytes are for; row by row however many there are."""

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from diskfmt.cli.session import Session
from diskfmt.results import MapRow, Region

Row = TypeVar("Row", MapRow, Region)


def run(options: Namespace, session: Session) -> int:
    """Print the map. Raises DiskfmtError: also after rows were printed; JSON then stays without its closing bracket."""
    from diskfmt import api
    from diskfmt.cli import output

    source = {
        "format": options.source_format,
        "follow": options.follow,
        "below_format": options.below_format,
        "snapshot": options.snapshot,
    }
    if options.regions:
        regions = _started(api.regions(options.image, **source))
        session.console.write_lines(json_lines(regions) if session.console.json else output.region_lines(regions))
    else:
        rows = _started(api.map_rows(options.image, **source))
        session.console.write_lines(json_lines(rows) if session.console.json else output.map_lines(rows))
    return 0


def _started(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first one made already: a refused image gives an error object, not an opened list."""
    first = list(islice(rows, 1))
    return chain(first, rows)


def json_lines(rows: Iterable[MapRow | Region]) -> Iterator[str]:
    """A JSON list with one row a line, as qemu-img prints it."""
    head = "["
    line = ""
    for row in rows:
        if line:
            yield f"{line},"
        line = head + json.dumps(row.to_json())
        head = ""
    yield f"{line or head}]"
