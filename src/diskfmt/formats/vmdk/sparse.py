"""The binary header of hosted sparse VMDK files (KDMV).

    header | descriptor | … redundant grain directory and tables … grain directory and tables … | grains

A grain directory (GD) names grain tables (GT) of 512 entries, these name grains. All numbers are little-endian
and count sectors of 512 bytes. A stream-optimized file holds compressed grains, each behind a marker. It may have
its tables behind the grains: the header then has no GD, a second header at the end of the file does:

    header | descriptor | … marker, grain … GT marker, GT … GD marker, GD | footer marker, footer | end marker

Source: VMware, Virtual Disk Format 1.1, "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse Extents"; 5.0,
the same; here "VMDK spec".
"""

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Struct

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.vmdk.shape import SPARSE, Area, Shape
from diskfmt.units import KIB, SECTOR, TIB, ceil_div, is_power_of_two

MAGIC: Final = b"KDMV"
HEADER_SIZE: Final = 512
GD_AT_END: Final = 0xFFFFFFFFFFFFFFFF
VERSIONS: Final = range(1, 4)
NEWLINES: Final = b"\n \r\n"

FLAG_NEWLINES: Final = 1 << 0
FLAG_REDUNDANT: Final = 1 << 1
FLAG_ZEROED: Final = 1 << 2
FLAG_COMPRESSED: Final = 1 << 16
FLAG_MARKERS: Final = 1 << 17
KNOWN_FLAGS: Final = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZEROED | FLAG_COMPRESSED | FLAG_MARKERS
DEFLATE: Final = 1  # compressAlgorithm

MARKER_GRAIN: Final = 12  # bytes before the data of a compressed grain: LBA (u64), size (u32)
MARKER_END: Final = 0
MARKER_GT: Final = 1
MARKER_GD: Final = 2
MARKER_FOOTER: Final = 3

ENTRIES: Final = 512  # of a grain table
TABLE_SIZE: Final = 4 * ENTRIES
MIN_GRAIN: Final = 8 * SECTOR
MAX_GRAIN: Final = 2048 * SECTOR
MAX_CAPACITY: Final = 2 * TIB
MAX_DIRECTORY: Final = 1 << 20  # entries
MAX_EMBEDDED: Final = 64 * KIB  # bytes of an embedded descriptor

COPY_AGAIN: Final = "copy the image again, or write it again with the tool that made it"

_HEADER: Final = Struct(
    "magic" / Bytes(4),
    "version" / Int32ul,
    "flags" / Int32ul,
    "capacity" / Int64ul,
    "grain_size" / Int64ul,
    "descriptor_offset" / Int64ul,
    "descriptor_size" / Int64ul,
    "table_entries" / Int32ul,
    "rgd_offset" / Int64ul,
    "gd_offset" / Int64ul,
    "overhead" / Int64ul,
    "unclean" / Int8ul,
    "newlines" / Bytes(4),
    "compress_algorithm" / Int16ul,
    "padding" / Bytes(433),
)

_MARKER: Final = Struct("value" / Int64ul, "size" / Int32ul, "type" / Int32ul, "padding" / Bytes(496))


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseHeader:
    """The fields of a KDMV header or footer as stored: offsets and sizes in sectors.

    `table_entries` is numGTEsPerGT, `newlines` the four bytes that a transfer in text mode would change.
    """

    magic: bytes = MAGIC
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int = 1
    descriptor_size: int
    table_entries: int = ENTRIES
    rgd_offset: int = 0
    gd_offset: int
    overhead: int
    unclean: int = 0
    newlines: bytes = NEWLINES
    compress_algorithm: int = 0
    padding: bytes = bytes(433)

    @property
    def compressed(self) -> bool:
        """Whether grains are compressed."""
        return bool(self.flags & FLAG_COMPRESSED)

    @property
    def grain(self) -> int:
        """Bytes of a grain."""
        return self.grain_size * SECTOR

    @property
    def coverage(self) -> int:
        """Guest bytes of one grain table."""
        return self.grain * ENTRIES

    @property
    def directory_entries(self) -> int:
        """Entries of the grain directory."""
        return ceil_div(self.capacity * SECTOR, self.coverage)


def pack_header(header: SparseHeader) -> bytes:
    """The 512 bytes of a header or footer."""
    return bytes(_HEADER.build(asdict(header)))


def pack_marker(value: int, kind: int) -> bytes:
    """The 512 bytes of a metadata marker; `value` is the length in sectors of what follows it."""
    return bytes(_MARKER.build({"value": value, "size": 0, "type": kind, "padding": bytes(496)}))


def read_header(data: bytes) -> SparseHeader:
    """The header in 512 bytes, nothing judged yet."""
    parsed = _HEADER.parse(data)
    return SparseHeader(**{item.name: parsed[item.name] for item in fields(SparseHeader)})


