"""FAT12, FAT16 and FAT32, read-only: boot sector, table, directories with long names, files.

Source: Microsoft, "FAT: General Overview of On-Disk Format", 1.03; which kind it is, as Linux decides it. Names match
without regard to case, as the systems that use them do. Times are those of the machine that wrote them; no zone is
stored, so they are taken as UTC. Short names are taken as code page 437, which is not stored either.
"""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from diskfmt.guest.base import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_FILE,
    MAX_READ,
    BudgetError,
    DamagedError,
    Device,
    Entry,
    FileKind,
    FsInfo,
    GuestError,
    UnsupportedError,
)
from diskfmt.guest.fatnames import LongName, decoded, seconds, short_name

_VOLUME: Final = 0x08
_DIRECTORY: Final = 0x10
_LONG_NAME: Final = 0x0F
_MAX_DIRECTORY: Final = 65536 * 32
_MAX_CHAIN: Final = 1 << 21
_PAGE: Final = 64 << 10

_BOOT: Final = struct.Struct("<HBHBHHBHHHIIIHHIHH")
_ENTRY: Final = struct.Struct("<11sBBBHHHHHHHI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the boot sector says. Places are bytes; `bits`: 12, 16 or 32; `root`: a cluster, 0 where it has a place."""

    bits: int
    sector: int
    cluster: int
    clusters: int
    table: int
    table_size: int
    root_place: int
    root_size: int
    root: int
    data: int
    size: int
    fsinfo: int
    serial: str
    state: int


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    short: str
    attributes: int
    first: int
    size: int
    mtime: int


def read_layout(device: Device) -> Layout:
    """The layout that the boot sector describes.

    Raises:
        UnsupportedError: exFAT, a version of FAT32 that does not exist.
        DamagedError: not FAT, or sizes that make no sense.

    """
    raw = device.read_at(0, 512)
    if raw[3:11] == b"EXFAT   ":
        raise UnsupportedError("exFAT")
    boot = _BOOT.unpack_from(raw, 11)
    sector, per, reserved, tables, root_entries, total_16, media, size_16 = boot[:8]
    total_32, size_32, flags, version, root, fsinfo = boot[11], boot[12], boot[13], boot[14], boot[15], boot[16]
    total, table_sectors = total_16 or total_32, size_16 or size_32
    good = sector in (512, 1024, 2048, 4096) and per and not per & (per - 1) and reserved and 1 <= tables <= 8
    good = good and total and table_sectors and (media >= 0xF8 or media == 0xF0) and raw[3:7] != b"NTFS"
    if not good:
        raise DamagedError("no FAT boot sector", offset=0)
    root_sectors = -(-root_entries * 32 // sector)
    data = reserved + tables * table_sectors + root_sectors
    clusters = (total - data) // per
    wide = not size_16
    bits = 32 if wide else 16 if clusters > 4084 else 12
    if clusters < 1 or (clusters + 2) * bits > table_sectors * sector * 8 or wide == bool(root_entries):
        raise DamagedError("a FAT boot sector that makes no sense", offset=0)
    if wide and version:
        raise UnsupportedError(f"FAT32 of version {version:#x}")
    active = flags & 0xF if wide and flags & 0x80 else 0
    if active >= tables:
        raise DamagedError("a FAT boot sector that makes no sense", offset=0)
    at = 64 if wide else 36
    serial = int.from_bytes(raw[at + 3 : at + 7], "little") if raw[at + 2] in (0x28, 0x29) else None
    return Layout(
        bits=bits,
        sector=sector,
        cluster=per * sector,
        clusters=clusters,
        table=(reserved + active * table_sectors) * sector,
        table_size=table_sectors * sector,
        root_place=(reserved + tables * table_sectors) * sector,
        root_size=root_entries * 32,
        root=root if wide else 0,
        data=data * sector,
        size=total * sector,
        fsinfo=fsinfo * sector if wide and fsinfo not in (0, 0xFFFF) else 0,
        serial="" if serial is None else f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
        state=raw[at + 1],
    )


class _Table:
    """The file allocation table."""

    def __init__(self, device: Device, layout: Layout) -> None:
        self._device = device
        self._layout = layout
        self._pages: dict[int, bytes] = {}

    def entry(self, cluster: int) -> int:
        """What the table says of a cluster, without the four upper bits of FAT32."""
        bits = self._layout.bits
        if bits == 12:
            word = int.from_bytes(self._bytes(cluster * 3 // 2, 2), "little")
            return word >> 4 if cluster & 1 else word & 0xFFF
        size = bits // 8
        return int.from_bytes(self._bytes(cluster * size, size), "little") & 0x0FFFFFFF

    def _bytes(self, at: int, size: int) -> bytes:
        page, within = divmod(at, _PAGE)
        if within + size > _PAGE:
            return self._bytes(at, 1) + self._bytes(at + 1, size - 1)
        raw = self._pages.get(page)
        if raw is None:
            length = min(_PAGE, self._layout.table_size - page * _PAGE)
            raw = self._device.read_at(self._layout.table + page * _PAGE, length)
            if len(self._pages) >= 64:
                self._pages.clear()
            self._pages[page] = raw
        return raw[within : within + size]

    def chain(self, first: int) -> Iterator[int]:
        """The clusters of a file, from the first on."""
        end = (1 << min(self._layout.bits, 28)) - 8
        seen: set[int] = set()
        cluster = first
        while cluster < end:
            if not 2 <= cluster < self._layout.clusters + 2 or cluster in seen:
                raise DamagedError(f"a chain of clusters leads to {cluster}, where it may not")
            if len(seen) >= _MAX_CHAIN:
                raise BudgetError("a file of too many clusters")
            seen.add(cluster)
            yield cluster
            cluster = self.entry(cluster)

    def free(self) -> int:
        """The clusters that are free; FAT12 and FAT16 only, whose tables are small."""
        if self._layout.bits == 16:
            # A free entry is zero in any order of bytes.
            return array("H", self._device.read_at(self._layout.table + 4, self._layout.clusters * 2)).count(0)
        return sum(not self.entry(cluster) for cluster in range(2, self._layout.clusters + 2))


class Fat:
    """A FAT file system as `base.FileSystem`. `Entry.flags` are the DOS attributes."""

    def __init__(self, device: Device, layout: Layout) -> None:
        self._device = device
        self._layout = layout
        self._table = _Table(device, layout)

    @cached_property
    def info(self) -> FsInfo:
        """What the boot sector, the first entries of the table and the root directory say."""
        layout = self._layout
        marks = self._table.entry(1)
        clean, sound = {12: (True, True), 16: (marks & 0x8000, marks & 0x4000)}.get(
            layout.bits, (marks & 0x08000000, marks & 0x04000000)
        )
        return FsInfo(
            kind="vfat",
            uuid=layout.serial,
            label=self._label(),
            size=layout.size,
            block_size=layout.cluster,
            clean=bool(clean) and not layout.state & 1,
            errors=not sound or bool(layout.state & 2),
            free_bytes=self._free(),
            features=(f"FAT{layout.bits}",),
        )

    def _label(self) -> str:
        for raw in self._records(None):
            name, attributes = raw[:11], raw[11]
            if attributes & _VOLUME and attributes != _LONG_NAME:
                return decoded(name)
        return ""

    def _free(self) -> int | None:
        layout = self._layout
        if layout.bits != 32:
            return self._table.free() * layout.cluster
        if not layout.fsinfo:
            return None
        raw = self._device.read_at(layout.fsinfo, 512)
        count = int.from_bytes(raw[488:492], "little")
        if raw[:4] != b"RRaA" or raw[484:488] != b"rrAa" or count > layout.clusters:
            return None
        return count * layout.cluster

    def stat(self, path: str) -> Entry | None:
        """See `base.FileSystem`."""
        parts = _parts(path)
        if not parts:
            return Entry(kind=FileKind.DIRECTORY, size=0)
        file = self._find(parts)
        if file is None:
            return None
        kind = FileKind.DIRECTORY if file.attributes & _DIRECTORY else FileKind.FILE
        return Entry(kind=kind, size=file.size, mtime=file.mtime, flags=file.attributes)

    def names(self, path: str) -> Iterator[str]:
        """See `base.FileSystem`. Long names where there are some."""
        parts = _parts(path)
        directory = self._find(parts) if parts else None
        if parts and directory is None:
            raise GuestError(f"no such directory: {path}")
        for count, file in enumerate(self._files(directory)):
            if count >= MAX_ENTRIES:
                raise BudgetError(f"more than {MAX_ENTRIES} entries: {path}")
            yield file.name

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """See `base.FileSystem`."""
        file = self._find(_parts(path))
        if file is None or file.attributes & _DIRECTORY:
            raise GuestError(f"no such file: {path}")
        if length > MAX_READ:
            raise BudgetError(f"{length} bytes are more than a check may read at once")
        length = max(0, min(length, file.size - offset))
        return self._read(file.first, offset, length) if length else b""

    def link(self, path: str) -> str:
        """FAT has no links: always GuestError."""
        raise GuestError(f"not a link: {path}")

    def _read(self, first: int, offset: int, length: int) -> bytes:
        size = self._layout.cluster
        out = bytearray()
        skip = offset // size
        run: tuple[int, int] | None = None  # neighbours are read at once
        for index, cluster in enumerate(self._table.chain(first)):
            if index < skip:
                continue
            if run is not None and run[0] + run[1] == cluster:
                run = run[0], run[1] + 1
            else:
                out += self._run(run)
                run = cluster, 1
            if (index + 1) * size >= offset + length:
                break
        out += self._run(run)
        cut = offset - skip * size
        if len(out) < cut + length:
            raise DamagedError("a chain of clusters ends before its file does")
        return bytes(out[cut : cut + length])

    def _run(self, run: tuple[int, int] | None) -> bytes:
        if run is None:
            return b""
        size = self._layout.cluster
        return self._device.read_at(self._layout.data + (run[0] - 2) * size, run[1] * size)

    def _find(self, parts: list[str]) -> _File | None:
        file: _File | None = None
        for part in parts:
            if file is not None and not file.attributes & _DIRECTORY:
                return None
            wanted = part.casefold()
            files = self._files(file)
            file = next((each for each in files if wanted in (each.name.casefold(), each.short.casefold())), None)
            if file is None:
                return None
        return file

    def _records(self, directory: _File | None) -> Iterator[bytes]:
        """The 32-byte entries of a directory, None the root, up to the one that says that no more follow."""
        layout = self._layout
        if directory is not None and not directory.attributes & _DIRECTORY:
            raise GuestError(f"not a directory: {directory.name}")
        first = layout.root if directory is None else directory.first
        if directory is None and not layout.root:
            parts: Iterator[bytes] = iter([self._device.read_at(layout.root_place, layout.root_size)])
        else:
            clusters = self._table.chain(first)
            parts = (
                self._device.read_at(layout.data + (number - 2) * layout.cluster, layout.cluster) for number in clusters
            )
        seen = 0
        for raw in parts:
            seen += len(raw)
            if seen > _MAX_DIRECTORY + layout.cluster:
                raise DamagedError("a directory that is longer than one may be")
            for at in range(0, len(raw), 32):
                if not raw[at]:
                    return
                if raw[at] != 0xE5:
                    yield raw[at : at + 32]

    def _files(self, directory: _File | None) -> Iterator[_File]:
        long = LongName()
        for raw in self._records(directory):
            name, attributes, case, *_, high, time, date, low, size = _ENTRY.unpack(raw)
            if attributes & 0x3F == _LONG_NAME:
                long.add(raw)
                continue
            text = long.take(name)
            if attributes & _VOLUME or name[:1] == b".":
                continue
            short = short_name(name, case)
            first = low | high << 16 if self._layout.bits == 32 else low
            yield _File(text or short, short, attributes, first, size, seconds(date, time))


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if len(parts) > MAX_DEPTH:
        raise BudgetError("a path that is too deep")
    return parts


def open_fat(device: Device) -> Fat:
    """The file system on `device`. Raises UnsupportedError, DamagedError: see `read_layout`."""
    return Fat(device, read_layout(device))
