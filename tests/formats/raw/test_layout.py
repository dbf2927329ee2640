"""The layout of a raw disk, and its check."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import raw as build

from diskfmt.errors import Finding, UsageError
from diskfmt.formats.base import Finale, Request, Statistics
from diskfmt.formats.raw import FORMAT
from diskfmt.stores.source import SourceFile


def request(**changed: Any) -> Request:
    return Request(**{"subformat": "raw", "virtual_size": 1000, "name": "d.raw", **changed})


@pytest.mark.parametrize("size", [1, 511, 512, 65536, 65537, (1 << 63) - 512])
def test_every_byte_has_its_own_place(size: int) -> None:
    (part,) = FORMAT.layout(request(virtual_size=size)).parts
    layout = part.layout
    numbers = layout.placement
    assert (numbers.fixed, numbers.base, numbers.guest_size, part.name) == (True, 0, size, None)
    assert numbers.unit & (numbers.unit - 1) == 0
    assert layout.full_size == size
    none = np.zeros(0, np.uint64)
    assert layout.add(0, none, none, 0) == ((), 0)
    assert layout.finish(0, bytes(32)) == Finale(pieces=(), size=size)


@pytest.mark.parametrize(
    "changed",
    [
        {"subformat": "fixed"},
        {"options": {"cluster_size": "64k"}},
        {"compress": "zlib"},
        {"virtual_size": 0},
        {"virtual_size": 1 << 63},
    ],
)
def test_what_raw_cannot_have_is_a_usage_error(changed: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        FORMAT.layout(request(**changed))
    assert error.value.remedy


@pytest.mark.parametrize("deep", [False, True])
def test_check_reads_only_when_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: bool) -> None:
    size = (9 << 20) + 3
    findings: list[Finding] = []
    with SourceFile(build.sparse(tmp_path / "d", size, {})) as source:
        image = FORMAT.open(source)
        read: list[int] = []
        read_at = SourceFile.read_at
        monkeypatch.setattr(
            SourceFile, "read_at", lambda self, offset, length: read.append(length) or read_at(self, offset, length)
        )
        steps = FORMAT.check(image, [source], deep)
        while True:
            try:
                findings.append(next(steps))
            except StopIteration as end:
                statistics = end.value
                break
    assert findings == []
    assert statistics == Statistics(total_units=1, stored_units=1, encoded_units=0, end=size)
    assert sum(read) == (size if deep else 0)
