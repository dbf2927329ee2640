"""A raw disk has nothing but data: what the file system does not store is told."""

from collections.abc import Iterator, Sequence

from diskfmt.formats.base import Image, Regions
from diskfmt.formats.plain import plain_rows
from diskfmt.kinds import Kind
from diskfmt.stores.source import SourceFile


def regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    """The holes of the file, where the file system is believed about them; see `Format.regions`."""
    for rows in plain_rows(files[0], 0, image.virtual_size):
        holes = rows[rows["kind"] == Kind.ZERO]
        yield Regions(kind="hole", offsets=holes["guest_off"], lengths=holes["length"])
