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
from typing import TYPE_CHECKING, Any, Protocol

from diskfmt.errors import Finding
from diskfmt.stores.source import SourceFile

if TYPE_CHECKING:
    from diskfmt.engine import Placement
    from diskfmt.extents import U64, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Another file that an image names. `name` is the raw text of the image: escape it before printing.

    `kind` is `backing`, `data-file`, `parent` or `piece` (an extent of a multi-file VMDK).
    """

    kind: str
    name: str
    format: str | None = None
    offset: int | None = None


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
class Piece:
    """Bytes that belong at one place of an output file."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of an output.

    `name` is the file name (no directory) that the output will have. `options` are the `-o` pairs that the
    user gave, as text. `compress` is None, `zlib` or `zstd`, with `level` None for the codec's default.
    """

    subformat: str
    virtual_size: int
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    compress: str | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finale:
    """The end of an output: pieces in the order of writing, the one that makes the file valid last.

    `size` is the length of the data file. `descriptor` is the text of a descriptor file that goes under the
    target's name while the data file gets the name `data_name` beside it; both None where there is one file.
    """

    pieces: tuple[Piece, ...]
    size: int
    descriptor: bytes | None = None
    data_name: str | None = None


class Layout(Protocol):
    """One output file, from the numbers that the engine needs to the tables that the places fill.

    Life: `placement` → engine runs over a chunk of units → `add` with the places → next chunk … → `finish`.
    The file is new and empty, so what is never written reads as zero. Pure: a layout returns pieces and
    writes nothing; the same calls give the same pieces.
    """

    @property
    def placement(self) -> "Placement":
        """The numbers for the engine."""
        ...

    @property
    def data_name(self) -> str | None:
        """Name of the data file where it is not the target itself (monolithicFlat), else None."""
        ...

    @property
    def full_size(self) -> int:
        """Bytes of the data file if every unit were stored and nothing compressed."""
        ...

    def add(self, first_unit: int, places: "U64", stored: "U64", end: int) -> tuple[Sequence[Piece], int]:
        """Take the places of consecutive units.

        Shapes: `places`, `stored` (n,): for unit `first_unit` + i the host offset of its data (after a prefix
        or marker; 0: not stored) and the stored bytes (equal to the unit: plain; otherwise the length of its frame).
        `end`: where the file ends now. Units between calls that are not mentioned are not stored. Calls come in
        ascending order. Returns pieces to write now, and the new end of the file.
        """
        ...

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """The rest of the file. `fingerprint`: 32 bytes that depend on the guest's content only."""
        ...


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
    `subformats` are names for `-O`, the default first. `options` explains the `-o` keys.
    """

    name: str
    aliases: tuple[str, ...] = ()
    subformats: tuple[str, ...]
    options: Mapping[str, str]
    open: Callable[[SourceFile], Image]
    extents: Callable[[Image, Sequence[SourceFile], int, int], "Iterator[Rows]"]
    check: Callable[[Image, Sequence[SourceFile], bool], Generator[Finding, None, Statistics]]
    layout: Callable[[Request], Layout]
