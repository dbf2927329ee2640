"""rpm's databases: the header blobs of its packages, from SQLite, ndb or Berkeley DB, and what a header says.

Sources: rpm's docs/manual/format_header.md, lib/rpmtag.h, lib/backend/sqlite.c, lib/backend/ndb/rpmpkg.c; Berkeley DB 4
and 5, dbinc/db_page.h, hash access method.
"""

import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, BudgetError, DamagedError, UnsupportedError
from diskfmt.guest.linux.text import decode

_MAX_HEADER: Final = 64 << 20
_MAX_TAGS: Final = 65_536
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_INT32, _STRING = 4, 6


@dataclass(frozen=True, slots=True)
class Header:
    """Name, `[epoch:]version-release` and architecture of a package."""

    name: str
    version: str
    arch: str


def parse_header(blob: bytes) -> Header:
    """What a header blob (without its magic) says. Raises DamagedError."""
    if len(blob) < 8:
        raise DamagedError("an rpm header of no length")
    tags, size = struct.unpack_from(">II", blob)
    store = 8 + 16 * tags
    if tags > _MAX_TAGS or store + size > len(blob):
        raise DamagedError(f"an rpm header of {tags} tags and {size} bytes in {len(blob)}")
    strings: dict[int, str] = {}
    epoch = ""
    for tag, kind, offset, _count in struct.iter_unpack(">IIII", blob[8:store]):
        if tag in (_NAME, _VERSION, _RELEASE, _ARCH) and kind == _STRING:
            stop = blob.find(b"\0", store + offset, store + size)
            if offset >= size or stop < 0:
                raise DamagedError("a string outside of an rpm header")
            strings[tag] = decode(blob[store + offset : stop])
        elif tag == _EPOCH and kind == _INT32 and offset + 4 <= size:
            epoch = f"{struct.unpack_from('>I', blob, store + offset)[0]}:"
    if _NAME not in strings:
        raise DamagedError("an rpm header without a name")
    version = f"{epoch}{strings.get(_VERSION, '')}-{strings.get(_RELEASE, '')}"
    return Header(strings[_NAME], version, strings.get(_ARCH, ""))


def sqlite_headers(data: bytes) -> Iterator[bytes]:
    """The blobs of rpmdb.sqlite. The database is opened as a copy in memory."""
    if not data.startswith(b"SQLite format 3\0") or len(data) < 100:
        raise DamagedError("rpmdb.sqlite is no SQLite database", offset=0)
    plain = bytearray(data)
    plain[18:20] = b"\1\1"  # a database in memory has no write-ahead log
    connection = sqlite3.connect(":memory:")
    steps = 0

    def budget() -> int:
        nonlocal steps
        steps += 1
        return steps > 20_000  # of 1000 instructions each

    try:
        connection.deserialize(bytes(plain))
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.set_progress_handler(budget, 1000)
        kind = connection.execute("SELECT type FROM sqlite_master WHERE name='Packages'").fetchone()
        if kind is None or kind[0] != "table":
            raise DamagedError("rpmdb.sqlite has no table of packages")
        for count, (blob,) in enumerate(connection.execute("SELECT blob FROM Packages")):
            if count >= MAX_ENTRIES:
                raise BudgetError(f"more than {MAX_ENTRIES} packages")
            if not isinstance(blob, bytes):
                raise DamagedError("a package that is no header")
            yield blob
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise DamagedError(f"rpmdb.sqlite: {error}") from None
    finally:
        connection.close()


_NDB_PAGE: Final = 4096
_NDB_BLOCK: Final = 16


