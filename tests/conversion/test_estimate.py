"""Estimates of compressed outputs against what a conversion writes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diskfmt
from diskfmt.conversion import estimate as module

MIB = 1 << 20


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk whose units compress very differently, some not at all, in runs of random length with gaps."""
    rng = np.random.Generator(np.random.PCG64(5))
    path = tmp_path_factory.mktemp("mixed") / "disk.raw"
    with path.open("wb") as file:
        file.truncate(700 * MIB)
        at = 0
        while at < 640 * MIB:
            length = int(rng.integers(1, 40)) * 16384
            kind = int(rng.integers(0, 12))
            file.seek(at)
            if kind == 0:
                file.write(rng.bytes(length))
            elif kind < 10:
                file.write(rng.integers(0, 4 ** (1 + kind % 2), length, dtype=np.uint8).tobytes())
            at += length
    return path


@pytest.mark.parametrize(("target", "compress"), [("qcow2", "zlib"), ("qcow2", "zstd"), ("vmdk:streamOptimized", None)])
def test_estimate_keeps_to_its_bound(mixed: Path, tmp_path: Path, target: str, compress: str | None) -> None:
    guess = diskfmt.measure(mixed, format=target, compress=compress, source_format="raw")
    result = diskfmt.convert(
        mixed, tmp_path / "out", format=target, compress=compress, source_format="raw", sync=False, threads=2
    )
    assert 0 < guess.error_bound <= module.BOUND * guess.required
    assert abs(guess.required - result.file_size) <= 1.5 * guess.error_bound  # 19 times of 20 without the factor
    exact = diskfmt.measure(mixed, format=target, compress=compress, source_format="raw", exact=True)
    assert (exact.required, exact.error_bound) == (result.file_size, 0)
    assert diskfmt.measure(mixed, format=target, compress=compress, source_format="raw") == guess


def test_small_disk_is_measured_exactly(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(np.random.Generator(np.random.PCG64(1)).integers(0, 9, 4 * MIB, dtype=np.uint8).tobytes())
    found = diskfmt.measure(disk, format="qcow2", compress="zstd", source_format="raw")
    result = diskfmt.convert(disk, tmp_path / "out", format="qcow2", compress="zstd", source_format="raw")
    assert (found.required, found.error_bound) == (result.file_size, 0)


def test_command_tells_the_bound(mixed: Path) -> None:
    words = [sys.executable, "-m", "diskfmt", "measure", "-f", "raw", "-O", "qcow2", "-c", "zstd", str(mixed)]
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "(within " in shown
    document = json.loads(subprocess.run([*words, "--output", "json"], check=True, capture_output=True).stdout)
    assert document["error-bound"] > 0
