"""The extent table: one row says where a run of guest bytes is, and the algebra on rows.

Rows of one table are always in *normal form*: sorted by guest offset, without gap or overlap, of length
above zero, unused columns zero, neighbours merged, stored ranges inside their file. `require_normal` proves it.

Tables come in windows of at most `WINDOW_ROWS` rows, never whole: 64 TiB of guest disk has 2^30 clusters.
All columns are in bytes. The layout of `ROW` equals `struct dfmt_row` of `native/include/dfmt.h`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt.kinds import Codec, Kind

__all__ = [
    "ROW",
    "U64",
    "WINDOW_ROWS",
    "Codec",
    "Kind",
    "Rows",
    "chunks",
    "clip",
    "from_units",
    "keep",
    "merge",
    "outline",
    "overlay",
    "require_normal",
    "shift",
    "split",
]

Rows = npt.NDArray[np.void]
U64 = npt.NDArray[np.uint64]

WINDOW_ROWS: Final = 1 << 18

ROW: Final = np.dtype(
    [
        ("guest_off", np.uint64),
        ("length", np.uint64),
        ("host_off", np.uint64),  # DATA, ENCODED: first stored byte
        ("host_len", np.uint64),  # DATA: equal to length; ENCODED: bytes that hold the frame
        ("frame_len", np.uint32),  # ENCODED: bytes that the frame decodes to
        ("frame_skip", np.uint32),  # ENCODED: where in the decoded frame this row starts
        ("file_id", np.uint16),  # DATA, ENCODED: which file of the disk
        ("kind", np.uint8),
        ("codec", np.uint8),  # ENCODED
        ("depth", np.uint32),  # which image of a chain says so: 0 the one on top
    ]
)


def from_units(
    *,
    start: int,
    stop: int,
    unit: int,
    kind: npt.NDArray[np.uint8],
    host_off: U64,
    host_len: U64 | None = None,
    codec: Codec = Codec.NONE,
    file_id: int = 0,
) -> Rows:
    """Rows in normal form for consecutive units (clusters, blocks, grains) of equal size.

    Shapes: `kind`, `host_off`, `host_len` are (n,): one entry a unit; the first unit starts at guest offset
    `start`, the rows end at `stop`, which lies inside or at the end of the last unit. `host_off` is looked at
    for DATA and ENCODED units, `host_len` for ENCODED ones; an ENCODED unit is one whole frame.
    """
    n = len(kind)
    rows = np.zeros(n, ROW)
    rows["guest_off"] = np.uint64(start) + np.arange(n, dtype=np.uint64) * np.uint64(unit)
    rows["length"] = unit
    rows["kind"] = kind
    stored = (kind == Kind.DATA) | (kind == Kind.ENCODED)
    rows["host_off"] = np.where(stored, host_off, 0)
    rows["file_id"] = np.where(stored, file_id, 0)
    rows["host_len"] = np.where(kind == Kind.DATA, unit, 0)
    if host_len is not None:
        encoded = kind == Kind.ENCODED
        rows["host_len"] = np.where(encoded, host_len, rows["host_len"])
        rows["frame_len"] = np.where(encoded, unit, 0)
        rows["codec"] = np.where(encoded, int(codec), 0)
    return merge(clip(rows, start, stop))


def clip(rows: Rows, start: int, stop: int) -> Rows:
    """The part of a table in normal form that lies in guest range [start, stop)."""
    if not len(rows) or start >= stop or start >= int(rows[-1]["guest_off"]) + int(rows[-1]["length"]):
        return rows[:0]
    # bisect, not searchsorted: that would copy the column of a large table for each small part.
    starts = rows["guest_off"]
    first = max(0, bisect_right(starts, start) - 1)
    last = bisect_left(starts, stop, lo=first)
    part = rows[first:last].copy()
    if len(part):
        _cut_head(part[0], max(0, start - int(part[0]["guest_off"])))
        end = int(part[-1]["guest_off"]) + int(part[-1]["length"])
        _cut_tail(part[-1], max(0, end - stop))
    return part


def shift(rows: Rows, start: int) -> Rows:
    """The same table, guest offsets counted from `start`."""
    if not start:
        return rows
    shifted = rows.copy()
    shifted["guest_off"] -= np.uint64(start)
    return shifted


def overlay(top: Iterable[Rows], below: Iterable[Rows]) -> Iterator[Rows]:
    """Windows of rows in normal form: those of `top`, with those of `below` where `top` has holes.

    Both cover the same guest range. Memory is one window of each; a window that is yielded has no more rows than both
    together.
    """
    waiting = iter(below)
    under, under_end = np.zeros(0, ROW), None
    for rows in top:
        start = int(rows[0]["guest_off"])
        under_end = start if under_end is None else under_end
        end = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
        while start < end:
            if start == under_end:
                under = next(waiting)
                under_end = int(under[-1]["guest_off"]) + int(under[-1]["length"])
            stop = min(end, under_end)
            yield _combine(clip(rows, start, stop), clip(under, start, stop))
            start = stop


def _combine(over: Rows, under: Rows) -> Rows:
    """`overlay` for two tables of the same range."""
    if not (over["kind"] == Kind.HOLE).any():
        return over
    starts = np.union1d(over["guest_off"], under["guest_off"])
    above, beneath = split(over, starts), split(under, starts)
    return merge(np.where(above["kind"] == Kind.HOLE, beneath, above))


def split(rows: Rows, starts: U64) -> Rows:
    """The same bytes with a row from each of `starts` to the next; they hold all starts of the rows."""
    end = rows[-1]["guest_off"] + rows[-1]["length"]
    part = rows.take(np.searchsorted(rows["guest_off"], starts, side="right") - 1)
    skip = starts - part["guest_off"]
    part["guest_off"] = starts
    part["length"] = np.diff(starts, append=end)
    part["host_off"] += np.where(part["kind"] == Kind.DATA, skip, np.uint64(0))
    part["host_len"] = np.where(part["kind"] == Kind.DATA, part["length"], part["host_len"])
    part["frame_skip"] += np.where(part["kind"] == Kind.ENCODED, skip, np.uint64(0)).astype(np.uint32)
    return part


def keep(rows: Rows, starts: U64, ends: U64) -> Rows:
    """The rows inside of intervals, HOLE elsewhere.

    Shapes: `starts`, `ends` (n,): guest offsets of ascending intervals that do not overlap.
    """
    begin, end = rows["guest_off"][0], rows["guest_off"][-1] + rows["length"][-1]
    bounds = np.concatenate((rows["guest_off"], starts, ends))
    parts = split(rows, np.unique(bounds[(bounds >= begin) & (bounds < end)]))
    index = np.searchsorted(starts, parts["guest_off"], side="right").astype(np.intp) - 1
    kept = (index >= 0) & (parts["guest_off"] < np.append(ends, np.uint64(0))[index])
    holes = np.zeros(len(parts), ROW)
    holes["guest_off"], holes["length"], holes["kind"] = parts["guest_off"], parts["length"], Kind.HOLE
    return merge(np.where(kept, parts, holes))


def _cut_head(row: Any, count: int) -> None:
    row["guest_off"] += np.uint64(count)
    row["length"] -= np.uint64(count)
    if row["kind"] == Kind.DATA:
        row["host_off"] += np.uint64(count)
        row["host_len"] -= np.uint64(count)
    elif row["kind"] == Kind.ENCODED:
        row["frame_skip"] += np.uint32(count)


def _cut_tail(row: Any, count: int) -> None:
    row["length"] -= np.uint64(count)
    if row["kind"] == Kind.DATA:
        row["host_len"] -= np.uint64(count)


def merge(rows: Rows) -> Rows:
    """The same table with neighbours joined where one row can say it: part of the normal form."""
    if len(rows) < 2:
        return rows
    left, right = rows[:-1], rows[1:]
    same = (left["kind"] == right["kind"]) & (left["depth"] == right["depth"])
    data = same & (left["kind"] == Kind.DATA)
    empty = same & (left["kind"] >= Kind.ZERO)
    follows = data & (left["host_off"] + left["length"] == right["host_off"])
    follows &= left["file_id"] == right["file_id"]
    frame = same & (left["kind"] == Kind.ENCODED)
    if frame.any():
        for name in ("host_off", "host_len", "frame_len", "file_id", "codec"):
            frame &= left[name] == right[name]
        frame &= left["frame_skip"] + left["length"] == right["frame_skip"]
    joined = empty | follows | frame
    if not joined.any():
        return rows
    merged = _join(rows, joined)
    is_data = merged["kind"] == Kind.DATA
    merged["host_len"] = np.where(is_data, merged["length"], merged["host_len"])
    return merged


def outline(rows: Rows) -> Rows:
    """The same table with each run of frames in one file as one row: for people, who do not ask where a frame is.

    No normal form: the columns of a joined row that say where its frame is are those of the first one.
    """
    if len(rows) < 2:
        return rows
    left, right = rows[:-1], rows[1:]
    joined = (left["kind"] == Kind.ENCODED) & (right["kind"] == Kind.ENCODED)
    joined &= (left["file_id"] == right["file_id"]) & (left["depth"] == right["depth"])
    return _join(rows, joined)


def _join(rows: Rows, joined: npt.NDArray[np.bool_]) -> Rows:
    """The first row of each run of neighbours, with the length of all; `joined` (n - 1,): row i goes on in i + 1."""
    heads = np.flatnonzero(np.concatenate(([True], ~joined)))
    runs = rows.take(heads)
    runs["length"] = np.add.reduceat(rows["length"], heads)
    return runs


def require_normal(rows: Rows, start: int, stop: int, file_sizes: Iterable[int]) -> None:
    """Prove that `rows` are the normal form of guest range [start, stop) over files of these sizes.

    Raises:
        ValueError: naming the first row that is not, and why.

    """
    sizes = np.array(list(file_sizes), np.uint64)
    if not len(rows):
        if start != stop:
            raise ValueError(f"no rows for [{start}, {stop})")
        return
    ends = rows["guest_off"] + rows["length"]
    kind = rows["kind"]
    stored = (kind == Kind.DATA) | (kind == Kind.ENCODED)
    encoded = kind == Kind.ENCODED
    if np.any(rows["file_id"] >= len(sizes)):
        raise ValueError("a row names a file that does not exist")
    host_end = rows["host_off"] + rows["host_len"]
    laws = {
        "does not start where the one before it ends": rows["guest_off"]
        != np.concatenate(([np.uint64(start)], ends[:-1])),
        "is empty": rows["length"] == 0,
        "wraps around": (ends < rows["guest_off"]) | (host_end < rows["host_off"]),
        "has an unknown kind": (kind < Kind.DATA) | (kind > Kind.HOLE),
        "lies outside its file": stored & (host_end > sizes.take(rows["file_id"])),
        "has a stored length that differs from its length": (kind == Kind.DATA) & (rows["host_len"] != rows["length"]),
        "reaches outside its frame": encoded
        & (rows["frame_skip"] + rows["length"] > rows["frame_len"].astype(np.uint64)),
        "has no codec": encoded & ((rows["codec"] == Codec.NONE) | (rows["host_len"] == 0)),
        "uses a column that its kind does not have": (
            ~encoded & ((rows["codec"] != 0) | (rows["frame_len"] != 0) | (rows["frame_skip"] != 0))
        )
        | (~stored & ((rows["host_off"] != 0) | (rows["host_len"] != 0) | (rows["file_id"] != 0))),
    }
    for law, broken in laws.items():
        if np.any(broken):
            index = int(np.argmax(broken))
            raise ValueError(f"row {index} {law}: {rows[index]}")
    if int(ends[-1]) != stop:
        raise ValueError(f"the rows end at {int(ends[-1])}, not at {stop}")
    if len(merge(rows)) != len(rows):
        raise ValueError("neighbours are not merged")


def chunks(windows: Iterable[Rows], *, unit: int, max_units: int, zeroes: bool = False) -> Iterator[Rows]:
    """Cut a stream of windows into tables of whole units, leaving out units that no file stores.

    Yields tables in normal form that start and end on multiples of `unit` (the very last may end inside its
    unit), hold at least one DATA or ENCODED row and span at most `max_units` units. Memory is one window and
    what belongs to one unit. `zeroes`: units with a ZERO row are not left out either.
    """
    last_kind = Kind.ZERO if zeroes else Kind.ENCODED
    pending = np.zeros(0, ROW)
    for window in windows:
        pending = merge(np.concatenate((pending, window))) if len(pending) else window
        if not len(pending):
            continue
        end = int(pending[-1]["guest_off"]) + int(pending[-1]["length"])
        cut = end // unit * unit
        if cut > int(pending[0]["guest_off"]):
            yield from _wanted_spans(clip(pending, 0, cut), last_kind, unit, max_units)
            pending = clip(pending, cut, end)
    yield from _wanted_spans(pending, last_kind, unit, max_units)


def _wanted_spans(rows: Rows, last_kind: Kind, unit: int, max_units: int) -> Iterator[Rows]:
    """Tables of at most `max_units` units that cover the rows of a table whose kind is not above `last_kind`."""
    wanted = rows[rows["kind"] <= last_kind]
    if not len(wanted):
        return
    end = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
    first = wanted["guest_off"] // np.uint64(unit)
    last = (wanted["guest_off"] + wanted["length"] - np.uint64(1)) // np.uint64(unit)
    at = int(first[0])
    index = 0
    while index < len(wanted):
        at = max(at, int(first[index]))
        limit = at + max_units
        # The last wanted row that starts before the limit decides how far this span reaches.
        index = int(np.searchsorted(first, np.uint64(limit), side="left"))
        stop = min(limit, int(last[index - 1]) + 1)
        yield clip(rows, at * unit, min(stop * unit, end))
        at = stop
        if int(last[index - 1]) >= limit:
            index -= 1  # the row goes on behind the limit
