"""A qcow2 image as its header describes it, now or at one of its internal snapshots.

    parse.py: header, proven ─► doubts.py: findings ─┐
    extras.py: snapshots, bitmaps ───────────────────┼─► describe.py: what `info` shows ─► Image
    names of other files ────────────────────────────┘

Source: qemu, docs/interop/qcow2.rst, here "spec", sections "Header", "Header extensions", "Snapshots".
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final, TypeVar

from diskfmt.errors import (
    CorruptError,
    DiskfmtError,
    Finding,
    LimitError,
    Reason,
    RefusedError,
    Severity,
    UsageError,
)
from diskfmt.escape import escape
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.qcow2.describe import extra, specific, subformat
from diskfmt.formats.qcow2.doubts import doubts
from diskfmt.formats.qcow2.extras import Snapshot, bitmaps, snapshots
from diskfmt.formats.qcow2.parse import CONVERT, COPY_AGAIN, read_header
from diskfmt.formats.qcow2.records import (
    EXT_BACKING_FORMAT,
    EXT_DATA_FILE,
    MAX_FORMAT_NAME,
    MAX_NAME,
    MAX_VIRTUAL_SIZE,
    L1Table,
    Qcow2,
)
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

MAX_LISTED: Final = 1000
_Entry = TypeVar("_Entry")


def open_image(source: SourceFile) -> Image:
    """The image as its header describes it. Reads at most 4 MiB and opens nothing that the image names.

    Raises:
        RefusedError: FORMAT_MISMATCH, no qcow2; UNSUPPORTED_SUBFORMAT, another version.
        CorruptError: BAD_VALUE, OUT_OF_FILE, OVERLAP, TRUNCATED.
        LimitError: LIMIT_SIZE, LIMIT_METADATA.

    Source: spec, "Header".

    """
    header = read_header(source)
    references, name_trouble = _references(source, header)
    saved, snapshot_trouble = _listed(source, header, snapshots, "snapshots", 60)
    marked, bitmap_trouble = _listed(source, header, bitmaps, "bitmaps", 88)
    return Image(
        format="qcow2",
        subformat=subformat(header),
        virtual_size=header.virtual_size,
        unit=header.cluster_size,
        header=header,
        references=references,
        findings=(*doubts(source, header), *name_trouble, *snapshot_trouble, *bitmap_trouble),
        specific=specific(source, header, references, marked),
        extra=extra(source, header, references, saved),
    )


def at_snapshot(image: Image, source: SourceFile, name: str) -> Image:
    """The image as it was at the snapshot with this id, or else with this name: another L1 table, another size.

    The state of a machine, which lies behind the end of the disk, is not shown.

    Raises:
        UsageError: there is no such snapshot.
        RefusedError: DIFFERENTIAL, there are several.
        CorruptError: BAD_VALUE, OVERLAP, OUT_OF_FILE, TRUNCATED: the snapshot table makes no sense.
        LimitError: LIMIT_METADATA, LIMIT_SIZE.

    Source: spec, "Snapshots".

    """
    header: Qcow2 = image.header
    snapshot = _find(list(snapshots(source, header)), name)
    size = header.virtual_size if snapshot.disk_size is None else snapshot.disk_size
    shown = replace(
        header,
        virtual_size=size,
        l1_offset=snapshot.l1_offset,
        l1_size=snapshot.l1_size,
        present=header.present or L1Table(offset=header.l1_offset, size=header.l1_size),
    )
    _require_snapshot(shown, snapshot)
    return replace(image, virtual_size=size, header=shown)


def _find(listed: list[Snapshot], name: str) -> Snapshot:
    found = [one for one in listed if one.id == name] or [one for one in listed if one.name == name]
    if not found:
        raise UsageError(f'there is no snapshot "{escape(name)}"', remedy="diskfmt info lists the snapshots")
    if len(found) > 1:
        raise RefusedError(
            f'{len(found)} snapshots are called "{escape(name)}"',
            reason=Reason.DIFFERENTIAL,
            offset=found[1].offset,
            remedy="give the id of the snapshot; diskfmt info lists them",
        )
    return found[0]


def _require_snapshot(shown: Qcow2, snapshot: Snapshot) -> None:
    """What the header's own table was proven to be when the image was opened."""
    if shown.virtual_size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"the snapshot's disk has {shown.virtual_size} bytes, the largest that is read has {MAX_VIRTUAL_SIZE}",
            offset=snapshot.offset,
            remedy=CONVERT,
        )
    if shown.virtual_size % SECTOR:
        raise RefusedError(
            f"the snapshot's disk has {shown.virtual_size} bytes, which is not a multiple of {SECTOR}",
            reason=Reason.DIFFERENTIAL,
            offset=snapshot.offset,
            remedy=CONVERT,
        )
    if shown.l1_size and shown.l1_offset < shown.cluster_size:
        raise CorruptError(
            f"the snapshot's L1 table at {shown.l1_offset:#x} overlaps the header",
            reason=Reason.OVERLAP,
            offset=snapshot.offset,
            remedy=COPY_AGAIN,
        )
    if shown.l1_size < shown.l1_needed:
        raise CorruptError(
            f"the snapshot's L1 table has {shown.l1_size} entries, its disk of {shown.virtual_size} bytes needs "
            f"{shown.l1_needed}",
            offset=snapshot.offset,
            remedy=COPY_AGAIN,
        )


