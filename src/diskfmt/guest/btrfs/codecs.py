"""How Btrfs compresses extents: zlib, LZO, zstd. Each gives at most `length` bytes, fewer where less was stored."""

import struct
import zlib
from typing import Final

from diskfmt import engine
from diskfmt.errors import CorruptError, RefusedError
from diskfmt.guest.base import DamagedError, UnsupportedError
from diskfmt.kinds import Codec

NAMES: Final = {0: "none", 1: "zlib", 2: "lzo", 3: "zstd"}


def decompress(kind: int, data: bytes, length: int, sector: int) -> bytes:
    """What an extent decodes to. `sector`: LZO segments do not cross these.

    Raises:
        UnsupportedError: another codec, or a build without it.
        DamagedError: the data does not decode.

    """
    if kind == 1:
        return _zlib(data, length)
    if kind == 2:
        return _lzo_extent(data, length, sector)
    if kind == 3:
        return _zstd(data, length)
    raise UnsupportedError(f"btrfs compression {kind}")


def _zlib(data: bytes, length: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, length)
    except zlib.error:
        raise DamagedError("a compressed extent does not decode (zlib)") from None


def _zstd(data: bytes, length: int) -> bytes:
    known = _zstd_length(data)
    try:
        return engine.decode(Codec.ZSTD, data, length if known is None else min(known, length))
    except CorruptError:
        raise DamagedError("a compressed extent does not decode (zstd)") from None
    except RefusedError:
        raise UnsupportedError("zstd, which this build lacks") from None


def _zstd_length(data: bytes) -> int | None:
    """The content size that a frame header tells (RFC 8878, 3.1.1.1)."""
    if len(data) < 18 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise DamagedError("a compressed extent does not decode (zstd)")
    descriptor = data[4]
    single = bool(descriptor & 0x20)
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if not size:
        return None
    return int.from_bytes(data[at : at + size], "little") + (256 if size == 2 else 0)


def _lzo_extent(data: bytes, length: int, sector: int) -> bytes:
    """Segments of one sector each, their lengths in front (kernel, fs/btrfs/lzo.c, head comment)."""
    if len(data) < 4:
        raise DamagedError("a compressed extent is too short (lzo)")
    (total,) = struct.unpack_from("<I", data)
    if not 4 <= total <= len(data):
        raise DamagedError("a compressed extent is longer than its place (lzo)")
    out = bytearray()
    at = 4
    while at < total and len(out) < length:
        room = sector - at % sector
        if room < 4:  # a length never crosses a sector
            at += room
            continue
        if at + 4 > total:
            raise DamagedError("a compressed extent is cut short (lzo)")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size == 0 or at + size > total:
            raise DamagedError("a compressed segment is longer than its extent (lzo)")
        out += lzo1x(data[at : at + size], min(sector, length - len(out)))
        at += size
    return bytes(out)


def lzo1x(data: bytes, limit: int) -> bytes:
    """One LZO1X stream, at most `limit` bytes (kernel, Documentation/staging/lzo.rst).

    Raises DamagedError: it ends early, goes back too far, or makes more.
    """
    try:
        return _lzo1x(data, limit)
    except IndexError:
        raise DamagedError("compressed data ends in the middle of an instruction (lzo)") from None


def _lzo1x(data: bytes, limit: int) -> bytes:
    out = bytearray()
    at = 0
    literals = (
        0  # copied by the last instruction: 0 to 3, or 4 for more; the meaning of a small instruction depends on it
    )
    if data[0] > 17:
        count = data[0] - 17
        at, literals = 1 + count, min(count, 4)
        _literals(data, 1, count, out, limit)
    while True:
        code = data[at]
        at += 1
        if code < 16 and literals == 0:
            count, at = (code + 3, at) if code else _length(data, at, 18)
            _literals(data, at, count, out, limit)
            at += count
            literals = 4
            continue
        if code < 16:
            distance = (data[at] << 2) + (code >> 2) + (1 if literals < 4 else 2049)
            count = 2 if literals < 4 else 3
            at += 1
            trailing = code & 3
        elif code >= 64:
            distance = (data[at] << 3) + ((code >> 2) & 7) + 1
            count = (code >> 5) + 1
            at += 1
            trailing = code & 3
        else:
            mask = 31 if code >= 32 else 7
            count, at = ((code & mask) + 2, at) if code & mask else _length(data, at, mask + 2)
            word = data[at] | data[at + 1] << 8
            at += 2
            trailing = word & 3
            distance = (word >> 2) + 1
            if code < 32:
                distance = (word >> 2) + ((code & 8) << 11) + 0x4000
                if distance == 0x4000:
                    if at != len(data) or count != 3:
                        raise DamagedError("compressed data goes on behind its end (lzo)")
                    return bytes(out)
        _match(out, distance, count, limit)
        _literals(data, at, trailing, out, limit)
        at += trailing
        literals = trailing


def _length(data: bytes, at: int, base: int) -> tuple[int, int]:
    """A length that goes on in the next bytes: 255 for each zero byte, then the rest."""
    start = at
    while data[at] == 0:
        at += 1
    return base + (at - start) * 255 + data[at], at + 1


def _literals(data: bytes, at: int, count: int, out: bytearray, limit: int) -> None:
    if at + count > len(data) or len(out) + count > limit:
        raise DamagedError("compressed data does not fit (lzo)")
    out += data[at : at + count]


def _match(out: bytearray, distance: int, count: int, limit: int) -> None:
    if distance > len(out) or len(out) + count > limit:
        raise DamagedError("compressed data points outside of what it made (lzo)")
    start = len(out) - distance
    if distance >= count:
        out += out[start : start + count]
    else:
        out += (out[start:] * (count // distance + 1))[:count]
