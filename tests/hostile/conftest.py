"""A folder in memory: what is flushed there costs nothing, and these tests flush a thousand times."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm"
ROOM = 2 << 30


def _has_room() -> bool:
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= ROOM and os.access(MEMORY, os.W_OK)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, or an ordinary one where there is too little of it."""
    if not _has_room():
        yield tmp_path_factory.mktemp("memory")
        return
    folder = tempfile.mkdtemp(prefix="diskfmt-", dir=MEMORY)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def tmp_path(memory: Path) -> Iterator[Path]:
    """pytest's `tmp_path`, in memory."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)
