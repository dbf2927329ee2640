"""CRC-32C (Castagnoli) as ext4 uses it: no inversion, the caller gives the start value."""

from struct import Struct
from typing import Final

_WORD: Final = Struct("<I")


def _tables() -> tuple[tuple[int, ...], ...]:
    first = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        first.append(crc)
    tables = [tuple(first)]
    for _ in range(3):
        tables.append(tuple(crc >> 8 ^ first[crc & 0xFF] for crc in tables[-1]))
    return tuple(tables)


_T0, _T1, _T2, _T3 = _tables()
SEED: Final = 0xFFFFFFFF


def crc32c(data: bytes, crc: int = SEED) -> int:
    """The checksum of `data` after what gave `crc`."""
    whole = len(data) & ~3
    for (word,) in _WORD.iter_unpack(data[:whole]):
        crc ^= word
        crc = _T3[crc & 0xFF] ^ _T2[crc >> 8 & 0xFF] ^ _T1[crc >> 16 & 0xFF] ^ _T0[crc >> 24]
    for byte in data[whole:]:
        crc = crc >> 8 ^ _T0[(crc ^ byte) & 0xFF]
    return crc
