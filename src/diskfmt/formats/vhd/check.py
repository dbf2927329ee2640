"""Findings about the tables and blocks of a VHD: what `header.py` cannot see without reading them.

The findings of the headers (`Image.findings`) are not repeated here.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt.engine import gather
from diskfmt.errors import Finding, Reason, Severity
from diskfmt.extents import U64, WINDOW_ROWS
from diskfmt.formats.base import Image, Statistics
from diskfmt.formats.vhd.batmap import find_bat_map, read_bat_map
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.map import MAX_BITS, Bitmaps, bitmaps, judge, needed, pigeonhole, read_blocks
from diskfmt.formats.vhd.records import BatMap
from diskfmt.formats.vhd.regions import structures
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB, SECTOR, ceil_div, format_size

U32 = npt.NDArray[np.uint32]

MAX_PLACES: Final = 1 << 22  # blocks whose places are kept, 4 bytes each: all of any disk with usual blocks
CLEAR_SECTORS: Final = 64 * MIB // SECTOR  # how many clear sectors are looked at unless the check is deep
BATCH: Final = 4 * MIB // SECTOR
_ONES: Final = np.unpackbits(np.arange(256, dtype=np.uint8).reshape(256, 1), axis=1).sum(axis=1, dtype=np.uint8)
SLACK: Final = 64 * 1024  # gaps up to this are alignment


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the walk over the windows has collected so far."""

    stored: int = 0
    bytes: int = 0
    places: list[U32] = field(default_factory=list)  # where readable blocks start, in sectors
    clear: int = 0  # clear sectors of stored blocks …
    looked: int = 0  # … of them looked at …
    hidden: int = 0  # … of them not zero
    hidden_at: tuple[int, int] | None = None  # host and guest offset of the first
    full: npt.NDArray[np.bool_] | None = None  # blocks that are full by XenServer's bat map …
    lies: int = 0  # … of them not full by their bitmap
    lied_at: int | None = None  # the first of these