def _references(source: SourceFile, header: Qcow2) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The files that the image names, and what keeps the converter away from them for good."""
    found: list[Reference] = []
    if header.backing_offset or header.backing_size:
        name = _name(source, header.backing_offset, header.backing_size if header.backing_offset else 0)
        kind = header.extension(EXT_BACKING_FORMAT)
        kind_name = _name(source, kind.offset, min(kind.length, MAX_FORMAT_NAME)) if kind else None
        found.append(Reference(kind="backing", name=name, format=kind_name or None, offset=header.backing_offset))
    extension = header.extension(EXT_DATA_FILE)
    if header.has_data_file or extension:
        name = _name(source, extension.offset, min(extension.length, MAX_NAME)) if extension else ""
        kind_name = "data-file" if header.has_data_file else "unused data-file"
        offset = extension.offset if extension else 72
        found.append(Reference(kind=kind_name, name=name, format="raw", offset=offset))
    findings = [
        Finding(severity=Severity.ERROR, reason=Reason.DIFFERENTIAL, offset=reference.offset, remedy=CONVERT,
                message=f"the name of the {reference.kind} holds a NUL, where some readers end it")
        for reference in found if "\0" in reference.name
    ]  # fmt: skip
    if extension and extension.length > MAX_NAME:
        findings.append(Finding(severity=Severity.ERROR, reason=Reason.LIMIT_METADATA, offset=extension.offset,
                                message=f"the name of the data file has {extension.length} bytes, the longest that "
                                f"are read have {MAX_NAME}", remedy=CONVERT))  # fmt: skip
    return tuple(found), findings


def _name(source: SourceFile, offset: int, length: int) -> str:
    """The raw text of a file name: bytes that are no UTF-8 become surrogates, as in `os.fsdecode`."""
    return source.read_at(offset, length).decode("utf-8", "surrogateescape")


def _listed(source: SourceFile, header: Qcow2, walk: Callable[[SourceFile, Qcow2], Iterator[_Entry]], what: str,
            at: int) -> tuple[list[_Entry], list[Finding]]:  # fmt: skip
    """The first entries of a table that reading does without, and what is wrong with it."""
    found: list[_Entry] = []
    try:
        # One more, so that the walk meets its end, and with it a defect of the last entry.
        found.extend(islice(walk(source, header), MAX_LISTED + 1))
    except DiskfmtError as error:
        return found[:MAX_LISTED], [_doubt(error)]
    if len(found) <= MAX_LISTED:
        return found, []
    note = Finding(severity=Severity.NOTE, reason=Reason.LIMIT_METADATA, offset=at,
                   message=f"more than {MAX_LISTED} {what}, of which that many are listed")  # fmt: skip
    return found[:MAX_LISTED], [note]


def _doubt(error: DiskfmtError) -> Finding:
    """The finding for a defect of something that reading does without.

    A table that lies on the header is no accident: whoever writes that wants readers to stumble.
    """
    severity = Severity.ERROR if error.reason is Reason.OVERLAP else Severity.WARNING
    return Finding(severity=severity, reason=error.reason, offset=error.offset or 0, message=error.message,
                   remedy=error.remedy)  # fmt: skip
