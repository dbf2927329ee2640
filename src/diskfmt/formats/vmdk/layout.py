"""What is written of a VMDK: which files, and the options that say how.

    monolithicSparse      one sparse file, descriptor inside                        `front`
    streamOptimized       one stream of compressed grains, descriptor inside        `stream` or `front`
    monolithicFlat, vmfs  descriptor `vm.vmdk`, the guest's bytes in `vm-flat.vmdk`
    twoGbMaxExtentSparse  descriptor `vm.vmdk`, sparse files `vm-s001.vmdk` …       `front`
    twoGbMaxExtentFlat    descriptor `vm.vmdk`, the guest's bytes in `vm-f001.vmdk` …

Pure: no I/O. Source: VMDK spec, "The Descriptor File", "Hosted Sparse Extents".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from diskfmt.engine import Placement
from diskfmt.errors import LimitError, UsageError
from diskfmt.extents import U64
from diskfmt.formats.base import Finale, Layout, Output, Part, Piece, Request
from diskfmt.formats.vmdk.describe import Style, describe, piece_name, require_name
from diskfmt.formats.vmdk.descriptor import MAX_EXTENTS
from diskfmt.formats.vmdk.front import GRAIN, FrontLayout
from diskfmt.formats.vmdk.sections import is_plain_name
from diskfmt.formats.vmdk.sparse import MAX_CAPACITY
from diskfmt.formats.vmdk.stream import StreamLayout
from diskfmt.units import SECTOR, TIB

TWO_GB: Final = 4192256 * SECTOR  # the guest bytes of a piece, as VMware cuts disks: 2047 MiB
MAX_VMFS: Final = 62 * TIB  # the largest disk of ESXi
TABLES_FIRST: Final = "tables-first"
TABLES_LAST: Final = "tables-last"
_LAYOUTS: Final = {
    "monolithicSparse": (TABLES_FIRST,),
    "twoGbMaxExtentSparse": (TABLES_FIRST,),
    "streamOptimized": (TABLES_LAST, TABLES_FIRST),
}
_MOST: Final = {"vmfs": MAX_VMFS, "twoGbMaxExtentSparse": MAX_VMFS, "twoGbMaxExtentFlat": MAX_VMFS}


def layout(request: Request) -> Output:
    """The files of the output that `request` asks for.

    Raises:
        UsageError: an option, size, codec or name that a VMDK cannot have, or a difference to another image.
        LimitError: LIMIT_SIZE, above 2 TiB for a file with tables, 62 TiB for a set of files.

    """
    style = Style.from_options({key: value for key, value in request.options.items() if key != "layout"})
    _require_possible(request)
    tables = _tables(request)
    match request.subformat:
        case "monolithicSparse":
            return Output.single(FrontLayout(size=request.virtual_size, describe=_inside(request, style)))
        case "streamOptimized" if tables == TABLES_FIRST:
            return Output.single(
                FrontLayout(
                    size=request.virtual_size,
                    describe=_inside(request, style),
                    compressed=True,
                    level=request.level or 0,
                    adopt=not request.recompress,
                )
            )
        case "streamOptimized":
            return Output.single(
                StreamLayout(
                    size=request.virtual_size,
                    describe=_inside(request, style),
                    level=request.level or 0,
                    adopt=not request.recompress,
                )
            )
        case "monolithicFlat":
            return _set(request, style, "FLAT", "flat", piece=request.virtual_size, make=FlatLayout)
        case "vmfs":
            return _set(request, style, "VMFS", "flat", piece=request.virtual_size, make=FlatLayout)
        case "twoGbMaxExtentSparse":
            return _set(request, style, "SPARSE", "s", piece=TWO_GB, make=lambda size: FrontLayout(size=size))
        case "twoGbMaxExtentFlat":
            return _set(request, style, "FLAT", "f", piece=TWO_GB, make=FlatLayout)
    raise UsageError(f"vmdk has no subformat {request.subformat!r}")


def _require_possible(request: Request) -> None:
    size = request.virtual_size
    if request.below is not None:
        raise UsageError("a VMDK is not written as a difference to another image", remedy="choose qcow2 or vhd")
    if size <= 0 or size % SECTOR:
        raise UsageError(f"a VMDK cannot have {size} bytes", remedy="give it a whole number of 512-byte sectors")
    most = _MOST.get(request.subformat, MAX_CAPACITY)
    if size > most:
        raise LimitError(
            f"a disk of {size} bytes is larger than the {most // TIB} TiB of {request.subformat}",
            remedy="choose another format" if most == MAX_VMFS else "choose vmdk:vmfs or another format",
        )
    if request.subformat == "streamOptimized":
        if request.compress not in (None, "zlib"):
            raise UsageError(f"streamOptimized cannot be compressed with {request.compress}", remedy="use zlib")
    elif request.compress is not None:
        raise UsageError(f"{request.subformat} cannot be compressed", remedy="use vmdk:streamOptimized")


def _tables(request: Request) -> str | None:
    """Where the tables are to be, by `-o layout`."""
    possible = _LAYOUTS.get(request.subformat, ())
    wanted = request.options.get("layout", possible[0] if possible else None)
    if wanted is not None and wanted not in possible:
        remedy = f"use {' or '.join(possible)}" if possible else "leave it out: there are no tables"
        raise UsageError(f"the layout of {request.subformat} cannot be {wanted!r}", remedy=remedy)
    return wanted


def _inside(request: Request, style: Style) -> Callable[[bytes], bytes]:
    """The text of the descriptor inside the one file of a disk, from a fingerprint."""
    require_name(request.name)
    line = f'RW {request.virtual_size // SECTOR} SPARSE "{request.name}"'

    def text(fingerprint: bytes) -> bytes:
        return describe(
            subformat=request.subformat,
            size=request.virtual_size,
            lines=(line,),
            style=style,
            fingerprint=fingerprint,
        )

    return text


def _set(request: Request, style: Style, kind: str, word: str, *, piece: int, make: Callable[[int], Layout]) -> Output:
    """A descriptor and files of at most `piece` guest bytes; `word` and a number tell their names."""
    size = request.virtual_size
    starts = range(0, size, piece)
    if len(starts) > MAX_EXTENTS:
        raise LimitError(f"{len(starts)} files are too many for one disk", remedy="choose vmdk:vmfs")
    numbered = word != "flat"
    parts = []
    lines = []
    for number, start in enumerate(starts, 1):
        stop = min(start + piece, size)
        name = piece_name(request.name, f"{word}{number:03}" if numbered else word)
        if number in (1, len(starts)):
            require_name(name)
        parts.append(Part(start=start, stop=stop, layout=make(stop - start), name=name))
        lines.append(f'RW {(stop - start) // SECTOR} {kind} "{name}"' + (" 0" if kind == "FLAT" else ""))
    if not is_plain_name(parts[0].name or ""):  # readers, this one too, would not open it
        raise UsageError(f"a descriptor cannot name a file {parts[0].name!r}", remedy="choose a plain name")

    def text(fingerprint: bytes) -> bytes:
        return describe(subformat=request.subformat, size=size, lines=lines, style=style, fingerprint=fingerprint)

    return Output(parts=tuple(parts), describe=text)


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """A file of guest bytes, each at its own offset; `Layout` explains the members."""

    size: int

    @property
    def placement(self) -> Placement:
        """The numbers for the engine."""
        return Placement(unit=GRAIN, guest_size=self.size, fixed=True, fingerprint=True)

    @property
    def full_size(self) -> int:
        """Bytes of the file."""
        return self.size

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:  # noqa: ARG002
        """Nothing to write: a flat file has no tables."""
        return (), end

    def finish(self, end: int, fingerprint: bytes) -> Finale:  # noqa: ARG002
        """Only the length, which brings a hole at the end."""
        return Finale(pieces=(), size=self.size)
