"""What goes where in a VHD that is written.

Dynamic: copy of the footer | dynamic header | BAT | blocks in guest order | footer. Each block is a sector
bitmap with all bits set, then its data on a multiple of 4096 bytes, whole even if the disk ends inside it.
The copy of the footer at offset 0, by which most readers know a dynamic disk, is written last.
Differencing: the same, with the names of the parent behind the BAT. A block that is stored has all its bits set, so
nothing in it comes from the parent.
Fixed: the guest's bytes | footer.
Source: VHD spec, "Hard Disk Footer Format", "Implementing a Dynamic Disk", appendix "CHS Calculation".
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

import numpy as np

from diskfmt.engine import Placement, Zeroes
from diskfmt.errors import UsageError
from diskfmt.extents import U64
from diskfmt.formats.base import Finale, Output, Piece, Request
from diskfmt.formats.vhd.heritage import Parent, parent_of
from diskfmt.formats.vhd.records import (
    DIFFERENCING,
    DYNAMIC,
    DYNAMIC_SIZE,
    EPOCH,
    FIXED,
    FOOTER_SIZE,
    MAX_BLOCK,
    MAX_VIRTUAL_SIZE,
    NO_OFFSET,
    SIZE_CREATORS,
    TAPDISK_WITHOUT_MAP,
    UNUSED,
    USUAL_MIN_BLOCK,
    DynamicHeader,
    Footer,
    bitmap_size,
    geometry,
    pack_dynamic,
    pack_footer,
)
from diskfmt.units import MIB, SECTOR, align_up, ceil_div, is_power_of_two, parse_size

ALIGN: Final = 4096  # of a block's data: no read-modify-write on disks with large sectors
BLOCK: Final = 2 * MIB
UNIT: Final = 2 * MIB  # of a fixed disk: only how much the engine moves at a time
CREATOR: Final = b"win "
CREATOR_VERSION: Final = 0x000A0000
CREATOR_OS: Final = b"Wi2k"
HEADER_AT: Final = FOOTER_SIZE
TABLE_AT: Final = HEADER_AT + DYNAMIC_SIZE

_MAX_DIGITS: Final = 20  # of a time: int() refuses thousands of them with an error of its own
_PADDED: Final = {creator.rstrip(b" \0").decode(): creator for creator in SIZE_CREATORS}


def layout(request: Request) -> Output:
    """The layout of a VHD.

    Raises:
        UsageError: a subformat, option, compression or size that a VHD cannot have.

    """
    if request.compress is not None:
        raise UsageError("VHD has no compression", remedy="leave the compression out, or choose qcow2")
    size = request.virtual_size
    if not 0 < size <= MAX_VIRTUAL_SIZE or size % SECTOR:
        raise UsageError(
            f"a VHD cannot have {size} bytes: 512 to {MAX_VIRTUAL_SIZE}, a multiple of 512",
            remedy="choose another format",
        )
    if request.below is not None and request.subformat in ("dynamic", "fixed"):
        raise UsageError(
            f"a {request.subformat} VHD has no parent", remedy="choose vhd:differencing, or leave the parent out"
        )
    options = dict(request.options)
    block_size = options.pop("block_size", None)
    footer = _footer(size, options)
    if request.subformat == "fixed":
        if block_size is not None:
            raise UsageError("a fixed VHD has no blocks", remedy="leave block_size out")
        return Output.single(_Fixed(footer))
    unit = BLOCK if block_size is None else _block_size(block_size)
    if request.subformat == "dynamic":
        return Output.single(_Dynamic(footer, unit))
    if request.subformat == "differencing":
        return Output.single(_Dynamic(footer, unit, parent_of(request)))
    raise UsageError(f"a VHD cannot be {request.subformat!r}", remedy="choose dynamic, fixed or differencing")


def _block_size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UsageError(f"block_size: {error}", remedy="give a size such as 2M") from None
    if not is_power_of_two(size) or not USUAL_MIN_BLOCK <= size <= MAX_BLOCK:
        raise UsageError(f"block_size {size}", remedy="choose a power of two from 512K to 256M")
    return size


def _footer(size: int, options: dict[str, str]) -> Footer:
    """The footer for a disk of `size` bytes, with a unique id of zeros unless an option gives one."""
    cylinders, heads, sectors = geometry(size)
    creator = _creator(options.pop("creator", None))
    footer = Footer(
        data_offset=NO_OFFSET,
        timestamp=_timestamp(options.pop("timestamp", None)),
        creator=creator,
        creator_version=TAPDISK_WITHOUT_MAP if creator.startswith(b"tap") else CREATOR_VERSION,
        creator_os=CREATOR_OS,
        original_size=size,
        current_size=size,
        cylinders=cylinders,
        heads=heads,
        sectors=sectors,
        disk_type=FIXED,
        unique_id=_unique_id(options.pop("uuid", None)),
    )
    if options:
        raise UsageError(
            f"VHD has no option {min(options)!r}", remedy="choose from block_size, creator, timestamp, uuid"
        )
    return footer


def _creator(text: str | None) -> bytes:
    """The creator application. Only those that all readers take by current size can be written."""
    if text is None:
        return CREATOR
    creator = _PADDED.get(text.rstrip(" \0"))
    if creator is None:
        raise UsageError(
            f"creator {text!r}: readers would not agree on the size of the disk",
            remedy=f"choose from {', '.join(sorted(_PADDED))}",
        )
    return creator


def _timestamp(text: str | None) -> int:
    """Seconds since 2000 from a text of seconds since 1970; without one, from SOURCE_DATE_EPOCH, or 0."""
    name = "timestamp" if text is not None else "SOURCE_DATE_EPOCH"
    value = text if text is not None else os.environ.get("SOURCE_DATE_EPOCH") or str(EPOCH)
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS else -1
    if number > EPOCH + UNUSED or number < (EPOCH if text is not None else 0):
        raise UsageError(
            f"{name} {value!r} is not a time that a VHD can hold",
            remedy=f"give seconds since 1970, from {EPOCH} to {EPOCH + UNUSED}",
        )
    return max(0, number - EPOCH)  # SOURCE_DATE_EPOCH is for all formats: the earliest time there is


def _unique_id(text: str | None) -> bytes:
    if text is None:
        return bytes(16)
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        raise UsageError(
            f"uuid {text!r} is not a UUID", remedy="give 32 hexadecimal digits, with or without dashes"
        ) from None


def _derived(fingerprint: bytes) -> bytes:
    """A UUID of version 8 from the fingerprint of the content. Source: RFC 9562, section 5.8."""
    raw = bytearray(fingerprint[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


class _Vhd:
    """What both layouts share: the footer, finished once the content is known."""

    def __init__(self, footer: Footer) -> None:
        self._footer = footer

    def _packed(self, fingerprint: bytes, *, disk_type: int, data_offset: int) -> bytes:
        own = self._footer.unique_id
        return pack_footer(
            replace(
                self._footer,
                disk_type=disk_type,
                data_offset=data_offset,
                unique_id=own if any(own) else _derived(fingerprint),
            )
        )


class _Fixed(_Vhd):
    """The guest's bytes and a footer behind them."""

    def __init__(self, footer: Footer) -> None:
        super().__init__(footer)
        self.placement = Placement(unit=UNIT, guest_size=footer.current_size, fixed=True, fingerprint=True)
        self.full_size = footer.current_size + FOOTER_SIZE

    def add(
        self,
        first_unit: int,  # noqa: ARG002
        places: U64,  # noqa: ARG002
        stored: U64,  # noqa: ARG002
        end: int,
    ) -> tuple[Sequence[Piece], int]:
        """Nothing to note: the places follow from the guest offsets."""
        return (), end

    def finish(self, end: int, fingerprint: bytes) -> Finale:  # noqa: ARG002
        """The footer, which makes the file valid."""
        footer = self._packed(fingerprint, disk_type=FIXED, data_offset=NO_OFFSET)
        at = self._footer.current_size
        return Finale(pieces=(Piece(offset=at, data=footer),), size=self.full_size)


