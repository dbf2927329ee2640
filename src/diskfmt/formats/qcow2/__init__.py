"""qcow2, the disk format of QEMU: versions 2 and 3.

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
    from diskfmt.formats.qcow2.header import open_image

    return open_image(source)


def _extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> "Iterator[Rows]":
    from diskfmt.formats.qcow2.map import extents

    return extents(image, files, start, stop)


def _check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    from diskfmt.formats.qcow2.check import check

    return check(image, files, deep)


def _layout(request: Request) -> Output:
    from diskfmt.formats.qcow2.layout import layout

    return layout(request)


def _snapshot(image: Image, source: SourceFile, name: str) -> Image:
    from diskfmt.formats.qcow2.header import at_snapshot

    return at_snapshot(image, source, name)


def _regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    from diskfmt.formats.qcow2.regions import regions

    return regions(image, files)


FORMAT: Final = Format(
    name="qcow2",
    subformats=("v3", "v2"),
    options={
        "cluster_size": "bytes per cluster, a power of two from 512 to 2M (default 64K)",
        "compat": "version of the format: 1.1 or v3, 0.10 or v2 (default: that of the subformat)",
        "refcount_bits": "width of a reference count: 1, 2, 4, 8, 16 (default), 32 or 64",
        "deflate_window": "bits of the window that zlib compresses with: 12 (default, which every reader takes) to 15",
    },
    open=_open,
    extents=_extents,
    check=_check,
    layout=_layout,
    regions=_regions,
    snapshot=_snapshot,
)
