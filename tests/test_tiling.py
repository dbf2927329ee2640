"""What the bytes of files are for: no byte is left out or told twice."""

import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskfmt
from diskfmt.tiling import PRIORITY, _merged, _paint

MIB = 1 << 20


def check_tiles(path: Path, **how: str) -> dict[str, int]:
    """Bytes by kind, once the tiles are proven to cover each file from first to last byte."""
    ends: dict[str, int] = {}
    kinds: dict[str, int] = {}
    before = None
    for region in diskfmt.regions(path, **how):
        assert region.start == ends.get(region.filename, 0)
        assert region.length > 0
        assert (region.filename, region.kind) != before
        before = region.filename, region.kind
        ends[region.filename] = region.start + region.length
        kinds[region.kind] = kinds.get(region.kind, 0) + region.length
    assert ends == {name: Path(name).stat().st_size for name in ends}
    assert str(path) in ends
    return kinds


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiles") / "disk.raw"
    rng = random.Random(4)
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        for place in sorted(rng.sample(range(1024), 90)):
            file.seek(place * 65536)
            file.write(rng.randbytes(rng.choice((512, 4096, 65536))))
    return path


TARGETS = [
    ("raw", None),
    ("qcow2", None),
    ("qcow2:v2", "zlib"),
    ("qcow2", "zstd"),
    ("vhd:dynamic", None),
    ("vhd:fixed", None),
    ("vmdk:monolithicSparse", None),
    ("vmdk:streamOptimized", None),
    ("vmdk:monolithicFlat", None),
]


@pytest.mark.parametrize(("target", "compress"), TARGETS)
def test_own_outputs_are_tiled_without_a_leak(disk: Path, tmp_path: Path, target: str, compress: str | None) -> None:
    out = tmp_path / "out"
    diskfmt.convert(disk, out, format=target, compress=compress, source_format="raw", sync=False)
    name, _, subformat = target.partition(":")
    kinds = check_tiles(out, format=name, follow="pieces")
    assert kinds["data"] > 0
    assert "leaked" not in kinds
    if subformat != "monolithicFlat" and name != "raw":
        assert kinds["header"] > 0
    if name == "qcow2" or subformat in ("dynamic", "monolithicSparse", "streamOptimized"):
        assert kinds["table"] > 0


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("qcow2", "extended_l2=on"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "lazy_refcounts=on"),
        ("vpc", "subformat=dynamic"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ],
)
def test_outputs_of_qemu_are_tiled(disk: Path, tmp_path: Path, qemu_img: str, format: str, options: str) -> None:
    out = tmp_path / "out.img"
    words = [qemu_img, "convert", "-f", "raw", "-O", format, "-o", options, disk, out]
    subprocess.run(words, check=True, capture_output=True)
    kinds = check_tiles(out, follow="pieces")
    assert kinds["data"] > 0


def test_leaked_clusters_and_snapshots_are_seen(tmp_path: Path, qemu_img: str, qemu_io: str) -> None:
    image = tmp_path / "a.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    subprocess.run([qemu_io, "-c", "write -P 1 0 1M", image], check=True, capture_output=True)
    subprocess.run([qemu_img, "snapshot", "-c", "one", image], check=True)
    subprocess.run([qemu_io, "-c", "write -P 2 0 512k", image], check=True, capture_output=True)
    kinds = check_tiles(image)
    assert kinds["snapshot"] == 512 * 1024
    with image.open("ab") as file:
        file.write(b"x" * 200_000)
    assert check_tiles(image)["leaked"] >= 3 * 65536


@given(
    st.lists(st.tuples(st.sampled_from(PRIORITY), st.integers(0, 60), st.integers(1, 30)), max_size=12),
    st.integers(1, 70),
    st.integers(0, 8),
)
def test_each_byte_has_the_first_kind_that_claims_it(claims: list[tuple[str, int, int]], size: int, unit: int) -> None:
    kinds = {}
    for kind in PRIORITY:
        found = [(start, start + length) for name, start, length in claims if name == kind]
        if found:
            kinds[kind] = _merged(np.array(found, np.uint64))
    told = [kind for start, end, kind in _paint(kinds, size, unit) for _ in range(end - start)]
    model = []
    for at in range(size):
        named = {name for name, start, length in claims if start <= at < start + length}
        model.append(next((kind for kind in PRIORITY if kind in named), None))
    assert len(told) == size
    assert [kind if kind in PRIORITY and want else None for kind, want in zip(told, model, strict=True)] == model
