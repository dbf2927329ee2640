"""What goes where in a qcow2 file that is written from front to back.

    header | L1 table | clusters and frames, between them L2 tables and refcount blocks as they fill …
           | the rest of both | refcount table

Every table is written once, when nothing can change it any more; the L1 table comes last but one, the header's
cluster last. In memory are the L1 table, one L2 table, the reference counts since the last written block and the
places of the blocks, whatever the size of the disk.
Source: qemu, docs/interop/qcow2.rst, here "spec".
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.engine import Placement
from diskfmt.errors import InternalError, LimitError, Reason, UsageError
from diskfmt.extents import U64, Codec
from diskfmt.formats.base import Finale, Output, Piece, Request
from diskfmt.formats.qcow2.records import (
    COMPRESSED,
    COPIED,
    MAX_CLUSTER_BITS,
    MAX_L1,
    MAX_REFCOUNT_TABLE,
    MAX_VIRTUAL_SIZE,
    MIN_CLUSTER_BITS,
    build_header,
)
from diskfmt.units import KIB, SECTOR, align_up, ceil_div, is_power_of_two, parse_size

DEFAULT_CLUSTER: Final = 64 * KIB
REFCOUNT_BITS: Final = 16
_MOST_REFERENCES: Final = (1 << REFCOUNT_BITS) - 1
# qemu's own writer allows deflate distances of 4 KiB, and so do readers that decode with its setting.
_WINDOW_BITS: Final = 12
_VERSIONS: Final = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
_CODECS: Final = {None: Codec.NONE, "zlib": Codec.DEFLATE, "zstd": Codec.ZSTD}
_LEVELS: Final = {"zlib": range(1, 10), "zstd": range(1, 23)}
_OPTIONS: Final = frozenset({"cluster_size", "compat", "refcount_bits"})


def layout(request: Request) -> Output:
    """The layout of a new image.

    Raises:
        UsageError: options, compression or a size that qcow2 cannot have.
        LimitError: LIMIT_METADATA, the L1 table would be too large; LIMIT_SIZE.

    """
    unknown = sorted(set(request.options) - _OPTIONS)
    if unknown:
        raise UsageError(f"qcow2 has no option {unknown[0]!r}", remedy=f"choose from {', '.join(sorted(_OPTIONS))}")
    version = _version(request)
    cluster = _cluster_size(request.options.get("cluster_size"))
    if request.options.get("refcount_bits", str(REFCOUNT_BITS)) != str(REFCOUNT_BITS):
        raise UsageError(
            f"refcount_bits {request.options['refcount_bits']!r} is not written",
            remedy=f"leave it out, or give {REFCOUNT_BITS}",
        )
    if request.virtual_size % SECTOR:
        raise UsageError(
            f"a qcow2 disk of {request.virtual_size} bytes: the size must be a multiple of {SECTOR}",
            remedy="pad the source to whole sectors",
        )
    if request.virtual_size > MAX_VIRTUAL_SIZE:
        raise LimitError(f"a disk of {request.virtual_size} bytes, the largest that is written has "
                         f"{MAX_VIRTUAL_SIZE}", remedy="use another format")  # fmt: skip
    _require_l1_room(request.virtual_size, cluster)
    codec, level = _compression(request, version)
    return Output.single(
        Qcow2Layout(version=version, cluster_size=cluster, virtual_size=request.virtual_size, codec=codec, level=level)
    )


def _version(request: Request) -> int:
    compat = request.options.get("compat", request.subformat or "v3").lower()
    if compat not in _VERSIONS:
        raise UsageError(f"qcow2 has no version {compat!r}", remedy=f"choose from {', '.join(_VERSIONS)}")
    return _VERSIONS[compat]


def _cluster_size(text: str | None) -> int:
    if text is None:
        return DEFAULT_CLUSTER
    smallest, largest = 1 << MIN_CLUSTER_BITS, 1 << MAX_CLUSTER_BITS
    remedy = "give a power of two from 512 to 2M"
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UsageError(f"cluster_size: {error}", remedy=remedy) from error
    if not is_power_of_two(size) or not smallest <= size <= largest:
        raise UsageError(f"clusters of {text!r}", remedy=remedy)
    return size


def _l1_size(virtual_size: int, cluster: int) -> int:
    """Entries of the L1 table; one at least, so that every reader finds a table."""
    return max(1, ceil_div(virtual_size, cluster * cluster // 8))


def _require_l1_room(virtual_size: int, cluster: int) -> None:
    if _l1_size(virtual_size, cluster) * 8 <= MAX_L1:
        return
    sizes = (1 << bits for bits in range(MIN_CLUSTER_BITS, MAX_CLUSTER_BITS + 1))
    enough = next(size for size in sizes if _l1_size(virtual_size, size) * 8 <= MAX_L1)
    raise LimitError(
        f"a disk of {virtual_size} bytes in clusters of {cluster} needs an L1 table of more than {MAX_L1} bytes",
        reason=Reason.LIMIT_METADATA,
        remedy=f"give -o cluster_size={enough}",
    )


def _compression(request: Request, version: int) -> tuple[Codec, int]:
    name, level = request.compress, request.level
    if name not in _CODECS:
        raise UsageError(f"qcow2 has no compression {name!r}", remedy="choose zlib or zstd")
    if name == "zstd" and version == 2:
        raise UsageError("version 2 of qcow2 has no zstd", remedy="choose zlib, or version 3")
    if name is not None and level is not None and level not in _LEVELS[name]:
        levels = _LEVELS[name]
        raise UsageError(f"{name} has no level {level}", remedy=f"give {levels.start} to {levels.stop - 1}")
    return _CODECS[name], level or 0


class Qcow2Layout:
    """One qcow2 file in the making; see `diskfmt.formats.base.Layout`."""

    def __init__(self, *, version: int, cluster_size: int, virtual_size: int, codec: Codec, level: int) -> None:
        self._version = version
        self._cluster = cluster_size
        self._size = virtual_size
        self._codec = codec
        self._l2_entries = cluster_size // 8
        self._l1 = np.zeros(_l1_size(virtual_size, cluster_size), np.uint64)
        self._pending: tuple[int, U64] | None = None  # the L2 table that may still grow: its L1 index, its entries
        self._counts = ReferenceCounts(cluster_size)
        first = cluster_size + align_up(self._l1.nbytes, cluster_size)
        self._counts.add(np.zeros(1, np.uint64), np.array([first], np.uint64))
        self.placement: Placement = Placement(
            unit=cluster_size,
            guest_size=virtual_size,
            first=first,
            align=cluster_size,
            codec=codec,
            level=level,
            window_bits=_WINDOW_BITS if codec is Codec.DEFLATE else 15,
            allow_plain=True,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file if every cluster were stored and nothing compressed."""
        clusters = ceil_div(self._size, self._cluster)
        end = self.placement.first + (clusters + ceil_div(clusters, self._l2_entries)) * self._cluster
        blocks, tables = ReferenceCounts(self._cluster).missing(end)
        return end + (blocks + tables) * self._cluster

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:
        """Take the places of consecutive clusters; see `Layout.add`. Raises LimitError: LIMIT_METADATA."""
        self._counts.add(places[places != 0], stored[places != 0])
        pieces: list[Piece] = []
        first = first_unit // self._l2_entries
        last = (first_unit + len(places) - 1) // self._l2_entries
        tables = np.zeros((last - first + 1, self._l2_entries), np.uint64)
        at = first_unit - first * self._l2_entries
        tables.ravel()[at : at + len(places)] = self._entries(places, stored)
        if self._pending and self._pending[0] == first:
            tables[0] |= self._pending[1]
        elif self._pending:
            end = self._write_tables(pieces, end, self._pending[0], self._pending[1][None, :])
        self._pending = None
        complete = last - first + 1
        if at + len(places) < complete * self._l2_entries:
            complete -= 1
            self._pending = (last, tables[complete].copy())
        end = self._write_tables(pieces, end, first, tables[:complete])
        return pieces, self._write_blocks(pieces, end)

    def finish(self, end: int, fingerprint: bytes) -> Finale:  # noqa: ARG002
        """What is left of the tables, the header last; see `Layout.finish`. Raises LimitError: LIMIT_METADATA."""
        pieces: list[Piece] = []
        if self._pending:
            end = self._write_tables(pieces, end, self._pending[0], self._pending[1][None, :])
            self._pending = None
        end = self._write_blocks(pieces, align_up(end, self._cluster))
        blocks, table, size = self._counts.close(end)
        pieces += blocks
        pieces.append(table)
        pieces.append(Piece(offset=self._cluster, data=self._l1.astype(">u8").tobytes()))
        pieces.append(Piece(offset=0, data=self._header(table)))
        return Finale(pieces=tuple(pieces), size=size)

    def _entries(self, places: U64, stored: U64) -> U64:
        """L2 entries. Source: spec, "L2 table entry"."""
        plain = places | np.uint64(COPIED)
        if self._codec is Codec.NONE:
            return np.where(places != 0, plain, np.uint64(0))
        sector = np.uint64(SECTOR)
        last = (places + np.maximum(stored, np.uint64(1)) - np.uint64(1)) // sector
        bits = np.uint64(62 - (self._cluster.bit_length() - 1 - 8))
        frame = places | ((last - places // sector) << bits) | np.uint64(COMPRESSED)
        return np.where(places != 0, np.where(stored == np.uint64(self._cluster), plain, frame), np.uint64(0))

    def _write_tables(self, pieces: list[Piece], end: int, index: int, tables: U64) -> int:
        """Append the tables of L1 entries `index` … that are not empty; returns the new end of the file."""
        used = np.flatnonzero(tables.any(axis=1))
        if not len(used):
            return end
        start = align_up(end, self._cluster)
        data = tables.take(used, axis=0).astype(">u8").tobytes()
        pieces.append(Piece(offset=start, data=data))
        offsets = np.uint64(start) + np.arange(len(used), dtype=np.uint64) * np.uint64(self._cluster)
        self._l1[index + used] = offsets | np.uint64(COPIED)
        self._counts.add(offsets[:1], np.array([len(data)], np.uint64))
        return start + len(data)

    def _write_blocks(self, pieces: list[Piece], end: int) -> int:
        """Append the refcount blocks that nothing can change any more; returns the new end of the file."""
        while blocks := self._counts.complete(end):
            start = align_up(end, self._cluster)
            pieces.append(self._counts.take(blocks, start))
            end = start + blocks * self._cluster
        return end

    def _header(self, table: Piece) -> bytes:
        return build_header(
            {
                "version": self._version,
                "cluster_bits": self._cluster.bit_length() - 1,
                "virtual_size": self._size,
                "l1_size": len(self._l1),
                "l1_offset": self._cluster,
                "refcount_table_offset": table.offset,
                "refcount_table_clusters": len(table.data) // self._cluster,
            },
            compression_type=1 if self._codec is Codec.ZSTD else 0,
        )


class ReferenceCounts:
    """How often each cluster of the file is used, from the first one that no written refcount block describes.

    Source: spec, "Host cluster management".
    """

    def __init__(self, cluster_size: int) -> None:
        self._cluster = cluster_size
        self._per_block = cluster_size * 8 // REFCOUNT_BITS
        self._base = 0  # clusters that are described by blocks already written
        self._counts: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._blocks: list[U64] = []  # where those blocks are
        self._written = 0

    def add(self, offsets: U64, lengths: U64) -> None:
        """Count each of the byte ranges once in every cluster that it touches.

        One range alone may touch many clusters, of several none touches more than two.
        """
        if not len(offsets):
            return
        size = np.uint64(self._cluster)
        first = (offsets // size).astype(np.int64) - self._base
        last = ((offsets + lengths - np.uint64(1)) // size).astype(np.int64) - self._base
        end = int(last.max()) + 1
        if end > len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros(end - len(self._counts), np.uint32)))
        if len(offsets) == 1:
            self._counts[int(first[0]) : end] += 1
            return
        np.add.at(self._counts, first, 1)
        np.add.at(self._counts, last[last != first], 1)

    def complete(self, end: int) -> int:
        """How many further blocks describe only clusters before `end`, which is where the file ends now."""
        return max(0, end // self._cluster - self._base) // self._per_block

    def take(self, blocks: int, start: int) -> Piece:
        """The next `blocks` blocks as a piece at `start`, itself counted; they are forgotten."""
        if (self._written + blocks) * 8 > MAX_REFCOUNT_TABLE:
            raise LimitError(
                f"the file needs a refcount table of more than {MAX_REFCOUNT_TABLE} bytes",
                reason=Reason.LIMIT_METADATA,
                remedy="give a larger -o cluster_size",
            )
        self.add(np.array([start], np.uint64), np.array([blocks * self._cluster], np.uint64))
        piece = self._piece(blocks, start)
        count = blocks * self._per_block
        self._counts = self._counts[count:].copy()
        self._base += count
        self._written += blocks
        self._blocks.append(np.uint64(start) + np.arange(blocks, dtype=np.uint64) * np.uint64(self._cluster))
        return piece

    def _piece(self, blocks: int, start: int) -> Piece:
        count = blocks * self._per_block
        counts = np.zeros(count, np.uint32)
        known = self._counts[:count]
        counts[: len(known)] = known
        if counts.max(initial=0) > _MOST_REFERENCES:
            raise InternalError(f"{counts.max()} frames in one cluster", offset=start)
        return Piece(offset=start, data=counts.astype(">u2").tobytes())

    def missing(self, end: int) -> tuple[int, int]:
        """How many blocks, and clusters of refcount table, must follow a file that ends at `end`, aligned.

        They describe themselves too, so these are the smallest numbers that are enough for both.
        """
        blocks = tables = 0
        while True:
            clusters = end // self._cluster + blocks + tables
            needed = max(0, ceil_div(clusters - self._base, self._per_block))
            room = ceil_div((self._written + needed) * 8, self._cluster)
            if (needed, room) == (blocks, tables):
                return blocks, tables
            blocks, tables = needed, room

    def close(self, end: int) -> tuple[list[Piece], Piece, int]:
        """The last blocks, the refcount table, and the size of the file, whose data end at `end`, aligned."""
        blocks, tables = self.missing(end)
        table_at = end + blocks * self._cluster
        self.add(np.array([table_at], np.uint64), np.array([tables * self._cluster], np.uint64))
        pieces = [self.take(blocks, end)] if blocks else []
        entries = np.zeros(tables * self._cluster // 8, ">u8")
        places = np.concatenate(self._blocks)
        entries[: len(places)] = places
        size = table_at + tables * self._cluster
        return pieces, Piece(offset=table_at, data=entries.tobytes()), size
