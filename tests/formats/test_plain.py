"""Rows of bytes that lie in a file as they are: holes, and where guest byte 0 is."""

from pathlib import Path

import numpy as np
import pytest
from builders import raw as build
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.extents import Kind, require_normal
from diskfmt.formats import plain
from diskfmt.stores.source import SourceFile

KIB64 = 1 << 16


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=12),
    st.integers(0, 3),
)
def test_rows_say_what_the_runs_say(steps: list[tuple[int, int]], tail: int) -> None:
    """Against a model with one letter a byte."""
    model = "".join("." * gap + "D" * length for gap, length in steps) + "." * tail
    runs, at = [], 10
    for gap, length in steps:
        runs.append((at + gap, length))
        at += gap + length
    stop = at + tail
    if stop == 10:
        return
    rows = plain._rows(np.array(runs, np.uint64).reshape(-1, 2), 10, stop, 7, 1)
    require_normal(rows, 10, stop, [0, stop + 7])
    data = rows[rows["kind"] == Kind.DATA]
    assert (data["host_off"] == data["guest_off"] + 7).all()
    assert "".join({1: "D", 3: "."}[int(row["kind"])] * int(row["length"]) for row in rows) == model


def test_holes_are_found_where_the_guest_starts_inside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SourceFile, "trusts_holes", True)
    path = build.sparse(tmp_path / "d", 8 * KIB64, {KIB64: b"x" * KIB64, 5 * KIB64: b"y" * KIB64})
    if path.stat().st_blocks * 512 > 4 * KIB64:
        pytest.skip("this file system keeps no holes")
    with SourceFile(path) as source:
        (rows,) = plain.plain_rows(source, 512, 6 * KIB64, base=KIB64 + 1024, file_id=3)
    assert rows[["guest_off", "length", "host_off", "file_id", "kind"]].tolist() == [
        (512, KIB64 - 1024 - 512, KIB64 + 1536, 3, Kind.DATA),
        (KIB64 - 1024, 3 * KIB64, 0, 0, Kind.ZERO),
        (4 * KIB64 - 1024, KIB64, 5 * KIB64, 3, Kind.DATA),
        (5 * KIB64 - 1024, KIB64 + 1024, 0, 0, Kind.ZERO),
    ]
