"""Errors as the user sees them: one line, or one JSON object."""

from typing import Final

from diskfmt.errors import DiskfmtError, Finding, InternalError
from diskfmt.escape import escape, mask_credentials

PATH_LIMIT: Final = 4096 * 4
"""Longest path that Linux takes, each byte escaped."""
MESSAGE_LIMIT: Final = 2048
"""Longest message or remedy, in characters before escaping."""


def safe(text: str) -> str:
    r"""A message with nothing but printable ASCII; unlike `escape` it leaves the backslashes of `\x1b` alone.

    Messages hold names that were escaped when they were put in.
    """
    return "\\".join(escape(part) for part in mask_credentials(text[:MESSAGE_LIMIT]).split("\\"))


def shown_path(path: str) -> str:
    """A file's name, printable, and not cut."""
    return escape(path, PATH_LIMIT)


def line(error: DiskfmtError) -> str:
    """File, message, reason, offsets and remedy in one printable line."""
    head = f"{shown_path(error.path)}: " if error.path is not None else ""
    return f"{head}{detail(error)}"


def detail(what: DiskfmtError | Finding) -> str:
    """Message, reason, offsets and remedy in one printable line."""
    tail = f"; {safe(what.remedy)}" if what.remedy else ""
    return f"{safe(what.message)} [{', '.join((what.reason.value, *places(what)))}]{tail}"


def places(what: DiskfmtError | Finding) -> list[str]:
    """The offsets of an error or finding, for people."""
    found = []
    if what.offset is not None:
        found.append(f"offset {what.offset:#x}")
    if what.guest_offset is not None:
        found.append(f"guest offset {what.guest_offset:#x}")
    return found


def document(error: DiskfmtError) -> dict[str, object]:
    """The JSON object that stands on stdout in place of a result; what does not exist is left out."""
    fields: dict[str, object] = {
        "reason": error.reason.value,
        "message": mask_credentials(error.message),
        "path": error.path,
        "offset": error.offset,
        "guest-offset": error.guest_offset,
        "remedy": error.remedy,
        "exit-code": error.exit_code,
    }
    return {"error": {key: value for key, value in fields.items() if value is not None}}


def translate(error: BaseException) -> DiskfmtError:
    """The error that says what an exception from outside diskfmt's own tree means."""
    if isinstance(error, MemoryError):
        return InternalError("not enough memory", remedy="give the program more, or use fewer threads")
    return InternalError(
        f"internal error: {type(error).__name__}: {error}".rstrip(": \n"),
        remedy="please report it, with what DISKFMT_DEBUG=1 prints",
    )
