"""The extent lines of a text descriptor as sections of the guest disk: which are read, and from which file.

Judged by the text alone; the files are opened by whoever may. Source: VMDK spec, "The Extent Description".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.formats.base import Reference
from diskfmt.formats.vmdk.descriptor import Descriptor, Extent
from diskfmt.formats.vmdk.shape import COWD, SESPARSE, SPARSE

FLAT: Final = ("FLAT", "VMFS")
SPARSE_KINDS: Final = (SPARSE, COWD, SESPARSE)
ZERO: Final = "ZERO"
_READ: Final = (*FLAT, *SPARSE_KINDS, ZERO)

MONOLITHIC: Final = ("monolithicFlat", "monolithicSparse", "streamOptimized")
"""Types of exactly one extent."""

# What the extents of a type may be; ZERO is legal in all that may have several.
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "monolithicFlat": ("FLAT",),
    "monolithicSparse": (SPARSE,),
    "streamOptimized": (SPARSE,),
    "twoGbMaxExtentFlat": ("FLAT",),
    "twoGbMaxExtentSparse": (SPARSE,),
    "vmfs": FLAT,
    "vmfsThin": FLAT,
    "vmfsPreallocated": FLAT,
    "vmfsEagerZeroedThick": FLAT,
    "vmfsSparse": (COWD,),
    "seSparse": (SESPARSE,),
    "custom": _READ,
}
_DEVICES: Final = {
    "fullDevice": "a whole device of its host",
    "partitionedDevice": "partitions of a device of its host",
    "vmfsRaw": "a raw device",
    "vmfsRDM": "a raw device mapping",
    "vmfsRawDeviceMap": "a raw device mapping",
    "vmfsPassthroughRawDeviceMap": "a pass-through raw device mapping",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A range of the guest disk, in bytes, that one extent line says.

    `file_id`: the file as rows count them, None for ZERO. `offset`: where a flat section starts in its file. `line`:
    where the line is in the descriptor.
    """

    start: int
    length: int
    kind: str
    file_id: int | None
    offset: int
    line: int

    @property
    def stop(self) -> int:
        """Where it ends on the guest disk."""
        return self.start + self.length

    @property
    def flat(self) -> bool:
        """Whether the guest's bytes lie in the file as they are."""
        return self.kind in FLAT


def plan(descriptor: Descriptor) -> tuple[tuple[Section, ...], tuple[Reference, ...], list[Finding]]:
    """The sections, the files that they are in (each once), and what keeps them from being read.

    `file_id` 1 is the first of the files.
    """
    sections, files, numbers = [], list[Extent](), dict[str, int]()
    start = 0
    for extent in (extent for extent in descriptor.extents if extent.length):
        if extent.name is not None and extent.name not in numbers:
            files.append(extent)
            numbers[extent.name] = len(files)
        sections.append(
            Section(
                start=start,
                length=extent.length,
                kind=extent.kind,
                file_id=None if extent.name is None else numbers[extent.name],
                offset=extent.start,
                line=extent.offset,
            )
        )
        start += extent.length
    references = tuple(
        Reference(
            kind="piece",
            name=extent.name or "",
            format="raw" if extent.kind in FLAT else "vmdk",
            offset=extent.offset,
        )
        for extent in files
    )
    return (
        tuple(sections),
        references,
        [*_type(descriptor), *_lines(descriptor), *_names(references), *_shared(sections)],
    )


def _type(descriptor: Descriptor) -> list[Finding]:
    """Whether disks of this type are read."""
    create_type = descriptor.create_type
    if create_type in _DEVICES:
        return [_unsupported(f"a disk of type {create_type} is {_DEVICES[create_type]}, not a file", 0,
                             "copy it with VMware tools into a disk file first")]  # fmt: skip
    if create_type not in _KINDS:
        return [_unsupported(f"disks of type {create_type[:64]!r} are not read", 0)]
    if create_type in MONOLITHIC and len(descriptor.extents) != 1:
        return [
            _unsupported(
                f"a {create_type} disk of {len(descriptor.extents)} extents is not read", descriptor.extents[1].offset
            )
        ]
    return []


def _lines(descriptor: Descriptor) -> list[Finding]:
    """The first line that is not read, if there is one."""
    create_type = descriptor.create_type
    if create_type in _DEVICES or create_type not in _KINDS:
        return []
    allowed = _KINDS[create_type] if create_type in MONOLITHIC else (*_KINDS[create_type], ZERO)
    for extent in descriptor.extents:
        what = f"{extent.access} {extent.kind}"
        if extent.device or extent.kind not in _READ:
            return [_unsupported(f"an extent {what} is a device of its host, not a file", extent.offset,
                                 "copy the disk with VMware tools into a disk file first")]  # fmt: skip
        if extent.access == "NOACCESS" and extent.length:
            return [_unsupported(f"an extent {what}: nobody knows its bytes", extent.offset)]
        if extent.kind not in allowed:
            return [_unsupported(f"a {create_type} disk with an extent {what} is not read", extent.offset)]
        if (extent.name is None) != (extent.kind == ZERO):
            has = "has no" if extent.name is None else "cannot have a"
            return [_unsupported(f"an extent {what} {has} file name", extent.offset)]
    return []


def _names(references: Sequence[Reference]) -> list[Finding]:
    return [
        Finding(
            reason=Reason.EXTERNAL_REFERENCE,
            severity=Severity.ERROR,
            offset=piece.offset,
            message=f"the piece {piece.name[:200]!r} is not a plain file name",
            remedy="put the piece beside the descriptor and name it there",
        )
        for piece in references
        if not is_plain_name(piece.name)
    ]


def is_plain_name(name: str) -> bool:
    """Whether a name of a piece can only mean a file in the descriptor's own directory."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:")


def _shared(sections: Sequence[Section]) -> list[Finding]:
    """The first two sections that lie in the same place of a file; of a sparse file there is one section."""
    ordered = sorted((one for one in sections if one.file_id is not None), key=lambda one: (one.file_id, one.offset))
    for before, after in pairwise(ordered):
        if before.file_id == after.file_id and (
            not (before.flat and after.flat) or after.offset < before.offset + before.length
        ):
            return [
                Finding(
                    reason=Reason.SHARED_CLUSTERS,
                    severity=Severity.ERROR,
                    offset=max(before.line, after.line),
                    message="two extents name the same bytes of one file",
                    remedy="write a descriptor in which each extent has its own",
                )
            ]
    return []


def _unsupported(message: str, offset: int, remedy: str | None = None) -> Finding:
    return Finding(
        reason=Reason.UNSUPPORTED_SUBFORMAT,
        severity=Severity.ERROR,
        message=message,
        offset=offset,
        remedy=remedy or "convert it to monolithicSparse or streamOptimized with VMware tools first",
    )