def require_sane(header: SparseHeader, at: int = 0) -> None:
    """Raise unless the numbers of a header can be calculated with; `at` is where it stands in the file.

    Raises:
        RefusedError: UNKNOWN_FEATURE, a version that is not known.
        CorruptError: BAD_VALUE.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    Source: VMDK spec, "Hosted Sparse Extent Header".

    """
    if header.version not in VERSIONS:
        raise RefusedError(
            f"header version {header.version} is not known, only 1 to 3 are",
            reason=Reason.UNKNOWN_FEATURE,
            offset=at + 4,
            remedy=COPY_AGAIN,
        )
    if header.flags & FLAG_NEWLINES and header.newlines != NEWLINES:
        raise CorruptError(
            f"the newline test bytes are {header.newlines.hex()}: the file was transferred as text",
            offset=at + 73,
            remedy="transfer the image in binary mode",
        )
    if header.capacity == 0:
        raise CorruptError("the capacity is 0", offset=at + 12, remedy=COPY_AGAIN)
    if header.capacity * SECTOR > MAX_CAPACITY:
        raise LimitError(f"a capacity of {header.capacity} sectors is above 2 TiB", offset=at + 12)
    if not is_power_of_two(header.grain_size):
        raise CorruptError(
            f"a grain of {header.grain_size} sectors is not a power of two", offset=at + 20, remedy=COPY_AGAIN
        )
    if not MIN_GRAIN <= header.grain <= MAX_GRAIN:
        raise LimitError(
            f"a grain of {header.grain_size} sectors is not between 8 and 2048",
            reason=Reason.LIMIT_METADATA,
            offset=at + 20,
        )
    if header.table_entries != ENTRIES:
        raise CorruptError(
            f"a grain table has {header.table_entries} entries, not {ENTRIES}", offset=at + 44, remedy=COPY_AGAIN
        )
    if header.directory_entries > MAX_DIRECTORY:
        raise LimitError(
            f"a grain directory of {header.directory_entries} entries", reason=Reason.LIMIT_METADATA, offset=at + 12
        )


def require_placed(header: SparseHeader, data_end: int) -> None:
    """Raise unless descriptor and tables lie apart from each other, inside the `data_end` bytes of the file.

    Raises:
        CorruptError: TRUNCATED, BAD_VALUE, OVERLAP.
        LimitError: LIMIT_METADATA.

    """
    if header.descriptor_size:
        if header.descriptor_offset != 1:
            raise CorruptError(
                f"the descriptor is at sector {header.descriptor_offset}, not 1", offset=28, remedy=COPY_AGAIN
            )
        if header.descriptor_size * SECTOR > MAX_EMBEDDED:
            raise LimitError(
                f"an embedded descriptor of {header.descriptor_size} sectors is above 64 KiB",
                reason=Reason.LIMIT_METADATA,
                offset=36,
            )
    directory = ceil_div(4 * header.directory_entries, SECTOR)
    regions = [("header", 0, 1, 0), ("descriptor", header.descriptor_offset, header.descriptor_size, 28)]
    if header.flags & FLAG_REDUNDANT and header.rgd_offset:
        regions.append(("redundant grain directory", header.rgd_offset, directory, 48))
    regions.append(("grain directory", header.gd_offset, directory, 56))
    regions = sorted((region for region in regions if region[2]), key=lambda region: region[1])
    for (before, start, length, _), (name, offset, _, field) in pairwise(regions):
        if start + length > offset:
            raise CorruptError(
                f"the {name} at sector {offset} overlaps the {before}",
                reason=Reason.OVERLAP,
                offset=field,
                remedy=COPY_AGAIN,
            )
    for name, offset, length, field in (*regions, ("overhead", 0, header.overhead, 64)):
        if (offset + length) * SECTOR > data_end:
            raise CorruptError(
                f"the {name} ends at sector {offset + length}, behind the end of the file",
                reason=Reason.TRUNCATED,
                offset=field,
                remedy=COPY_AGAIN,
            )
    if header.overhead < header.descriptor_size + 1:
        raise CorruptError(
            f"the overhead of {header.overhead} sectors is smaller than header and descriptor",
            offset=64,
            remedy=COPY_AGAIN,
        )


def feature_findings(header: SparseHeader) -> list[Finding]:
    """What the flags and fields of a header say that keeps this version from reading the grains right."""
    found = []

    def add(reason: Reason, message: str, offset: int, severity: Severity = Severity.ERROR) -> None:
        found.append(Finding(reason=reason, severity=severity, message=message, offset=offset))

    if header.flags & ~KNOWN_FLAGS:
        add(Reason.UNKNOWN_FEATURE, f"unknown header flags {header.flags & ~KNOWN_FLAGS:#x}", 8)
    if header.flags & FLAG_ZEROED and header.version < 2:
        add(Reason.DIFFERENTIAL, "zeroed grains are declared in a version 1 header, which has none", 8)
    if header.compressed and not header.flags & FLAG_MARKERS:
        add(Reason.UNSUPPORTED_SUBFORMAT, "compressed grains without markers are not read", 8)
    if header.flags & FLAG_MARKERS and not header.compressed:
        add(Reason.UNSUPPORTED_SUBFORMAT, "markers without compressed grains are not read", 8)
    if header.compress_algorithm != (DEFLATE if header.compressed else 0):
        add(Reason.UNKNOWN_FEATURE, f"unknown compression algorithm {header.compress_algorithm}", 77)
    if any(header.padding):
        add(Reason.DIFFERENTIAL, "reserved bytes of the header are not zero", 79)
    if header.unclean:
        add(Reason.UNCLEAN, "the disk was not shut down cleanly", 72, Severity.WARNING)
    return found


def shape_of(header: SparseHeader, data_end: int) -> Shape:
    """What the walk over the tables has to know of a file with this header, whose data ends at `data_end` (bytes)."""
    descriptor = header.descriptor_size * SECTOR
    fixed = [Area(kind="header", start=0, length=SECTOR)]
    if descriptor:
        fixed.append(Area(kind="header", start=SECTOR, length=descriptor))
    return Shape(
        kind=SPARSE,
        size=header.capacity * SECTOR,
        grain=header.grain,
        entries=ENTRIES,
        directory=header.gd_offset * SECTOR,
        copy=header.rgd_offset * SECTOR if header.flags & FLAG_REDUNDANT and header.rgd_offset else None,
        tables_start=SECTOR + descriptor,
        tables_end=data_end,
        grains_start=header.overhead * SECTOR,
        grains_end=data_end,
        fixed=tuple(fixed),
        zeroed=bool(header.flags & FLAG_ZEROED),
        compressed=header.compressed,
    )
