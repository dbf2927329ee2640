"""What L2 entries say, a window at a time, and what is wrong with them.

Source: qemu, docs/interop/qcow2.rst, here "spec", sections "L2 table entry", "Extended L2 Entries".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diskfmt.errors import Reason, RefusedError
from diskfmt.extents import U64, Kind
from diskfmt.formats.qcow2.records import (
    COMPRESSED,
    COMPRESSION_NAMES,
    COPIED,
    KNOWN_INCOMPATIBLE,
    L2_RESERVED,
    MAX_HOST_OFFSET,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO_FLAG,
    Qcow2,
)
from diskfmt.formats.qcow2.tables import Bools, Fault, Window, behind, on_metadata
from diskfmt.units import SECTOR

Bitmaps = npt.NDArray[np.uint32]

ALL: Final = np.uint32(0xFFFF_FFFF)
"""The bitmap of a cluster all of whose subclusters are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """What L2 entries say. All arrays have the shape of the entries.

    `kind` is that of the row; `host_off` is where the cluster or frame is (also of a zero cluster that has one),
    `host_len` the bytes of a frame, cut to the end of the file where its last sector reaches behind. `owned` marks
    clusters and frames that occupy the image file or its data file.
    Where entries are extended, bit i of `stored` and `zero` says it of subcluster i, and `kind` is DATA where any
    subcluster is stored, else ZERO where any reads as zero; None where they are not.
    """

    kind: npt.NDArray[np.uint8]
    host_off: U64
    host_len: U64
    owned: Bools
    stored: Bitmaps | None = None
    zero: Bitmaps | None = None


def require_readable(header: Qcow2, path: str) -> None:
    """Raise RefusedError if the meaning of this image's L2 entries is not known."""
    if header.incompatible & ~KNOWN_INCOMPATIBLE:
        raise RefusedError(
            f"unknown incompatible features {header.incompatible & ~KNOWN_INCOMPATIBLE:#x}",
            reason=Reason.UNKNOWN_FEATURE,
            path=path,
            offset=72,
            remedy="convert the image with the tool that wrote it",
        )
    if header.compression_type not in COMPRESSION_NAMES:
        raise RefusedError(
            f"unknown compression type {header.compression_type}",
            reason=Reason.UNKNOWN_FEATURE,
            path=path,
            offset=104,
            remedy="convert the image with the tool that wrote it",
        )


def decode(header: Qcow2, window: Window, file_size: int, data_size: int | None) -> tuple[Clusters, list[Fault]]:
    """What the L2 entries of a window say, and what is wrong with them.

    `file_size`: of the image file; `data_size`: of its data file, None where there is none that is open.
    The compressed flag is looked at before all other bits, which mean something else where it is set.
    Source: spec, "L2 table entry"; for data files also "Header", incompatible bit 2.
    """
    entries = window.entries
    encoded = (entries & np.uint64(COMPRESSED)) != 0
    plain = ~encoded
    offsets = entries & np.uint64(OFFSET_MASK)
    copied = (entries & np.uint64(COPIED)) != 0
    flagged = plain & ((entries & np.uint64(ZERO_FLAG)) != 0)
    # Only a data file has a cluster at 0, which the copied flag tells from one that is not there.
    owned = plain & ((offsets != 0) | copied) if header.has_data_file else plain & (offsets != 0)
    faults = [
        Fault(mask=plain & ((entries & np.uint64(L2_RESERVED)) != 0), reason=Reason.BAD_VALUE,
              what="L2 entry with reserved bits, points to {:#x}"),
        Fault(mask=plain & (offsets & np.uint64(header.cluster_size - 1) != 0), reason=Reason.BAD_VALUE,
              what="cluster at {:#x} is not cluster aligned"),
    ]  # fmt: skip
    if window.bitmaps is None:
        kind = np.full(entries.shape, Kind.HOLE, np.uint8)
        kind[owned] = Kind.DATA
        kind[flagged] = Kind.ZERO
        kind[encoded] = Kind.ENCODED
        clusters = Clusters(kind=kind, host_off=offsets, host_len=np.zeros_like(entries), owned=owned | encoded)
    else:
        clusters = _with_subclusters(window.bitmaps, encoded, offsets, owned)
        faults += _bitmap_faults(window.bitmaps, encoded, owned)
    if flagged.any() and (header.version == 2 or header.extended):
        why = "extended entries do" if header.extended else "version 2 does"
        faults.append(Fault(mask=flagged, reason=Reason.BAD_VALUE,
                            what=f"L2 entry with the zero flag, which {why} not have, points to {{:#x}}"))  # fmt: skip
    data = clusters.kind == Kind.DATA
    if header.has_data_file:
        faults += _data_file_faults(header, window, clusters, encoded, data_size)
    else:
        faults += [
            Fault(mask=plain & ~flagged & (offsets == 0) & copied, reason=Reason.BAD_VALUE,
                  what="L2 entry says that its cluster is used, and that it is at {:#x}"),
            Fault(mask=data & on_metadata(header, offsets), reason=Reason.OVERLAP,
                  what="cluster at {:#x} overlaps header or L1 table"),
            *behind(header, file_size, data, offsets, _used(header, clusters), name="cluster"),
        ]  # fmt: skip
        if encoded.any():
            faults += _decode_frames(header, file_size, entries, clusters)
    return clusters, [fault for fault in faults if fault.mask.any()]


