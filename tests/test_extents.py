"""The algebra of rows, against a model that knows each byte of the guest."""

from collections.abc import Iterator

import numpy as np
import pytest
from builders.reference_engine import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.extents import (
    ROW,
    Codec,
    Kind,
    Rows,
    chunks,
    clip,
    from_units,
    keep,
    merge,
    overlay,
    require_normal,
    shift,
    split,
)

# What one guest byte is: its kind, file, host place; for a frame the frame and the place in it.
Byte = tuple[int, ...]

FRAME = 40


def table(*runs: Run) -> Rows:
    return np.frombuffer(b"".join(run.pack() for run in runs), ROW).copy()


def meaning(rows: Rows) -> list[Byte]:
    """Each guest byte of a table, from its first one on."""
    said: list[Byte] = []
    for row in rows:
        number = {name: int(row[name]) for name in ROW.names or ()}
        for i in range(number["length"]):
            match number["kind"]:
                case Kind.DATA:
                    said.append((1, number["file_id"], number["host_off"] + i))
                case Kind.ENCODED:
                    frame = [number[name] for name in ("file_id", "host_off", "host_len", "frame_len", "codec")]
                    said.append((2, *frame, number["frame_skip"] + i))
                case kind:
                    said.append((kind,))
    return said


def start_of(rows: Rows) -> int:
    return int(rows[0]["guest_off"])


def end_of(rows: Rows) -> int:
    return int(rows[-1]["guest_off"]) + int(rows[-1]["length"])


@st.composite
def tables(draw: st.DrawFn, most: int = 14) -> Rows:
    """Small tables without gap, not always in normal form: small numbers, so that neighbours often join."""
    at = draw(st.sampled_from((0, 0, 13, 1 << 45)))
    runs: list[Run] = []
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(Kind))
        length = draw(st.integers(1, 20))
        place = draw(st.integers(0, 60))
        if runs and runs[-1].kind == Kind.DATA and draw(st.booleans()):
            place = runs[-1].host_off + runs[-1].length
        file = draw(st.integers(0, 1))
        if kind is Kind.DATA:
            runs.append(Run(guest_off=at, length=length, kind=kind, host_off=place, host_len=length, file_id=file))
        elif kind is Kind.ENCODED:
            skip = draw(st.integers(0, FRAME - length))
            if runs and runs[-1].kind == Kind.ENCODED and draw(st.booleans()):
                skip = min(runs[-1].frame_skip + runs[-1].length, FRAME - length)
            runs.append(
                Run(
                    guest_off=at,
                    length=length,
                    kind=kind,
                    host_off=place % 3,
                    host_len=30 + place % 2,
                    frame_len=FRAME,
                    frame_skip=skip,
                    file_id=file,
                    codec=1 + place % 2,
                )
            )
        else:
            runs.append(Run(guest_off=at, length=length, kind=kind))
        at += length
    return table(*runs)


@given(tables())
def test_merge_says_the_same_in_fewest_rows(rows: Rows) -> None:
    merged = merge(rows)
    assert meaning(merged) == meaning(rows)
    require_normal(merged, start_of(rows), end_of(rows), (1000, 1000))
    assert merge(merged).tobytes() == merged.tobytes()


@given(tables(), st.data())
def test_clip_is_a_slice(rows: Rows, data: st.DataObject) -> None:
    rows = merge(rows)
    first, end = start_of(rows), end_of(rows)
    start = data.draw(st.integers(max(0, first - 5), end + 5))
    stop = data.draw(st.integers(max(0, first - 5), end + 5))
    part = clip(rows, start, stop)
    assert meaning(part) == meaning(rows)[max(0, start - first) : max(0, stop - first)]
    if len(part):
        require_normal(part, max(start, first), min(stop, end), (1000, 1000))


@given(tables(), st.data())
def test_clip_leaves_its_table_alone(rows: Rows, data: st.DataObject) -> None:
    before = rows.tobytes()
    clip(rows, data.draw(st.integers(0, 100)), data.draw(st.integers(0, 100)))
    assert rows.tobytes() == before


def test_clip_empty_table_is_empty() -> None:
    assert len(clip(np.zeros(0, ROW), 0, 10)) == 0


@given(st.data())
def test_from_units_each_byte_is_where_its_unit_says(data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from((1, 4, 16)))
    n = data.draw(st.integers(1, 20))
    start = data.draw(st.sampled_from((0, 64, 1 << 40)))
    stop = start + n * unit - data.draw(st.integers(0, unit - 1))
    kind = np.array(data.draw(st.lists(st.sampled_from(Kind), min_size=n, max_size=n)), np.uint8)
    place = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), np.uint64) * np.uint64(unit)
    length = np.array(data.draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)), np.uint64)
    file = data.draw(st.integers(0, 1))
    rows = from_units(
        start=start, stop=stop, unit=unit, kind=kind, host_off=place, host_len=length, codec=Codec.ZLIB, file_id=file
    )
    wanted: list[Byte] = []
    for i in range(stop - start):
        of, at = divmod(i, unit)
        match kind[of]:
            case Kind.DATA:
                wanted.append((1, file, int(place[of]) + at))
            case Kind.ENCODED:
                wanted.append((2, file, int(place[of]), int(length[of]), unit, Codec.ZLIB, at))
            case other:
                wanted.append((int(other),))
    assert meaning(rows) == wanted
    require_normal(rows, start, stop, (1000, 1000))


