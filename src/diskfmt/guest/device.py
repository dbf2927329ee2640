"""Devices: the guest's disk by offset with a cache and a budget, parts of it, and a Python file over any of them."""

import io
from collections import OrderedDict
from typing import Final, Protocol

from diskfmt.errors import DiskfmtError, InternalError
from diskfmt.guest.base import MAX_READ, BudgetError, DamagedError, Device, GuestError
from diskfmt.units import KIB

SECTOR: Final = 512
_BLOCK: Final = 64 * KIB
_BLOCKS: Final = 256  # 16 MiB


class Source(Protocol):
    """What a device is made of; `diskfmt.disk.Disk` is one."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on, fewer where the source ends."""
        ...


class DiskDevice:
    """A whole disk as a device.

    Bytes are fetched in blocks of 64 KiB; the 256 last used are kept. `bytes_read` counts what was fetched; from
    `budget` on every further fetch is BudgetError (TM-1502).
    """

    def __init__(self, source: Source, *, sector_size: int = SECTOR, budget: int = MAX_READ) -> None:
        self._source = source
        self._budget = budget
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.size = source.size
        self.sector_size = sector_size
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises GuestError: outside the disk, or unreadable; BudgetError."""
        require_inside(self, offset, length)
        parts = []
        at, stop = offset, offset + length
        while at < stop:
            number = at // _BLOCK
            start = number * _BLOCK
            part = self._block(number)[at - start : stop - start]
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        offset = number * _BLOCK
        length = min(_BLOCK, self.size - offset)
        if self.bytes_read + length > self._budget:
            raise BudgetError(f"more than {self._budget} bytes of the disk would have to be read", offset=offset)
        block = self._fetch(offset, length)
        self._blocks[number] = block
        if len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        return block

    def _fetch(self, offset: int, length: int) -> bytes:
        try:
            block = self._source.read_at(offset, length)
        except InternalError:
            raise
        except DiskfmtError as error:
            raise GuestError(f"the image cannot be read here: {error}", offset=offset) from error
        self.bytes_read += length
        if len(block) != length:
            raise GuestError("the image ends before its disk does", offset=offset + len(block))
        return block


class Slice:
    """A part of a device: a partition. It may reach past the end of the device; reads there are GuestError."""

    def __init__(self, device: Device, offset: int, size: int, *, sector_size: int | None = None) -> None:
        self._device = device
        self.offset = offset
        self.size = size
        self.sector_size = device.sector_size if sector_size is None else sector_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises GuestError."""
        require_inside(self, offset, length)
        return self._device.read_at(self.offset + offset, length)


class DeviceFile(io.RawIOBase):
    """A device as a read-only, seekable Python file, for libraries. Raises GuestError where the device does."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new position in bytes; past the end is allowed, as in every file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._device.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """How many bytes were read into `buffer`; 0 at the end."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._device.size - self._at))
        view[:length] = self._device.read_at(self._at, length) if length else b""
        self._at += length
        return length

    def get_size(self) -> int:
        """The size in bytes; libyal asks for it by this name."""
        return self._device.size


def require_inside(device: Device, offset: int, length: int) -> None:
    """Raises DamagedError where the range is not inside the device: something pointed there."""
    if offset < 0 or length < 0 or offset + length > device.size:
        raise DamagedError(f"{length} bytes at {offset} are not inside {device.size} bytes", offset=offset)


def peek(device: Device, offset: int, length: int) -> bytes:
    """The bytes, or nothing where the device is shorter. Raises GuestError where it cannot be read."""
    if offset < 0 or offset + length > device.size:
        return b""
    return device.read_at(offset, length)
