"""Rows of guest bytes that lie in a file as they are: a raw disk, a fixed VHD, a flat extent of a VMDK.

What the file system stores is data, its holes read as zero.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from diskfmt import engine
from diskfmt.extents import ROW, U64, WINDOW_ROWS, Kind, Rows, merge
from diskfmt.stores.source import SourceFile

MAX_RUNS: Final = (WINDOW_ROWS - 1) // 2
"""Stored runs a window: with the holes around them they make at most `WINDOW_ROWS` rows."""


def plain_rows(source: SourceFile, start: int, stop: int, *, base: int = 0, file_id: int = 0) -> Iterator[Rows]:
    """Windows of rows in normal form for guest range [start, stop), whose bytes lie in `source` from `base` + start on.

    `base` is the host offset of guest byte 0, `file_id` the number that rows give to `source`; the range lies inside
    the file. Holes are believed only where the file system is known to tell the truth about them (TM-1104);
    elsewhere all is data.

    Raises:
        IOFailedError: READ_ERROR.

    """
    if not source.trusts_holes:
        if start < stop:
            yield _rows(np.array([[start, stop - start]], np.uint64), start, stop, base, file_id)
        return
    while start < stop:
        runs, after = engine.data_runs(source.fd, base + start, base + stop, MAX_RUNS)
        runs[:, 0] -= np.uint64(base)
        yield _rows(runs, start, after - base, base, file_id)
        start = after - base


def _rows(runs: U64, start: int, stop: int, base: int, file_id: int) -> Rows:
    """The table of [start, stop) whose data is `runs`, shape (n, 2): guest offset and length, ascending."""
    rows = np.zeros(2 * len(runs) + 1, ROW)
    offsets = runs[:, 0]
    ends = offsets + runs[:, 1]
    gap_starts = np.concatenate((np.array([start], np.uint64), ends))
    gap_ends = np.concatenate((offsets, np.array([stop], np.uint64)))
    rows["guest_off"][0::2] = gap_starts
    rows["length"][0::2] = gap_ends - gap_starts
    rows["kind"][0::2] = Kind.ZERO
    rows["guest_off"][1::2] = offsets
    rows["host_off"][1::2] = offsets + np.uint64(base)
    rows["length"][1::2] = rows["host_len"][1::2] = runs[:, 1]
    rows["file_id"][1::2] = file_id
    rows["kind"][1::2] = Kind.DATA
    return merge(rows.take(np.flatnonzero(rows["length"])))
