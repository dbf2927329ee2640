"""The header of a qcow2 file and its extensions, proven as far as reading the disk depends on them.

Structure that makes no sense stops here; what is sensible but doubtful is for `doubts.py`.
Source: qemu, docs/interop/qcow2.rst, here "spec", sections "Header", "Header extensions".
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from diskfmt.errors import CorruptError, LimitError, Reason, RefusedError
from diskfmt.formats.qcow2.extras import outside
from diskfmt.formats.qcow2.records import (
    COMPRESSION_TYPE,
    EXT_END,
    EXTENDED_L2,
    EXTENSION_SIZE,
    HEADER_V2_SIZE,
    HEADER_V3_SIZE,
    MAGIC,
    MAX_CLUSTER_BITS,
    MAX_EXTENSION,
    MAX_EXTENSIONS,
    MAX_HEADER,
    MAX_L1,
    MAX_NAME,
    MAX_VIRTUAL_SIZE,
    MIN_CLUSTER_BITS,
    MIN_EXTENDED_CLUSTER_BITS,
    Extension,
    Qcow2,
    parse_extension,
    parse_features,
    parse_fixed,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import align_up

COPY_AGAIN: Final = "copy the image again, or repair a copy of it with qemu-img check -r all"
CONVERT: Final = "convert the image with the tool that wrote it"


def read_header(source: SourceFile) -> Qcow2:
    """The header with its extensions, all of which lie inside the first cluster; the L1 table lies inside the file.

    Raises:
        RefusedError: FORMAT_MISMATCH, no qcow2; UNSUPPORTED_SUBFORMAT, another version.
        CorruptError: BAD_VALUE, OUT_OF_FILE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    """
    header = _read_fields(source)
    _require_sizes(header)
    _require_l1(source, header)
    return replace(header, extensions=tuple(_extensions(source, header)))


def _read_fields(source: SourceFile) -> Qcow2:
    """The fixed fields. Each is checked here only as far as the next read depends on it."""
    magic, fields = parse_fixed(source.read_at(0, HEADER_V2_SIZE))
    if magic != MAGIC:
        raise RefusedError(
            f"no qcow2 header: the file starts with {magic!r}",
            reason=Reason.FORMAT_MISMATCH,
            offset=0,
            remedy="name the right format",
        )
    version, bits = fields["version"], fields["cluster_bits"]
    if version not in (2, 3):
        raise RefusedError(f"version {version}, known are 2 and 3", offset=4, remedy=CONVERT)
    if bits < MIN_CLUSTER_BITS:
        raise CorruptError(
            f"clusters of 2^{bits} bytes, the smallest are 2^{MIN_CLUSTER_BITS}", offset=20, remedy=COPY_AGAIN
        )
    if bits > MAX_CLUSTER_BITS:
        raise LimitError(
            f"clusters of 2^{bits} bytes, the largest that are read are 2^{MAX_CLUSTER_BITS}",
            reason=Reason.LIMIT_METADATA,
            offset=20,
            remedy=CONVERT,
        )
    header = Qcow2(**fields)
    return header if version == 2 else _read_version_3(source, header)


def _read_version_3(source: SourceFile, header: Qcow2) -> Qcow2:
    features = parse_features(source.read_at(HEADER_V2_SIZE, HEADER_V3_SIZE - HEADER_V2_SIZE))
    length = features["header_length"]
    if length < HEADER_V3_SIZE or length % 8:
        raise CorruptError(
            f"header of {length} bytes, not a multiple of 8 from {HEADER_V3_SIZE} on", offset=100, remedy=COPY_AGAIN
        )
    if length > min(MAX_HEADER, header.cluster_size):
        raise LimitError(f"header of {length} bytes, the longest that is read has "
                         f"{min(MAX_HEADER, header.cluster_size)}", reason=Reason.LIMIT_METADATA, offset=100,
                         remedy=CONVERT)  # fmt: skip
    kind = source.read_at(HEADER_V3_SIZE, 1)[0] if length > HEADER_V3_SIZE else 0
    if bool(features["incompatible"] & COMPRESSION_TYPE) != bool(kind):
        raise CorruptError(
            f"compression type {kind}, but the feature bit that announces another one than 0 is "
            f"{'clear' if kind else 'set'}",
            offset=HEADER_V3_SIZE,
            remedy=COPY_AGAIN,
        )
    return replace(header, compression_type=kind, **features)


def _require_sizes(header: Qcow2) -> None:
    if header.virtual_size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"virtual size {header.virtual_size}, the largest that is read is {MAX_VIRTUAL_SIZE}",
            offset=24,
            remedy="check the image with the tool that wrote it",
        )
    if header.incompatible & EXTENDED_L2 and header.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
        raise CorruptError(
            f"extended L2 entries with clusters of {header.cluster_size} bytes, the smallest with "
            f"them are {1 << MIN_EXTENDED_CLUSTER_BITS}",
            offset=72,
            remedy=COPY_AGAIN,
        )
    if header.l1_size * 8 > MAX_L1:
        raise LimitError(
            f"L1 table of {header.l1_size} entries, at most {MAX_L1 // 8} are read",
            reason=Reason.LIMIT_METADATA,
            offset=36,
            remedy=CONVERT,
        )
    if header.l1_size < header.l1_needed:
        raise CorruptError(
            f"L1 table of {header.l1_size} entries, a disk of {header.virtual_size} bytes needs {header.l1_needed}",
            offset=36,
            remedy=COPY_AGAIN,
        )


def _require_l1(source: SourceFile, header: Qcow2) -> None:
    if header.l1_offset % header.cluster_size:
        raise CorruptError(
            f"the L1 table at {header.l1_offset:#x} is not cluster aligned", offset=40, remedy=COPY_AGAIN
        )
    if not header.l1_size:
        return
    if header.l1_offset < header.cluster_size:
        raise CorruptError(
            f"the L1 table at {header.l1_offset:#x} overlaps the header",
            reason=Reason.OVERLAP,
            offset=40,
            remedy=COPY_AGAIN,
        )
    if header.l1_end > source.size:
        raise CorruptError(
            f"the L1 table ends at {header.l1_end:#x}, the file at {source.size:#x}",
            reason=outside(header, header.l1_end),
            offset=40,
            remedy=COPY_AGAIN,
        )


def _extensions(source: SourceFile, header: Qcow2) -> Iterator[Extension]:
    """The header extensions, each proven to lie inside the first cluster, before the backing file's name.

    Source: spec, "Header extensions". The area may end without an end marker.
    """
    end = header.backing_offset or header.cluster_size
    if header.backing_offset or header.backing_size:
        _require_backing_name(header)
    end = min(end, header.cluster_size)
    position = header.header_length
    for _ in range(MAX_EXTENSIONS):
        if position + EXTENSION_SIZE > end:
            return
        if position == source.size:
            # Nothing was written behind the header: what is not in the file counts as the end marker.
            return
        kind, length = parse_extension(source.read_at(position, EXTENSION_SIZE))
        if kind == EXT_END:
            return
        data = position + EXTENSION_SIZE
        if length > end - data:
            raise CorruptError(
                f"header extension {kind:#010x} of {length} bytes ends behind the area of the extensions, {end:#x}",
                offset=position,
                remedy=COPY_AGAIN,
            )
        if length > MAX_EXTENSION:
            raise LimitError(
                f"header extension {kind:#010x} of {length} bytes, at most {MAX_EXTENSION} are read",
                reason=Reason.LIMIT_METADATA,
                offset=position,
                remedy=CONVERT,
            )
        yield Extension(kind=kind, offset=data, length=length)
        position = data + align_up(length, 8)
    raise LimitError(
        f"more than {MAX_EXTENSIONS} header extensions", reason=Reason.LIMIT_METADATA, offset=position, remedy=CONVERT
    )


def _require_backing_name(header: Qcow2) -> None:
    size, start = header.backing_size, header.backing_offset
    if size > MAX_NAME:
        raise CorruptError(
            f"the name of the backing file has {size} bytes, the longest have {MAX_NAME}", offset=16, remedy=COPY_AGAIN
        )
    if start and start < header.header_length:
        raise CorruptError(
            f"the name of the backing file at {start:#x} overlaps the header",
            reason=Reason.OVERLAP,
            offset=8,
            remedy=COPY_AGAIN,
        )
    if start + size > header.cluster_size:
        raise CorruptError(
            f"the name of the backing file at {start:#x} ends behind the first cluster", offset=8, remedy=COPY_AGAIN
        )
