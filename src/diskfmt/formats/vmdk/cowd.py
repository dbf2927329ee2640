"""COWD, the sparse file of ESX (vmfsSparse): a header of four sectors, the grain directory behind it.

It has no redundant copy, no compression and no zeroed grains; its grains may be single sectors. Source: VMDK spec,
"ESX Server Sparse Extents".
"""

from typing import Final

from construct import Bytes, Int32ul, Struct

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.vmdk.shape import COWD, Area, Shape
from diskfmt.units import SECTOR, ceil_div, is_power_of_two

MAGIC: Final = b"COWD"
HEADER_SIZE: Final = 2048
ENTRIES: Final = 4096  # of a grain table
VERSION: Final = 1
FLAG_INCONSISTENT: Final = 4
KNOWN_FLAGS: Final = 7  # root, check capable, inconsistent
MAX_GRAIN: Final = 2048  # sectors
MAX_DIRECTORY: Final = 1 << 20  # entries: 2 TiB of tables for single sectors

COPY_AGAIN: Final = "copy the piece again, or write the disk again with the tool that made it"

_HEADER: Final = Struct(
    "magic" / Bytes(4),
    "version" / Int32ul,
    "flags" / Int32ul,
    "capacity" / Int32ul,
    "grain_size" / Int32ul,
    "gd_offset" / Int32ul,
    "gd_entries" / Int32ul,
    "free_sector" / Int32ul,
    "relation" / Bytes(1028),  # the geometry of a root, the parent's name of a child: the descriptor says both too
    "generation" / Int32ul,
    "name" / Bytes(60),
    "description" / Bytes(512),
    "saved_generation" / Int32ul,
    "reserved" / Bytes(8),
    "unclean" / Int32ul,
    "padding" / Bytes(396),
)


def read_shape(data: bytes, file_size: int) -> tuple[Shape, list[Finding]]:
    """The shape of the file whose first `HEADER_SIZE` bytes are `data`, and what is doubtful about it.

    Raises:
        RefusedError: UNKNOWN_FEATURE, a version or flag that is not known.
        CorruptError: BAD_VALUE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_METADATA.

    """
    header = _HEADER.parse(data)
    if header.version != VERSION:
        raise _unknown(f"COWD version {header.version} is not known, only {VERSION} is", 4)
    if header.flags & ~KNOWN_FLAGS:
        raise _unknown(f"unknown header flags {header.flags & ~KNOWN_FLAGS:#x}", 8)
    if header.capacity == 0:
        raise CorruptError("the capacity is 0", offset=12, remedy=COPY_AGAIN)
    if not is_power_of_two(header.grain_size):
        raise CorruptError(
            f"a grain of {header.grain_size} sectors is not a power of two", offset=16, remedy=COPY_AGAIN
        )
    if header.grain_size > MAX_GRAIN:
        raise LimitError(
            f"a grain of {header.grain_size} sectors is above {MAX_GRAIN}", reason=Reason.LIMIT_METADATA, offset=16
        )
    needed = ceil_div(header.capacity, header.grain_size * ENTRIES)
    if needed > MAX_DIRECTORY:
        raise LimitError(f"a grain directory of {needed} entries", reason=Reason.LIMIT_METADATA, offset=12)
    if header.gd_entries < needed:
        raise CorruptError(
            f"the grain directory has {header.gd_entries} entries, the capacity needs {needed}",
            offset=24,
            remedy=COPY_AGAIN,
        )
    start = header.gd_offset * SECTOR
    if start < HEADER_SIZE:
        raise CorruptError(
            f"the grain directory at sector {header.gd_offset} overlaps the header",
            reason=Reason.OVERLAP,
            offset=20,
            remedy=COPY_AGAIN,
        )
    if start + 4 * needed > file_size:
        raise CorruptError(
            f"the grain directory at sector {header.gd_offset} reaches past the end of the file",
            reason=Reason.TRUNCATED,
            offset=20,
            remedy=COPY_AGAIN,
        )
    shape = Shape(
        kind=COWD,
        size=header.capacity * SECTOR,
        grain=header.grain_size * SECTOR,
        entries=ENTRIES,
        directory=start,
        tables_start=HEADER_SIZE,
        tables_end=file_size,
        grains_start=HEADER_SIZE,
        grains_end=file_size,
        fixed=(Area(kind="header", start=0, length=HEADER_SIZE),),
    )
    found = []
    if header.unclean or header.flags & FLAG_INCONSISTENT:
        found.append(
            Finding(
                reason=Reason.UNCLEAN,
                severity=Severity.WARNING,
                message="the disk was not shut down cleanly",
                offset=1648 if header.unclean else 8,
            )
        )
    return shape, found


def _unknown(message: str, offset: int) -> RefusedError:
    return RefusedError(message, reason=Reason.UNKNOWN_FEATURE, offset=offset, remedy=COPY_AGAIN)
