"""Raw disks for tests, written without any code of the program."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

SECTOR = 512


def mbr(*partitions: tuple[int, int, int], boot: bytes = b"", flags: int = 0) -> bytes:
    """One sector: partitions are (type, first sector, sectors)."""
    sector = bytearray(SECTOR)
    sector[: len(boot)] = boot
    for index, (kind, first, count) in enumerate(partitions):
        struct.pack_into("<B3sB3sII", sector, 446 + 16 * index, flags, b"\0\2\0", kind, b"\xff" * 3, first, count)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def gpt(sectors: int, *, sector_size: int = SECTOR, declared: int | None = None) -> dict[int, bytes]:
    """The pieces of an empty GPT disk by offset: protective MBR, both headers. UEFI 2.10, 5.3."""
    last = (declared or sectors) - 1
    table = bytes(128 * 128)

    def header(own: int, other: int, entries: int) -> bytes:
        fields = [b"EFI PART", 0x10000, 92, 0, 0, own, other, 34, last - 34, b"G" * 16, entries, 128, 128,
                  zlib.crc32(table)]  # fmt: skip
        fields[3] = zlib.crc32(struct.pack("<8sIIIIQQQQ16sQIII", *fields))
        return struct.pack("<8sIIIIQQQQ16sQIII", *fields).ljust(SECTOR, b"\0")

    pieces = {
        0: mbr((0xEE, 1, min(last, 0xFFFFFFFF))),
        sector_size: header(1, last, 2),
        (sectors - 1) * sector_size: header(last, 1, last - 32),
    }
    return dict(sorted(pieces.items()))


def joined(pieces: Mapping[int, bytes], size: int) -> bytes:
    """The whole disk in memory."""
    disk = bytearray(size)
    for offset, data in pieces.items():
        disk[offset : offset + len(data)] = data
    return bytes(disk[:size])


def sparse(path: Path, size: int, pieces: Mapping[int, bytes] | Sequence[tuple[int, bytes]]) -> Path:
    """A sparse file of `size` bytes that stores only these pieces."""
    with path.open("wb") as file:
        for offset, data in dict(pieces).items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path
