"""What a format is to the rest of diskfmt: the records and the contract that every format package keeps.

A format package has four modules, each with one job:

- `header.py`: bytes → Construct → frozen dataclass → `Image`. Reads a bounded number of bytes, imports no numpy,
  opens nothing that the image names. Structure that makes no sense is a `CorruptError`; structure that makes
  sense but must not be converted (encryption, references, unknown features) is a finding of severity ERROR.
- `map.py`: tables → windows of rows (`diskfmt.extents`), by numpy.
- `layout.py`: where things go in an output file. Pure: no I/O.
- `check.py`: findings about the whole file.

The package's `__init__` holds one `Format` record and imports map, layout and check only when they are called.
No format imports another one.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from diskfmt.errors import Finding
from diskfmt.stores.source import Identity, SourceFile

if TYPE_CHECKING:
    from diskfmt.engine import Placement
    from diskfmt.extents import U64, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Another file that an image names. `name` is the raw text of the image: escape it before printing.

    `kind` is one of
    - `piece` (an extent of a multi-file VMDK), `data-file`: a file of this image; rows count them from 1, in order;
    - `backing`, `parent`: the image below, one file; several such references are names of the same file, in the order
      in which to look for it;
    - anything else: a name that no reading needs.
    `format`: what the image says of the format of the image below, None where it does not.
    """

    kind: str
    name: str
    format: str | None = None
    offset: int | None = None


OWN_KINDS: Final = ("piece", "data-file")
"""References to files that the image itself consists of."""
BELOW_KINDS: Final = ("backing", "parent")
"""References to the image below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as its header describes it.

    `virtual_size` and `unit` (cluster, block or grain; None where there is none) are in bytes. `header` is the
    format's own frozen record. `findings` are those of the header; one of severity ERROR keeps `convert` away.
    `specific` is what qemu-img prints under `format-specific` / `data`; `extra` holds its other keys
    (`dirty-flag`, `encrypted`, `backing-filename` …). Both hold plain JSON values only.
    """

    format: str
    subformat: str
    virtual_size: int
    unit: int | None
    header: Any
    references: tuple[Reference, ...] = ()
    findings: tuple[Finding, ...] = ()
    specific: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a check counted: units of the guest disk, of them stored and compressed; where the file's used part ends."""

    total_units: int
    stored_units: int
    encoded_units: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Places of one file of an image that serve the same purpose.

    `kind`: `header`, `table`, `data`, `snapshot` (data of snapshots only), `bitmap`, `preallocated`, `hole`, `leaked`.
    Shapes: `offsets`, `lengths` (n,), in bytes, in any order, all inside the file. `file_id` counts as in rows.
    """

    kind: str
    offsets: "U64"
    lengths: "U64"
    file_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes that belong at one place of an output file."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """The image that an output is a difference to. `name`: as the output is to record it; `format`: its format.

    `image` is what its header says, `mtime` the time of its last change in seconds since 1970.
    """

    name: str
    format: str
    image: Image
    mtime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of an output.

    `name` is the file name (no directory) that the output will have. `options` are the `-o` pairs that the
    user gave, as text. `compress` is None, `zlib` or `zstd`, with `level` None for the codec's default.
    `below`: the image that the output leaves out what it shares with, None for an output that stands alone.
    `recompress`: frames of the source that could be kept are made anew.
    """

    subformat: str
    virtual_size: int
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    compress: str | None = None
    level: int | None = None
    below: Below | None = None
    recompress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finale:
    """The end of a part: pieces in the order of writing, the one that makes the file valid last; its length."""

    pieces: tuple[Piece, ...]
    size: int


class Layout(Protocol):
    """One file of an output, from the numbers that the engine needs to the tables that the places fill.

    Life: `placement` → engine runs over a chunk of units → `add` with the places → next chunk … → `finish`.
    The file is new and empty, so what is never written reads as zero. Pure: a layout returns pieces and
    writes nothing; the same calls give the same pieces.
    """

    @property
    def placement(self) -> "Placement":
        """The numbers for the engine."""
        ...

    @property
    def full_size(self) -> int:
        """Bytes of the file if every unit were stored and nothing compressed."""
        ...

    def add(self, first_unit: int, places: "U64", stored: "U64", end: int) -> tuple[Sequence[Piece], int]:
        """Take the places of consecutive units.

        Shapes: `places`, `stored` (n,): for unit `first_unit` + i the host offset of its data (after a prefix
        or marker; 0: not stored; `engine.ZERO_PLACE`, where the placement asks for it: reads as zero whatever lies
        below) and the stored bytes (equal to the unit: plain; otherwise the length of its frame).
        `end`: where the file ends now. Units between calls that are not mentioned are not stored. Calls come in
        ascending order. Returns pieces to write now, and the new end of the file.
        """
        ...

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """The rest of the file. `fingerprint`: 32 bytes that depend on the guest's content of this part only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of an output, which holds guest range [start, stop).

    `start` is a multiple of the layout's unit; the layout counts guest offsets from it. `name` is the file's
    name, None for the target's own.
    """

    start: int
    stop: int
    layout: Layout
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a format makes of a request: parts that follow each other without gap, and perhaps a descriptor.

    `describe`, from a fingerprint of the whole disk (32 bytes) to the text of the file under the target's own name;
    None where a part has that name.
    """

    parts: tuple[Part, ...]
    describe: Callable[[bytes], bytes] | None = None

    @classmethod
    def single(cls, layout: Layout) -> Self:
        """An output of one file, under the target's own name."""
        return cls(parts=(Part(start=0, stop=layout.placement.guest_size, layout=layout),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format that is read and written.

    `open(source)` returns the image as its header describes it, or raises.
    `extents(image, files, start, stop)` yields windows of rows, in normal form each, that cover guest range
    [start, stop) without gap; `files[0]` is the image's file, `files[1:]` its pieces in the order of
    `image.references`. It enforces what only it knows: tables inside the file before they are read, no more
    tables than fit into the file (pigeonhole), entries legal. It raises `CorruptError` with the offset of the entry.
    `check(image, files, deep)` yields findings and ends (generator return) with `Statistics`.
    `layout(request)` raises `UsageError` for options or sizes that the format cannot have.
    `regions(image, files)` yields what the file's bytes are for, beside the stored rows of the map: headers, tables,
    everything that the format knows; what is left is unused.
    `judge_below(image, below, identity)` yields what speaks against `below` (with the identity of its file) being the
    image below `image`, None where the format has no way to tell. `snapshot(image, source, name)` is the image as it
    was at an internal snapshot, None where there are none.
    `subformats` are names for `-O`, the default first. `options` explains the `-o` keys.
    """

    name: str
    aliases: tuple[str, ...] = ()
    subformats: tuple[str, ...]
    options: Mapping[str, str]
    open: Callable[[SourceFile], Image]
    extents: Callable[[Image, Sequence[SourceFile], int, int], "Iterator[Rows]"]
    check: Callable[[Image, Sequence[SourceFile], bool], Generator[Finding, None, Statistics]]
    layout: Callable[[Request], Output]
    regions: Callable[[Image, Sequence[SourceFile]], Iterator[Regions]]
    judge_below: Callable[[Image, Image, Identity], Iterator[Finding]] | None = None
    snapshot: Callable[[Image, SourceFile, str], Image] | None = None
