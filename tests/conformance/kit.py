"""What the suite runs over: every target that FORMATS offers, and disks of awkward sizes and contents."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

import diskfmt
from diskfmt import UsageError, extents
from diskfmt.conversion.plan import make_plan
from diskfmt.conversion.target import COMPRESSORS, parse_target
from diskfmt.formats import FORMATS

SECTOR = 512
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to write a disk. `unit`: the guest bytes that are stored or left out together."""

    format: str
    subformat: str
    compress: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> int:
        return self.plan(MIB).new_output().parts[0].layout.placement.unit

    def plan(self, size: int):
        target = parse_target(self.format, subformat=self.subformat, options=dict(self.options), compress=self.compress)
        return make_plan(size, target, "disk")

    def convert(self, source: str | os.PathLike[str], target: str | os.PathLike[str], **more: object):
        return diskfmt.convert(
            source,
            target,
            format=self.format,
            subformat=self.subformat,
            compress=self.compress,
            options=dict(self.options),
            **{"sync": False, "threads": 2, "follow": "pieces"} | more,
        )

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.options.items()]
        return "-".join([self.format, self.subformat, *filter(None, [self.compress]), *options])


def _possible(variant: Variant) -> bool:
    try:
        variant.plan(MIB)
    except UsageError:
        return False
    return True


def variants() -> list[Variant]:
    """Every subformat of every format, with every compressor that it has."""
    every = (
        Variant(format=entry.name, subformat=subformat, compress=compress)
        for entry in FORMATS
        for subformat in entry.subformats
        for compress in (None, *COMPRESSORS)
    )
    return [variant for variant in every if _possible(variant)]


VARIANTS = variants()
PLAIN = [variant for variant in VARIANTS if variant.compress is None]


def sizes(variant: Variant) -> dict[str, int]:
    """Awkward sizes of a disk, by name."""
    unit = variant.unit
    found = {
        "sector": SECTOR,
        "two-sectors": 2 * SECTOR,
        "unit-less": unit - SECTOR,
        "unit": unit,
        "unit-more": unit + SECTOR,
        "two-units": 2 * unit,
    }
    if variant.format == "raw":
        found |= {"odd": unit + 77, "byte-more": 2 * unit + 1, "byte-less": 2 * unit - 1}
    return {name: size for name, size in found.items() if size >= SECTOR}


@cache
def content(shape: str, size: int) -> bytes:
    """The bytes of a disk."""
    rng = random.Random(f"{shape} {size}")
    if shape == "zero":
        return bytes(size)
    if shape == "full":
        return rng.randbytes(size)
    if shape == "last":
        last = min(size, SECTOR)
        return bytes(size - last) + rng.randbytes(last)
    disk = bytearray(size)  # patches: text and noise of odd lengths at odd places
    for turn in range(24):
        length = min(size, rng.choice((1, 100, 511, 512, 4096, 65536, 70000)))
        at = rng.randrange(size - length + 1)
        disk[at : at + length] = rng.randbytes(length) if turn % 2 else (b"text %d " % turn * length)[:length]
    return bytes(disk)


def write_sparse(path: str | os.PathLike[str], disk: bytes) -> None:
    """A raw file with holes where the disk has 64 KiB of zeroes."""
    with open(path, "wb") as file:
        for at in range(0, len(disk), 1 << 16):
            part = disk[at : at + (1 << 16)]
            if part.strip(b"\0"):
                file.seek(at)
                file.write(part)
        file.truncate(len(disk))


def whole_map(disk: diskfmt.Disk, start: int = 0, stop: int | None = None) -> np.ndarray:
    """All windows of a map as one table in normal form, each window proven to be in it."""
    end = disk.size if stop is None else stop
    sizes = [file.size for file in disk.files]
    windows = list(_proven(disk.extents(start, stop), start, end, sizes))
    rows = extents.merge(np.concatenate(windows)) if windows else np.zeros(0, extents.ROW)
    extents.require_normal(rows, start, end, sizes)
    return rows


def _proven(windows, start: int, end: int, sizes: list[int]) -> Iterator[np.ndarray]:
    at = start
    for rows in windows:
        assert 0 < len(rows) <= extents.WINDOW_ROWS + 1
        stop = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
        extents.require_normal(rows, at, stop, sizes)
        at = stop
        yield rows
    assert at == end
