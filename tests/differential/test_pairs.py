"""Every pair of formats with every option, read back by everybody who can (T12)."""

import os
from pathlib import Path

import pytest

import diskfmt
from differential.cases import Group, all_groups, quick_groups
from differential.conftest import Shelf
from differential.verify import complaints, files_of, fingerprint

_QUICK = quick_groups()


def _convert_all(group: Group, shelf: Shelf, folder: Path) -> list[str]:
    """Complaints about the outputs of one group, each naming its source. Equal outputs are looked at once."""
    raw = shelf.raw(group.disk)
    out = str(folder / f"out.{group.target.format}")
    seen: set[tuple[str, int]] = set()
    wrong = []
    for source in group.sources:
        image = shelf.image(group.disk, source)
        try:
            result = diskfmt.convert(
                image.path,
                out,
                format=group.target.format,
                subformat=group.target.subformat,
                source_format=image.format,
                options=group.target.options,
                compress=group.target.compress,
                sync=False,
                follow="pieces",
            )
        except diskfmt.DiskfmtError as error:
            wrong.append(f"{source.name}: {type(error).__name__}: {error}")
            continue
        if result.virtual_size != image.guest.size:
            wrong.append(f"{source.name}: {result.virtual_size} bytes, not {image.guest.size}")
        key = (fingerprint(out), image.guest.size)
        if key not in seen:
            seen.add(key)
            wrong += [f"{source.name}: {text}" for text in complaints(out, group.target, image.guest, raw)]
        for name in files_of(out):
            os.unlink(name)
    left = os.listdir(folder)
    return [*wrong, f"left behind: {left}"] if left else wrong


@pytest.mark.parametrize("group", [pytest.param(group, id=group.name) for group in _QUICK])
def test_pair_converted_reads_back_identical_everywhere(group: Group, shelf: Shelf, tmp_path: Path) -> None:
    assert _convert_all(group, shelf, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", [pytest.param(group, id=group.name) for group in all_groups()])
def test_full_product_converted_reads_back_identical_everywhere(group: Group, shelf: Shelf, tmp_path: Path) -> None:
    assert _convert_all(group, shelf, tmp_path) == []
