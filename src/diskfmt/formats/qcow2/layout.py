"""What goes where in a qcow2 file that is written from front to back.

    header | L1 table | clusters and frames, between them L2 tables and refcount blocks as they fill …
           | the rest of both | refcount table

Every table is written once, when nothing can change it any more; the L1 table comes last but one, the header's
cluster last. In memory are the L1 table, one L2 table, the reference counts since the last written block and the
places of the blocks, whatever the size of the disk.
Source: qemu, docs/interop/qcow2.rst, here "spec".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diskfmt.engine import ZERO_PLACE, Placement, Zeroes
from diskfmt.errors import LimitError, Reason, UsageError
from diskfmt.escape import escape
from diskfmt.extents import U64, Codec
from diskfmt.formats.base import Finale, Output, Piece, Request
from diskfmt.formats.qcow2.counts import ReferenceCounts
from diskfmt.formats.qcow2.records import (
    COMPRESSED,
    COPIED,
    MAX_CLUSTER_BITS,
    MAX_L1,
    MAX_NAME,
    MAX_REFCOUNT_ORDER,
    MAX_VIRTUAL_SIZE,
    MIN_CLUSTER_BITS,
    ZERO_FLAG,
    build_header,
)
from diskfmt.units import KIB, SECTOR, align_up, ceil_div, is_power_of_two, parse_size

DEFAULT_CLUSTER: Final = 64 * KIB
REFCOUNT_BITS: Final = 16
# qemu's own writer allows deflate distances of 4 KiB, and so do readers that decode with its setting.
_WINDOW_BITS: Final = range(12, 16)
_VERSIONS: Final = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
_CODECS: Final = {None: Codec.NONE, "zlib": Codec.DEFLATE, "zstd": Codec.ZSTD}
_LEVELS: Final = {"zlib": range(1, 10), "zstd": range(1, 23)}
_OPTIONS: Final = frozenset({"cluster_size", "compat", "refcount_bits", "deflate_window"})
_FORMAT_NAMES: Final = {"vhd": "vpc"}  # that qemu has another name for


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
    backing, backing_format = _backing(request)
    target = Qcow2Layout(
        shape=_Shape(
            version=version,
            cluster=cluster,
            size=request.virtual_size,
            refcount_bits=_refcount_bits(request, version),
            zstd=codec is Codec.ZSTD,
            backing=backing,
            backing_format=backing_format,
        ),
        codec=codec,
        level=level,
        window_bits=_window_bits(request),
        adopt=not request.recompress,
    )
    return Output.single(target)


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


def _refcount_bits(request: Request, version: int) -> int:
    text = request.options.get("refcount_bits", str(REFCOUNT_BITS))
    widths = [str(1 << order) for order in range(MAX_REFCOUNT_ORDER + 1)]
    if text not in widths:
        raise UsageError(f"refcount_bits {text!r}", remedy=f"choose from {', '.join(widths)}")
    if version == 2 and int(text) != REFCOUNT_BITS:
        raise UsageError(f"version 2 of qcow2 has no counts of {text} bits", remedy="leave it out, or choose version 3")
    return int(text)


def _window_bits(request: Request) -> int:
    text = request.options.get("deflate_window")
    if text is None:
        return _WINDOW_BITS.start
    if request.compress != "zlib":
        raise UsageError("deflate_window is for zlib only", remedy="leave it out, or compress with zlib")
    if text not in map(str, _WINDOW_BITS):
        raise UsageError(f"deflate_window {text!r}", remedy="give 12 to 15")
    return int(text)


def _backing(request: Request) -> tuple[bytes, bytes]:
    """Name and format of the image below, as the header holds them; empty where there is none."""
    below = request.below
    if below is None:
        return b"", b""
    name = below.name.encode("utf-8", "surrogateescape")
    if not name or b"\0" in name or b":" in name.partition(b"/")[0]:
        raise UsageError(
            f'"{escape(below.name)}" cannot be the name of a backing file: readers would take it for something else',
            remedy="rename the image below",
        )
    if len(name) > MAX_NAME:
        raise UsageError(
            f"the name of the backing file has {len(name)} bytes, the longest have {MAX_NAME}",
            remedy="rename the image below",
        )
    return name, _FORMAT_NAMES.get(below.format, below.format).encode()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What the header of a new image says. `cluster` and `size` (of the disk) in bytes."""

    version: int
    cluster: int
    size: int
    refcount_bits: int
    zstd: bool
    backing: bytes
    backing_format: bytes

    @property
    def l1_size(self) -> int:
        """Entries of the L1 table."""
        return _l1_size(self.size, self.cluster)

    def header(self, *, table_offset: int = 0, table_size: int = 0) -> bytes:
        """The header; `table_offset` and `table_size` (bytes) are those of the refcount table."""
        fields = {
            "version": self.version,
            "cluster_bits": self.cluster.bit_length() - 1,
            "virtual_size": self.size,
            "l1_size": self.l1_size,
            "l1_offset": self.cluster,
            "refcount_table_offset": table_offset,
            "refcount_table_clusters": table_size // self.cluster,
            "refcount_order": self.refcount_bits.bit_length() - 1,
        }
        return build_header(
            fields, compression_type=int(self.zstd), backing=self.backing, backing_format=self.backing_format
        )


