"""A VMDK file by its header or descriptor: `open_image`.

What is read whole: a sparse file with its descriptor inside (monolithicSparse, streamOptimized) and a text
descriptor with one flat file beside it (monolithicFlat). All other kinds are described and kept from conversion
by a finding. Source: VMware, Virtual Disk Format 1.1 and 5.0, here "VMDK spec".
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.vmdk import sparse
from diskfmt.formats.vmdk.descriptor import NO_PARENT, SIGNATURE, Descriptor, Extent, parse
from diskfmt.formats.vmdk.sparse import COPY_AGAIN, HEADER_SIZE, SparseHeader
from diskfmt.stores.source import SourceFile
from diskfmt.units import KIB, MIB, SECTOR, TIB

MAX_TEXT: Final = MIB - 1  # bytes of a text descriptor
MAX_VIRTUAL_SIZE: Final = 64 * TIB
MAX_FLAT: Final = 2 * TIB
HEAD: Final = 64 * KIB  # bytes in which the signature comment of a text descriptor is looked for
MAX_REFERENCES: Final = 1000  # named in the answer
DESCRIPTOR_VERSIONS: Final = range(1, 5)
EXTENT_LINE: Final = "SPARSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmdk:
    """What `Image.header` is for this format.

    `header` is the sparse header that counts (the footer where there is one), None for a text descriptor.
    `data_end`: grains and tables end at or before this offset of the file. `flat` is the one extent of a
    monolithicFlat disk. All three are None or 0 where nothing can be mapped.
    """

    descriptor: Descriptor | None
    header: SparseHeader | None = None
    data_end: int = 0
    flat: Extent | None = None


def open_image(source: SourceFile) -> Image:
    """The image in a file, by its header, footer and descriptor; nothing that it names is opened.

    Raises:
        CorruptError, RefusedError, LimitError: no description of a disk can be given.

    """
    head = source.read_at(0, min(source.size, HEAD))
    if head.startswith(sparse.MAGIC):
        if len(head) < HEADER_SIZE:
            raise CorruptError(
                f"the file ends inside its header, at {len(head)}",
                reason=Reason.TRUNCATED,
                offset=len(head),
                remedy=COPY_AGAIN,
            )
        return _open_sparse(source, head[:HEADER_SIZE])
    if head.startswith((sparse.COWD_MAGIC, sparse.SESPARSE_MAGIC)):
        return _open_other(head)
    if _is_text(head):
        return _open_text(source)
    raise RefusedError(
        "neither a VMDK header nor a VMDK descriptor is at the start of the file",
        reason=Reason.FORMAT_MISMATCH,
        offset=0,
        remedy="name the right format with -f",
    )


def _is_text(head: bytes) -> bool:
    """Whether text with the signature comment starts the file, in whatever encoding (TM-408)."""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:2] in (b"#\0", b"\0#")
    text = head.replace(b"\0", b"") if wide else head.split(b"\0", 1)[0]
    return SIGNATURE.lower() in text.lower()


def _open_other(head: bytes) -> Image:
    if len(head) < HEADER_SIZE:
        raise CorruptError(
            f"the file ends inside its header, at {len(head)}",
            reason=Reason.TRUNCATED,
            offset=len(head),
            remedy=COPY_AGAIN,
        )
    subformat, size = sparse.other_header(head)
    if size > MAX_VIRTUAL_SIZE:
        raise LimitError(f"a capacity of {size} bytes is larger than 64 TiB", offset=12)
    finding = _unsupported(f"{subformat} extents are not read", 0)
    return Image(
        format="vmdk",
        subformat=subformat,
        virtual_size=size,
        unit=None,
        header=Vmdk(descriptor=None),
        findings=(finding,),
    )


# ---- a sparse file ---------------------------------------------------------------------------------------------


def _open_sparse(source: SourceFile, data: bytes) -> Image:
    first = sparse.read_header(data)
    sparse.require_sane(first)
    header, data_end, findings = sparse.find_footer(source, first)
    sparse.require_placed(header, data_end)
    findings += sparse.feature_findings(header)
    subformat = "streamOptimized" if header.compressed else "monolithicSparse"
    descriptor = None
    if header.descriptor_size:
        text = source.read_at(SECTOR, header.descriptor_size * SECTOR)
        descriptor = parse(text, SECTOR)
        findings += _embedded_findings(header, descriptor, subformat)
    else:
        findings.append(
            _unsupported(
                "this is a piece of a multi-file disk, without its descriptor",
                28,
                "name the descriptor file, not the piece",
            )
        )
    references, refused = _parent(descriptor, SECTOR)
    extent: dict[str, object] = {"compressed": True} if header.compressed else {}
    extent |= {
        "virtual-size": header.capacity * SECTOR,
        "filename": source.path,
        "cluster-size": header.grain,
        "format": "",
    }
    return Image(
        format="vmdk",
        subformat=subformat,
        virtual_size=header.capacity * SECTOR,
        unit=header.grain,
        header=Vmdk(descriptor=descriptor, header=header, data_end=data_end),
        references=references,
        findings=(*findings, *refused),
        specific=_specific(descriptor, subformat, [extent]),
        extra={"dirty-flag": bool(header.unclean), **_backing(descriptor)},
    )


def _embedded_findings(header: SparseHeader, descriptor: Descriptor, subformat: str) -> list[Finding]:
    """Where the descriptor inside a sparse file says something else than its header (TM-406)."""
    found = []

    def add(message: str, offset: int = SECTOR, remedy: str = "write the image again with one meaning") -> None:
        found.append(
            Finding(reason=Reason.DIFFERENTIAL, severity=Severity.ERROR, message=message, offset=offset, remedy=remedy)
        )

    if descriptor.create_type != subformat:
        add(f"createType is {descriptor.create_type!r}, the header is that of {subformat}")
    if len(descriptor.extents) != 1:
        add(f"the descriptor inside the file has {len(descriptor.extents)} extents, not one")
    for extent in descriptor.extents[:1]:
        if extent.kind != EXTENT_LINE or extent.access == "NOACCESS":
            add(f"the extent is {extent.access} {extent.kind}, not RW SPARSE", extent.offset)
    if descriptor.size != header.capacity * SECTOR:
        add(f"the capacity is {header.capacity} sectors, the extents have {descriptor.size // SECTOR}")
    return found + _content_findings(descriptor, SECTOR)


# ---- a text descriptor -----------------------------------------------------------------------------------------


def _open_text(source: SourceFile) -> Image:
    if source.size > MAX_TEXT:
        raise LimitError(
            f"a descriptor of {source.size} bytes is larger than {MAX_TEXT}",
            reason=Reason.LIMIT_METADATA,
            offset=MAX_TEXT,
        )
    descriptor = parse(source.read_at(0, source.size))
    if not descriptor.extents:
        raise CorruptError("the descriptor has no extent", offset=0, remedy=COPY_AGAIN)
    if descriptor.size == 0:
        raise CorruptError(
            "the extents of the descriptor have no sectors", offset=descriptor.extents[0].offset, remedy=COPY_AGAIN
        )
    if descriptor.size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"a disk of {descriptor.size} bytes is larger than 64 TiB", offset=descriptor.extents[0].offset
        )
    findings = _content_findings(descriptor, 0)
    flat, refused = _flat(descriptor)
    findings += refused
    pieces = tuple(
        Reference(
            kind="piece",
            name=extent.name,
            format="raw" if extent.kind in ("FLAT", "VMFS") else None,
            offset=extent.offset,
        )
        for extent in descriptor.extents[:MAX_REFERENCES]
        if extent.name is not None
    )
    findings += [_outside(piece) for piece in pieces if not is_plain_name(piece.name)]
    parents, refused = _parent(descriptor, 0)
    extents = [_extent_info(extent) for extent in descriptor.extents[:MAX_REFERENCES]]
    return Image(
        format="vmdk",
        subformat=descriptor.create_type,
        virtual_size=descriptor.size,
        unit=None,
        header=Vmdk(descriptor=descriptor, flat=flat),
        references=(*pieces, *parents),
        findings=(*findings, *refused),
        specific=_specific(descriptor, descriptor.create_type, extents),
        extra={"dirty-flag": False, **_backing(descriptor)},
    )


def _flat(descriptor: Descriptor) -> tuple[Extent | None, list[Finding]]:
    """The extent of a monolithicFlat disk, or why this is none that is read."""
    extent = descriptor.extents[0]
    if descriptor.create_type != "monolithicFlat":
        return None, [_unsupported(f"disks of type {descriptor.create_type!r} are not read", 0)]
    if len(descriptor.extents) != 1:
        return None, [
            _unsupported(
                f"a monolithicFlat disk of {len(descriptor.extents)} extents is not read", descriptor.extents[1].offset
            )
        ]
    if (extent.access, extent.kind) != ("RW", "FLAT") or extent.name is None:
        return None, [
            _unsupported(
                f"a monolithicFlat disk with an extent {extent.access} {extent.kind} is not read", extent.offset
            )
        ]
    if extent.length > MAX_FLAT:
        raise LimitError(f"a flat extent of {extent.length} bytes is larger than 2 TiB", offset=extent.offset)
    return extent, []


def is_plain_name(name: str) -> bool:
    """Whether a name of a piece can only mean a file in the descriptor's own directory."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:")


