"""Opening an image and, as far as the caller allows, the files that it names (TM-501, TM-503).

    path ─► identify ─► header ─► pieces beside it ─► the image below, where it names one ─► …

A name inside an image is never used as a path: only its last component counts, and it is looked for in one directory,
that of the image or the one that the caller gave. The format of an image below is what the image above records, or
what the caller says; it is never guessed.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from diskfmt.errors import (
    CorruptError,
    Finding,
    IOFailedError,
    LimitError,
    Reason,
    RefusedError,
    Severity,
    UsageError,
    first_error,
)
from diskfmt.escape import escape
from diskfmt.formats import by_name
from diskfmt.formats.base import BELOW_KINDS, OWN_KINDS, Format, Image, Reference
from diskfmt.formats.detect import identify
from diskfmt.stores.source import SourceFile
from diskfmt.units import TIB

MAX_VIRTUAL_SIZE: Final = 64 * TIB
MAX_DEPTH: Final = 16
MAX_FILES: Final = 1 << 16  # that rows can count

FOLLOW_PIECES: Final = "pieces"
FOLLOW_SAME_DIRECTORY: Final = "same-directory"

# `json:`, `nbd:`, `http:` …; one letter before the colon is a drive.
_PROTOCOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One image of a chain with its open files: `files[0]` the image's own, behind it what it consists of.

    `missing`: files that it names and that were not opened though the disk's bytes depend on them.
    """

    image: Image
    format: Format
    files: tuple[SourceFile, ...]
    missing: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """An image and those below it, the top first, with what was found on the way."""

    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]
    evidence: tuple[str, ...]
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What may be opened beside the image itself: `pieces` of it, and images below it in `directory`.

    `directory` "" is that of the image that names the file, None: no image below is opened. `below_format` is for
    images that do not record the format of the one below.
    """

    pieces: bool
    directory: str | None
    below_format: str | None = None


def permission(follow: str | None, below_format: str | None = None) -> Permission:
    """What `follow` allows: None nothing, `"pieces"`, `"same-directory"`, or the name of a directory."""
    if follow is None or follow == FOLLOW_PIECES:
        return Permission(pieces=follow is not None, directory=None, below_format=below_format)
    if not follow:
        raise UsageError("follow cannot be empty", remedy=f"give {FOLLOW_SAME_DIRECTORY} or a directory")
    directory = "" if follow == FOLLOW_SAME_DIRECTORY else follow
    return Permission(pieces=True, directory=directory, below_format=below_format)


def open_chain(stack: ExitStack, path: str, *, wanted: str | None, snapshot: str | None, allowed: Permission) -> Chain:
    """Open the image at `path` and what it consists of; `stack` closes the files.

    `wanted`: the name of the format, None to go by the content. `snapshot`: the disk as it was at that snapshot.

    Raises:
        RefusedError: not an image that is read, by name where it is recognised; EXTERNAL_REFERENCE, a name that must
            not be followed, a chain that is too long or comes back to itself.
        CorruptError: damaged so that its header makes no sense.
        LimitError: larger than a limit.
        IOFailedError: cannot be read.

    """
    source = _adopt(stack, SourceFile(path))
    identification = identify(source, wanted)
    top = _layer(stack, source, by_name(identification.require(path)), snapshot, allowed)
    layers = [top]
    findings = [*identification.findings, *top.image.findings]
    while (below := _open_below(stack, layers, allowed)) is not None:
        above = layers[-1]
        layers[-1] = replace(above, missing=without_below(above.missing))
        if above.format.judge_below is not None:
            judged = above.format.judge_below(above.image, below.image, below.files[0].identity)
            about = tuple(about_layer(judged, layers))
            findings += about
            # What keeps the image from being read belongs to it: no byte is read past it.
            image = replace(above.image, findings=(*above.image.findings, *about))
            layers[-1] = replace(layers[-1], image=image)
        layers.append(below)
        findings += about_layer(below.image.findings, layers)
    if sum(len(layer.files) for layer in layers) > MAX_FILES:
        raise LimitError("the chain has too many files", reason=Reason.LIMIT_METADATA, path=path)
    return Chain(
        layers=tuple(layers),
        findings=tuple(findings),
        evidence=tuple(str(claim) for claim in identification.claims),
        claims=tuple(claim.name for claim in identification.claims),
    )


def not_opened(reference: Reference) -> Finding:
    """The finding that a file was not opened on which the disk's bytes depend."""
    below = reference.kind in BELOW_KINDS
    remedy = "give --follow same-directory, or --follow DIR with the directory that holds it"
    if reference.kind == "piece":
        remedy = "allow it: follow='pieces' opens the pieces that lie beside the descriptor"
    return Finding(
        reason=Reason.EXTERNAL_REFERENCE,
        severity=Severity.ERROR,
        offset=reference.offset,
        message=f"{'a part of ' if below else ''}the disk's bytes {'is' if below else 'are'} in another file that was "
        f"not opened ({reference.kind})",
        remedy=remedy,
    )


def _adopt(stack: ExitStack, source: SourceFile) -> SourceFile:
    stack.callback(source.close)
    return source


