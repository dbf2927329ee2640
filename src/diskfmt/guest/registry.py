"""Registry hives of Windows, read-only: keys by path, values by type.

A damaged cell spoils only what needs it: the rest of the hive can still be read, and whoever asks for the damaged part
gets DamagedError.

Source: "Windows registry file format specification" (Suhanov), cited by section. Checked against hivex.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, BudgetError, DamagedError, UnsupportedError

MAX_HIVE: Final = 256 << 20
MAX_KEY_DEPTH: Final = 512
MAX_VALUE: Final = 16 << 20

_BINS: Final = 4096
_SEGMENT: Final = 16344  # of big data
_NO_CELL: Final = 0xFFFFFFFF
_LATIN_KEY: Final = 0x20
_LATIN_VALUE: Final = 0x1
_INLINE: Final = 0x80000000

_BASE: Final = struct.Struct("<4sIIQIIIIII")
_KEY: Final = struct.Struct("<2sHQIIIIIIIIII20xHH")
_VALUE: Final = struct.Struct("<2sHIIIHH")


class Kind(IntEnum):
    """Types of values that are more than bytes."""

    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    LINK = 6
    MULTI_SZ = 7
    QWORD = 11


Typed = str | int | bytes | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its type as stored (see `Kind`) and its bytes."""

    name: str
    kind: int
    data: bytes

    @property
    def typed(self) -> Typed:
        """Text, a number or texts by type; bytes for other types, and for numbers of a wrong length."""
        if self.kind in (Kind.SZ, Kind.EXPAND_SZ, Kind.LINK):
            return _text(self.data).split("\0")[0]
        if self.kind == Kind.MULTI_SZ:
            parts = _text(self.data).split("\0")
            while parts and not parts[-1]:
                parts.pop()
            return tuple(parts)
        if (self.kind, len(self.data)) in ((Kind.DWORD, 4), (Kind.QWORD, 8)):
            return int.from_bytes(self.data, "little")
        if self.kind == Kind.DWORD_BIG_ENDIAN and len(self.data) == 4:
            return int.from_bytes(self.data, "big")
        return self.data


class Key:
    """A key of a hive."""

    def __init__(self, hive: "Hive", at: int, depth: int = 0) -> None:
        self._hive = hive
        self._depth = depth
        raw = hive.cell(at, _KEY.size)
        fields = _KEY.unpack_from(raw)
        magic, flags, self.written = fields[:3]
        self._count, self._list = fields[5], fields[7]
        self._value_count, self._value_list = fields[9], fields[10]
        size = fields[13]
        if magic != b"nk" or _KEY.size + size > len(raw):
            raise DamagedError("a key that makes no sense", offset=_BINS + at)
        self.name = _name(raw[_KEY.size : _KEY.size + size], latin=bool(flags & _LATIN_KEY))

    def subkeys(self) -> Iterator[str]:
        """Names of the keys below."""
        return (key.name for key in self.keys())

    def keys(self) -> Iterator["Key"]:
        """The keys below. Raises DamagedError when it comes to one that cannot be read."""
        if self._depth >= MAX_KEY_DEPTH:
            raise BudgetError(f"keys that are more than {MAX_KEY_DEPTH} deep")
        if not self._count:
            return
        places = self._hive.places(self._list)
        if len(places) != self._count:
            raise DamagedError(f"a list of {len(places)} keys where {self._count} should be", offset=_BINS + self._list)
        for place in places:
            yield Key(self._hive, place, self._depth + 1)

    def key(self, path: str) -> "Key | None":
        r"""The key at a path below this one, with `\` between names, in any case; None where there is none."""
        key: Key | None = self
        for part in path.split("\\"):
            if part and key is not None:
                key = key.child(part)
        return key

    def child(self, name: str) -> "Key | None":
        """The key below this one that has a name, in any case; None where there is none."""
        wanted = _fold(name)
        damage: DamagedError | None = None
        for place in self._hive.places(self._list) if self._count else ():
            try:
                child = Key(self._hive, place, self._depth + 1)
            except DamagedError as error:
                damage = error
                continue
            if _fold(child.name) == wanted:
                if child._depth > MAX_KEY_DEPTH:
                    raise BudgetError(f"keys that are more than {MAX_KEY_DEPTH} deep")
                return child
        if damage is not None:  # it may have been the one
            raise damage
        return None

    def values(self) -> Iterator[str]:
        """Names of the values; that of the default value is empty."""
        return (self._value_head(place)[0] for place in self._value_places())

    def value(self, name: str) -> Typed | None:
        """A value by name, in any case: see `Value.typed`. None where there is none."""
        found = self.raw_value(name)
        return None if found is None else found.typed

    def raw_value(self, name: str) -> Value | None:
        """A value with its type and bytes."""
        wanted = _fold(name)
        damage: DamagedError | None = None
        for place in self._value_places():
            try:
                own, kind, size, data = self._value_head(place)
            except DamagedError as error:
                damage = error
                continue
            if _fold(own) == wanted:
                return Value(own, kind, self._hive.value_data(size, data))
        if damage is not None:
            raise damage
        return None

    def _value_places(self) -> tuple[int, ...]:
        if not self._value_count or self._value_list == _NO_CELL:
            return ()
        if self._value_count > MAX_ENTRIES:
            raise BudgetError(f"{self._value_count} values in one key")
        raw = self._hive.cell(self._value_list, self._value_count * 4)
        return struct.unpack_from(f"<{self._value_count}I", raw)

    def _value_head(self, at: int) -> tuple[str, int, int, int]:
        raw = self._hive.cell(at, _VALUE.size)
        magic, size, length, data, kind, flags, _ = _VALUE.unpack_from(raw)
        if magic != b"vk" or _VALUE.size + size > len(raw):
            raise DamagedError("a value that makes no sense", offset=_BINS + at)
        name = _name(raw[_VALUE.size : _VALUE.size + size], latin=bool(flags & _LATIN_VALUE))
        return name, kind, length, data