def _outside(piece: Reference) -> Finding:
    return Finding(
        reason=Reason.EXTERNAL_REFERENCE,
        severity=Severity.ERROR,
        offset=piece.offset,
        message=f"the piece {piece.name[:200]!r} is not a plain file name",
        remedy="put the piece beside the descriptor and name it there",
    )


def _extent_info(extent: Extent) -> dict[str, object]:
    named = {} if extent.name is None else {"filename": extent.name}
    return {"virtual-size": extent.length, **named, "format": extent.kind}


# ---- both ------------------------------------------------------------------------------------------------------


def _content_findings(descriptor: Descriptor, offset: int) -> list[Finding]:
    """What a descriptor says that keeps this version from reading the disk."""
    found = []
    if descriptor.version not in DESCRIPTOR_VERSIONS:
        found.append(
            Finding(
                reason=Reason.UNKNOWN_FEATURE,
                severity=Severity.ERROR,
                offset=offset,
                message=f"descriptor version {descriptor.version} is not known",
            )
        )
    filters = descriptor.ddb.get("iofilters", "")
    if descriptor.encryption_keys is not None or "crypt" in filters.lower():
        found.append(
            Finding(
                reason=Reason.ENCRYPTED,
                severity=Severity.ERROR,
                offset=offset,
                message="the disk is encrypted",
                remedy="decrypt it with VMware, then export it",
            )
        )
    return found


