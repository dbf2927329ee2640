"""A model of the copy engine: one unit after the other, in plain Python. Shares nothing with `diskfmt`.

Frames are the business of codecs: the model is told how long each frame is, looks whether it decodes to its unit,
and takes its bytes as they are.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zstandard

DATA, ENCODED, ZERO, HOLE = 1, 2, 3, 4
NONE, DEFLATE, ZLIB, ZSTD = 0, 1, 2, 3
SKIP, TELL, STORE = 0, 1, 2

_ROW = struct.Struct("<QQQQIIHBBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of a table, as `dfmt.h` has it."""

    guest_off: int
    length: int
    kind: int
    host_off: int = 0
    host_len: int = 0
    frame_len: int = 0
    frame_skip: int = 0
    file_id: int = 0
    codec: int = 0

    def pack(self) -> bytes:
        """The 48 bytes of the row."""
        return _ROW.pack(
            self.guest_off,
            self.length,
            self.host_off,
            self.host_len,
            self.frame_len,
            self.frame_skip,
            self.file_id,
            self.kind,
            self.codec,
            0,
        )


def inflate(codec: int, frame: bytes, length: int) -> bytes:
    """What a frame decodes to; bytes behind its end do not matter. Raises ValueError where it is not `length` bytes."""
    if codec == ZSTD:
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(frame)
    else:
        plain = zlib.decompressobj(15 if codec == ZLIB else -15).decompress(frame)
    if len(plain) != length:
        raise ValueError(f"{len(plain)} bytes instead of {length}")
    return plain


def deflate(codec: int, plain: bytes) -> bytes:
    """A frame of `plain`."""
    if codec == ZSTD:
        return zstandard.ZstdCompressor(level=1).compress(plain)
    packer = zlib.compressobj(6, zlib.DEFLATED, 15 if codec == ZLIB else -12)
    return packer.compress(plain) + packer.flush()


def guest_bytes(rows: Sequence[Run], files: Sequence[bytes]) -> bytes:
    """The disk that a table describes."""
    disk = bytearray()
    for row in rows:
        stored = files[row.file_id][row.host_off : row.host_off + row.host_len] if row.kind <= ENCODED else b""
        if row.kind == ENCODED:
            stored = inflate(row.codec, stored, row.frame_len)[row.frame_skip : row.frame_skip + row.length]
        disk += stored or bytes(row.length)
    return bytes(disk)


@dataclass(slots=True, kw_only=True)
class Model:
    """The target. `file` grows; `end` is where its used part ends, and may be moved between runs.

    `rows` are the table that says `disk`; only what `zeroes` asks is looked up there.
    """

    disk: bytes
    rows: Sequence[Run]
    unit: int
    end: int
    fixed: bool = False
    base: int = 0
    align: int = 1
    frame_align: int = 1
    codec: int = NONE
    allow_plain: bool = False
    prefix_len: int = 0
    prefix_byte: int = 0
    marker: bool = False
    group_units: int = 0
    group_room: int = 0
    zeroes: int = SKIP
    file: bytearray = field(default_factory=bytearray)
    group: int | None = None

    def run(
        self, first: int, count: int, stored: Sequence[int], frame_at: Callable[[int, int], bytes]
    ) -> tuple[list[int], list[int]]:
        """Copy units; returns (places, stored). `stored` and `frame_at(offset, length)` are the engine's."""
        places, lengths = [0] * count, [0] * count
        for i in range(count):
            at = (first + i) * self.unit
            data = self.disk[at : at + self.unit]
            if self.fixed:
                self._put(self.base + at, data)
            elif any(data) or (self.zeroes == STORE and self._is_said(at)):
                places[i], lengths[i] = self._append(first + i, data, stored[i], frame_at)
            elif self.zeroes == TELL and self._is_said(at):
                places[i] = 1
        return ([], []) if self.fixed else (places, lengths)

    def _is_said(self, at: int) -> bool:
        """Whether any row says something of the unit at `at` other than that it is not here."""
        return any(
            row.kind != HOLE and row.guest_off < at + self.unit and row.guest_off + row.length > at for row in self.rows
        )

    def _append(self, index: int, data: bytes, stored: int, frame_at: Callable[[int, int], bytes]) -> tuple[int, int]:
        if self.group_units:
            group = index // self.group_units
            if self.group is not None and self.group != group:
                self.finish()
            self.group = group
        if self.codec == NONE or (self.allow_plain and stored == self.unit):
            place = _up(self.end + self.prefix_len, self.align)
            self._put(place - self.prefix_len, bytes([self.prefix_byte]) * self.prefix_len + data)
            self.end = place + self.unit
            return place, self.unit
        start = _up(self.end, self.frame_align)
        place = start + (12 if self.marker else 0)
        frame = frame_at(place, stored)
        if inflate(self.codec, frame, self.unit) != data.ljust(self.unit, b"\0"):
            raise AssertionError(f"the frame of unit {index} decodes to something else")
        if self.marker:
            self._put(start, struct.pack("<QI", index * self.unit // 512, stored))
        self._put(place, frame)
        self.end = _up(place + stored, self.frame_align)
        return place, stored

    def finish(self) -> None:
        """The room behind the last group."""
        if self.group_units and self.group is not None:
            self.end = _up(self.end, self.frame_align) + self.group_room
        self.group = None

    def _put(self, offset: int, data: bytes) -> None:
        self.file.extend(bytes(max(0, offset + len(data) - len(self.file))))
        self.file[offset : offset + len(data)] = data


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
