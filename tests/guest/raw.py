"""A device over a plain file, as the tests of file systems need it: honest about its size, and nothing else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diskfmt.guest.base import DamagedError


class RawDevice:
    """`base.Device` over a descriptor, or over bytes with some of them changed."""

    def __init__(self, path: str | Path, *, start: int = 0, size: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._start = start
        self.size = os.fstat(self._fd).st_size - start if size is None else size
        self.sector_size = 512
        self.changed: dict[int, bytes] = {}
        self.reads: list[tuple[int, int]] = []

    def close(self) -> None:
        os.close(self._fd)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedError("behind the end of the device", offset=offset)
        self.reads.append((offset, length))
        data = bytearray(os.pread(self._fd, length, self._start + offset))
        for at, new in self.changed.items():
            for index, byte in enumerate(new):
                if offset <= at + index < offset + length:
                    data[at + index - offset] = byte
        return bytes(data)


@contextmanager
def raw_device(path: str | Path, *, start: int = 0, size: int | None = None) -> Iterator[RawDevice]:
    device = RawDevice(path, start=start, size=size)
    try:
        yield device
    finally:
        device.close()
