"""What the bytes of a VHD are for."""

from collections.abc import Iterator, Sequence

from diskfmt.formats.base import Image, Regions
from diskfmt.stores.source import SourceFile


def regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:  # noqa: ARG001
    """Headers and tables; see `Format.regions`."""
    yield from ()