def _with_subclusters(bitmaps: U64, encoded: Bools, offsets: U64, owned: Bools) -> Clusters:
    """Clusters whose subclusters differ. Source: spec, "Extended L2 Entries"."""
    stored = np.where(encoded, np.uint32(0), bitmaps.astype(np.uint32))
    zero = np.where(encoded, np.uint32(0), (bitmaps >> np.uint64(32)).astype(np.uint32))
    kind = np.full(offsets.shape, Kind.HOLE, np.uint8)
    kind[zero != 0] = Kind.ZERO
    kind[stored != 0] = Kind.DATA
    kind[encoded] = Kind.ENCODED
    return Clusters(
        kind=kind, host_off=offsets, host_len=np.zeros_like(offsets), owned=owned | encoded, stored=stored, zero=zero
    )


def _used(header: Qcow2, clusters: Clusters) -> U64 | np.uint64:
    """Bytes of each data cluster from its start to the end of its last stored subcluster: a file may end there."""
    if clusters.stored is None:
        return np.uint64(header.cluster_size)
    last = np.frexp(clusters.stored.astype(np.float64))[1]  # the length of the number in bits
    return last.astype(np.uint64) * np.uint64(header.cluster_size // SUBCLUSTERS)


def _bitmap_faults(bitmaps: U64, encoded: Bools, owned: Bools) -> Iterator[Fault]:
    stored, zero = bitmaps & np.uint64(ALL), bitmaps >> np.uint64(32)
    yield Fault(mask=encoded & (bitmaps != 0), reason=Reason.BAD_VALUE,
                what="compressed cluster at {:#x} with a bitmap of subclusters")  # fmt: skip
    yield Fault(mask=~encoded & (stored & zero != 0), reason=Reason.BAD_VALUE,
                what="cluster at {:#x} with subclusters that are stored and read as zero")  # fmt: skip
    yield Fault(mask=~encoded & ~owned & (stored != 0), reason=Reason.BAD_VALUE,
                what="cluster at {:#x}, that is nowhere, with subclusters that are stored")  # fmt: skip


def _data_file_faults(header: Qcow2, window: Window, clusters: Clusters, encoded: Bools,
                      data_size: int | None) -> Iterator[Fault]:  # fmt: skip
    """Rules for clusters in a data file: at their guest offset, not compressed, inside it up to the disk's end."""
    tables = window.first + np.flatnonzero(window.tables)
    guest = (tables[:, None] * header.l2_entries + np.arange(header.l2_entries)).astype(np.uint64)
    guest *= np.uint64(header.cluster_size)
    data = clusters.kind == Kind.DATA
    yield Fault(mask=encoded, reason=Reason.BAD_VALUE, what="compressed cluster at {:#x} in an image with a data file")
    yield Fault(mask=~encoded & clusters.owned & (clusters.host_off != guest), reason=Reason.BAD_VALUE,
                what="cluster at {:#x} of the data file, which is not its place on the disk")  # fmt: skip
    if data_size is not None:
        ends = np.minimum(guest + _used(header, clusters), np.uint64(header.virtual_size))
        yield Fault(mask=data & (ends > np.uint64(data_size)), reason=Reason.TRUNCATED,
                    what="cluster at {:#x} ends behind the data file")  # fmt: skip


def _decode_frames(header: Qcow2, file_size: int, entries: U64, clusters: Clusters) -> list[Fault]:
    """Fill in offsets and lengths of compressed clusters. Source: spec, "Compressed Clusters Descriptor"."""
    encoded = clusters.kind == Kind.ENCODED
    bits = 62 - (header.cluster_bits - 8)
    at = entries & np.uint64((1 << bits) - 1)
    sectors = (entries & np.uint64(COMPRESSED - 1)) >> np.uint64(bits)
    length = (sectors + np.uint64(1)) * np.uint64(SECTOR) - (at & np.uint64(SECTOR - 1))
    high = encoded & (at >= np.uint64(MAX_HOST_OFFSET))
    faults = [
        Fault(mask=high, reason=Reason.BAD_VALUE, what="compressed cluster with reserved bits, points to {:#x}"),
        Fault(mask=encoded & on_metadata(header, at), reason=Reason.OVERLAP,
              what="compressed cluster at {:#x} overlaps header or L1 table"),
        # The last sector of a file may be short: writers do not pad it.
        *behind(header, file_size, encoded & ~high, at, length, name="compressed cluster", spare=SECTOR - 1),
    ]  # fmt: skip
    room = np.uint64(file_size) - np.minimum(at, np.uint64(file_size))
    clusters.host_off[encoded] = at[encoded]
    clusters.host_len[encoded] = np.minimum(length, room)[encoded]
    return faults