def test_from_units_places_of_units_that_are_not_stored_do_not_matter() -> None:
    rows = from_units(
        start=0,
        stop=4096,
        unit=1024,
        kind=np.array([3, 3, 4, 4], np.uint8),
        host_off=np.array([2**64 - 1, 7, 2**63, 9], np.uint64),
    )
    assert rows.tolist() == [(0, 2048, 0, 0, 0, 0, 0, 3, 0, 0), (2048, 2048, 0, 0, 0, 0, 0, 4, 0, 0)]


# ---- normal form -----------------------------------------------------------------------------------------------------

DATA_ROW = Run(guest_off=0, length=10, kind=1, host_off=5, host_len=10)
FRAME_ROW = Run(guest_off=0, length=10, kind=2, host_off=5, host_len=10, frame_len=10, codec=1)
ZERO_ROW = Run(guest_off=0, length=10, kind=3)


def changed(run: Run, **values: int) -> Run:
    return Run(**{name: getattr(run, name) for name in Run.__slots__} | values)


@pytest.mark.parametrize("run", [DATA_ROW, FRAME_ROW, ZERO_ROW, changed(ZERO_ROW, kind=4)])
def test_require_normal_accepts_a_sound_row(run: Run) -> None:
    require_normal(table(run), 0, 10, (15,))


@pytest.mark.parametrize(
    ("run", "law"),
    [
        (changed(DATA_ROW, guest_off=1), "does not start"),
        (changed(DATA_ROW, length=0, host_len=0), "is empty"),
        (changed(DATA_ROW, length=2**64 - 1, guest_off=0, host_len=2**64 - 1), "wraps around"),
        (changed(DATA_ROW, host_off=2**64 - 1), "wraps around"),
        (changed(ZERO_ROW, kind=0), "unknown kind"),
        (changed(ZERO_ROW, kind=5), "unknown kind"),
        (changed(DATA_ROW, host_off=6), "outside its file"),
        (changed(FRAME_ROW, host_len=11), "outside its file"),
        (changed(DATA_ROW, host_len=9), "differs from its length"),
        (changed(FRAME_ROW, frame_skip=1), "outside its frame"),
        (changed(FRAME_ROW, frame_len=9), "outside its frame"),
        (changed(FRAME_ROW, frame_skip=2**32 - 1), "outside its frame"),
        (changed(FRAME_ROW, codec=0), "no codec"),
        (changed(FRAME_ROW, host_len=0), "no codec"),
        (changed(DATA_ROW, codec=1), "column"),
        (changed(DATA_ROW, frame_len=1), "column"),
        (changed(DATA_ROW, frame_skip=1), "column"),
        (changed(ZERO_ROW, host_off=1), "column"),
        (changed(ZERO_ROW, host_len=1), "column"),
        (changed(DATA_ROW, file_id=1), "file that does not exist"),
        (changed(DATA_ROW, length=9, host_len=9), "end at 9, not at 10"),
    ],
)
def test_require_normal_names_the_broken_law(run: Run, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        require_normal(table(run), 0, 10, (15,))


def test_require_normal_wants_neighbours_merged_and_no_gap() -> None:
    second = changed(DATA_ROW, guest_off=10, host_off=15)
    with pytest.raises(ValueError, match="not merged"):
        require_normal(table(DATA_ROW, second), 0, 20, (100,))
    for guest_off in (9, 11):
        with pytest.raises(ValueError, match="row 1 does not start"):
            require_normal(table(DATA_ROW, changed(second, guest_off=guest_off)), 0, 20, (100,))


def test_require_normal_empty_table_is_normal_for_nothing_only() -> None:
    require_normal(np.zeros(0, ROW), 5, 5, ())
    with pytest.raises(ValueError, match="no rows"):
        require_normal(np.zeros(0, ROW), 5, 6, ())


# ---- chunks ----------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(tables(40), st.data())
def test_chunks_cover_what_is_stored_in_whole_units(rows: Rows, data: st.DataObject) -> None:
    shift = start_of(rows)
    rows["guest_off"] -= np.uint64(shift)
    rows = merge(rows)
    unit = data.draw(st.sampled_from((1, 2, 8, 32, 1024)))
    most = data.draw(st.integers(1, 9))
    every = data.draw(st.integers(1, 12))
    zeroes = data.draw(st.booleans())
    last_kind = Kind.ZERO if zeroes else Kind.ENCODED

    def windows() -> Iterator[Rows]:
        for i in range(0, len(rows), every):
            yield rows[i : i + every]

    end = end_of(rows)
    said = meaning(rows)
    covered = [False] * end
    last = 0
    for part in chunks(windows(), unit=unit, max_units=most, zeroes=zeroes):
        start, stop = start_of(part), end_of(part)
        require_normal(part, start, stop, (1000, 1000))
        assert start >= last
        last = stop
        assert start % unit == 0
        assert stop % unit == 0 or stop == end
        assert 0 < stop - start <= most * unit
        assert np.any(part["kind"] <= last_kind)
        assert meaning(part) == said[start:stop]
        covered[start:stop] = [True] * (stop - start)
    for i in range(0, end, unit):
        if any(byte[0] <= last_kind for byte in said[i : i + unit]):
            assert all(covered[i : i + unit])


def test_chunks_of_nothing_stored_are_none() -> None:
    rows = table(changed(ZERO_ROW, length=2**50))
    assert list(chunks([rows], unit=65536, max_units=4)) == []
    assert list(chunks([], unit=65536, max_units=4)) == []
    assert list(chunks([rows[:0]], unit=65536, max_units=4)) == []


def test_chunks_with_zeroes_cover_zero_rows_but_no_holes() -> None:
    rows = table(
        changed(ZERO_ROW, length=2**46),
        changed(ZERO_ROW, guest_off=2**46, length=2**46, kind=Kind.HOLE),
    )
    parts = list(chunks([rows], unit=65536, max_units=1 << 18, zeroes=True))
    assert len(parts) == 2**46 // (65536 << 18)
    assert end_of(parts[-1]) == 2**46
    assert all(len(part) == 1 for part in parts)


def test_chunks_of_a_huge_row_are_cut_without_looking_at_its_units() -> None:
    rows = table(changed(DATA_ROW, length=2**46, host_len=2**46, host_off=0))
    parts = list(chunks([rows], unit=65536, max_units=1 << 18))
    assert len(parts) == 2**46 // (65536 << 18)
    assert all(len(part) == 1 for part in parts)


@st.composite
def two_tables(draw: st.DrawFn) -> tuple[list[Rows], list[Rows]]:
    """Two tables over the same guest range, each in windows."""
    top, below = draw(tables()), draw(tables())
    below["guest_off"] -= np.uint64(start_of(below))
    top["guest_off"] -= np.uint64(start_of(top))
    size = min(end_of(top), end_of(below))
    below["depth"] = 1
    return [windows_of(draw, clip(table, 0, size)) for table in (top, below)]  # type: ignore[return-value]


def windows_of(draw: st.DrawFn, rows: Rows) -> list[Rows]:
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=3)))
    return [part for part in np.split(merge(rows), [cut for cut in cuts if cut < len(merge(rows))]) if len(part)]


