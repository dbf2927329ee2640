"""The partition table of a disk, whatever it is, and what is wrong with it.

    read_table(device) ─► Table: kind, partitions, boot code, issues

A file system without a table can end in the same signature as an MBR; such a disk has kind NONE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from diskfmt.guest import gpt as _gpt
from diskfmt.guest import mbr as _mbr
from diskfmt.guest.base import Device, GuestError
from diskfmt.guest.bootsector import is_volume

SECTORS: Final = (512, 4096)


class TableKind(StrEnum):
    """What keeps the partitions. `HYBRID`: a GPT whose MBR describes partitions too."""

    NONE = "none"
    MBR = "mbr"
    GPT = "gpt"
    HYBRID = "hybrid"


class Problem(StrEnum):
    """What can be wrong with a table."""

    PRIMARY_BAD = "primary-bad"
    PRIMARY_MISSING = "primary-missing"
    BACKUP_BAD = "backup-bad"
    BACKUP_MISSING = "backup-missing"
    BACKUP_MISPLACED = "backup-misplaced"
    BACKUP_DIFFERS = "backup-differs"
    PROTECTIVE_MISSING = "protective-missing"
    STALE_GPT = "stale-gpt"
    CHAIN_BAD = "chain-bad"
    OVERLAP = "overlap"
    PAST_END = "past-end"
    BACKWARDS = "backwards"
    OUTSIDE_EXTENDED = "outside-extended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing that is wrong. `numbers` are those of the partitions that it is about."""

    problem: Problem
    message: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition, `start` and `size` in bytes.

    `number` is the one in the guest's device name. `type`: as sfdisk prints it, hexadecimal without zeroes in front, or
    a GUID in upper case. `partuuid`: as blkid prints it. `attributes`: those of a GPT entry. `extended`: it only holds
    others; `logical`: it is one of these.
    """

    number: int
    start: int
    size: int
    type: str
    name: str = ""
    attributes: int = 0
    active: bool = False
    partuuid: str = ""
    extended: bool = False
    logical: bool = False

    @property
    def end(self) -> int:
        """The byte behind its last."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The partition table of a disk.

    `id`: `0x5eed0001` or a GUID in upper case, as sfdisk prints it. `mbr` is the first sector as it is, whether or not
    it is a table; `gpt` likewise, also where it is a left-over. `boot` is what a BIOS would run.
    """

    kind: TableKind
    sector_size: int
    mbr: _mbr.Mbr
    boot: _mbr.Boot
    id: str = ""
    gpt: _gpt.Gpt | None = None
    partitions: tuple[Partition, ...] = ()
    issues: tuple[Issue, ...] = ()

    def has(self, problem: Problem) -> bool:
        """Whether there is such an issue."""
        return any(issue.problem is problem for issue in self.issues)


def read_table(device: Device) -> Table:
    """The table of a whole disk. Sectors of 512 and 4096 bytes are told apart by where the GPT is.

    Raises:
        GuestError: the first sector cannot be read.

    """
    first = device.read_at(0, _mbr.SIZE)
    mbr, boot = _mbr.parse(first), _mbr.boot_code(device, first)
    gpt = _find_gpt(device, _sizes(device))
    if gpt is not None and gpt.used is None and mbr.protective is None:
        gpt = None  # nothing of it is of use, and nothing says that there is one
    if _is_gpt(mbr, gpt):
        return _gpt_table(device, mbr, boot, gpt)
    stale = (Issue(problem=Problem.STALE_GPT, message="a GPT that the MBR does not announce"),) if gpt else ()
    if not mbr.plausible or not mbr.used or is_volume(first):
        return Table(kind=TableKind.NONE, sector_size=device.sector_size, mbr=mbr, boot=boot, gpt=gpt, issues=stale)
    return _mbr_table(device, mbr, boot, gpt, stale)


def _sizes(device: Device) -> tuple[int, ...]:
    return SECTORS if device.sector_size == SECTORS[0] else (device.sector_size,)


def _find_gpt(device: Device, sizes: tuple[int, ...]) -> _gpt.Gpt | None:
    """The GPT, with the sector size that gives it a usable header; a primary one before one that has only a backup."""
    found = [gpt for size in sizes if (gpt := _gpt.read(device, size)) is not None]
    best = [gpt for gpt in found if gpt.primary is not None and gpt.primary.readable]
    best += [gpt for gpt in found if gpt.used is not None]
    return next(iter((*best, *found)), None)


def _is_gpt(mbr: _mbr.Mbr, gpt: _gpt.Gpt | None) -> bool:
    """Whether the disk is meant to have a GPT.

    Where the MBR has ordinary entries only, a guest takes these. Where it has none, a good primary header still says
    what was meant; a backup alone is what stays behind when a disk gets a file system without a table.
    """
    if mbr.signed and mbr.protective is not None:
        return True
    if gpt is None or (mbr.plausible and mbr.used):
        return False
    return gpt.primary is not None and gpt.primary.readable


def _gpt_table(device: Device, mbr: _mbr.Mbr, boot: _mbr.Boot, gpt: _gpt.Gpt | None) -> Table:
    ordinary = [record for record in mbr.used if record.type != _mbr.PROTECTIVE] if mbr.plausible else []
    kind = TableKind.HYBRID if ordinary and mbr.protective is not None else TableKind.GPT
    if gpt is None:
        issue = Issue(problem=Problem.PRIMARY_MISSING, message="the MBR announces a GPT, and there is none")
        return Table(kind=kind, sector_size=device.sector_size, mbr=mbr, boot=boot, issues=(issue,))
    unit = gpt.sector_size
    header = gpt.used
    partitions = tuple(
        Partition(
            number=entry.number,
            start=entry.first * unit,
            size=max(0, entry.last - entry.first + 1) * unit,
            type=entry.type,
            name=entry.name,
            attributes=entry.attributes,
            active=bool(entry.attributes & 4),  # legacy BIOS bootable
            partuuid=entry.guid.lower(),
        )
        for entry in (header.entries if header is not None else ())
    )
    return Table(
        kind=kind,
        sector_size=unit,
        mbr=mbr,
        boot=boot,
        id=header.guid if header is not None else "",
        gpt=gpt,
        partitions=partitions,
        issues=(*_gpt_issues(mbr, gpt), *_layout_issues(device, partitions)),
    )


def _gpt_issues(mbr: _mbr.Mbr, gpt: _gpt.Gpt) -> Iterator[Issue]:
    if not mbr.signed or mbr.protective is None:
        yield Issue(problem=Problem.PROTECTIVE_MISSING, message="no protective MBR: guests do not look for the GPT")
    primary, backup = gpt.primary, gpt.backup
    if primary is None:
        yield Issue(problem=Problem.PRIMARY_MISSING, message="no GPT header in sector 1")
    elif not primary.valid:
        yield Issue(problem=Problem.PRIMARY_BAD, message=f"primary GPT header: {primary.problem}")
    if backup is None:
        yield Issue(problem=Problem.BACKUP_MISSING, message="no backup GPT header")
        return
    if not gpt.backup_at_end:
        message = f"the backup GPT header is in sector {backup.place}, not at the end of the disk"
        yield Issue(problem=Problem.BACKUP_MISPLACED, message=message)
    if not backup.valid:
        yield Issue(problem=Problem.BACKUP_BAD, message=f"backup GPT header: {backup.problem}")
    elif primary is not None and primary.readable and _content(primary) != _content(backup):
        yield Issue(problem=Problem.BACKUP_DIFFERS, message="the two GPT headers say different things")


def _content(header: _gpt.Header) -> tuple[object, ...]:
    return header.guid, header.first_usable, header.last_usable, header.entries_crc


def _mbr_table(
    device: Device, mbr: _mbr.Mbr, boot: _mbr.Boot, gpt: _gpt.Gpt | None, issues: tuple[Issue, ...]
) -> Table:
    unit = device.sector_size
    partitions = [_mbr_partition(mbr, record, record.slot, record.start, unit) for record in mbr.used]
    chain: list[Issue] = []
    extended = next((record for record in mbr.used if record.type in _mbr.EXTENDED), None)
    if extended is not None:
        try:
            for found in _mbr.logicals(device, extended, unit):
                partition = _mbr_partition(mbr, found.record, found.number, found.start, unit, logical=True)
                partitions.append(partition)
                if not extended.start <= found.start <= extended.start + extended.sectors - found.record.sectors:
                    message = f"partition {found.number} is not inside the extended one"
                    chain.append(Issue(problem=Problem.OUTSIDE_EXTENDED, message=message, numbers=(found.number,)))
        except GuestError as error:
            chain.append(Issue(problem=Problem.CHAIN_BAD, message=error.message))
    return Table(
        kind=TableKind.MBR,
        sector_size=unit,
        mbr=mbr,
        boot=boot,
        id=f"0x{mbr.disk_id:08x}",
        gpt=gpt,
        partitions=tuple(partitions),
        issues=(*issues, *chain, *_layout_issues(device, tuple(partitions))),
    )


def _mbr_partition(
    mbr: _mbr.Mbr, record: _mbr.Record, number: int, start: int, unit: int, *, logical: bool = False
) -> Partition:
    return Partition(
        number=number,
        start=start * unit,
        size=record.sectors * unit,
        type=f"{record.type:x}",
        active=record.flag == 0x80,
        partuuid=f"{mbr.disk_id:08x}-{number:02x}" if mbr.disk_id else "",
        extended=record.type in _mbr.EXTENDED and not logical,
        logical=logical,
    )


def _layout_issues(device: Device, partitions: tuple[Partition, ...]) -> Iterator[Issue]:
    pairs: set[tuple[int, int]] = set()
    # The extended partition holds the logical ones, so it is compared with the primary ones only.
    for group in ([p for p in partitions if not p.extended], [p for p in partitions if not p.logical]):
        pairs.update(_overlaps(group))
    for one, other in sorted(pairs):
        message = f"partitions {one} and {other} overlap"
        yield Issue(problem=Problem.OVERLAP, message=message, numbers=(one, other))
    for partition in partitions:
        number = partition.number
        if partition.size == 0:
            message = f"partition {number} ends before it starts"
            yield Issue(problem=Problem.BACKWARDS, message=message, numbers=(number,))
        if partition.end > device.size:
            message = f"partition {number} ends at {partition.end}, the disk at {device.size}"
            yield Issue(problem=Problem.PAST_END, message=message, numbers=(number,))


def _overlaps(group: list[Partition]) -> Iterator[tuple[int, int]]:
    """Pairs of numbers: each partition with the one before it that reaches furthest."""
    reach: Partition | None = None
    for partition in sorted((p for p in group if p.size), key=lambda p: (p.start, p.number)):
        if reach is not None and partition.start < reach.end:
            yield min(reach.number, partition.number), max(reach.number, partition.number)
        if reach is None or partition.end > reach.end:
            reach = partition
