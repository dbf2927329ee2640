"""NTFS by libfsntfs, guarded: what that library is known to read right, and UnsupportedError for the rest.

Right, proven by tests against ntfs-3g: plain, resident, fragmented, sparse and LZNT1-compressed files, and those that
Windows 10 compresses behind a reparse point (WOF, XPRESS). Refused: encrypted files, WOF with LZX (the library makes
wrong bytes of some, without an error), files whose bytes another driver keeps (deduplication, cloud files), and volumes
with clusters larger than an index record (it loses names). Damage that the library meets is DamagedError. It is written
in C: run it inside the sandbox (`guest.worker`).

Names match without regard to case. Free space is counted in `$Bitmap`. Sources: libfsntfs, "New Technologies File
System (NTFS)" (libyal); MS-FSCC 2.1.2 for reparse points.
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

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
from diskfmt.guest.mft import resident_attribute

_DIRECTORY: Final = 0x10
_REPARSE: Final = 0x400
_ENCRYPTED: Final = 0x4000
_MOUNT_POINT, _LINK, _WOF = 0xA0000003, 0xA000000C, 0x80000017
_WOF_FILE: Final = 2
_XPRESS: Final = (0, 2, 3)  # chunks of 4, 8, 16 KiB; 1 is LZX
_LINKS: Final = (_MOUNT_POINT, _LINK)
_VOLUME_INFORMATION, _REPARSE_POINT = 0x70, 0xC0
_DIRTY: Final = 0x1
_EPOCH: Final = 11_644_473_600  # seconds from 1601 to 1970
_MAX_BITMAP: Final = 16 << 20

_BOOT: Final = struct.Struct("<3x8sHB")


@dataclass(frozen=True, slots=True)
class _Boot:
    sector: int
    cluster: int
    sectors: int
    serial: int


def _read_boot(device: Device) -> _Boot:
    raw = device.read_at(0, 512)
    name, sector, per = _BOOT.unpack_from(raw)
    if name == b"-FVE-FS-":
        raise UnsupportedError("BitLocker")
    if name != b"NTFS    ":
        raise DamagedError("no NTFS boot sector", offset=0)
    # Above 128 it is the negative power of two, for clusters of more than 64 KiB.
    sectors_per_cluster = per if per <= 0x80 else 1 << (256 - per)
    cluster = sector * sectors_per_cluster
    sectors, serial = int.from_bytes(raw[40:48], "little"), int.from_bytes(raw[72:80], "little")
    good = sector in (512, 1024, 2048, 4096) and cluster and not cluster & (cluster - 1) and cluster <= 2 << 20
    if not good or not 0 < sectors * sector <= device.size + sector:
        raise DamagedError("an NTFS boot sector that makes no sense", offset=0)
    return _Boot(sector, cluster, sectors, serial)


class _File(io.RawIOBase):
    """What the library reads from. `failure` keeps what went wrong: the library only passes texts on."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._at = 0
        self.failure: GuestError | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._device.size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def get_size(self) -> int:
        return self._device.size

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._device.size - self._at)
        size = left if size < 0 else min(size, left)
        try:
            if size > MAX_READ:
                raise BudgetError(f"{size} bytes at once")
            data = self._device.read_at(self._at, size)
        except GuestError as error:
            self.failure = error
            raise
        self._at += size
        return data


