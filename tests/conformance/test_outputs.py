"""Every output, whatever its size and content: a map in normal form, the right bytes, no fault to find."""

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest

import diskfmt
from conformance.kit import MIB, PLAIN, VARIANTS, Variant, content, sizes, whole_map, write_sparse
from diskfmt import Severity, extents
from diskfmt.kinds import Kind
from diskfmt.units import align_up

SHAPES = ("zero", "full", "last")


def padded(disk: bytes, size: int) -> bytes:
    return disk + bytes(size - len(disk))


def require_same(path: Path, disk: bytes) -> None:
    """The image holds this disk: by map, by random access, by digest and by conversion to raw."""
    with diskfmt.open_disk(path, format=path.suffix[1:], follow="pieces") as image:
        assert image.size == (len(disk) if path.suffix == ".raw" else align_up(len(disk), 512))
        want = padded(disk, image.size)
        rows = whole_map(image)
        assert image.read_at(0, image.size) == want
        assert image.read_at(image.size - 1, 10) == want[-1:]
        assert image.read_at(image.size, 10) == b""
        for row in rows[rows["kind"] >= Kind.ZERO]:
            start, stop = int(row["guest_off"]), int(row["guest_off"] + row["length"])
            assert not want[start:stop].strip(b"\0")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_awkward_sizes_and_contents_are_kept(tmp_path, variant: Variant):
    for (name, size), shape in itertools.product(sizes(variant).items(), SHAPES):
        if variant.compress and shape == "full" and name != "unit-more":
            continue  # noise is noise: once is enough
        disk = content(shape, size)
        folder = tmp_path / f"{name}-{shape}"
        folder.mkdir()
        write_sparse(folder / "in", disk)
        path = folder / f"disk.{variant.format}"
        result = variant.convert(folder / "in", path, source_format="raw")
        require_same(path, disk)
        with diskfmt.open_disk(path, format=variant.format, follow="pieces") as image:
            assert result.virtual_size == image.size
        report = diskfmt.check(path, format=variant.format, deep=True, follow="pieces")
        assert [one for one in report.findings if one.severity > Severity.NOTE and size % 512 == 0] == [], (name, shape)
        diskfmt.convert(path, folder / "back", format="raw", source_format=variant.format, follow="pieces", sync=False)
        assert (folder / "back").read_bytes() == padded(disk, result.virtual_size), (name, shape)
        assert not [left for left in os.listdir(folder) if left.endswith(".part")]


@pytest.fixture(scope="module")
def patchy(tmp_path_factory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("patchy")
    disk = content("patches", 5 * MIB + 3 * 512)
    write_sparse(folder / "in", disk)
    return folder, disk


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_part_of_the_map_is_the_map_cut(patchy, variant: Variant):
    folder, disk = patchy
    path = folder / f"{variant}.{variant.format}"
    variant.convert(folder / "in", path, source_format="raw")
    rng = random.Random(str(variant))
    with diskfmt.open_disk(path, format=variant.format, follow="pieces") as image:
        rows = whole_map(image)
        unit = variant.unit
        edges = [0, 1, 511, 512, unit - 1, unit, unit + 1, image.size - 1, image.size]
        pairs = [(a, b) for a, b in itertools.combinations(sorted({e for e in edges if 0 <= e <= image.size}), 2)]
        pairs += [tuple(sorted(rng.sample(range(image.size + 1), 2))) for _ in range(30)]
        for start, stop in pairs:
            part = whole_map(image, start, stop)
            assert np.array_equal(part, extents.merge(extents.clip(rows, start, stop))), (start, stop)
            assert image.read_at(start, stop - start) == disk[start:stop]
        assert list(image.extents(7, 7)) == []
        with image.open() as stream:
            stream.seek(-1000, os.SEEK_END)
            assert stream.read(2000) == disk[-1000:]


@pytest.mark.parametrize("variant", PLAIN, ids=str)
@pytest.mark.parametrize("other", PLAIN, ids=str)
def test_every_pair_keeps_the_digest(patchy, tmp_path, variant: Variant, other: Variant):
    folder, disk = patchy
    first = folder / f"pair-{variant}.{variant.format}"
    if not first.exists():
        variant.convert(folder / "in", first, source_format="raw")
    result = other.convert(first, tmp_path / f"b.{other.format}", source_format=variant.format, verify=True)
    assert result.digest == diskfmt.digest(folder / "in", format="raw")
    assert result.virtual_size == len(disk)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_measure_tells_the_size_of_awkward_disks(tmp_path, variant: Variant):
    for name, size in sizes(variant).items():
        write_sparse(tmp_path / name, content("last", size))
        measured = diskfmt.measure(
            tmp_path / name, format=variant.format, subformat=variant.subformat, source_format="raw",
            compress=variant.compress,
        )  # fmt: skip
        result = variant.convert(tmp_path / name, tmp_path / f"{name}.out", source_format="raw")
        assert measured.required == result.file_size, name