class Hive:
    """A hive file. `pending_logs`: its two sequence numbers differ, changes may still be in its .LOG files.

    Raises:
        DamagedError: no hive, or a base block with a wrong checksum.
        UnsupportedError: a version or kind of hive that does not exist on disks.
        BudgetError: larger than MAX_HIVE.

    """

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_HIVE:
            raise BudgetError(f"a hive of {len(data)} bytes")
        if len(data) < _BINS or data[:4] != b"regf":
            raise DamagedError("no registry hive", offset=0)
        _, first, second, self.written, major, minor, kind, form, self._root, length = _BASE.unpack_from(data)
        if checksum(data) != int.from_bytes(data[508:512], "little"):
            raise DamagedError("wrong checksum of the base block of a hive", offset=508)
        if major != 1 or minor not in range(2, 7) or kind != 0 or form != 1:
            raise UnsupportedError(f"a registry hive of version {major}.{minor}, type {kind}, format {form}")
        self.pending_logs = first != second
        self._big_data = minor >= 4
        # A hive that was cut short can still be read where its cells are.
        self._bins = memoryview(data)[_BINS : _BINS + length]
        self.truncated = len(self._bins) < length

    @cached_property
    def root(self) -> Key:
        """The key at the top."""
        return Key(self, self._root)

    def key(self, path: str) -> Key | None:
        r"""A key by path, with `\` between names, in any case, without the name of the root; None: there is none."""
        return self.root.key(path)

    def cell(self, at: int, least: int) -> bytes:
        """What a cell holds ("Cells"), at least so many bytes."""
        if at % 8 or at + 4 > len(self._bins):
            raise DamagedError("a pointer that leads to no cell", offset=_BINS + at)
        (size,) = struct.unpack_from("<i", self._bins, at)
        if size >= 0 or -size < least + 4 or at - size > len(self._bins):
            raise DamagedError("a cell that is free or makes no sense", offset=_BINS + at)
        return bytes(self._bins[at + 4 : at - size])

    def places(self, at: int) -> tuple[int, ...]:
        """The keys in a list ("Subkeys list"); a list of lists has one level."""
        raw = self.cell(at, 4)
        kind, count = struct.unpack_from("<2sH", raw)
        if kind != b"ri":
            return self._leaf(raw, at)
        if 4 + count * 4 > len(raw):
            raise DamagedError("a list of keys that is cut short", offset=_BINS + at)
        lists = struct.unpack_from(f"<{count}I", raw, 4)
        if len(set(lists)) != count:
            raise DamagedError("a list of keys that holds one twice", offset=_BINS + at)
        found: list[int] = []
        for place in lists:
            found += self._leaf(self.cell(place, 4), place)
            if len(found) > MAX_ENTRIES:
                raise BudgetError(f"more than {MAX_ENTRIES} keys in one")
        return tuple(found)

    @staticmethod
    def _leaf(raw: bytes, at: int) -> tuple[int, ...]:
        kind, count = struct.unpack_from("<2sH", raw)
        step = {b"li": 1, b"lf": 2, b"lh": 2}.get(kind)
        if step is None or 4 + count * step * 4 > len(raw):
            raise DamagedError("a list of keys that makes no sense", offset=_BINS + at)
        return struct.unpack_from(f"<{count * step}I", raw, 4)[::step]

    def value_data(self, length: int, place: int) -> bytes:
        """The bytes of a value ("Key value"): in the pointer's place, in a cell, or in segments ("Big data")."""
        if length & _INLINE:
            length &= ~_INLINE
            if length > 4:
                raise DamagedError(f"a value of {length} bytes in the place of a pointer")
            return place.to_bytes(4, "little")[:length]
        if not length:
            return b""
        if length > MAX_VALUE:
            raise BudgetError(f"a value of {length} bytes")
        if length <= _SEGMENT or not self._big_data:
            return self.cell(place, length)[:length]
        raw = self.cell(place, 8)
        magic, count, places = struct.unpack_from("<2sHI", raw)
        if magic != b"db":
            return self.cell(place, length)[:length]
        if count != -(-length // _SEGMENT):
            raise DamagedError("a long value with a wrong number of parts", offset=_BINS + place)
        out = bytearray()
        for part in struct.unpack_from(f"<{count}I", self.cell(places, count * 4)):
            size = min(_SEGMENT, length - len(out))
            out += self.cell(part, size)[:size]
        return bytes(out)


def checksum(data: bytes) -> int:
    """The checksum of a base block ("Base block"): the exclusive or of its first 127 words, without 0 and -1."""
    total = 0
    for word in struct.unpack_from("<127I", data):
        total ^= word
    return 1 if total == 0 else 0xFFFFFFFE if total == 0xFFFFFFFF else total


def _name(raw: bytes, *, latin: bool) -> str:
    return raw.decode("latin-1") if latin else _text(raw)


def _text(raw: bytes) -> str:
    return raw[: len(raw) // 2 * 2].decode("utf-16-le", "surrogatepass")


def _fold(name: str) -> str:
    """Windows compares names in upper case, character by character."""
    return "".join(upper if len(upper := char.upper()) == 1 else char for char in name)