def _layer(stack: ExitStack, source: SourceFile, found: Format, snapshot: str | None, allowed: Permission) -> Layer:
    try:
        image = found.open(source)
        if snapshot is not None:
            image = _at_snapshot(found, image, source, snapshot)
    except (CorruptError, LimitError, RefusedError, UsageError) as error:
        raise error.about(source.path) from None
    if image.virtual_size > MAX_VIRTUAL_SIZE:
        raise LimitError(
            f"the disk has {image.virtual_size} bytes, the limit is {MAX_VIRTUAL_SIZE}",
            reason=Reason.LIMIT_SIZE,
            path=source.path,
        )
    own = [reference for reference in image.references if reference.kind in OWN_KINDS]
    # Several names of the image below are one file that is missing.
    missing = [reference for reference in image.references if reference.kind in BELOW_KINDS][:1]
    files = [source]
    if first_error(image.findings) is not None or not all(_may_open(reference, allowed) for reference in own):
        missing = own + missing
    else:
        files += [_adopt(stack, _open_own(source, reference, allowed)) for reference in own]
    return Layer(image=image, format=found, files=tuple(files), missing=tuple(missing))


def _at_snapshot(found: Format, image: Image, source: SourceFile, name: str) -> Image:
    if found.snapshot is None:
        raise UsageError(f"{found.name} has no snapshots", remedy="leave --snapshot out")
    return found.snapshot(image, source, name)


def _may_open(reference: Reference, allowed: Permission) -> bool:
    return allowed.pieces if reference.kind == "piece" else allowed.directory is not None


def without_below(references: Sequence[Reference]) -> tuple[Reference, ...]:
    """Those that are files of the image itself."""
    return tuple(reference for reference in references if reference.kind not in BELOW_KINDS)


def about_layer(findings: Iterable[Finding], layers: Sequence[Layer]) -> Iterator[Finding]:
    """The findings about the last of the layers, naming its file unless that is the image that was asked about."""
    path = layers[-1].files[0].path if len(layers) > 1 else None
    return (replace(finding, path=finding.path or path) for finding in findings)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _open_own(source: SourceFile, reference: Reference, allowed: Permission) -> SourceFile:
    """A file that the image consists of."""
    if reference.kind == "piece":
        return _open_piece(source, reference, allowed)
    return _open_named(source, [reference], allowed.directory or "")


def _open_piece(source: SourceFile, piece: Reference, allowed: Permission) -> SourceFile:
    """A piece that lies beside its descriptor and carries its stem (TM-501a): `vm.vmdk` → `vm-flat.vmdk`.

    One of another name only where images of other names may be opened there too.
    """
    stem = os.path.splitext(os.path.basename(source.path))[0]
    if not piece.name.startswith(f"{stem}-") and allowed.directory != "":
        raise RefusedError(
            f'the piece "{escape(piece.name)}" does not carry the stem "{escape(stem)}-"',
            path=source.path,
            reason=Reason.EXTERNAL_REFERENCE,
            offset=piece.offset,
            remedy="give both the names that they were made with, or give --follow same-directory",
        )
    return source.open_beside(piece.name)


# ---- the image below -------------------------------------------------------------------------------------------------


def _open_below(stack: ExitStack, layers: Sequence[Layer], allowed: Permission) -> Layer | None:
    """The image below the last of the layers; None where there is none or it may not be opened."""
    above = layers[-1]
    references = [reference for reference in above.image.references if reference.kind in BELOW_KINDS]
    if not references or allowed.directory is None or first_error(above.image.findings) is not None:
        return None
    source = above.files[0]
    if len(layers) == MAX_DEPTH:
        raise _refused(source, references[0], f"the chain has more than {MAX_DEPTH} images")
    name = references[0].format or allowed.below_format
    if name is None:
        raise RefusedError(
            "the image does not record the format of the one below it",
            reason=Reason.EXTERNAL_REFERENCE,
            path=source.path,
            offset=references[0].offset,
            remedy="give --below-format FMT; it is never guessed",
        )
    found = _format_below(source, references[0], name)
    below = _adopt(stack, _open_named(source, references, allowed.directory))
    seen = {(file.identity.device, file.identity.inode) for layer in layers for file in layer.files}
    if (below.identity.device, below.identity.inode) in seen:
        raise _refused(source, references[0], "the chain comes back to a file that is in it already")
    identify(below, found.name).require(below.path)
    return _layer(stack, below, found, None, allowed)


def _format_below(source: SourceFile, reference: Reference, name: str) -> Format:
    try:
        return by_name(name)
    except UsageError as error:
        raise _refused(
            source, reference, f'the image below has the format "{escape(name)}", which is not read'
        ) from error


def _open_named(source: SourceFile, references: Sequence[Reference], directory: str) -> SourceFile:
    """The file that one of the references names, looked for in `directory` ("": beside the source)."""
    lost: IOFailedError | None = None
    for reference, name in _candidates(source, references):
        try:
            return source.open_beside(name, directory=directory or None)
        except IOFailedError as error:
            if error.errno != errno.ENOENT:
                raise
            lost = lost or error
        except RefusedError as error:
            error.offset = reference.offset
            raise
    raise lost or _refused(source, references[0], "the image below has no name")


def _candidates(source: SourceFile, references: Sequence[Reference]) -> list[tuple[Reference, str]]:
    names: dict[str, Reference] = {}
    for reference in references:
        if _PROTOCOL.match(reference.name):
            raise _refused(source, reference, f'"{escape(reference.name)}" is not the name of a file')
        bare = re.split(r"[/\\]", reference.name)[-1]
        names.setdefault(re.sub(r"^[A-Za-z]:", "", bare), reference)
    return [(reference, name) for name, reference in names.items() if name]


def _refused(source: SourceFile, reference: Reference, message: str) -> RefusedError:
    return RefusedError(
        message,
        reason=Reason.EXTERNAL_REFERENCE,
        path=source.path,
        offset=reference.offset,
        remedy="check where the image comes from",
    )
