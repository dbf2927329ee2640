"""What the bytes of a VHD are for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from diskfmt.extents import U64, WINDOW_ROWS
from diskfmt.formats.base import Image, Regions
from diskfmt.formats.vhd.batmap import find_bat_map, header_at
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.map import MAX_BITS, Bitmaps, Blocks, bit_runs, bitmaps, judge, read_blocks
from diskfmt.formats.vhd.records import DYNAMIC_SIZE, FOOTER_SIZE, parse_locators
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR


def regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    """Headers, tables, and what blocks have beside stored sectors; see `Format.regions`.

    Sectors of a block whose bit is clear, and what its last block has behind the end of the disk, are `preallocated`.
    """
    header: Vhd = image.header
    file = files[0]
    places = list(structures(file, header))
    for kind in ("header", "table"):
        yield _regions(kind, [(found.start, found.stop) for found in places if found.kind == kind])
    if header.dynamic is None:
        return
    for first in range(0, header.entries, WINDOW_ROWS):
        blocks = read_blocks(file, header, first, min(WINDOW_ROWS, header.entries - first))
        readable = replace(blocks, stored=judge(header, blocks)[1])
        host = blocks.host[readable.stored]
        yield Regions(kind="table", offsets=host, lengths=np.full(len(host), header.dynamic.bitmap_size, np.uint64))
        for part in bitmaps(file, header, readable):
            yield from _clear(header, part)
        yield _regions("preallocated", list(_tail(header, readable)))


class Structure(NamedTuple):
    """What is no block: its kind as of a region, its name for people, where it starts and stops, in bytes.

    `judged`: whether `map.judge` looks for blocks on it.
    """

    kind: str
    name: str
    start: int
    stop: int
    judged: bool = True


def structures(file: SourceFile, header: Vhd) -> Iterator[Structure]:
    """Everything that is no block, inside the file."""
    for found in _structures(file, header):
        if found.start < min(found.stop, file.size):
            yield found._replace(stop=min(found.stop, file.size))


def _structures(file: SourceFile, header: Vhd) -> Iterator[Structure]:
    yield Structure("header", "the footer", header.data_end, file.size)
    dynamic, at = header.dynamic, header.footer.data_offset
    if dynamic is None:
        return
    yield Structure("header", "the footer's copy", 0, FOOTER_SIZE)
    yield Structure("header", "the dynamic header", at, at + DYNAMIC_SIZE)
    yield Structure("table", "the table of blocks", dynamic.table_offset, header_at(header))
    if header.differencing:  # in a dynamic disk they mean nothing, and may point at anything
        for locator in parse_locators(dynamic.locators):
            stop = locator.offset + max(locator.length, locator.room)
            yield Structure("table", "a parent locator", locator.offset, stop, judged=False)
    bat_map = find_bat_map(file, header)
    if bat_map is not None:
        at = header_at(header)
        yield Structure("table", "the header of XenServer's bat map", at, at + SECTOR, judged=False)
        yield Structure(
            "table", "XenServer's bat map", bat_map.offset, bat_map.offset + bat_map.sectors * SECTOR, judged=False
        )


def _regions(kind: str, places: list[tuple[int, int]]) -> Regions:
    table = np.array(places, np.uint64).reshape(-1, 2)
    return Regions(kind=kind, offsets=table[:, 0], lengths=table[:, 1] - table[:, 0])


def _clear(header: Vhd, part: Bitmaps) -> Iterator[Regions]:
    """The sectors on the disk whose bit is clear."""
    dynamic: Any = header.dynamic
    stored = np.flatnonzero(part.blocks.stored)
    open_ones = np.flatnonzero((part.bits != 0xFF).any(axis=1))
    step = max(1, MAX_BITS * SECTOR // dynamic.block_size)
    for at in range(0, len(open_ones), step):
        some = open_ones[at : at + step]
        row, inside, length, is_set = bit_runs(part.bits.take(some, axis=0))
        block = stored.take(some.take(row))
        guest = (block + part.blocks.first).astype(np.uint64) * np.uint64(dynamic.block_size) + inside
        host: U64 = part.blocks.host.take(block) + np.uint64(dynamic.bitmap_size) + inside
        size = np.uint64(header.footer.virtual_size)
        left = np.where(guest < size, size - np.minimum(guest, size), np.uint64(0))
        wanted = ~is_set & (left > 0)
        yield Regions(kind="preallocated", offsets=host[wanted], lengths=np.minimum(length, left)[wanted])


def _tail(header: Vhd, blocks: Blocks) -> Iterator[tuple[int, int]]:
    """What the disk's last block has behind the end of the disk, unless something else starts there."""
    dynamic: Any = header.dynamic
    last = header.entries - 1 - blocks.first
    beyond = header.entries * dynamic.block_size - header.footer.virtual_size
    if not beyond or last >= len(blocks.host) or not blocks.stored[last]:
        return
    stop = int(blocks.host[last]) + dynamic.bitmap_size + dynamic.block_size
    start = stop - beyond
    others = blocks.host[blocks.stored & (blocks.host >= np.uint64(start))]
    limit = min(header.data_end, int(others.min()) if len(others) else header.data_end)
    if start < min(stop, limit):
        yield start, min(stop, limit)
