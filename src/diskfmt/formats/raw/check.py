"""Findings about a raw disk beyond those of its length: there are no tables that could be wrong."""

from collections.abc import Generator, Sequence
from typing import Final

from diskfmt.errors import Finding
from diskfmt.formats.base import Image, Statistics
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB

_READ: Final = 4 * MIB


def check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    """No findings; returns (generator return) the statistics. `deep` reads every byte once.

    Raises:
        IOFailedError: READ_ERROR, with the offset of the first 4 MiB that cannot be read.
        InUseError: SOURCE_CHANGED, the file became shorter meanwhile.

    """
    source = files[0]
    if deep:
        for offset in range(0, image.virtual_size, _READ):
            source.read_at(offset, min(_READ, image.virtual_size - offset))
    yield from ()
    return Statistics(total_units=1, stored_units=1, encoded_units=0, end=source.size)
