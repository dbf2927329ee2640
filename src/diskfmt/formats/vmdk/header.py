"""A VMDK file by its header or descriptor: `open_image`.

    KDMV   a sparse file: with a descriptor inside a whole disk (monolithicSparse, streamOptimized), without one a piece
    COWD, seSparse                                                                                           a piece
    text   a descriptor, whose extent lines name the pieces

A piece alone is described and kept from conversion by a finding. Source: VMware, Virtual Disk Format 1.1 and 5.0, here
"VMDK spec".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image, Reference
from diskfmt.formats.vmdk import cowd, sesparse, sparse
from diskfmt.formats.vmdk.descriptor import NO_PARENT, SIGNATURE, Descriptor, Extent, parse
from diskfmt.formats.vmdk.footer import find_footer
from diskfmt.formats.vmdk.pieces import embedded_text
from diskfmt.formats.vmdk.sections import Section, plan
from diskfmt.formats.vmdk.shape import SPARSE, Shape
from diskfmt.formats.vmdk.sparse import COPY_AGAIN, HEADER_SIZE, SparseHeader
from diskfmt.stores.source import Identity, SourceFile
from diskfmt.units import KIB, MIB, SECTOR, TIB

MAX_TEXT: Final = MIB - 1  # bytes of a text descriptor
MAX_VIRTUAL_SIZE: Final = 64 * TIB
HEAD: Final = 64 * KIB  # bytes in which the signature comment of a text descriptor is looked for
MAX_SHOWN: Final = 1000  # extents in the answer
DESCRIPTOR_VERSIONS: Final = range(1, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmdk:
    """What `Image.header` is for this format.

    `header`, `shape`: of a sparse file with its descriptor inside; the header is the one that counts (the footer where
    there is one). `sections`: of a text descriptor. Neither is there where nothing can be mapped.
    """

    descriptor: Descriptor | None
    header: SparseHeader | None = None
    shape: Shape | None = None
    sections: tuple[Section, ...] = ()

    @property
    def has_parent(self) -> bool:
        """Whether what this disk does not store is in another one."""
        return self.descriptor is not None and _names_parent(self.descriptor)


def open_image(source: SourceFile) -> Image:
    """The image in a file, by its header, footer and descriptor; nothing that it names is opened.

    Raises:
        CorruptError, RefusedError, LimitError: no description of a disk can be given.

    """
    head = source.read_at(0, min(source.size, HEAD))
    if head.startswith((sparse.MAGIC, cowd.MAGIC, sesparse.MAGIC)):
        needed = cowd.HEADER_SIZE if head.startswith(cowd.MAGIC) else HEADER_SIZE
        if len(head) < needed:
            raise CorruptError(
                f"the file ends inside its header, at {len(head)}",
                reason=Reason.TRUNCATED,
                offset=len(head),
                remedy=COPY_AGAIN,
            )
        if head.startswith(sparse.MAGIC):
            return _open_sparse(source, head[:HEADER_SIZE])
        if head.startswith(cowd.MAGIC):
            shape, found = cowd.read_shape(head[:needed], source.size)
            return _open_piece(shape, "vmfsSparse", found)
        return _open_piece(sesparse.read_shape(source), "seSparse", [])
    if _is_text(head):
        return _open_text(source)
    raise RefusedError(
        "neither a VMDK header nor a VMDK descriptor is at the start of the file",
        reason=Reason.FORMAT_MISMATCH,
        offset=0,
        remedy="name the right format with -f",
    )


def judge_below(image: Image, below: Image, identity: Identity) -> Iterator[Finding]:  # noqa: ARG001
    """What speaks against `below` being the parent of `image`: another content id, another size (TM-503).

    The content id changes with the first write to a disk after it was opened. Source: VMDK spec, "The Header".
    """
    child, parent = image.header.descriptor, below.header.descriptor
    if parent is None or parent.cid != child.parent_cid:
        found = "none" if parent is None else f"{parent.cid:08x}"
        yield Finding(
            reason=Reason.DIFFERENTIAL,
            severity=Severity.ERROR,
            message=f"the parent's content id is {found}, the disk was made of {child.parent_cid:08x}",
            remedy="find the parent as it was when the snapshot was taken: it was changed since, or is another disk",
        )
    if below.virtual_size != image.virtual_size:
        yield Finding(
            reason=Reason.DIFFERENTIAL,
            severity=Severity.ERROR,
            message=f"the parent has {below.virtual_size} bytes, the disk {image.virtual_size}",
            remedy="find the parent that the disk was made of",
        )


def _is_text(head: bytes) -> bool:
    """Whether text with the signature comment starts the file, in whatever encoding (TM-408)."""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:2] in (b"#\0", b"\0#")
    text = head.replace(b"\0", b"") if wide else head.split(b"\0", 1)[0]
    return SIGNATURE.lower() in text.lower()


# ---- a sparse file ---------------------------------------------------------------------------------------------


def _open_piece(shape: Shape, subformat: str, findings: list[Finding]) -> Image:
    """A sparse file without its descriptor."""
    return Image(
        format="vmdk",
        subformat=subformat,
        virtual_size=shape.size,
        unit=shape.grain,
        header=Vmdk(descriptor=None),
        findings=(*findings, _lonely()),
    )


def _lonely() -> Finding:
    return Finding(
        reason=Reason.UNSUPPORTED_SUBFORMAT,
        severity=Severity.ERROR,
        message="this is a piece of a disk, without its descriptor",
        offset=0,
        remedy="name the descriptor file, not the piece",
    )


def _open_sparse(source: SourceFile, data: bytes) -> Image:
    first = sparse.read_header(data)
    sparse.require_sane(first)
    header, data_end, findings = find_footer(source, first)
    sparse.require_placed(header, data_end)
    findings += sparse.feature_findings(header)
    subformat = "streamOptimized" if header.compressed else "monolithicSparse"
    text = embedded_text(source, header)
    descriptor = parse(text, SECTOR) if text else None
    findings += [_lonely()] if descriptor is None else _embedded_findings(header, descriptor, subformat)
    references, refused = _parent(descriptor, SECTOR)
    extent: dict[str, object] = {"compressed": True} if header.compressed else {}
    extent |= {
        "virtual-size": header.capacity * SECTOR,
        "filename": source.path,
        "cluster-size": header.grain,
        "format": "",
    }
    shape = sparse.shape_of(header, data_end) if descriptor is not None else None
    return Image(
        format="vmdk",
        subformat=subformat,
        virtual_size=header.capacity * SECTOR,
        unit=header.grain,
        header=Vmdk(descriptor=descriptor, header=header, shape=shape),
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
        if extent.kind != SPARSE or extent.access == "NOACCESS":
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
    sections, pieces, unread = plan(descriptor)
    parents, refused = _parent(descriptor, 0)
    return Image(
        format="vmdk",
        subformat=descriptor.create_type,
        virtual_size=descriptor.size,
        unit=None,
        header=Vmdk(descriptor=descriptor, sections=sections),
        references=(*pieces, *parents),
        findings=(*_content_findings(descriptor, 0), *unread, *refused),
        specific=_specific(
            descriptor, descriptor.create_type, [_extent_info(extent) for extent in descriptor.extents[:MAX_SHOWN]]
        ),
        extra={"dirty-flag": False, **_backing(descriptor)},
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


def _names_parent(descriptor: Descriptor) -> bool:
    return descriptor.parent_hint is not None or descriptor.parent_cid != NO_PARENT


def _parent(descriptor: Descriptor | None, offset: int) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The parent and the change tracking that a descriptor names; the latter keeps the disk from being read."""
    if descriptor is None:
        return (), []
    references = []
    if _names_parent(descriptor):
        references.append(Reference(kind="parent", name=descriptor.parent_hint or "", format="vmdk", offset=offset))
    path = descriptor.change_track_path
    if path is None:
        return tuple(references), []
    references.append(Reference(kind="change-track", name=path, offset=offset))
    finding = Finding(
        reason=Reason.EXTERNAL_REFERENCE,
        severity=Severity.ERROR,
        offset=offset,
        message=f"the disk names the change tracking file {path[:200]!r}",
        remedy="switch changed block tracking off, or remove changeTrackPath from the descriptor",
    )
    return tuple(references), [finding]


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