def ndb_headers(data: bytes) -> Iterator[bytes]:
    """The blobs of ndb's Packages.db: slots of (magic, package, block, blocks), blobs in 16-byte blocks."""
    if len(data) < _NDB_PAGE or data[:4] != b"RpmP":
        raise DamagedError("Packages.db has not the magic of ndb", offset=0)
    version, pages = struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 12)[0]
    if version != 0:
        raise UnsupportedError(f"ndb version {version}", offset=4)
    stop = min(pages, MAX_ENTRIES // 16) * _NDB_PAGE
    if stop > len(data):
        raise DamagedError(f"Packages.db has {len(data)} bytes for {pages} pages of slots", offset=12)
    for at in range(32, stop, 16):
        magic, package, block, blocks = struct.unpack_from("<4sIII", data, at)
        if magic != b"Slot":
            raise DamagedError("a slot without its magic", offset=at)
        if block == 0:
            continue  # free
        begin, after = block * _NDB_BLOCK, (block + blocks) * _NDB_BLOCK
        if package == 0 or begin < stop or after > len(data) or blocks < 2:
            raise DamagedError("a package outside of the file", offset=at)
        mark, number, _generation, length = struct.unpack_from("<4sIII", data, begin)
        _checksum, again, end = struct.unpack_from("<II4s", data, after - 12)
        if (mark, number, end, again) != (b"BlbS", package, b"BlbE", length) or 16 + length + 12 > after - begin:
            raise DamagedError("a package that is not where its slot says", offset=begin)
        yield data[begin + 16 : begin + 16 + length]


_BDB_HASH: Final = 0x061561
_HASH_PAGES: Final = (2, 13)  # unsorted, sorted
_OVERFLOW: Final = 7
_KEYDATA, _DUPLICATE, _OFFPAGE = 1, 2, 3
_BDB_PAGE_HEADER: Final = 26


class _Bdb:
    """The pages of a Berkeley DB hash file."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 512:
            raise DamagedError("Packages is too short for a Berkeley DB", offset=0)
        order = next((o for o in "<>" if struct.unpack_from(o + "I", data, 12)[0] == _BDB_HASH), None)
        if order is None:
            raise UnsupportedError("Packages is no Berkeley DB hash file", offset=12)
        if data[24] != 0:
            raise UnsupportedError("an encrypted Berkeley DB", offset=24)
        self._data = data
        self._order = order
        self._page_size = struct.unpack_from(order + "I", data, 20)[0]
        if self._page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            raise DamagedError(f"a Berkeley DB of {self._page_size}-byte pages", offset=20)
        self.pages = len(data) // self._page_size
        self._overflow_bytes = 0

    def page(self, number: int) -> bytes:
        if number >= self.pages:
            raise DamagedError(f"Berkeley DB page {number} of {self.pages}")
        return self._data[number * self._page_size : (number + 1) * self._page_size]

    def values(self, page: bytes) -> Iterator[bytes]:
        """The values of a hash page: every second item."""
        count = struct.unpack_from(self._order + "H", page, 20)[0]
        if _BDB_PAGE_HEADER + 2 * count > len(page):
            raise DamagedError("a Berkeley DB page with more items than it can have")
        offsets = struct.unpack_from(f"{self._order}{count}H", page, _BDB_PAGE_HEADER)
        for index in range(1, count, 2):
            start, stop = offsets[index], offsets[index - 1]
            if not _BDB_PAGE_HEADER <= start < stop <= len(page):
                raise DamagedError("a Berkeley DB item outside of its page")
            item = page[start:stop]
            if item[0] == _KEYDATA:
                yield item[1:]
            elif item[0] == _OFFPAGE and len(item) >= 12:
                yield self._chain(*struct.unpack_from(self._order + "II", item, 4))
            else:
                raise UnsupportedError(f"Berkeley DB items of type {item[0]}")

    def _chain(self, number: int, length: int) -> bytes:
        self._overflow_bytes += length
        if length > _MAX_HEADER or self._overflow_bytes > len(self._data):
            raise DamagedError(f"a Berkeley DB item of {length} bytes")
        out = bytearray()
        while number and len(out) < length:
            page = self.page(number)
            used = struct.unpack_from(self._order + "H", page, 22)[0]
            if page[25] != _OVERFLOW or used == 0 or _BDB_PAGE_HEADER + used > len(page):
                raise DamagedError(f"Berkeley DB page {number} is no overflow page")
            out += page[_BDB_PAGE_HEADER : _BDB_PAGE_HEADER + used]
            number = struct.unpack_from(self._order + "I", page, 16)[0]
        if len(out) != length:
            raise DamagedError("a Berkeley DB item of another length than it says")
        return bytes(out)


def bdb_headers(data: bytes) -> Iterator[bytes]:
    """The blobs of a Berkeley DB hash file `Packages`. Key 0 holds the last package number, in 4 bytes."""
    database = _Bdb(data)
    for number in range(1, database.pages):
        page = database.page(number)
        if page[25] in _HASH_PAGES:
            yield from (value for value in database.values(page) if len(value) > 4)
