"""Following the markers of a stream-optimized file: where its grain directory is when the footer does not say it.

Each sector of a window is read as if it were a marker, which gives the sector behind what it marks; then the chain from
the first grain on is followed through the whole window at once, by squaring the step. Memory is one window.
Source: VMDK spec, "Stream-Optimized Compressed Sparse Extents".
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.formats.vmdk.sparse import (
    MARKER_GD,
    MARKER_GRAIN,
    MARKER_GT,
    TABLE_SIZE,
    SparseHeader,
    pack_marker,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB, SECTOR, align_down, ceil_div

WINDOW: Final = 4 * MIB  # bytes that are followed at once
MAX_FRAME_FACTOR: Final = 2  # a compressed grain has at most this many times the bytes of a grain

_MARKER: Final = np.dtype([("value", "<u8"), ("size", "<u4"), ("type", "<u4"), ("rest", "V496")])

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Where the grain directory is, whole sectors (bytes)."""

    start: int
    end: int


def find_directory(source: SourceFile, header: SparseHeader, used: int) -> Directory | None:
    """The directory that the chain of markers from the first grain on leads to, None where it leads elsewhere.

    `used`: where the file's last byte is that is not zero. A file that has no directory near its end is not followed.
    """
    length = ceil_div(4 * header.directory_entries, SECTOR)
    marker = pack_marker(length, MARKER_GD)
    if not _has_near_end(source, marker, used, length):
        return None
    at = header.overhead * SECTOR
    last = align_down(source.size, SECTOR)
    while at < last:
        window = source.read_at(at, min(WINDOW, last - at))
        step = _follow(window, header.grain)
        if step == 0:
            break
        at += step * SECTOR
    if at + (1 + length) * SECTOR > source.size or source.read_at(at, SECTOR) != marker:
        return None
    return Directory(start=at + SECTOR, end=at + (1 + length) * SECTOR)


def _has_near_end(source: SourceFile, marker: bytes, used: int, length: int) -> bool:
    """Whether the marker is where it may be: what a cut download has not, and must not be read whole for."""
    behind = (length + 5) * SECTOR  # directory, footer marker, footer, end marker, and a sector that is not whole
    start = align_down(max(0, used - behind), SECTOR)
    return marker in source.read_at(start, used - start + min(SECTOR, source.size - used))


def _follow(window: bytes, grain: int) -> int:
    """How many sectors the chain goes on from the start of the window; 0: it does not."""
    heads = np.frombuffer(window, _MARKER)
    size, kind = heads["size"].astype(np.int64), heads["type"]
    here = np.arange(len(heads), dtype=np.int64)
    frame = (size > 0) & (size <= MAX_FRAME_FACTOR * grain)
    empty = (size == 0) & (kind == 0) & (heads["value"] == 0)  # a gap
    table = (size == 0) & (kind == MARKER_GT) & (heads["value"] == TABLE_SIZE // SECTOR)
    step: I64 = np.where(frame, (size + (MARKER_GRAIN + SECTOR - 1)) // SECTOR, 0)
    step[empty] = 1
    step[table] = 1 + TABLE_SIZE // SECTOR
    target = here + step
    inside = target < len(heads)
    jump = np.where(inside, target, here)
    for _ in range(len(heads).bit_length()):
        jump = jump.take(jump)
    last = int(jump[0])  # the last sector of the chain that is in the window
    return last + int(step[last])
