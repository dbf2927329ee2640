"""What is doubtful about a header that makes sense: findings, from a note to what keeps the converter away.

See `docs/formats/qcow2.md` for every check with its reason code.
Source: qemu, docs/interop/qcow2.rst, here "spec", sections "Header", "Header extensions".
"""

from collections.abc import Iterator

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.formats.qcow2.extras import outside
from diskfmt.formats.qcow2.parse import CONVERT, COPY_AGAIN
from diskfmt.formats.qcow2.records import (
    AES,
    BITMAPS,
    COMPRESSION_NAMES,
    CORRUPT,
    DIRTY,
    EXT_BACKING_FORMAT,
    EXT_BITMAPS,
    EXT_DATA_FILE,
    EXT_ENCRYPTION,
    EXT_FEATURE_TABLE,
    EXTENSION_NAMES,
    EXTENSION_SIZE,
    HEADER_V3_SIZE,
    KNOWN_AUTOCLEAR,
    KNOWN_COMPATIBLE,
    KNOWN_INCOMPATIBLE,
    LUKS,
    MAX_FORMAT_NAME,
    MAX_REFCOUNT_ORDER,
    MAX_REFCOUNT_TABLE,
    RAW_DATA_FILE,
    Qcow2,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


def doubts(source: SourceFile, header: Qcow2) -> Iterator[Finding]:
    """Findings about fields and extensions, in the order of the header's parts."""
    yield from _extension_findings(header)
    yield from _feature_findings(source, header)
    yield from _data_file_findings(header)
    yield from _content_findings(header)
    yield from _reserved_findings(source, header)
    yield from _refcount_findings(source, header)


def _finding(severity: Severity, reason: Reason, offset: int, message: str, remedy: str | None = None) -> Finding:
    return Finding(severity=severity, reason=reason, offset=offset, message=message, remedy=remedy)


def _extension_findings(header: Qcow2) -> Iterator[Finding]:
    seen: set[int] = set()
    for extension in header.extensions:
        at = extension.offset - EXTENSION_SIZE
        if extension.kind in seen and extension.kind in EXTENSION_NAMES:
            yield _finding(ERROR, Reason.DIFFERENTIAL, at,
                           f"the header extension for {EXTENSION_NAMES[extension.kind]} is there twice: readers "
                           "take one or the other", COPY_AGAIN)  # fmt: skip
        elif extension.kind not in EXTENSION_NAMES:
            yield _finding(
                NOTE,
                Reason.UNKNOWN_FEATURE,
                at,
                f"unknown header extension {extension.kind:#010x} of {extension.length} bytes",
            )
        seen.add(extension.kind)
    if EXT_ENCRYPTION in seen and header.crypt_method != LUKS:
        yield _finding(ERROR, Reason.DIFFERENTIAL, 32,
                       f"a header for full disk encryption, but encryption method {header.crypt_method}",
                       COPY_AGAIN)  # fmt: skip
    backing_format = header.extension(EXT_BACKING_FORMAT)
    if backing_format:
        at = backing_format.offset - EXTENSION_SIZE
        if not header.backing_offset:
            yield _finding(WARNING, Reason.BAD_VALUE, at, "the format of a backing file, but no backing file")
        if backing_format.length > MAX_FORMAT_NAME:
            yield _finding(WARNING, Reason.LIMIT_METADATA, at,
                           f"the format of the backing file has a name of {backing_format.length} bytes, the "
                           f"longest that are read have {MAX_FORMAT_NAME}")  # fmt: skip


def _feature_findings(source: SourceFile, header: Qcow2) -> Iterator[Finding]:
    names = _feature_names(source, header)
    for bit in _bits(header.incompatible & ~KNOWN_INCOMPATIBLE):
        yield _finding(
            ERROR,
            Reason.UNKNOWN_FEATURE,
            72,
            f"unknown incompatible feature, bit {bit}{_called(names, 0, bit)}",
            CONVERT,
        )
    for kind, value, at, label in ((1, header.compatible & ~KNOWN_COMPATIBLE, 80, "compatible"),
                                   (2, header.autoclear & ~KNOWN_AUTOCLEAR, 88, "autoclear")):  # fmt: skip
        for bit in _bits(value):
            yield _finding(
                WARNING, Reason.UNKNOWN_FEATURE, at, f"unknown {label} feature, bit {bit}{_called(names, kind, bit)}"
            )
    if header.compression_type not in COMPRESSION_NAMES:
        yield _finding(
            ERROR,
            Reason.UNKNOWN_FEATURE,
            HEADER_V3_SIZE,
            f"unknown compression type {header.compression_type}",
            CONVERT,
        )
    if header.incompatible & CORRUPT:
        yield _finding(ERROR, Reason.CORRUPT_FLAG, 72, "a writer found the image corrupt and marked it", COPY_AGAIN)
    if header.incompatible & DIRTY:
        yield _finding(WARNING, Reason.UNCLEAN, 72,
                       "the image was not closed: its reference counts may be wrong, which does not matter for "
                       "reading", "shut the machine down and copy the disk again, if it still runs")  # fmt: skip
    if header.autoclear & BITMAPS and not header.extension(EXT_BITMAPS):
        yield _finding(WARNING, Reason.BAD_VALUE, 88, "the bitmaps bit is set, but there is no bitmaps extension")


def _data_file_findings(header: Qcow2) -> Iterator[Finding]:
    extension, there = header.extension(EXT_DATA_FILE), header.has_data_file
    if extension and not there:
        yield _finding(ERROR, Reason.EXTERNAL_REFERENCE, extension.offset,
                       "the name of a data file, but the feature bit says that there is none: readers follow it, or "
                       "do not", CONVERT)  # fmt: skip
    if header.snapshot_count and there:
        yield _finding(ERROR, Reason.DIFFERENTIAL, 60,
                       "internal snapshots of an image with a data file, which the format does not have: what their "
                       "data is nobody can tell", CONVERT)  # fmt: skip
    if header.autoclear & RAW_DATA_FILE and not there:
        yield _finding(WARNING, Reason.BAD_VALUE, 88, "the raw data file bit is set, but there is no data file")
    if header.autoclear & RAW_DATA_FILE and header.backing_offset:
        yield _finding(WARNING, Reason.BAD_VALUE, 88,
                       "a data file that is a disk by itself, and a backing file: the tables are believed")  # fmt: skip


def _feature_names(source: SourceFile, header: Qcow2) -> dict[tuple[int, int], str]:
    """Names by type of feature and bit number. Source: spec, "Feature name table"."""
    table = header.extension(EXT_FEATURE_TABLE)
    if table is None:
        return {}
    data = source.read_at(table.offset, table.length)
    entries = (data[at : at + 48] for at in range(0, len(data) - 47, 48))
    return {(entry[0], entry[1]): entry[2:].partition(b"\0")[0].decode("utf-8", "replace") for entry in entries}


def _called(names: dict[tuple[int, int], str], kind: int, bit: int) -> str:
    return f", which the image calls {names[kind, bit]!r}" if names.get((kind, bit)) else ""


def _bits(value: int) -> Iterator[int]:
    return (bit for bit in range(value.bit_length()) if value >> bit & 1)


def _content_findings(header: Qcow2) -> Iterator[Finding]:
    if header.crypt_method:
        name = {AES: "AES", LUKS: "LUKS"}.get(header.crypt_method, f"unknown method {header.crypt_method}")
        yield _finding(
            ERROR,
            Reason.ENCRYPTED,
            32,
            f"the disk is encrypted ({name})",
            "decrypt it with qemu-img convert and its passphrase",
        )
    if header.virtual_size % SECTOR:
        yield _finding(ERROR, Reason.DIFFERENTIAL, 24,
                       f"virtual size {header.virtual_size} is not a multiple of {SECTOR}: readers cut the last "
                       "sector, or do not", "resize a copy of the image with qemu-img resize")  # fmt: skip


def _reserved_findings(source: SourceFile, header: Qcow2) -> Iterator[Finding]:
    """Bytes of the header that no version defines: by the spec they do not change what is read."""
    start = HEADER_V3_SIZE + 1
    if header.header_length > start and any(source.read_at(start, header.header_length - start)):
        yield _finding(WARNING, Reason.BAD_VALUE, start, "reserved bytes of the header are not zero")


def _refcount_findings(source: SourceFile, header: Qcow2) -> Iterator[Finding]:
    """Defects of the reference counts as far as the header shows them: reading does without."""
    if header.refcount_order > MAX_REFCOUNT_ORDER:
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            96,
            f"reference counts of 2^{header.refcount_order} bits, the widest have 64",
            COPY_AGAIN,
        )
    start, size = header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size
    if start % header.cluster_size or start < header.cluster_size:
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            48,
            f"the refcount table at {start:#x} is not cluster aligned behind the header",
            COPY_AGAIN,
        )
    elif size > MAX_REFCOUNT_TABLE:
        yield _finding(WARNING, Reason.LIMIT_METADATA, 56,
                       f"refcount table of {size} bytes, the largest that is read has {MAX_REFCOUNT_TABLE}",
                       COPY_AGAIN)  # fmt: skip
    elif start + size > source.size:
        yield _finding(
            WARNING,
            outside(header, start + size),
            48,
            f"the refcount table ends at {start + size:#x}, the file at {source.size:#x}",
            COPY_AGAIN,
        )
