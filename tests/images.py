"""The image corpus: what it has, and how tests get at it. `tests/conftest.py` makes the fixture of it."""

import fcntl
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = Path(os.environ.get("DISKFMT_IMAGES", PROJECT.parent / "shared" / "images"))


@contextmanager
def _careless() -> Iterator[None]:
    """The corpus' own program leaves files open; that is no failure of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


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
        with _careless():
            return Unpacker([str(self.root)])

    def path(self, case_id: str) -> str:
        """The file to open of one case; those that belong to it lie beside it. Read only, it is shared."""
        done = self._unpacked / f"{case_id}.done"
        if not done.exists():
            with (self._unpacked / f"{case_id}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of the same run may want it too
                if not done.exists():
                    with _careless():
                        self._unpacker.path(case_id, str(self._unpacked))
                    done.touch()
        return str(self._unpacked / case_id / self.cases[case_id]["files"][0]["name"])


def corpus_ids(**wanted: str) -> list[str]:
    """Ids of the corpus cases whose manifest fields have these values, for parametrising; empty without a corpus."""
    try:
        cases = json.loads((IMAGES / "manifest.json").read_text())["cases"]
    except FileNotFoundError:
        return []
    return [case["id"] for case in cases if all(case.get(key) == value for key, value in wanted.items())]
