"""The reference counts that a qcow2 file records, in windows.

Source: qemu, docs/interop/qcow2.rst, section "Host cluster management".
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from diskfmt import engine
from diskfmt.errors import CorruptError, Reason
from diskfmt.extents import U64, WINDOW_ROWS
from diskfmt.formats.qcow2.records import MAX_REFCOUNT_ORDER, MAX_REFCOUNT_TABLE, Qcow2
from diskfmt.formats.qcow2.tables import read_table
from diskfmt.stores.source import SourceFile
from diskfmt.units import ceil_div

REPAIR = "repair a copy of the image with qemu-img check -r all"


def block_table(source: SourceFile, header: Qcow2, report: Callable[[CorruptError], None]) -> U64 | None:
    """Offsets of the refcount blocks, 0 where there is none or it is not readable; None if there is no table."""
    start, size = header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size
    usable = header.cluster_size <= start <= source.size - size and start % header.cluster_size == 0
    if header.refcount_order > MAX_REFCOUNT_ORDER or size > MAX_REFCOUNT_TABLE or not usable:
        report(CorruptError("there are no reference counts to be read", offset=48, remedy=REPAIR))
        return None
    entries = read_table(source, start, size // 8)
    wrong = entries & np.uint64(header.cluster_size - 1) != 0
    behind = ~wrong & (entries != 0) & (entries > np.uint64(max(0, source.size - header.cluster_size)))
    for mask, reason, what in ((wrong, Reason.BAD_VALUE, "is not cluster aligned"),
                               (behind, Reason.OUT_OF_FILE, "ends behind the file")):  # fmt: skip
        if mask.any():
            index = int(np.argmax(mask))
            report(CorruptError(f"the refcount block at {int(entries[index]):#x} {what}", reason=reason,
                                offset=start + 8 * index, remedy=REPAIR))  # fmt: skip
    return np.where(wrong | behind, np.uint64(0), entries)


def described(header: Qcow2, table: U64 | None) -> U64:
    """The first and the last cluster that each refcount block describes: shape (2 n,)."""
    if table is None or header.refcount_order > MAX_REFCOUNT_ORDER:
        return np.zeros(0, np.uint64)
    first = np.flatnonzero(table).astype(np.uint64) * np.uint64(header.refblock_entries)
    return np.concatenate((first, first + np.uint64(header.refblock_entries - 1)))


def recorded(source: SourceFile, header: Qcow2, table: U64 | None, part: range) -> Iterator[tuple[int, U64]]:
    """Windows of recorded counts of the clusters in `part`, 0 where there are none: first cluster, counts."""
    if table is None or header.refcount_order > MAX_REFCOUNT_ORDER:
        for at in range(part.start, part.stop, WINDOW_ROWS):
            yield at, np.zeros(min(WINDOW_ROWS, part.stop - at), np.uint64)
        return
    per_block = header.refblock_entries
    batch = max(1, 2 * WINDOW_ROWS * 8 // header.cluster_size)
    for block in range(part.start // per_block, ceil_div(part.stop, per_block), batch):
        offsets = np.zeros(min(batch, ceil_div(part.stop, per_block) - block), np.uint64)
        known = table[block : block + len(offsets)]
        offsets[: len(known)] = known
        raw = np.zeros((len(offsets), header.cluster_size), np.uint8)
        raw[offsets != 0] = engine.gather(source.fd, offsets[offsets != 0], header.cluster_size)
        first = block * per_block
        stop = min(part.stop, first + len(offsets) * per_block)
        for at in range(max(first, part.start), stop, WINDOW_ROWS):
            end = min(at + WINDOW_ROWS, stop)
            yield at, _unpack(raw.ravel(), header.refcount_order, at - first, end - first)


def _unpack(raw: npt.NDArray[np.uint8], order: int, start: int, stop: int) -> U64:
    """Entries [start, stop) of refcount blocks; `start` is a multiple of 8. The first entry has the lowest bits."""
    bits = 1 << order
    data = raw[start * bits // 8 : ceil_div(stop * bits, 8)]
    if bits < 8:
        single = np.unpackbits(data, bitorder="little").reshape(-1, bits)
        return (single @ (1 << np.arange(bits))).astype(np.uint64)[: stop - start]
    return data.view(f">u{bits // 8}").astype(np.uint64)
