"""The reference counts of a qcow2 file that is written from front to back.

Source: qemu, docs/interop/qcow2.rst, section "Host cluster management".
"""

import numpy as np
import numpy.typing as npt

from diskfmt.errors import InternalError, LimitError, Reason
from diskfmt.extents import U64
from diskfmt.formats.base import Piece
from diskfmt.formats.qcow2.records import MAX_REFCOUNT_TABLE
from diskfmt.units import ceil_div


class ReferenceCounts:
    """How often each cluster of the file is used, from the first one that no written refcount block describes.

    Source: spec, "Host cluster management".
    """

    def __init__(self, cluster_size: int, bits: int = 16) -> None:
        """For clusters of this size, and counts of so many bits."""
        self._cluster = cluster_size
        self._bits = bits
        self._per_block = cluster_size * 8 // bits
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
        if int(counts.max(initial=0)) >= 1 << self._bits:
            raise InternalError(f"{counts.max()} frames in one cluster", offset=start)
        return Piece(offset=start, data=_packed(counts, self._bits))

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


def _packed(counts: npt.NDArray[np.uint32], bits: int) -> bytes:
    """Counts as a block holds them: big-endian, several in a byte from its lowest bits on."""
    if bits >= 8:
        return counts.astype(f">u{bits // 8}").tobytes()
    per_byte = 8 // bits
    places = (np.arange(per_byte) * bits).astype(np.uint32)
    packed: npt.NDArray[np.uint8] = (counts.reshape(-1, per_byte) << places).sum(axis=1).astype(np.uint8)
    return packed.tobytes()
