"""Raw: the bytes of the guest's disk, as `dd` copies them; a file, perhaps sparse, or a block device.

Everything is imported when it is called: listing the formats costs nothing.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from diskfmt.errors import Finding
from diskfmt.formats.base import Format, Image, Output, Regions, Request, Statistics
from diskfmt.stores.source import SourceFile

if TYPE_CHECKING:
    from diskfmt.extents import Rows


def _open(source: SourceFile) -> Image:
    from diskfmt.formats.raw.header import open_image

    return open_image(source)


def _extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> "Iterator[Rows]":
    from diskfmt.formats.raw.map import extents

    return extents(image, files, start, stop)


def _check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    from diskfmt.formats.raw.check import check

    return check(image, files, deep)


def _layout(request: Request) -> Output:
    from diskfmt.formats.raw.layout import layout

    return layout(request)


def _regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    from diskfmt.formats.raw.regions import regions

    return regions(image, files)


FORMAT: Final = Format(
    name="raw",
    subformats=("raw",),
    options={},
    open=_open,
    extents=_extents,
    check=_check,
    layout=_layout,
    regions=_regions,
)
