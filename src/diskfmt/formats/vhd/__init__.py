"""VHD, the disk format of Virtual PC, Virtual Server, early Hyper-V and XenServer; qemu calls it vpc.

Everything is imported when it is called: listing the formats costs nothing.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from diskfmt.errors import Finding
from diskfmt.formats.base import Format, Image, Output, Regions, Request, Statistics
from diskfmt.stores.source import Identity, SourceFile

if TYPE_CHECKING:
    from diskfmt.extents import Rows


def _open(source: SourceFile) -> Image:
    from diskfmt.formats.vhd.header import open_image

    return open_image(source)


def _extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> "Iterator[Rows]":
    from diskfmt.formats.vhd.map import extents

    return extents(image, files, start, stop)


def _check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    from diskfmt.formats.vhd.check import check

    return check(image, files, deep)


def _layout(request: Request) -> Output:
    from diskfmt.formats.vhd.layout import layout

    return layout(request)


def _regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    from diskfmt.formats.vhd.regions import regions

    return regions(image, files)


def _judge_below(image: Image, below: Image, identity: Identity) -> Iterator[Finding]:
    from diskfmt.formats.vhd.below import judge_below

    return judge_below(image, below, identity)


FORMAT: Final = Format(
    name="vhd",
    aliases=("vpc",),
    subformats=("dynamic", "fixed", "differencing"),
    options={
        "block_size": "bytes per block, a power of two from 512K to 256M (default 2M)",
        "creator": "creator application, four characters (default 'win ')",
        "timestamp": "time of creation in seconds since 1970 (default SOURCE_DATE_EPOCH, or the year 2000)",
        "uuid": "unique id (default: derived from the content)",
    },
    open=_open,
    extents=_extents,
    check=_check,
    layout=_layout,
    regions=_regions,
    judge_below=_judge_below,
)