class Ntfs:
    """An NTFS file system as `base.FileSystem`. `Entry.flags` are the DOS attributes."""

    def __init__(self, device: Device) -> None:
        try:
            import pyfsntfs
        except ImportError:
            raise UnsupportedError("NTFS, as libfsntfs-python is not installed") from None
        self._boot = _read_boot(device)
        self._file = _File(device)
        self._volume: Any = pyfsntfs.volume()
        with self._library("the volume"):
            self._volume.open_file_object(self._file)
        with self._library("the volume"):
            index = self._volume.index_entry_size
        if self._boot.cluster > index:  # the library loses entries of directories here, without an error
            raise UnsupportedError(f"NTFS with clusters of {self._boot.cluster} bytes, index records of {index}")
        version = self._version()
        if version not in ("3.0", "3.1"):
            raise UnsupportedError(f"NTFS version {version}")

    @contextlib.contextmanager
    def _library(self, what: str) -> Iterator[None]:
        """Whatever the library raises becomes what a reader of a guest raises."""
        self._file.failure = None
        try:
            yield
        except GuestError:
            raise
        except MemoryError:
            raise BudgetError(f"not enough memory to read {what}") from None
        except (OSError, ValueError, TypeError, OverflowError, RuntimeError, SystemError) as error:
            if self._file.failure is not None:
                raise self._file.failure from None
            last = str(error).split(". ")[-1].strip()
            raise DamagedError(f"{what} cannot be read: {last}") from None

    def _volume_information(self) -> Any:
        with self._library("$Volume"):
            entry = self._volume.get_file_entry_by_path("\\$Volume")
            for attribute in entry.attributes if entry is not None else ():
                if attribute.attribute_type == _VOLUME_INFORMATION:
                    return attribute
        raise DamagedError("the volume says nothing of itself")

    def _version(self) -> str:
        attribute = self._volume_information()
        with self._library("$Volume"):
            version = attribute.version
        return str(version)

    @cached_property
    def info(self) -> FsInfo:
        """What the boot sector and `$Volume` say. `clean`: the dirty flag is not set.

        `free_bytes` is None on volumes whose bitmap is longer than 16 MiB.
        """
        attribute = self._volume_information()
        with self._library("$Volume"):
            flags, label = attribute.flags, self._volume.name or ""
        return FsInfo(
            kind="ntfs",
            uuid=f"{self._boot.serial:016X}",
            label=label,
            size=self._boot.sectors * self._boot.sector,
            block_size=self._boot.cluster,
            clean=not flags & _DIRTY,
            free_bytes=self._free(),
            features=(f"NTFS {self._version()}",),
        )

    def _free(self) -> int | None:
        clusters = self._boot.sectors * self._boot.sector // self._boot.cluster
        if clusters // 8 > _MAX_BITMAP:
            return None
        entry = self._entry("/$Bitmap")
        if entry is None:
            raise DamagedError("the bitmap is missing")
        raw = self._bytes(entry, 0, -(-clusters // 8), "$Bitmap")
        used = (int.from_bytes(raw, "little") & ((1 << clusters) - 1)).bit_count()
        return (clusters - used) * self._boot.cluster

    def stat(self, path: str) -> Entry | None:
        """See `base.FileSystem`. A symbolic link or junction is a link."""
        entry = self._entry(path)
        if entry is None:
            return None
        flags = self._flags(entry, path)
        kind = FileKind.FILE
        if self._tag(entry, flags, path) in _LINKS:
            kind = FileKind.LINK
        elif self._is_directory(entry, path):
            kind = FileKind.DIRECTORY
        with self._library(path):
            size = entry.size if kind is FileKind.FILE else 0
            seconds = entry.get_modification_time_as_integer() // 10_000_000 - _EPOCH
        return Entry(kind=kind, size=size, mtime=seconds, flags=flags)

    def names(self, path: str) -> Iterator[str]:
        """See `base.FileSystem`. The metadata files in the top directory are left out."""
        entry = self._entry(path)
        if entry is None or not self._is_directory(entry, path):
            raise GuestError(f"no such directory: {path}")
        with self._library(path):
            count = entry.number_of_sub_file_entries
        if count > MAX_ENTRIES:
            raise BudgetError(f"more than {MAX_ENTRIES} entries: {path}")
        top = not _parts(path)
        for index in range(count):
            with self._library(path):
                name = entry.get_sub_file_entry(index).name
            if not top or name not in _METADATA:
                yield name

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """See `base.FileSystem`. Raises UnsupportedError for the kinds of files that are named above."""
        entry = self._entry(path)
        if entry is None or self._is_directory(entry, path):
            raise GuestError(f"no such file: {path}")
        flags = self._flags(entry, path)
        if flags & _ENCRYPTED:
            raise UnsupportedError(f"an encrypted file: {path}")
        tag = self._tag(entry, flags, path)
        if tag == _WOF:
            self._require_xpress(entry, path)
        elif tag is not None:
            raise UnsupportedError(f"a file behind reparse point {tag:#x}: {path}")
        if length > MAX_READ:
            raise BudgetError(f"{length} bytes are more than a check may read at once")
        with self._library(path):
            has_data, size = entry.has_default_data_stream(), entry.size
        if not has_data:
            raise DamagedError(f"a file without data: {path}")
        return self._bytes(entry, offset, max(0, min(length, size - offset)), path)

    def link(self, path: str) -> str:
        """See `base.FileSystem`: the target with `/` between names, with a drive letter or `??` where it has one."""
        entry = self._entry(path)
        flags = self._flags(entry, path) if entry is not None else 0
        tag = self._tag(entry, flags, path) if entry is not None else None
        if tag not in _LINKS:
            raise GuestError(f"not a link: {path}")
        point = self._reparse_point(entry, path)
        with self._library(path):
            target = point.print_name or point.substitute_name
        if not target:
            raise DamagedError(f"a link that leads nowhere: {path}")
        return str(target).replace("\\", "/")

    def _entry(self, path: str) -> Any:
        parts = _parts(path)
        try:
            return self._entry_of(parts, path)
        except DamagedError:
            # The library calls it an error, too, where a path goes on behind a file.
            above = self._entry_of(parts[:-1], path) if parts else None
            if above is None or self._is_directory(above, path):
                raise
            return None

    def _entry_of(self, parts: list[str], path: str) -> Any:
        with self._library(path):
            if not parts:
                return self._volume.get_root_directory()
            return self._volume.get_file_entry_by_path("\\" + "\\".join(parts))

    def _flags(self, entry: Any, path: str) -> int:
        with self._library(path):
            return int(entry.file_attribute_flags)

    def _is_directory(self, entry: Any, path: str) -> bool:
        with self._library(path):
            return bool(entry.has_directory_entries_index())

    def _reparse_point(self, entry: Any, path: str) -> Any:
        with self._library(path):
            return next((each for each in entry.attributes if each.attribute_type == _REPARSE_POINT), None)

    def _tag(self, entry: Any, flags: int, path: str) -> int | None:
        if not flags & _REPARSE:
            return None
        point = self._reparse_point(entry, path)
        if point is None:
            raise DamagedError(f"a reparse point without its attribute: {path}")
        with self._library(path):
            return int(point.tag)

    def _require_xpress(self, entry: Any, path: str) -> None:
        """Refuse other ways of compression behind a WOF reparse point: the library makes wrong bytes of some LZX."""
        with self._library(path):
            size = self._volume.mft_entry_size
            number = entry.file_reference & ((1 << 48) - 1)
        table = self._entry("/$MFT")
        if table is None or not 512 <= size <= 4096:
            raise DamagedError("the file table is missing")
        raw = resident_attribute(self._bytes(table, number * size, size, "$MFT"), _REPARSE_POINT)
        if raw is None or len(raw) < 24:
            raise UnsupportedError(f"a compressed file whose way of compression stands elsewhere: {path}")
        _, provider, _, way = struct.unpack_from("<4I", raw, 8)
        if provider != _WOF_FILE or way not in _XPRESS:
            raise UnsupportedError(f"compression {way} of provider {provider} (WOF): {path}")

    def _bytes(self, entry: Any, offset: int, length: int, what: str) -> bytes:
        out = bytearray()
        while len(out) < length:
            with self._library(what):
                part = entry.read_buffer_at_offset(min(length - len(out), MAX_FILE), offset + len(out))
            if not part:
                raise DamagedError(f"{what} ends before its size")
            out += part
        return bytes(out)


_METADATA: Final = frozenset(
    (
        "$MFT",
        "$MFTMirr",
        "$LogFile",
        "$Volume",
        "$AttrDef",
        "$Bitmap",
        "$Boot",
        "$BadClus",
        "$Secure",
        "$UpCase",
        "$Extend",
    )
)


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if len(parts) > MAX_DEPTH:
        raise BudgetError("a path that is too deep")
    if any("\\" in part or "\0" in part for part in parts):
        raise GuestError("a name that NTFS does not allow")
    return parts


def open_ntfs(device: Device) -> Ntfs:
    """The file system on `device`.

    Raises:
        UnsupportedError: BitLocker, clusters larger than an index record (4 KiB), a version that is not 3.0 or 3.1, or
            the library is not installed.
        DamagedError: not NTFS, or a structure that makes no sense.

    """
    return Ntfs(device)
