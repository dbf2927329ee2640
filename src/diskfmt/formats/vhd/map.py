"""The block allocation table and the sector bitmaps of a VHD as rows.

A BAT entry is the sector number of a block, big-endian; the block is its sector bitmap (most significant bit
first, padded to whole sectors) followed by its data. A clear bit means that the sector was never written: it
reads as zero in a dynamic disk, and from the parent in a differencing one.
Source: VHD spec, "Block Allocation Table and Data Blocks", "Mapping a Disk Sector to a Sector in the Block".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt.engine import gather
from diskfmt.errors import CorruptError, Finding, Reason, Severity, error_from
from diskfmt.extents import ROW, U64, WINDOW_ROWS, Kind, Rows, clip, merge
from diskfmt.formats.base import Image
from diskfmt.formats.plain import plain_rows
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.records import DYNAMIC_SIZE, FOOTER_SIZE, UNUSED, DynamicHeader
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB, SECTOR, ceil_div

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

MAX_BITMAP_BYTES: Final = 4 * MIB  # of bitmaps in memory at a time
MAX_BITS: Final = WINDOW_ROWS  # of bitmaps taken apart at a time, if a single block does not have more

_REVERSED: Final = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1
)
"""Each byte with its bits the other way round."""
_REMEDY: Final = "copy the image again, or repair it with the tool that wrote it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A window of the BAT. Shapes (n,): entry i belongs to block `first` + i; `host` is in bytes."""

    first: int
    stored: Mask
    host: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmaps:
    """Some blocks and the bitmaps of those that are stored: shape (stored blocks, bytes per block)."""

    blocks: Blocks
    bits: Bytes


