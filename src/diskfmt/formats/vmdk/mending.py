"""The redundant grain directory and tables, where the primary ones are lost.

Lost is what cannot be: a place behind the end of the file, or nothing where the copy has something. Where both copies
could be, the primary one counts and the check tells that they differ. Source: VMDK spec, "Grain Directory and Grain
Table", redundant copies.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import Finding, Reason, Severity
from diskfmt.extents import U64
from diskfmt.formats.vmdk import entries as read
from diskfmt.formats.vmdk.shape import Shape
from diskfmt.units import SECTOR, ceil_div

Values = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Mended:
    """How many tables and entries were taken from the copy, and where the first lost one is (bytes)."""

    tables: int = 0
    entries: int = 0
    first: int | None = None

    def note(self, place: int, *, tables: int = 0, entries: int = 0) -> None:
        """Count what was taken."""
        self.tables += tables
        self.entries += entries
        self.first = place if self.first is None else min(self.first, place)

    def findings(self) -> Iterator[Finding]:
        """What the check says of it."""
        if self.first is None:
            return
        yield Finding(
            reason=Reason.CORRUPT_DATA,
            severity=Severity.DAMAGE,
            offset=self.first,
            message=f"{self.tables} grain tables and {self.entries} entries are lost; their redundant copies are used",
            remedy="convert the disk: other readers may show zeroes there",
        )


def mend_directory(shape: Shape, places: U64, copies: U64, first: int, mended: Mended) -> U64:
    """Places of tables, those of the copy where the directory has none or one behind the end of the file."""
    lost = (places == 0) | _outside_tables(shape, places)
    usable = lost & (copies >= shape.tables_start) & ~_outside_tables(shape, copies)
    if not usable.any():
        return places
    index = int(np.argmax(usable))
    mended.note(shape.directory + shape.entry_size * (first + index), tables=int(np.count_nonzero(usable)))
    return np.where(usable, copies, places)


def mend_tables(
    shape: Shape, fd: int, values: Values, places: U64, copies: U64, *, mended: Mended
) -> tuple[Values, U64]:
    """Entries of tables, those of the copy where a table is empty or an entry names a place behind the end.

    Shapes: `values` (n, entries); `places`, `copies` (n,). Returns the entries and where their tables are.
    """
    outside = _outside_grains(shape, values)
    doubted: Mask = np.logical_or(~values.any(axis=1), outside.any(axis=1))
    doubted &= (copies != places) & (copies >= shape.tables_start) & ~_outside_tables(shape, copies)
    rows = np.flatnonzero(doubted)
    if not len(rows):
        return values, places
    twins = engine.gather(fd, copies.take(rows), shape.table_size).view(read.dtype(shape))
    if not twins.any():
        return values, places
    usable = (twins != 0) & ~_outside_grains(shape, twins)
    empty: Mask = np.logical_not(values.take(rows, axis=0).any(axis=1))
    whole = empty & usable.any(axis=1)
    values, places = values.copy(), places.copy()
    if whole.any():
        mended.note(int(places[rows[whole]].min()), tables=int(np.count_nonzero(whole)))
        values[rows[whole]] = twins[whole]
        places[rows[whole]] = copies[rows[whole]]
    single = ~empty[:, None] & usable & outside.take(rows, axis=0)
    if single.any():
        index, column = divmod(int(np.argmax(single)), shape.entries)
        mended.note(int(places[rows[index]]) + column * shape.entry_size, entries=int(np.count_nonzero(single)))
        values[rows] = np.where(single, twins, values.take(rows, axis=0))
    return values, places


def _outside_tables(shape: Shape, places: U64) -> Mask:
    return places + np.uint64(shape.table_size) > shape.tables_end


def _outside_grains(shape: Shape, values: Values) -> Mask:
    """Which entries name a place of which the first sector is not in the file; only hosted files have a copy."""
    sectors = ceil_div(shape.grains_end, SECTOR)
    return np.greater_equal(values, np.uint64(sectors))
