"""Rows of raw disks: normal form, holes, and what a file system is believed."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from builders import raw as build

from diskfmt import engine
from diskfmt.extents import Kind, Rows, require_normal
from diskfmt.formats import plain
from diskfmt.formats.raw import FORMAT
from diskfmt.stores.source import SourceFile

MIB = 1 << 20


def rows_of(path: Path, start: int = 0, stop: int | None = None) -> list[Rows]:
    with SourceFile(path) as source:
        image = FORMAT.open(source)
        stop = source.size if stop is None else stop
        windows = list(FORMAT.extents(image, [source], start, stop))
        at = start
        for window in windows:
            end = int(window[-1]["guest_off"] + window[-1]["length"])
            require_normal(window, at, end, [source.size])
            at = end
        assert at == stop or start >= stop
        return windows


def told(windows: Iterable[Rows]) -> list[tuple[int, int, Kind]]:
    return [(int(row["guest_off"]), int(row["length"]), Kind(row["kind"])) for rows in windows for row in rows]


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFile, "trusts_holes", True)


@pytest.fixture
def doubting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceFile, "trusts_holes", False)


def test_sparse_file_has_zero_rows_for_its_holes(tmp_path: Path, trusting: None) -> None:
    path = build.sparse(tmp_path / "d", 8 * MIB, {MIB: b"x" * MIB, 5 * MIB: b"y" * MIB})
    if path.stat().st_blocks * 512 > 4 * MIB:
        pytest.skip("this file system keeps no holes")
    rows = told(rows_of(path))
    assert rows == [
        (0, MIB, Kind.ZERO),
        (MIB, MIB, Kind.DATA),
        (2 * MIB, 3 * MIB, Kind.ZERO),
        (5 * MIB, MIB, Kind.DATA),
        (6 * MIB, 2 * MIB, Kind.ZERO),
    ]
    assert told(rows_of(path, MIB + 1, 5 * MIB + 1)) == [
        (MIB + 1, MIB - 1, Kind.DATA),
        (2 * MIB, 3 * MIB, Kind.ZERO),
        (5 * MIB, 1, Kind.DATA),
    ]


def test_file_that_is_one_hole_is_zero(tmp_path: Path, trusting: None) -> None:
    path = build.sparse(tmp_path / "d", (1 << 43) + 1, {})
    assert told(rows_of(path)) == [(0, (1 << 43) + 1, Kind.ZERO)]


def test_full_file_is_one_row(tmp_path: Path, trusting: None) -> None:
    path = build.sparse(tmp_path / "d", MIB + 5, {0: b"x" * (MIB + 5)})
    assert told(rows_of(path)) == [(0, MIB + 5, Kind.DATA)]


def test_file_system_that_is_not_believed_gives_data(tmp_path: Path, doubting: None) -> None:
    path = build.sparse(tmp_path / "d", 8 * MIB, {MIB: b"x"})
    assert told(rows_of(path)) == [(0, 8 * MIB, Kind.DATA)]
    assert told(rows_of(path, 100, 200)) == [(100, 100, Kind.DATA)]
    assert told(rows_of(path, 100, 100)) == []


def test_many_runs_come_in_windows(tmp_path: Path, trusting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "MAX_RUNS", 3)
    places = {n * 4 * 65536: b"x" * 65536 for n in range(1, 20)}
    path = build.sparse(tmp_path / "d", 80 * 65536, places)
    windows = rows_of(path)
    assert len(windows) > 1
    assert max(map(len, windows)) <= 7
    data = [row for row in told(windows) if row[2] is Kind.DATA]
    assert data == [(at, 65536, Kind.DATA) for at in places]


def test_runs_are_asked_of_the_engine_in_the_range_only(
    tmp_path: Path, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def runs(fd: int, start: int, stop: int, limit: int) -> tuple[np.ndarray, int]:
        seen.append((start, stop, limit))
        return np.array([[start, 1]], np.uint64), min(stop, start + 10)

    monkeypatch.setattr(engine, "data_runs", runs)
    path = build.sparse(tmp_path / "d", 1000, {0: b"x" * 1000})
    assert told(rows_of(path, 5, 25)) == [
        (5, 1, Kind.DATA),
        (6, 9, Kind.ZERO),
        (15, 1, Kind.DATA),
        (16, 9, Kind.ZERO),
    ]
    assert seen == [(5, 25, plain.MAX_RUNS), (15, 25, plain.MAX_RUNS)]


def test_holes_of_the_file_are_told(tmp_path: Path, trusting: None) -> None:
    path = build.sparse(tmp_path / "d", 8 * MIB, {MIB: b"x" * MIB, 5 * MIB: b"y" * MIB})
    if path.stat().st_blocks * 512 > 4 * MIB:
        pytest.skip("this file system keeps no holes")
    with SourceFile(path) as source:
        (found,) = FORMAT.regions(FORMAT.open(source), [source])
    assert (found.kind, found.file_id) == ("hole", 0)
    assert found.offsets.tolist() == [0, 2 * MIB, 6 * MIB]
    assert found.lengths.tolist() == [MIB, 3 * MIB, 2 * MIB]


def test_file_system_that_is_not_believed_has_no_holes_to_tell(tmp_path: Path, doubting: None) -> None:
    with SourceFile(build.sparse(tmp_path / "d", 8 * MIB, {MIB: b"x"})) as source:
        assert [len(found.offsets) for found in FORMAT.regions(FORMAT.open(source), [source])] == [0]