def check(image: Image, files: Sequence[SourceFile], deep: bool) -> Generator[Finding, None, Statistics]:
    """Findings about blocks: outside the file, overlapping, unreachable, hidden by clear bits, leaked.

    Returns (generator return) the statistics. `deep` looks at every sector whose bit is clear, otherwise at
    most at 64 MiB of them.

    Raises:
        IOFailedError: READ_ERROR.

    """
    header: Vhd = image.header
    if header.dynamic is None:
        return Statistics(total_units=1, stored_units=1, encoded_units=0, end=files[0].size)
    seen = _Seen()
    bat_map = find_bat_map(files[0], header)
    if bat_map is not None:
        seen.full, wrong = read_bat_map(files[0], header, bat_map)
        yield from wrong
    for first in range(0, header.entries, WINDOW_ROWS):
        blocks = read_blocks(files[0], header, first, min(WINDOW_ROWS, header.entries - first))
        findings, readable = judge(header, blocks)
        yield from findings
        seen.stored += int(np.count_nonzero(blocks.stored))
        seen.bytes += int(needed(header, blocks)[readable].sum())
        if seen.stored <= MAX_PLACES:
            seen.places.append((blocks.host[readable] // np.uint64(SECTOR)).astype(np.uint32))
        for part in bitmaps(files[0], header, replace(blocks, stored=readable)):
            _compare(part, seen)
            if not header.differencing:
                _look_at_clear(files[0], header, part, seen, deep=deep)
    if seen.bytes > header.data_end:
        yield pigeonhole(header)
    yield from _clear_findings(seen)
    if seen.lied_at is not None and bat_map is not None:
        yield _bat_map_finding(header, bat_map, seen.lied_at, seen.lies)
    yield from _unreachable(files[0], header)
    yield from _places(files[0], header, seen)
    return Statistics(total_units=header.entries, stored_units=seen.stored, encoded_units=0, end=files[0].size)


def _compare(part: Bitmaps, seen: _Seen) -> None:
    """Count the blocks that XenServer's bat map calls full and that are not."""
    if seen.full is None:
        return
    first = part.blocks.first
    full = part.blocks.stored.copy()
    full[full] = (part.bits == 0xFF).all(axis=1)
    lies = np.flatnonzero(seen.full[first : first + len(full)] & ~full)
    seen.lies += len(lies)
    if len(lies) and seen.lied_at is None:
        seen.lied_at = first + int(lies[0])


def _bat_map_finding(header: Vhd, bat_map: BatMap, block: int, count: int) -> Finding:
    dynamic: Any = header.dynamic
    return Finding(
        reason=Reason.DIFFERENTIAL,
        severity=Severity.WARNING,
        offset=bat_map.offset + block // 8,
        guest_offset=block * dynamic.block_size,
        message=f"the bat map of XenServer says of {count} blocks that all their sectors are stored, their bitmaps do "
        "not: the bitmaps count, but tapdisk believes the map",
        remedy="compare with the disk that the guest saw",
    )


def _look_at_clear(file: SourceFile, header: Vhd, part: Bitmaps, seen: _Seen, *, deep: bool) -> None:
    """Count sectors with a clear bit, and those of them that hold something: readers differ on these."""
    if not deep and seen.looked >= CLEAR_SECTORS:
        seen.clear += 8 * part.bits.size - int(_ONES.take(part.bits).sum(dtype=np.int64))
        return
    for guest, host in _clear_sectors(header, part):
        seen.clear += len(host)
        for at in range(0, len(host), BATCH):
            if not deep and seen.looked >= CLEAR_SECTORS:
                break
            some = host[at : at + BATCH]
            dirty = np.flatnonzero(gather(file.fd, some, SECTOR).any(axis=1))
            seen.looked += len(some)
            seen.hidden += len(dirty)
            if len(dirty) and seen.hidden_at is None:
                seen.hidden_at = int(some[dirty[0]]), int(guest[at + dirty[0]])


def _clear_sectors(header: Vhd, part: Bitmaps) -> Iterator[tuple[U64, U64]]:
    """Guest and host offsets of the disk's sectors whose bit is clear, a bounded number at a time."""
    dynamic: Any = header.dynamic
    sectors = dynamic.block_size // SECTOR
    stored = np.flatnonzero(part.blocks.stored)
    open_ones = np.flatnonzero((part.bits != 0xFF).any(axis=1))
    step = max(1, MAX_BITS // sectors)
    for at in range(0, len(open_ones), step):
        some = open_ones[at : at + step]
        clear = np.flatnonzero(np.unpackbits(part.bits.take(some, axis=0), axis=1).reshape(-1) == 0)
        block = stored.take(some.take(clear // sectors))
        inside = (clear % sectors * SECTOR).astype(np.uint64)
        guest = (block + part.blocks.first).astype(np.uint64) * np.uint64(dynamic.block_size) + inside
        host = part.blocks.host.take(block) + np.uint64(dynamic.bitmap_size) + inside
        on_disk = guest < header.footer.virtual_size
        yield guest[on_disk], host[on_disk]


def _clear_findings(seen: _Seen) -> Iterator[Finding]:
    if seen.hidden_at is not None:
        host, guest = seen.hidden_at
        yield Finding(
            reason=Reason.DIFFERENTIAL,
            severity=Severity.WARNING,
            offset=host,
            guest_offset=guest,
            message=f"{format_size(seen.hidden * SECTOR)} of data under clear bits of the sector bitmaps: "
            "they read as zero, but readers that ignore bitmaps (qemu-img, dissect) show the data",
            remedy="compare with the disk that the guest saw",
        )
    if seen.looked < seen.clear:
        yield Finding(
            reason=Reason.DIFFERENTIAL,
            severity=Severity.NOTE,
            message=f"{format_size((seen.clear - seen.looked) * SECTOR)} under clear bits of the sector "
            "bitmaps were not looked at",
            remedy="check --deep looks at all",
        )


def _unreachable(file: SourceFile, header: Vhd) -> Iterator[Finding]:
    """A finding if the BAT has blocks behind the end of the guest's disk."""
    dynamic: Any = header.dynamic
    for first in range(header.entries, dynamic.max_entries, WINDOW_ROWS):
        blocks = read_blocks(file, header, first, min(WINDOW_ROWS, dynamic.max_entries - first))
        if blocks.stored.any():
            index = first + int(np.argmax(blocks.stored))
            yield Finding(
                reason=Reason.LEAKED,
                severity=Severity.WARNING,
                offset=dynamic.table_offset + 4 * index,
                guest_offset=index * dynamic.block_size,
                message=f"block {index} is stored, but lies behind the end of the disk at "
                f"{header.footer.virtual_size} bytes",
                remedy="compare the size with what the guest saw",
            )
            return


def _places(file: SourceFile, header: Vhd, seen: _Seen) -> Iterator[Finding]:
    """Overlaps between windows, and space that nothing uses."""
    dynamic: Any = header.dynamic
    if seen.stored > MAX_PLACES:
        yield Finding(
            reason=Reason.OVERLAP,
            severity=Severity.NOTE,
            message=f"{seen.stored} blocks are too many to compare all their places",
        )
        return
    span = (dynamic.bitmap_size + dynamic.block_size) // SECTOR
    places = np.sort(np.concatenate(seen.places))
    step = np.diff(places)
    # Inside one window all is compared already. The disk's last block may be short: that is no overlap.
    crossed = int(np.count_nonzero(step < span)) if len(seen.places) > 1 else 0
    if crossed and not (crossed == 1 and not (step == 0).any() and _last_is_short(header)):
        index = int(np.argmin(step))
        yield Finding(
            reason=Reason.SHARED_CLUSTERS,
            severity=Severity.ERROR,
            offset=int(places[index + 1]) * SECTOR,
            message=f"{crossed} blocks far apart on the disk share their place in the file",
            remedy="copy the image again, or repair it with the tool that wrote it",
        )
    if len(places):
        yield from _covered(file, header, places, span)
        yield from _leaks(file, header, places, step, span)


def _last_is_short(header: Vhd) -> bool:
    dynamic: Any = header.dynamic
    return bool(header.footer.virtual_size % dynamic.block_size)


def _covered(file: SourceFile, header: Vhd, places: U32, span: int) -> Iterator[Finding]:
    """Findings for blocks on what `judge` does not know: names of the parent, XenServer's bat map.

    `places`, sorted, and `span` are in sectors.
    """
    for found in structures(file, header):
        index = int(np.searchsorted(places, ceil_div(found.stop, SECTOR))) - 1  # the last that starts before its end
        if not found.judged and index >= 0 and (int(places[index]) + span) * SECTOR > found.start:
            yield Finding(
                reason=Reason.OVERLAP,
                severity=Severity.WARNING,
                offset=found.start,
                message=f"a block at {int(places[index]) * SECTOR:#x} lies on {found.name}: one of them is damaged",
                remedy="compare with the disk that the guest saw",
            )


def _leaks(file: SourceFile, header: Vhd, places: U32, step: U32, span: int) -> Iterator[Finding]:
    """A finding if more of the file is unused than alignment explains. Arrays and `span` are in sectors."""
    wide = np.flatnonzero(step > span + SLACK // SECTOR)
    sectors = places.astype(np.int64)
    low = np.concatenate(([0], sectors[wide] + span, sectors[-1:] + span)) * SECTOR
    high = np.concatenate((sectors[:1] * SECTOR, sectors[wide + 1] * SECTOR, [header.data_end]))
    unused = np.maximum(high - low, 0)
    for found in structures(file, header):
        unused -= np.clip(np.minimum(high, found.stop) - np.maximum(low, found.start), 0, None)
    leaked = unused > SLACK
    if leaked.any():
        yield Finding(
            reason=Reason.LEAKED,
            severity=Severity.NOTE,
            offset=int(low[np.argmax(leaked)]),
            message=f"{format_size(int(unused[leaked].sum()))} of the file belong to no block",
            remedy="convert the image to drop them",
        )
