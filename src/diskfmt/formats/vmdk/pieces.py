"""The sparse files that a text descriptor names: their headers, and whether they are what the descriptor says.

Such a file is read when the map is made, because opening the image opens nothing else.
"""

from diskfmt.errors import CorruptError, Finding, LimitError, Reason, RefusedError, Severity, error_from, first_error
from diskfmt.formats.vmdk import cowd, sesparse, sparse
from diskfmt.formats.vmdk.descriptor import NO_PARENT, parse
from diskfmt.formats.vmdk.footer import find_footer
from diskfmt.formats.vmdk.sections import Section
from diskfmt.formats.vmdk.shape import COWD, SESPARSE, Shape
from diskfmt.formats.vmdk.sparse import COPY_AGAIN, SparseHeader
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR

_MAGICS = {COWD: (cowd.MAGIC, cowd.HEADER_SIZE), SESPARSE: (sesparse.MAGIC, SECTOR)}


def open_piece(section: Section, file: SourceFile) -> tuple[Shape, list[Finding]]:
    """The shape of the sparse file of a section, and what is doubtful about it, none of severity ERROR.

    Raises:
        CorruptError, RefusedError, LimitError: it is not a file of that kind, or none that is read; `path` is set.

    """
    try:
        shape, found = _read(section, file)
    except (CorruptError, LimitError, RefusedError) as error:
        raise error.about(file.path) from None
    blocker = first_error(found)
    if blocker is not None:
        raise error_from(blocker, path=file.path)
    if shape.size != section.length:
        raise RefusedError(
            f"the piece has {shape.size // SECTOR} sectors, its extent line says {section.length // SECTOR}",
            reason=Reason.DIFFERENTIAL,
            path=file.path,
            offset=12,
            remedy="copy the descriptor and the piece again: they do not belong together",
        )
    return shape, found


def _read(section: Section, file: SourceFile) -> tuple[Shape, list[Finding]]:
    magic, length = _MAGICS.get(section.kind, (sparse.MAGIC, sparse.HEADER_SIZE))
    head = file.read_at(0, min(length, file.size))
    if not head.startswith(magic):
        raise CorruptError(f"the piece is no {section.kind} file", offset=0, remedy=COPY_AGAIN)
    if len(head) < length:
        raise CorruptError(
            f"the piece ends inside its header, at {len(head)}",
            reason=Reason.TRUNCATED,
            offset=len(head),
            remedy=COPY_AGAIN,
        )
    if section.kind == COWD:
        return cowd.read_shape(head, file.size)
    if section.kind == SESPARSE:
        return sesparse.read_shape(file), []
    return read_hosted(file, head)[1:]


def read_hosted(file: SourceFile, head: bytes) -> tuple[SparseHeader, Shape, list[Finding]]:
    """Header, shape and findings of a hosted sparse file that is a piece; `head` are its first 512 bytes."""
    first = sparse.read_header(head)
    sparse.require_sane(first)
    header, data_end, findings = find_footer(file, first)
    sparse.require_placed(header, data_end)
    findings += sparse.feature_findings(header)
    text = embedded_text(file, header)
    if text and parse(text, SECTOR).parent_cid != NO_PARENT:
        findings.append(
            Finding(
                reason=Reason.DIFFERENTIAL,
                severity=Severity.ERROR,
                offset=SECTOR,
                message="the piece has a descriptor of its own that names a parent",
                remedy="consolidate the disk with VMware tools first",
            )
        )
    return header, sparse.shape_of(header, data_end), findings


def embedded_text(file: SourceFile, header: SparseHeader) -> bytes:
    """What stands in the room for a descriptor, empty where that is all zero: in a piece that qemu wrote."""
    text = file.read_at(SECTOR, header.descriptor_size * SECTOR) if header.descriptor_size else b""
    return text if any(text) else b""
