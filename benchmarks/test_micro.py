"""The small parts on their own, in one process: `python -m pytest benchmarks/test_micro.py`.

Each asserts what it measures. Figures are for comparison before and after a change, on a quiet machine.
"""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diskfmt import engine, open_disk
from diskfmt.formats import by_name
from diskfmt.formats.base import Request
from diskfmt.kinds import Codec

_UNIT = 64 << 10
_UNITS = 1 << 16


def _text(length: int) -> bytes:
    rng = random.Random(7)
    words = [rng.randbytes(6).hex().encode() for _ in range(200)]
    return b" ".join(rng.choices(words, k=length // 12))[:length].ljust(length, b".")


_FRAMES = [
    pytest.param(Codec.DEFLATE, 1, 12, id="deflate-12-bit"),
    pytest.param(Codec.ZLIB, 1, 15, id="zlib"),
    pytest.param(Codec.ZSTD, 3, 15, id="zstd-3"),
]


@pytest.mark.parametrize(("codec", "level", "window"), _FRAMES)
def test_encode_one_cluster(benchmark: Any, codec: Codec, level: int, window: int) -> None:
    data = _text(_UNIT)
    frame = benchmark(engine.encode, codec, data, level=level, window_bits=window)
    assert engine.decode(codec, frame, _UNIT) == data


@pytest.mark.parametrize(("codec", "level", "window"), _FRAMES)
def test_decode_one_cluster(benchmark: Any, codec: Codec, level: int, window: int) -> None:
    data = _text(_UNIT)
    frame = engine.encode(codec, data, level=level, window_bits=window)
    assert benchmark(engine.decode, codec, frame, _UNIT) == data


@pytest.mark.parametrize("size", [_UNIT, 16 << 20], ids=["in-cache", "from-memory"])
def test_zero_scan(benchmark: Any, size: int) -> None:
    assert benchmark(engine.is_zero, bytes(size))


def _alternating(name: str, subformat: str, folder: Path) -> str:
    """An image of 4 GiB in which every other unit is stored: the longest map for its size. Its data is a hole."""
    layout = by_name(name).layout(
        Request(subformat=subformat, virtual_size=_UNIT * _UNITS, name=f"disk.{name}", options={})
    )
    count = layout.placement.guest_size // layout.placement.unit
    places, stored, end = _places(layout.placement, count)
    path = str(folder / f"disk.{name}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        pieces, end = layout.add(0, places, stored, end)
        finale = layout.finish(end, bytes(32))
        for piece in (*pieces, *finale.pieces):
            os.pwrite(fd, piece.data, piece.offset)
        os.ftruncate(fd, finale.size)
    finally:
        os.close(fd)
    return path


def _places(placement: engine.Placement, count: int) -> tuple[Any, Any, int]:
    """Places for every other unit, as the engine would give them out."""
    step = -(-(placement.prefix_len + placement.unit) // placement.align) * placement.align
    index = np.arange(count, dtype=np.uint64)
    used = index % np.uint64(2) == 0
    first = -(-(placement.first + placement.prefix_len) // placement.align) * placement.align
    places = np.where(used, np.uint64(first) + index // np.uint64(2) * np.uint64(step), np.uint64(0))
    stored = np.where(used, np.uint64(placement.unit), np.uint64(0))
    return places, stored, first + step * -(-count // 2)


_LAID_OUT = [pytest.param("qcow2", "v3", id="qcow2"), pytest.param("vmdk", "monolithicSparse", id="vmdk")]


@pytest.mark.parametrize(("name", "subformat"), _LAID_OUT)
def test_map_walk_65536_units(benchmark: Any, name: str, subformat: str, tmp_path: Path) -> None:
    path = _alternating(name, subformat, tmp_path)

    def walk() -> int:
        with open_disk(path) as disk:
            return sum(len(rows) for rows in disk.extents())

    assert benchmark(walk) == _UNITS


@pytest.mark.parametrize(("name", "subformat"), _LAID_OUT)
def test_layout_65536_units(benchmark: Any, name: str, subformat: str) -> None:
    request = Request(subformat=subformat, virtual_size=_UNIT * _UNITS, name=f"disk.{name}", options={})

    def lay_out() -> int:
        layout = by_name(name).layout(request)
        places, stored, end = _places(layout.placement, _UNITS)
        pieces, end = layout.add(0, places, stored, end)
        finale = layout.finish(end, bytes(32))
        return sum(len(piece.data) for piece in (*pieces, *finale.pieces))

    assert benchmark(lay_out) > _UNITS * 4


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk"])
def test_open_an_image(benchmark: Any, name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.raw") if name == "raw" else _alternating(name, by_name(name).subformats[0], tmp_path)
    if name == "raw":
        Path(path).write_bytes(_text(1 << 20))

    def opened() -> int:
        with open_disk(path, format=name) as disk:
            return disk.size

    assert benchmark(opened) == (1 << 20 if name == "raw" else _UNIT * _UNITS)
