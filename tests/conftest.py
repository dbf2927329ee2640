"""Fixtures for all tests."""

import os
import shutil

import hypothesis
import pytest
from images import IMAGES, Corpus

# A machine that is busy is no failure: no test asserts a time.
hypothesis.settings.register_profile("diskfmt", deadline=None)
hypothesis.settings.load_profile("diskfmt")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The image corpus of DISKFMT_IMAGES; skips where it is missing."""
    if not (IMAGES / "manifest.json").exists():
        pytest.skip(f"no image corpus in {IMAGES} (set DISKFMT_IMAGES)")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the run, shared by its workers
    unpacked = base / "corpus"
    unpacked.mkdir(exist_ok=True)
    return Corpus(IMAGES, unpacked)


@pytest.fixture(scope="session")
def qemu_img() -> str:
    """The qemu-img program; skips where it is missing."""
    return _program("qemu-img")


@pytest.fixture(scope="session")
def qemu_io() -> str:
    """The qemu-io program; skips where it is missing."""
    return _program("qemu-io")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
