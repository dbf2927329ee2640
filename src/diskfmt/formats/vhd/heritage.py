"""How a differencing VHD that is written records its parent: id, time, and name in three places.

The name goes into the header, and into two parent locators: a relative and an absolute path, as Windows spells them.
Locators lie in sectors of their own. What is set apart for them is recorded in bytes, as Windows does it; the
specification says sectors, and readers take what is below 512 for that.
Source: VHD spec, "Dynamic Disk Header Format", "Parent Locator Entries".
"""

from dataclasses import dataclass, replace
from typing import Final

from diskfmt.errors import UsageError
from diskfmt.formats.base import Piece, Request
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.records import (
    EPOCH,
    LOCATORS_SIZE,
    MAX_LOCATOR_TEXT,
    PARENT_NAME_SIZE,
    DynamicHeader,
    Locator,
    pack_locator,
)
from diskfmt.units import SECTOR, align_up

_MAX_STAMP: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What is recorded of a parent. `path`: as the user gave it, with slashes; `stamp`: seconds since 2000."""

    unique_id: bytes
    stamp: int
    path: str

    def recorded(self, header: DynamicHeader, at: int) -> tuple[DynamicHeader, tuple[Piece, ...]]:
        """The header of a disk with this parent, and the pieces for its locators, which lie from `at` on."""
        locators, pieces = b"", []
        for platform, text in ((b"W2ru", _relative(self.path)), (b"W2ku", _windows(self.path))):
            data = text.encode("utf-16-le")
            room = align_up(len(data), SECTOR)
            locator = Locator(platform=platform, space=room, length=len(data), reserved=0, offset=at)
            locators += pack_locator(locator)
            pieces.append(Piece(offset=at, data=data.ljust(room, b"\0")))
            at += room
        name = self.path.rpartition("/")[2].encode("utf-16-be")
        return replace(
            header,
            parent_id=self.unique_id,
            parent_timestamp=self.stamp,
            parent_name=name.ljust(PARENT_NAME_SIZE, b"\0"),
            locators=locators.ljust(LOCATORS_SIZE, b"\0"),
        ), tuple(pieces)


def parent_of(request: Request) -> Parent:
    """The parent of a differencing disk.

    Raises:
        UsageError: there is none, it is no VHD, has another size, no id, or a name that a VHD cannot hold.

    """
    below = request.below
    if below is None:
        raise UsageError("a differencing VHD needs a parent", remedy="give -B PARENT, or choose vhd:dynamic")
    if below.format != "vhd":
        raise UsageError(
            f"the parent of a VHD cannot be {below.format}", remedy="convert the parent to VHD first, or choose qcow2"
        )
    if below.image.virtual_size != request.virtual_size:
        raise UsageError(
            f"the disk has {request.virtual_size} bytes, its parent {below.image.virtual_size}",
            remedy="a VHD is as large as its parent: choose another parent, or vhd:dynamic",
        )
    _require_name(below.name)
    header: Vhd = below.image.header
    if not any(header.footer.unique_id):
        raise UsageError("the parent has no unique id", remedy="convert the parent first: the copy gets one")
    return Parent(
        unique_id=header.footer.unique_id, stamp=min(max(0, below.mtime - EPOCH), _MAX_STAMP), path=below.name
    )


def _require_name(name: str) -> None:
    try:
        last = name.rpartition("/")[2].encode("utf-16-le")
        whole = name.encode("utf-16-le")
    except UnicodeEncodeError:
        last = whole = b""  # bytes that are no text
    if not last or "\\" in name or "\0" in name or len(last) >= PARENT_NAME_SIZE or len(whole) > MAX_LOCATOR_TEXT - 64:
        raise UsageError(
            f"a VHD cannot record the name {name!r}", remedy="give the parent a name of at most 255 letters, without \\"
        )


def _windows(path: str) -> str:
    """A path with backslashes; one that is not absolute starts with a dot, as Windows wants it."""
    return _relative(path) if not path.startswith("/") else path.replace("/", "\\")


def _relative(path: str) -> str:
    """The path from the directory of the disk; of an absolute one only the name is sure to be right there."""
    name = path.rpartition("/")[2] if path.startswith("/") else path.removeprefix("./")
    return ".\\" + name.replace("/", "\\")