@given(two_tables())
def test_overlay_fills_holes_from_below_and_nothing_else(pair: tuple[list[Rows], list[Rows]]) -> None:
    top, below = pair
    found = np.concatenate(list(overlay(top, below)))
    upper, lower = (meaning(np.concatenate(windows)) for windows in (top, below))
    hole = (int(Kind.HOLE),)
    assert meaning(found) == [under if over == hole else over for over, under in zip(upper, lower, strict=True)]
    assert start_of(found) == start_of(top[0])
    depths = np.repeat(found["depth"], found["length"].astype(np.int64)).tolist()
    assert depths == [1 if over == hole else 0 for over in upper]


@given(tables(), st.data())
def test_split_and_keep_change_no_byte_that_they_keep(rows: Rows, data: st.DataObject) -> None:
    start, end = start_of(rows), end_of(rows)
    places = st.integers(start, end - 1)
    cuts = np.unique(np.concatenate((rows["guest_off"], np.array(sorted(data.draw(st.sets(places))), np.uint64))))
    parts = split(rows, cuts)
    assert parts["guest_off"].tolist() == cuts.tolist()
    assert meaning(parts) == meaning(rows)
    marks = sorted(data.draw(st.sets(st.integers(start - min(start, 5), end + 5), max_size=6)))
    pairs = list(zip(marks[0::2], marks[1::2], strict=False))
    kept = keep(rows, *(np.array([pair[i] for pair in pairs], np.uint64) for i in (0, 1)))
    inside = [any(first <= at < last for first, last in pairs) for at in range(start, end)]
    hole = (int(Kind.HOLE),)
    assert meaning(kept) == [byte if yes else hole for byte, yes in zip(meaning(rows), inside, strict=True)]


def test_shift_counts_from_the_start_of_a_part() -> None:
    rows = table(Run(guest_off=64, length=8, kind=Kind.ZERO), Run(guest_off=72, length=8, kind=Kind.HOLE))
    assert shift(rows, 64)["guest_off"].tolist() == [0, 8]
    assert shift(rows, 0) is rows