def _frame_align(cluster: int, refcount_bits: int) -> int:
    """How frames must be aligned so that no cluster holds more of them than its count can say.

    A cluster holds those that start in it, and the end of one more unless frames start with their clusters. 16 bits
    are always enough: the smallest frame of a cluster of 2 MiB has 70 bytes (zstd), of one of 64 KiB 11.
    """
    if refcount_bits >= REFCOUNT_BITS:
        return 1
    most = (1 << refcount_bits) - 1
    align = 1
    while cluster // align + (align < cluster) > most:
        align *= 2
    return align


class Qcow2Layout:
    """One qcow2 file in the making; see `diskfmt.formats.base.Layout`."""

    def __init__(self, *, shape: _Shape, codec: Codec, level: int, window_bits: int, adopt: bool) -> None:
        self._shape = shape
        self._cluster = shape.cluster
        self._codec = codec
        self._l2_entries = shape.cluster // 8
        if len(shape.header()) > shape.cluster:
            raise UsageError(
                "the name of the backing file does not fit into the first cluster",
                remedy="give a larger -o cluster_size",
            )
        self._l1 = np.zeros(shape.l1_size, np.uint64)
        self._pending: tuple[int, U64] | None = None  # the L2 table that may still grow: its L1 index, its entries
        self._counts = ReferenceCounts(shape.cluster, shape.refcount_bits)
        first = shape.cluster + align_up(self._l1.nbytes, shape.cluster)
        self._counts.add(np.zeros(1, np.uint64), np.array([first], np.uint64))
        # Only version 3 can say that a cluster reads as zero whatever the backing file has.
        zeroes = Zeroes.TELL if shape.version == 3 else Zeroes.STORE
        self.placement: Placement = Placement(
            unit=shape.cluster,
            guest_size=shape.size,
            first=first,
            align=shape.cluster,
            frame_align=_frame_align(shape.cluster, shape.refcount_bits) if codec is not Codec.NONE else 1,
            codec=codec,
            level=level,
            window_bits=window_bits if codec is Codec.DEFLATE else 15,
            allow_plain=True,
            zeroes=zeroes if shape.backing else Zeroes.SKIP,
            adopt=adopt and codec is not Codec.NONE,
        )

    @property
    def full_size(self) -> int:
        """Bytes of the file if every cluster were stored and nothing compressed."""
        clusters = ceil_div(self._shape.size, self._cluster)
        end = self.placement.first + (clusters + ceil_div(clusters, self._l2_entries)) * self._cluster
        blocks, tables = ReferenceCounts(self._cluster, self._shape.refcount_bits).missing(end)
        return end + (blocks + tables) * self._cluster

    def add(self, first_unit: int, places: U64, stored: U64, end: int) -> tuple[Sequence[Piece], int]:
        """Take the places of consecutive clusters; see `Layout.add`. Raises LimitError: LIMIT_METADATA."""
        there = places > np.uint64(ZERO_PLACE)
        self._counts.add(places[there], stored[there])
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
        pieces.append(Piece(offset=0, data=self._shape.header(table_offset=table.offset, table_size=len(table.data))))
        return Finale(pieces=tuple(pieces), size=size)

    def _entries(self, places: U64, stored: U64) -> U64:
        """L2 entries. Source: spec, "L2 table entry"."""
        there = places > np.uint64(ZERO_PLACE)
        empty = np.where(places == np.uint64(ZERO_PLACE), np.uint64(ZERO_FLAG), np.uint64(0))
        plain = places | np.uint64(COPIED)
        if self._codec is Codec.NONE:
            return np.where(there, plain, empty)
        sector = np.uint64(SECTOR)
        last = (places + np.maximum(stored, np.uint64(1)) - np.uint64(1)) // sector
        bits = np.uint64(62 - (self._cluster.bit_length() - 1 - 8))
        frame = places | ((last - places // sector) << bits) | np.uint64(COMPRESSED)
        return np.where(there, np.where(stored == np.uint64(self._cluster), plain, frame), empty)

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