def extents(image: Image, files: Sequence[SourceFile], start: int, stop: int) -> Iterator[Rows]:
    """Windows of rows for guest range [start, stop).

    A block that the BAT does not have is HOLE. A sector whose bit is clear is ZERO, or HOLE in a differencing
    disk.

    Raises:
        CorruptError: OUT_OF_FILE (TRUNCATED where the footer at the end is missing too), OVERLAP,
            SHARED_CLUSTERS: with the offset of the first BAT entry that is wrong.
        IOFailedError: READ_ERROR.

    """
    header: Vhd = image.header
    if start >= stop:
        return
    if header.dynamic is None:
        _require_data(header, stop)
        yield from plain_rows(files[0], start, stop)
        return
    clear = Kind.HOLE if header.differencing else Kind.ZERO
    size = header.dynamic.block_size
    last = ceil_div(stop, size)
    room = header.data_end
    for first in range(start // size, last, WINDOW_ROWS):
        blocks = read_blocks(files[0], header, first, min(WINDOW_ROWS, last - first))
        wrong, _ = judge(header, blocks)
        if wrong:
            raise error_from(wrong[0])
        room -= int(needed(header, blocks)[blocks.stored].sum())
        if room < 0:
            raise error_from(pigeonhole(header))
        for part in bitmaps(files[0], header, blocks):
            for rows in _rows(header.dynamic, part, clear):
                window = clip(rows, start, stop)
                for at in range(0, len(window), WINDOW_ROWS):
                    yield window[at : at + WINDOW_ROWS]


def _require_data(header: Vhd, stop: int) -> None:
    if stop > header.data_end:
        raise CorruptError(
            f"the disk ends behind the data of the file, {header.data_end:#x}",
            reason=Reason.TRUNCATED,
            offset=header.data_end,
            remedy=_REMEDY,
        )


def read_blocks(file: SourceFile, header: Vhd, first: int, count: int) -> Blocks:
    """The BAT entries of `count` (at most `WINDOW_ROWS`) blocks from `first` on."""
    dynamic: Any = header.dynamic
    data = file.read_at(dynamic.table_offset + 4 * first, 4 * count)
    entries = np.frombuffer(data, ">u4").astype(np.uint64)
    return Blocks(first=first, stored=entries != UNUSED, host=entries * np.uint64(SECTOR))


def needed(header: Vhd, blocks: Blocks) -> U64:
    """Bytes that each block takes in the file: shape (n,). The disk's last one may end with the disk."""
    dynamic: Any = header.dynamic
    sizes = np.full(len(blocks.host), dynamic.bitmap_size + dynamic.block_size, np.uint64)
    last = header.entries - 1
    if blocks.first <= last < blocks.first + len(sizes):
        tail = header.footer.virtual_size - last * dynamic.block_size
        sizes[last - blocks.first] = dynamic.bitmap_size + tail
    return sizes


def judge(header: Vhd, blocks: Blocks) -> tuple[list[Finding], Mask]:
    """What is wrong with the places of blocks, a finding for each kind of fault; and which can be read.

    Looks for blocks outside the file, on top of header, BAT or footer, and on top of each other.
    """
    dynamic: Any = header.dynamic
    at = header.footer.data_offset
    host, end = blocks.host, blocks.host + needed(header, blocks)
    outside = blocks.stored & (end > header.data_end)
    taken = {
        "the footer's copy": (0, FOOTER_SIZE),
        "the dynamic header": (at, at + DYNAMIC_SIZE),
        "the table of blocks": (dynamic.table_offset, dynamic.table_offset + 4 * dynamic.max_entries),
    }
    found = []
    if outside.any():
        found.append(
            _entry_finding(
                header, blocks, outside, header.outside, f"ends behind the data of the file, {header.data_end:#x}"
            )
        )
    for name, (low, high) in taken.items():
        hit = blocks.stored & (host < high) & (end > low)
        if hit.any():
            found.append(_entry_finding(header, blocks, hit, Reason.OVERLAP, f"lies on {name}"))
    order = np.flatnonzero(blocks.stored)
    order = order.take(np.argsort(host.take(order), kind="stable"))
    crossed = np.zeros(len(host), np.bool_)
    crossed[order[1:]] = end.take(order[:-1]) > host.take(order[1:])
    if crossed.any():
        same = np.zeros(len(host), np.bool_)
        same[order[1:]] = host.take(order[:-1]) == host.take(order[1:])
        if same.any():
            found.append(_entry_finding(header, blocks, same, Reason.SHARED_CLUSTERS, "is another block too"))
        else:
            found.append(_entry_finding(header, blocks, crossed, Reason.OVERLAP, "lies on another block"))
    return found, blocks.stored & ~outside


def _entry_finding(header: Vhd, blocks: Blocks, bad: Mask, reason: Reason, what: str) -> Finding:
    dynamic: Any = header.dynamic
    at = int(np.argmax(bad))
    others = int(np.count_nonzero(bad)) - 1
    return Finding(
        reason=reason,
        severity=Severity.ERROR,
        message=f"block {blocks.first + at} at {int(blocks.host[at]):#x} {what}"
        f"{f', and {others} more like it' if others else ''}",
        offset=dynamic.table_offset + 4 * (blocks.first + at),
        guest_offset=(blocks.first + at) * dynamic.block_size,
        remedy=_REMEDY,
    )


def pigeonhole(header: Vhd) -> Finding:
    """The finding for blocks that together are larger than the file (TM-802)."""
    dynamic: Any = header.dynamic
    return Finding(
        reason=Reason.SHARED_CLUSTERS,
        severity=Severity.ERROR,
        offset=dynamic.table_offset,
        message="the table has more blocks than fit into the file: some share their place",
        remedy=_REMEDY,
    )


def bitmaps(file: SourceFile, header: Vhd, blocks: Blocks) -> Iterator[Bitmaps]:
    """A window of blocks in parts, with bitmaps of at most `MAX_BITMAP_BYTES` each, most significant bit first.

    The stored blocks must be readable, see `judge`.
    """
    dynamic: Any = header.dynamic
    step = MAX_BITMAP_BYTES // dynamic.bitmap_size
    used = dynamic.block_size // SECTOR // 8  # the rest of the bitmap pads it to a sector
    count = np.cumsum(blocks.stored)
    cuts = np.searchsorted(count, np.arange(step, int(count[-1]), step) + 1).tolist()
    for low, high in zip([0, *cuts], [*cuts, len(count)], strict=True):
        stored, host = blocks.stored[low:high], blocks.host[low:high]
        bits = gather(file.fd, host[stored], dynamic.bitmap_size)[:, :used]
        if header.footer.old_bits:
            bits = _REVERSED.take(bits)
        yield Bitmaps(blocks=Blocks(first=blocks.first + low, stored=stored, host=host), bits=bits)


def _rows(dynamic: DynamicHeader, part: Bitmaps, clear: Kind) -> Iterator[Rows]:
    """Tables in normal form that cover the blocks of a part, each of a bounded number of bits."""
    n = len(part.blocks.host)
    full = (part.bits == 0xFF).all(axis=1)
    mixed = ~full & part.bits.any(axis=1)
    kind = np.full(n, Kind.HOLE, np.uint8)
    kind[part.blocks.stored] = np.where(full, Kind.DATA, np.where(mixed, 0, clear))
    is_mixed = kind == 0
    sectors = dynamic.block_size // SECTOR
    segment = (np.cumsum(is_mixed) - is_mixed) * sectors // MAX_BITS
    cuts = (np.flatnonzero(segment[1:] != segment[:-1]) + 1).tolist()
    bits = part.bits[mixed]
    taken = 0
    for low, high in zip([0, *cuts], [*cuts, n], strict=True):
        index = part.blocks.first + np.arange(low, high, dtype=np.uint64)
        data = part.blocks.host[low:high] + np.uint64(dynamic.bitmap_size)
        whole = ~is_mixed[low:high]
        rows = _table(
            index[whole] * np.uint64(dynamic.block_size), dynamic.block_size, data[whole], kind[low:high][whole]
        )
        if not whole.all():
            count = high - low - len(rows)
            runs = _runs(dynamic, index[~whole], data[~whole], bits[taken : taken + count], clear)
            taken += count
            rows = np.concatenate((rows, runs))
            rows = rows.take(np.argsort(rows["guest_off"], kind="stable"))
        yield merge(rows)


def _runs(dynamic: DynamicHeader, index: U64, data: U64, bits: Bytes, clear: Kind) -> Rows:
    """Rows of blocks of which only some sectors are stored: one for each run of equal bits.

    Shapes: `index`, `data` (k,): number of a block and host offset of its data; `bits` (k, bytes per block).
    """
    block, inside, length, stored = bit_runs(bits)
    kind = np.where(stored, np.uint8(Kind.DATA), np.uint8(clear))
    guest = index.take(block) * np.uint64(dynamic.block_size) + inside
    return _table(guest, length, data.take(block) + inside, kind)


def bit_runs(bits: Bytes) -> tuple[npt.NDArray[np.int64], U64, U64, Mask]:
    """Runs of equal bits of blocks, shape of `bits`: (k, bytes per block); no run reaches over the end of a block.

    Returns for each run: its block (index into `bits`), where in the block it starts, its length, whether it is set.
    """
    flat = np.unpackbits(bits, axis=1).reshape(-1)
    sectors = 8 * bits.shape[1]
    change = np.ones(len(flat), np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=change[1:])
    change[::sectors] = True
    starts = np.flatnonzero(change)
    length = np.diff(starts, append=len(flat)).astype(np.uint64) * np.uint64(SECTOR)
    inside = (starts % sectors).astype(np.uint64) * np.uint64(SECTOR)
    return starts // sectors, inside, length, flat.take(starts) != 0


def _table(guest: U64, length: U64 | int, host: U64, kind: npt.NDArray[np.uint8]) -> Rows:
    rows = np.zeros(len(guest), ROW)
    rows["guest_off"] = guest
    rows["length"] = length
    rows["kind"] = kind
    stored = kind == Kind.DATA
    rows["host_off"] = np.where(stored, host, 0)
    rows["host_len"] = np.where(stored, length, 0)
    return rows