class _Dynamic(_Vhd):
    """Blocks in guest order between the tables and the footer; with a parent, a differencing disk."""

    def __init__(self, footer: Footer, block_size: int, parent: Parent | None = None) -> None:
        super().__init__(footer)
        entries = ceil_div(footer.current_size, block_size)
        # At most 2040 GiB / 512 KiB entries of 4 bytes: 16 MiB. Padded with unused entries to whole sectors.
        self._table = np.full(align_up(entries * 4, SECTOR) // 4, UNUSED, ">u4")
        self._blocks_end = TABLE_AT + self._table.nbytes
        self._header = DynamicHeader(table_offset=TABLE_AT, max_entries=entries, block_size=block_size)
        self._disk_type = DYNAMIC
        self._names: tuple[Piece, ...] = ()
        if parent is not None:
            self._disk_type = DIFFERENCING
            self._header, self._names = parent.recorded(self._header, self._blocks_end)
            self._blocks_end += sum(len(piece.data) for piece in self._names)
        self.placement = Placement(
            unit=block_size,
            guest_size=footer.current_size,
            first=self._blocks_end,
            align=ALIGN,
            prefix_len=bitmap_size(block_size),
            prefix_byte=0xFF,
            fingerprint=True,
            zeroes=Zeroes.SKIP if parent is None else Zeroes.STORE,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file if every block were stored."""
        numbers = self.placement
        first = align_up(numbers.first + numbers.prefix_len, ALIGN)
        step = align_up(numbers.unit + numbers.prefix_len, ALIGN)
        return first + (self._header.max_entries - 1) * step + numbers.unit + FOOTER_SIZE

    def add(
        self,
        first_unit: int,
        places: U64,
        stored: U64,  # noqa: ARG002
        end: int,
    ) -> tuple[Sequence[Piece], int]:
        """Note where blocks are; the BAT is written at the end."""
        used = np.flatnonzero(places)
        if len(used):
            host = places.take(used)
            block = host - np.uint64(self.placement.prefix_len)
            self._table[first_unit + used] = block // np.uint64(SECTOR)
            self._blocks_end = max(self._blocks_end, int(host.max()) + self.placement.unit)
        return (), end

    def finish(self, end: int, fingerprint: bytes) -> Finale:
        """BAT, dynamic header, footer, and the copy of the footer at the head, which makes the file valid."""
        if self._disk_type == DIFFERENCING:  # the difference may be as empty as the parent's: two disks, two ids
            fingerprint = sha256(self._header.parent_id + fingerprint).digest()
        footer = self._packed(fingerprint, disk_type=self._disk_type, data_offset=HEADER_AT)
        # The engine ends the last block where the disk ends, but readers want blocks whole.
        at = align_up(max(end, self._blocks_end), SECTOR)
        return Finale(
            pieces=(
                *self._names,
                Piece(offset=TABLE_AT, data=self._table.tobytes()),
                Piece(offset=HEADER_AT, data=pack_dynamic(self._header)),
                Piece(offset=at, data=footer),
                Piece(offset=0, data=footer),
            ),
            size=at + FOOTER_SIZE,
        )