def _parent(descriptor: Descriptor | None, offset: int) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The files of a parent chain or change tracking that a descriptor names, and that it may not."""
    if descriptor is None:
        return (), []
    references = []
    found = []

    def refuse(message: str, remedy: str) -> None:
        found.append(
            Finding(
                reason=Reason.EXTERNAL_REFERENCE, severity=Severity.ERROR, message=message, offset=offset, remedy=remedy
            )
        )

    hint = descriptor.parent_hint
    if hint is not None or descriptor.parent_cid != NO_PARENT:
        references.append(Reference(kind="parent", name=hint or "", format="vmdk", offset=offset))
    if descriptor.change_track_path is not None:
        references.append(Reference(kind="change-track", name=descriptor.change_track_path, offset=offset))
        refuse(
            f"the disk names the change tracking file {descriptor.change_track_path[:200]!r}",
            "switch changed block tracking off, or remove changeTrackPath from the descriptor",
        )
    return tuple(references), found


def _backing(descriptor: Descriptor | None) -> dict[str, object]:
    hint = descriptor.parent_hint if descriptor is not None else None
    return {} if hint is None else {"backing-filename": hint, "backing-filename-format": "vmdk"}


def _specific(descriptor: Descriptor | None, create_type: str, extents: list[dict[str, object]]) -> dict[str, object]:
    """What qemu-img prints of a VMDK."""
    ids: dict[str, object] = {}
    if descriptor is not None:
        ids = {"cid": descriptor.cid, "parent-cid": descriptor.parent_cid}
        create_type = descriptor.create_type
    return {**ids, "create-type": create_type, "extents": extents}


def _unsupported(message: str, offset: int, remedy: str | None = None) -> Finding:
    return Finding(
        reason=Reason.UNSUPPORTED_SUBFORMAT,
        severity=Severity.ERROR,
        message=message,
        offset=offset,
        remedy=remedy or "convert it to monolithicSparse or streamOptimized with VMware tools first",
    )
