"""Fixtures for all tests."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = Path(os.environ.get("DISKFMT_IMAGES", PROJECT.parent / "shared" / "images"))


class Corpus:
    """Images made by real tools, with ground truth: a manifest, and files that are unpacked when they are asked for."""

    def __init__(self, root: Path, unpacked: Path) -> None:
        self.root = root
        self._unpacked = unpacked

    @cached_property
    def cases(self) -> Mapping[str, Mapping[str, Any]]:
        """The cases of the manifest by id."""
        manifest = json.loads((self.root / "manifest.json").read_text())
        return {case["id"]: case for case in manifest["cases"]}

    @cached_property
    def _unpacker(self) -> Any:
        sys.path.insert(0, str(self.root))
        try:
            from unpack import Corpus as Unpacker
        finally:
            sys.path.remove(str(self.root))
        return Unpacker([str(self.root)])

    def path(self, case_id: str) -> str:
        """The file to open of one case; those that belong to it lie beside it. Read only, it is shared."""
        done = self._unpacked / f"{case_id}.done"
        if not done.exists():
            with (self._unpacked / f"{case_id}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of the same run may want it too
                if not done.exists():
                    self._unpacker.path(case_id, str(self._unpacked))
                    done.touch()
        return str(self._unpacked / case_id / self.cases[case_id]["files"][0]["name"])


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


def corpus_ids(**wanted: str) -> list[str]:
    """Ids of the corpus cases whose manifest fields have these values, for parametrising; empty without a corpus."""
    try:
        cases = json.loads((IMAGES / "manifest.json").read_text())["cases"]
    except FileNotFoundError:
        return []
    return [case["id"] for case in cases if all(case.get(key) == value for key, value in wanted.items())]


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
    subprocess.run([path, "--version"], check=True, capture_output=True)
    return path
