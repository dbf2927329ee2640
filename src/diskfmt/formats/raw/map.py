"""Rows of a raw disk: the file is the disk."""

from collections.abc import Iterator, Sequence

from diskfmt.extents import Rows
from diskfmt.formats.base import Image
from diskfmt.formats.plain import plain_rows
from diskfmt.stores.source import SourceFile


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows in normal form for guest range [start, stop) of a raw disk.

    Raises:
        IOFailedError: READ_ERROR.

    """
    return plain_rows(files[0], start, min(stop, image.virtual_size))
