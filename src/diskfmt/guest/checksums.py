"""The checksums of file systems, of one block and of many equal blocks at once.

CRC-32C works on many lanes side by side: a byte costs one table look-up for all lanes, so a whole node or a run of
sectors costs little more than one sector alone.
"""

import hashlib
import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli, bits reversed (RFC 3720, appendix B.4)
_LANE: Final = 128
_MASK: Final = (1 << 64) - 1
_PRIMES: Final = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


@cache
def _vector() -> "Words":
    import numpy as np

    return np.array(_table(), np.uint32)


@cache
def _shift() -> tuple[tuple[int, ...], ...]:
    """What `_LANE` zero bytes make of a CRC register, by each of its four bytes."""
    table = _table()

    def zeroes(crc: int) -> int:
        for _ in range(_LANE):
            crc = table[crc & 0xFF] ^ (crc >> 8)
        return crc

    return tuple(tuple(zeroes(byte << (8 * place)) for byte in range(256)) for place in range(4))


def crc32c_raw(data: bytes | memoryview, register: int) -> int:
    """The CRC register after `data`, without the inversions at both ends."""
    whole = len(data) // _LANE
    if whole >= 8:
        import numpy as np

        lanes = np.frombuffer(data, np.uint8, whole * _LANE).reshape(whole, _LANE)
        first, second, third, fourth = _shift()
        for part in _lane_registers(lanes).tolist():
            register = (
                first[register & 0xFF]
                ^ second[(register >> 8) & 0xFF]
                ^ third[(register >> 16) & 0xFF]
                ^ fourth[register >> 24]
                ^ part
            )
        data = data[whole * _LANE :]
    table = _table()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _lane_registers(lanes: "npt.NDArray[np.uint8]") -> "Words":
    """The register after each lane, from zero on."""
    import numpy as np

    table = _vector()
    state = np.zeros(len(lanes), np.uint32)
    for column in np.ascontiguousarray(lanes.T):
        state = table[(state ^ column) & 0xFF] ^ (state >> np.uint32(8))
    return state


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C as iSCSI, SCTP and Btrfs use it."""
    return crc32c_raw(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _round(state: int, word: int) -> int:
    return _rotate((state + word * _PRIMES[1]) & _MASK, 31) * _PRIMES[0] & _MASK


def xxhash64(data: bytes | memoryview) -> int:
    """xxHash64 with seed 0 (xxHash specification, "XXH64 algorithm description")."""
    first, second, third, fourth, fifth = _PRIMES
    at = 0
    if len(data) >= 32:
        states = [(first + second) & _MASK, second, 0, -first & _MASK]
        count = len(data) // 32 * 4
        words = struct.unpack_from(f"<{count}Q", data)
        for index, word in enumerate(words):
            states[index & 3] = _round(states[index & 3], word)
        at = len(words) * 8
        result = sum(_rotate(state, bits) for state, bits in zip(states, (1, 7, 12, 18), strict=True)) & _MASK
        for state in states:
            result = ((result ^ _round(0, state)) * first + fourth) & _MASK
    else:
        result = fifth
    result = (result + len(data)) & _MASK
    while at + 8 <= len(data):
        result ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        result = (_rotate(result, 27) * first + fourth) & _MASK
        at += 8
    if at + 4 <= len(data):
        result ^= int.from_bytes(data[at : at + 4], "little") * first & _MASK
        result = (_rotate(result, 23) * second + third) & _MASK
        at += 4
    for byte in data[at:]:
        result = _rotate(result ^ (byte * fifth & _MASK), 11) * first & _MASK
    result = (result ^ (result >> 33)) * second & _MASK
    result = (result ^ (result >> 29)) * third & _MASK
    return result ^ (result >> 32)


def _crc_blocks(data: bytes, size: int) -> list[bytes]:
    """CRC-32C of each block: of all its lanes at once, which are then put together for all blocks at once."""
    import numpy as np

    lanes = _lane_registers(np.frombuffer(data, np.uint8).reshape(-1, _LANE)).reshape(-1, size // _LANE)
    shift = [np.array(table, np.uint32) for table in _shift()]
    state = np.full(len(lanes), 0xFFFFFFFF, np.uint32)
    for part in lanes.T:
        moved = [table[(state >> np.uint32(8 * place)) & 0xFF] for place, table in enumerate(shift)]
        state = moved[0] ^ moved[1] ^ moved[2] ^ moved[3] ^ part
    packed: bytes = (~state).astype("<u4").tobytes()
    return [packed[at : at + 4] for at in range(0, len(packed), 4)]


# Btrfs documentation, "Checksumming": csum_type → (bytes, digest).
ALGORITHMS: Final[dict[int, tuple[int, Callable[[bytes | memoryview], bytes]]]] = {
    0: (4, lambda data: crc32c(data).to_bytes(4, "little")),
    1: (8, lambda data: xxhash64(data).to_bytes(8, "little")),
    2: (32, lambda data: hashlib.sha256(data).digest()),
    3: (32, lambda data: hashlib.blake2b(data, digest_size=32).digest()),
}


def digests(kind: int, data: bytes, size: int) -> list[bytes]:
    """The checksum of each `size` bytes of `data`, whose length is a multiple of it."""
    if kind == 0 and len(data) > size:
        return _crc_blocks(data, size)
    digest = ALGORITHMS[kind][1]
    return [digest(data[at : at + size]) for at in range(0, len(data), size)]
