"""What the header of a qcow2 image and its extensions say about the disk, and whether to believe them.

See `docs/formats/qcow2.md` for every check with its reason code.
Source: qemu, docs/interop/qcow2.rst, here "spec", sections "Header", "Header extensions".
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from diskfmt.errors import CorruptError, DiskfmtError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.qcow2 import extras
from diskfmt.formats.qcow2.describe import extra, specific, subformat
from diskfmt.formats.qcow2.extras import outside
from diskfmt.formats.qcow2.records import (
    AES,
    BITMAPS,
    COMPRESSION_NAMES,
    COMPRESSION_TYPE,
    CORRUPT,
    DATA_FILE,
    DIRTY,
    EXT_BACKING_FORMAT,
    EXT_BITMAPS,
    EXT_DATA_FILE,
    EXT_ENCRYPTION,
    EXT_END,
    EXT_FEATURE_TABLE,
    EXTENDED_L2,
    EXTENSION_NAMES,
    EXTENSION_SIZE,
    HEADER_V2_SIZE,
    HEADER_V3_SIZE,
    KNOWN_AUTOCLEAR,
    KNOWN_COMPATIBLE,
    KNOWN_INCOMPATIBLE,
    LUKS,
    MAGIC,
    MAX_CLUSTER_BITS,
    MAX_EXTENSION,
    MAX_EXTENSIONS,
    MAX_FORMAT_NAME,
    MAX_HEADER,
    MAX_L1,
    MAX_NAME,
    MAX_REFCOUNT_ORDER,
    MAX_REFCOUNT_TABLE,
    MAX_VIRTUAL_SIZE,
    MIN_CLUSTER_BITS,
    MIN_EXTENDED_CLUSTER_BITS,
    RAW_DATA_FILE,
    Extension,
    Qcow2,
    parse_extension,
    parse_features,
    parse_fixed,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR, align_up

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
MAX_LISTED: Final = 1000
_COPY_AGAIN: Final = "copy the image again, or repair a copy of it with qemu-img check -r all"
_CONVERT: Final = "convert the image with the tool that wrote it"


def open_image(source: SourceFile) -> Image:
    """The image as its header describes it. Reads at most 4 MiB and opens nothing that the image names.

    Raises:
        RefusedError: FORMAT_MISMATCH, no qcow2; UNSUPPORTED_SUBFORMAT, another version.
        CorruptError: BAD_VALUE, OUT_OF_FILE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    Source: spec, "Header".

    """
    header = _read_header(source)
    _require_sizes(header)
    _require_l1(source, header)
    header = replace(header, extensions=tuple(_extensions(source, header)))
    found = [
        *_extension_findings(header),
        *_feature_findings(source, header),
        *_content_findings(header),
        *_reserved_findings(source, header),
        *_refcount_findings(source, header),
    ]
    references, trouble = _references(source, header)
    found += trouble
    snapshots, trouble = _snapshots(source, header)
    found += trouble
    bitmaps, trouble = _bitmaps(source, header)
    found += trouble
    return Image(
        format="qcow2",
        subformat=subformat(header),
        virtual_size=header.virtual_size,
        unit=header.cluster_size,
        header=header,
        references=references,
        findings=tuple(found),
        specific=specific(source, header, references, bitmaps),
        extra=extra(source, header, references, snapshots),
    )


def _read_header(source: SourceFile) -> Qcow2:
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
        raise RefusedError(f"version {version}, known are 2 and 3", offset=4, remedy=_CONVERT)
    if bits < MIN_CLUSTER_BITS:
        raise CorruptError(
            f"clusters of 2^{bits} bytes, the smallest are 2^{MIN_CLUSTER_BITS}", offset=20, remedy=_COPY_AGAIN
        )
    if bits > MAX_CLUSTER_BITS:
        raise LimitError(
            f"clusters of 2^{bits} bytes, the largest that are read are 2^{MAX_CLUSTER_BITS}",
            reason=Reason.LIMIT_METADATA,
            offset=20,
            remedy=_CONVERT,
        )
    header = Qcow2(**fields)
    return header if version == 2 else _read_version_3(source, header)


def _read_version_3(source: SourceFile, header: Qcow2) -> Qcow2:
    features = parse_features(source.read_at(HEADER_V2_SIZE, HEADER_V3_SIZE - HEADER_V2_SIZE))
    length = features["header_length"]
    if length < HEADER_V3_SIZE or length % 8:
        raise CorruptError(
            f"header of {length} bytes, not a multiple of 8 from {HEADER_V3_SIZE} on", offset=100, remedy=_COPY_AGAIN
        )
    if length > min(MAX_HEADER, header.cluster_size):
        raise LimitError(f"header of {length} bytes, the longest that is read has "
                         f"{min(MAX_HEADER, header.cluster_size)}", reason=Reason.LIMIT_METADATA, offset=100,
                         remedy=_CONVERT)  # fmt: skip
    kind = source.read_at(HEADER_V3_SIZE, 1)[0] if length > HEADER_V3_SIZE else 0
    if bool(features["incompatible"] & COMPRESSION_TYPE) != bool(kind):
        raise CorruptError(
            f"compression type {kind}, but the feature bit that announces another one than 0 is "
            f"{'clear' if kind else 'set'}",
            offset=HEADER_V3_SIZE,
            remedy=_COPY_AGAIN,
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
            remedy=_COPY_AGAIN,
        )
    if header.l1_size * 8 > MAX_L1:
        raise LimitError(
            f"L1 table of {header.l1_size} entries, at most {MAX_L1 // 8} are read",
            reason=Reason.LIMIT_METADATA,
            offset=36,
            remedy=_CONVERT,
        )
    if header.l1_size < header.l1_needed:
        raise CorruptError(
            f"L1 table of {header.l1_size} entries, a disk of {header.virtual_size} bytes needs {header.l1_needed}",
            offset=36,
            remedy=_COPY_AGAIN,
        )


def _require_l1(source: SourceFile, header: Qcow2) -> None:
    if header.l1_offset % header.cluster_size:
        raise CorruptError(
            f"the L1 table at {header.l1_offset:#x} is not cluster aligned", offset=40, remedy=_COPY_AGAIN
        )
    if not header.l1_size:
        return
    if header.l1_offset < header.cluster_size:
        raise CorruptError(
            f"the L1 table at {header.l1_offset:#x} overlaps the header",
            reason=Reason.OVERLAP,
            offset=40,
            remedy=_COPY_AGAIN,
        )
    if header.l1_end > source.size:
        raise CorruptError(
            f"the L1 table ends at {header.l1_end:#x}, the file at {source.size:#x}",
            reason=outside(header, header.l1_end),
            offset=40,
            remedy=_COPY_AGAIN,
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
                remedy=_COPY_AGAIN,
            )
        if length > MAX_EXTENSION:
            raise LimitError(
                f"header extension {kind:#010x} of {length} bytes, at most {MAX_EXTENSION} are read",
                reason=Reason.LIMIT_METADATA,
                offset=position,
                remedy=_CONVERT,
            )
        yield Extension(kind=kind, offset=data, length=length)
        position = data + align_up(length, 8)
    raise LimitError(
        f"more than {MAX_EXTENSIONS} header extensions", reason=Reason.LIMIT_METADATA, offset=position, remedy=_CONVERT
    )


def _require_backing_name(header: Qcow2) -> None:
    size, start = header.backing_size, header.backing_offset
    if size > MAX_NAME:
        raise CorruptError(
            f"the name of the backing file has {size} bytes, the longest have {MAX_NAME}", offset=16, remedy=_COPY_AGAIN
        )
    if start and start < header.header_length:
        raise CorruptError(
            f"the name of the backing file at {start:#x} overlaps the header",
            reason=Reason.OVERLAP,
            offset=8,
            remedy=_COPY_AGAIN,
        )
    if start + size > header.cluster_size:
        raise CorruptError(
            f"the name of the backing file at {start:#x} ends behind the first cluster", offset=8, remedy=_COPY_AGAIN
        )


def _finding(severity: Severity, reason: Reason, offset: int, message: str, remedy: str | None = None) -> Finding:
    return Finding(severity=severity, reason=reason, offset=offset, message=message, remedy=remedy)


def _extension_findings(header: Qcow2) -> Iterator[Finding]:
    seen: set[int] = set()
    for extension in header.extensions:
        at = extension.offset - EXTENSION_SIZE
        if extension.kind in seen and extension.kind in EXTENSION_NAMES:
            yield _finding(ERROR, Reason.DIFFERENTIAL, at,
                           f"the header extension for {EXTENSION_NAMES[extension.kind]} is there twice: readers "
                           "take one or the other", _COPY_AGAIN)  # fmt: skip
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
                       _COPY_AGAIN)  # fmt: skip
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
            _CONVERT,
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
            _CONVERT,
        )
    if header.incompatible & EXTENDED_L2:
        yield _finding(
            ERROR,
            Reason.UNSUPPORTED_SUBFORMAT,
            72,
            "extended L2 entries are not read yet",
            "convert the image with qemu-img convert -O qcow2 -o extended_l2=off",
        )
    if header.incompatible & CORRUPT:
        yield _finding(ERROR, Reason.CORRUPT_FLAG, 72, "a writer found the image corrupt and marked it", _COPY_AGAIN)
    if header.incompatible & DIRTY:
        yield _finding(WARNING, Reason.UNCLEAN, 72,
                       "the image was not closed: its reference counts may be wrong, which does not matter for "
                       "reading", "shut the machine down and copy the disk again, if it still runs")  # fmt: skip
    if header.autoclear & BITMAPS and not header.extension(EXT_BITMAPS):
        yield _finding(WARNING, Reason.BAD_VALUE, 88, "the bitmaps bit is set, but there is no bitmaps extension")
    if header.autoclear & RAW_DATA_FILE and not header.incompatible & DATA_FILE:
        yield _finding(WARNING, Reason.BAD_VALUE, 88, "the raw data file bit is set, but there is no data file")


def _feature_names(source: SourceFile, header: Qcow2) -> dict[tuple[int, int], str]:
    """Names by type of feature and bit number. Source: spec, "Feature name table"."""
    table = header.extension(EXT_FEATURE_TABLE)
    if table is None:
        return {}
    data = source.read_at(table.offset, table.length)
    entries = (data[at : at + 48] for at in range(0, len(data) - 47, 48))
    return {(entry[0], entry[1]): _until_nul(entry[2:].decode("utf-8", "replace")) for entry in entries}


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
            _COPY_AGAIN,
        )
    start, size = header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size
    if start % header.cluster_size or start < header.cluster_size:
        yield _finding(
            WARNING,
            Reason.BAD_VALUE,
            48,
            f"the refcount table at {start:#x} is not cluster aligned behind the header",
            _COPY_AGAIN,
        )
    elif size > MAX_REFCOUNT_TABLE:
        yield _finding(WARNING, Reason.LIMIT_METADATA, 56,
                       f"refcount table of {size} bytes, the largest that is read has {MAX_REFCOUNT_TABLE}",
                       _COPY_AGAIN)  # fmt: skip
    elif start + size > source.size:
        yield _finding(
            WARNING,
            outside(header, start + size),
            48,
            f"the refcount table ends at {start + size:#x}, the file at {source.size:#x}",
            _COPY_AGAIN,
        )


def _references(source: SourceFile, header: Qcow2) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The files that the image names, and what keeps the converter away from them for good."""
    found: list[Reference] = []
    if header.backing_offset or header.backing_size:
        name = _name(source, header.backing_offset, header.backing_size if header.backing_offset else 0)
        kind = header.extension(EXT_BACKING_FORMAT)
        kind_name = _name(source, kind.offset, min(kind.length, MAX_FORMAT_NAME)) if kind else None
        found.append(Reference(kind="backing", name=name, format=kind_name, offset=header.backing_offset))
    extension = header.extension(EXT_DATA_FILE)
    if header.incompatible & DATA_FILE or extension:
        name = _name(source, extension.offset, min(extension.length, MAX_NAME)) if extension else ""
        offset = extension.offset if extension else None
        found.append(Reference(kind="data-file", name=name, format="raw", offset=offset))
    findings = [
        _finding(ERROR, Reason.DIFFERENTIAL, reference.offset or 0,
                 f"the name of the {reference.kind} holds a NUL, where some readers end it", _CONVERT)
        for reference in found if "\0" in reference.name
    ]  # fmt: skip
    if extension and extension.length > MAX_NAME:
        findings.append(_finding(ERROR, Reason.LIMIT_METADATA, extension.offset,
                                 f"the name of the data file has {extension.length} bytes, the longest that are "
                                 f"read have {MAX_NAME}", _CONVERT))  # fmt: skip
    return tuple(found), findings


