"""VMDK, the disk format of VMware: sparse, stream-optimized and flat disks, of one file or many.

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
    from diskfmt.formats.vmdk.header import open_image

    return open_image(source)


def _extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> "Iterator[Rows]":
    from diskfmt.formats.vmdk.map import extents

    return extents(image, files, start, stop)


def _check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    from diskfmt.formats.vmdk.check import check

    return check(image, files, deep)


def _layout(request: Request) -> Output:
    from diskfmt.formats.vmdk.layout import layout

    return layout(request)


def _judge_below(image: Image, below: Image, identity: Identity) -> Iterator[Finding]:
    from diskfmt.formats.vmdk.header import judge_below

    return judge_below(image, below, identity)


def _regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    from diskfmt.formats.vmdk.regions import regions

    return regions(image, files)


FORMAT: Final = Format(
    name="vmdk",
    subformats=(
        "monolithicSparse",
        "streamOptimized",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "vmfs",
    ),
    options={
        "adapter_type": "ide, buslogic, lsilogic, lsisas1068, pvscsi or legacyESX (default lsilogic)",
        "hwversion": "virtual hardware version (default 4, with pvscsi 7)",
        "toolsversion": "version of VMware Tools (default 2147483647)",
        "cid": "content id, up to eight hexadecimal digits (default: derived from the content)",
        "uuid": "unique id (default: derived from the content)",
        "layout": "of streamOptimized: tables-last (default, the specification's) or tables-first (seekable)",
    },
    open=_open,
    extents=_extents,
    check=_check,
    layout=_layout,
    regions=_regions,
    judge_below=_judge_below,
)
