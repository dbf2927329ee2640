"""What a walk over grain tables has to know of a sparse file, whichever of the three headers it has.

    directory (GD): one entry a table ─► grain table (GT): one entry a grain ─► grain

| | entry | table | names |
|---|---|---|---|
| hosted sparse (KDMV) | 4 bytes | 512 entries | sectors of the file |
| COWD | 4 bytes | 4,096 entries | sectors of the file |
| seSparse | 8 bytes | 4,096 entries | tables and grains by number, each kind in an area of its own |
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.units import SECTOR, align_up, ceil_div

SPARSE: Final = "SPARSE"
COWD: Final = "VMFSSPARSE"
SESPARSE: Final = "SESPARSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A range of the file, in bytes, that has one purpose: a kind of `Regions`."""

    kind: str
    start: int
    length: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers of one sparse file, in bytes unless they say otherwise.

    `kind`: the type of its extent line. `entries`: of a grain table. `entry_size` 8 is that of seSparse. `directory`,
    `copy`: where the directory and its redundant copy start, None without a copy. Tables lie in [`tables_start`,
    `tables_end`), grains in [`grains_start`, `grains_end`); in seSparse these are the areas that entries count in.
    `fixed`: what else has its place, header and descriptor first. `zeroed`: grain table entry 1 is a grain of zeroes.
    """

    kind: str
    size: int
    grain: int
    entries: int
    entry_size: int = 4
    directory: int
    copy: int | None = None
    tables_start: int
    tables_end: int
    grains_start: int
    grains_end: int
    fixed: tuple[Area, ...]
    zeroed: bool = False
    compressed: bool = False

    @property
    def wide(self) -> bool:
        """Whether entries are those of seSparse."""
        return self.entry_size == 8

    @property
    def coverage(self) -> int:
        """Guest bytes of one grain table."""
        return self.grain * self.entries

    @property
    def table_size(self) -> int:
        """Bytes of one grain table."""
        return self.entry_size * self.entries

    @property
    def directory_entries(self) -> int:
        """Entries of the directory that count."""
        return ceil_div(self.size, self.coverage)

    @property
    def directory_size(self) -> int:
        """Bytes of the directory."""
        return self.entry_size * self.directory_entries

    def areas(self) -> tuple[Area, ...]:
        """All that has its place beside tables and grains, whole sectors."""
        starts = [self.directory] if self.copy is None else [self.directory, self.copy]
        length = align_up(self.directory_size, SECTOR)
        return (*self.fixed, *(Area(kind="table", start=start, length=length) for start in starts))