def _name(source: SourceFile, offset: int, length: int) -> str:
    """The raw text of a file name: bytes that are no UTF-8 become surrogates, as in `os.fsdecode`."""
    return source.read_at(offset, length).decode("utf-8", "surrogateescape")


def _until_nul(text: str) -> str:
    return text.partition("\0")[0]


def _snapshots(source: SourceFile, header: Qcow2) -> tuple[list[extras.Snapshot], list[Finding]]:
    found: list[extras.Snapshot] = []
    try:
        found.extend(islice(extras.snapshots(source, header), MAX_LISTED))
    except DiskfmtError as error:
        return found, [_doubt(error)]
    if header.snapshot_count > MAX_LISTED:
        return found, [
            _finding(
                NOTE, Reason.LIMIT_METADATA, 60, f"{header.snapshot_count} snapshots, of which {MAX_LISTED} are listed"
            )
        ]
    return found, []


def _bitmaps(source: SourceFile, header: Qcow2) -> tuple[list[extras.Bitmap], list[Finding]]:
    found: list[extras.Bitmap] = []
    try:
        # One more, so that the walk meets its end, and with it a defect of the last entry.
        found.extend(islice(extras.bitmaps(source, header), MAX_LISTED + 1))
    except DiskfmtError as error:
        return found, [_doubt(error)]
    if len(found) > MAX_LISTED:
        at = header.extensions[0].offset
        return found[:MAX_LISTED], [
            _finding(NOTE, Reason.LIMIT_METADATA, at, f"more than {MAX_LISTED} bitmaps, of which that many are listed")
        ]
    return found, []


def _doubt(error: DiskfmtError) -> Finding:
    """The finding for a defect of something that reading does without.

    A table that lies on the header is no accident: whoever writes that wants readers to stumble.
    """
    severity = ERROR if error.reason is Reason.OVERLAP else WARNING
    return _finding(severity, error.reason, error.offset or 0, error.message, error.remedy)
