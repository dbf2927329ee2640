"""Every source: images with all that a format can say, built by hand, mapped in normal form and read to the byte."""

import itertools
import random

import numpy as np
import pytest
from builders import qcow2, vhd, vmdk

import diskfmt
from conformance.kit import content, whole_map
from diskfmt import extents


def _qcow2(bits: int, version: int = 3, codec: str = "deflate", shuffle: int | None = None) -> tuple[str, bytes, bytes]:
    cluster = 1 << bits
    per_table = cluster // 8
    size = (2 * per_table + 5) * cluster + 512 if bits < 12 else 40 * cluster + 512
    guest = bytearray(size)
    clusters: dict[int, qcow2.Cluster] = {}
    kinds = ("data", codec, "zero", "data") if version == 3 else ("data", codec, "data")
    last = size // cluster
    for turn, number in enumerate((0, 1, 2, 3, 5, 9, 10, last - 1, last)):
        kind = kinds[turn % len(kinds)]
        data = content("full", cluster) if kind == "data" else content("patches", cluster)
        clusters[number] = (kind, b"" if kind == "zero" else data)
        if kind != "zero":
            guest[number * cluster : (number + 1) * cluster] = data[: max(0, size - number * cluster)]
    built = qcow2.image(clusters, size=size, bits=bits, version=version, shuffle=shuffle)
    return "qcow2", bytes(built.data), bytes(guest[:size])


def _vhd(block_size: int) -> tuple[str, bytes, bytes]:
    size = 5 * block_size + 1024
    sectors = block_size // 512
    guest = bytearray(size)
    blocks = {}
    rng = random.Random(block_size)
    for number in (3, 0, 5, 1):
        bits = {3: b"\xff" * (sectors // 8), 1: bytes(sectors // 8)}.get(number, rng.randbytes(max(1, sectors // 8)))
        data = content("full", block_size)
        blocks[number] = (bits, data)
        for sector in range(sectors):
            at = number * block_size + sector * 512
            if bits[sector // 8] >> (7 - sector % 8) & 1 and at < size:
                guest[at : at + 512] = data[sector * 512 : sector * 512 + 512]
    return "vhd", bytes(vhd.dynamic(size, blocks, block_size=block_size)), bytes(guest)


def _vmdk_sparse(grain: int) -> tuple[str, bytes, bytes]:
    capacity = grain * 515 + 3
    guest = bytearray(capacity * 512)
    grains = {}
    for number in (514, 0, 7, 8, 511, 512):
        data = content("full", min(grain, capacity - number * grain) * 512)
        grains[number] = data
        guest[number * grain * 512 : number * grain * 512 + len(data)] = data
    return "vmdk", vmdk.sparse(grains, capacity=capacity, grain=grain, zeroed=(9, 513)), bytes(guest)


def _vmdk_stream(grain: int, *, pad: bool) -> tuple[str, bytes, bytes]:
    capacity = grain * 515 + 3
    guest = bytearray(capacity * 512)
    grains = {}
    for number in (0, 7, 8, 511, 512, 514, 515):
        data = content("patches", min(grain, capacity - number * grain) * 512)
        grains[number] = data
        guest[number * grain * 512 : number * grain * 512 + len(data)] = data
    return "vmdk", vmdk.stream(grains, capacity=capacity, grain=grain, pad=pad), bytes(guest)


SOURCES = {
    "qcow2-512": lambda: _qcow2(9),
    "qcow2-1k-shuffled": lambda: _qcow2(10, shuffle=3),
    "qcow2-4k-zstd": lambda: _qcow2(12, codec="zstd"),
    "qcow2-v2-64k": lambda: _qcow2(16, version=2),
    "vhd-4k": lambda: _vhd(4096),
    "vhd-512k": lambda: _vhd(1 << 19),
    "vhd-fixed": lambda: ("vhd", bytes(vhd.fixed(content("patches", 1 << 20))), content("patches", 1 << 20)),
    "vmdk-4k": lambda: _vmdk_sparse(8),
    "vmdk-16k": lambda: _vmdk_sparse(32),
    "vmdk-stream": lambda: _vmdk_stream(16, pad=True),
    "vmdk-stream-short": lambda: _vmdk_stream(16, pad=False),
}


@pytest.mark.parametrize("name", SOURCES)
def test_built_image_is_mapped_and_read(tmp_path, name):
    form, image, guest = SOURCES[name]()
    path = tmp_path / f"d.{form}"
    path.write_bytes(image)
    rng = random.Random(name)
    with diskfmt.open_disk(path) as disk:
        assert disk.size == len(guest)
        rows = whole_map(disk)
        assert disk.read_at(0, disk.size) == guest
        edges = sorted({0, 1, 512, 4096, disk.size - 512, disk.size - 1, disk.size, len(guest) // 2})
        pairs = list(itertools.combinations(edges, 2))
        pairs += [tuple(sorted(rng.sample(range(disk.size + 1), 2))) for _ in range(40)]
        for start, stop in pairs:
            part = whole_map(disk, start, stop)
            assert np.array_equal(part, extents.merge(extents.clip(rows, start, stop))), (start, stop)
            assert disk.read_at(start, stop - start) == guest[start:stop], (start, stop)
    for target in ("raw", "qcow2", "vhd", "vmdk:streamOptimized"):
        diskfmt.convert(path, tmp_path / "out", format=target, force=True, sync=False, verify=True)
        with diskfmt.open_disk(tmp_path / "out", format=target.partition(":")[0]) as disk:
            assert disk.read_at(0, len(guest)) == guest, target
