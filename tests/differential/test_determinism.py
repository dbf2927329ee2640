"""The same input and options give the same bytes, whatever the threads and the day (T13)."""

import os
from pathlib import Path

import pytest

import diskfmt
from differential.cases import SOURCES, TARGETS, Target
from differential.conftest import Shelf
from differential.disks import MIB, SECTOR, DiskSpec
from differential.verify import files_of, fingerprint

_DISKS = (
    DiskSpec(shape="sparse", size=33 * MIB),
    DiskSpec(shape="full", size=7 * MIB + SECTOR),
    DiskSpec(shape="alternating", size=9 * MIB + 3 * SECTOR),
)
_CHOSEN = [
    target
    for target in TARGETS
    if target.format != "qcow2"
    or target.name
    in ("qcow2-v3-64k-plain", "qcow2-v3-64k-zlib", "qcow2-v3-4k-zstd", "qcow2-v2-2M-zlib", "qcow2-v3-512-plain")
]


# Where nothing is compressed, one source is enough.
_THREADED = [
    pytest.param(target, name, id=f"{target.name}-{name}")
    for target in _CHOSEN
    for name in ("raw", "qcow2-zlib", "vmdk-stream")
    if target.codec or name == "qcow2-zlib"
]


@pytest.mark.parametrize(("target", "name"), _THREADED)
def test_threads_any_number_same_bytes(target: Target, name: str, shelf: Shelf, tmp_path: Path) -> None:
    source = next(source for source in SOURCES if source.name == name)
    out = str(tmp_path / f"out.{target.format}")
    disk = _DISKS[(TARGETS.index(target) + len(name)) % len(_DISKS)]
    image = shelf.image(disk, source)
    prints = []
    for threads in (1, 2, 5):
        diskfmt.convert(
            image.path,
            out,
            format=target.format,
            subformat=target.subformat,
            source_format=image.format,
            options=target.options,
            compress=target.compress,
            threads=threads,
            sync=False,
        )
        prints.append(fingerprint(out))
        for file in files_of(out):
            os.unlink(file)
    assert len(set(prints)) == 1, prints


@pytest.mark.parametrize("target", [pytest.param(target, id=target.name) for target in _CHOSEN])
def test_measure_says_size_of_output(target: Target, shelf: Shelf, tmp_path: Path) -> None:
    image = shelf.image(_DISKS[1], SOURCES[1])
    out = str(tmp_path / f"out.{target.format}")
    settings = {
        "format": target.format,
        "subformat": target.subformat,
        "options": target.options,
        "compress": target.compress,
        "source_format": image.format,
    }
    required = diskfmt.measure(image.path, **settings).required  # type: ignore[arg-type]
    result = diskfmt.convert(image.path, out, sync=False, **settings)  # type: ignore[arg-type]
    assert required == result.file_size
    assert result.file_size == os.path.getsize(files_of(out)[-1])
