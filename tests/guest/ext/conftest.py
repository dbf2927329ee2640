from pathlib import Path

import pytest

from guest.ext.trees import make


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ext") / "tree")
