"""What can be wrong: reason codes, findings and the one tree of exceptions.

    DiskfmtError
     ├ UsageError         (ValueError)    the caller asked for something that does not exist      exit 2
     ├ RefusedError       (ValueError)    understood, and the answer is no                        exit 1
     │  └ NotReadyError                   an open blocker of the gate                             exit 1
     ├ CorruptError       (ValueError)    damaged, lying or cut short                             exit 3
     ├ LimitError         (ValueError)    larger than a limit of this program                     exit 7
     ├ IOFailedError      (OSError)       the system could not read or write; no space            exit 4, 5
     ├ InUseError         (OSError)       in use by somebody else, or changed meanwhile           exit 6
     └ InternalError      (RuntimeError)  a bug of diskfmt                                        exit 8

A check *judges*: it returns a `Finding`. An exception *stops*: it carries the same fields.
Both name exactly one `Reason`. The exit code follows from the reason, see `EXIT_CODES`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from typing import Final, Self


class Reason(StrEnum):
    """Why something was refused or doubted. The text of a member is its name."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:  # noqa: ARG004
        return name

    USAGE = auto()
    EXTERNAL_REFERENCE = auto()
    AMBIGUOUS_FORMAT = auto()
    NESTED_FORMAT = auto()
    FORMAT_MISMATCH = auto()
    UNKNOWN_FORMAT = auto()
    UNSUPPORTED_SUBFORMAT = auto()
    UNKNOWN_FEATURE = auto()
    CODEC_MISSING = auto()
    ENCRYPTED = auto()
    DIFFERENTIAL = auto()
    BAD_CHECKSUM = auto()
    BAD_VALUE = auto()
    OUT_OF_FILE = auto()
    OVERLAP = auto()
    SHARED_CLUSTERS = auto()
    TRUNCATED = auto()
    CORRUPT_FLAG = auto()
    CORRUPT_DATA = auto()
    NEEDS_REPLAY = auto()
    UNCLEAN = auto()
    LEAKED = auto()
    LIMIT_SIZE = auto()
    LIMIT_METADATA = auto()
    LIMIT_EXPANSION = auto()
    LIMIT_TIME = auto()
    IN_USE = auto()
    SOURCE_CHANGED = auto()
    READ_ERROR = auto()
    WRITE_ERROR = auto()
    NO_SPACE = auto()
    VERIFY_FAILED = auto()
    NOT_REGULAR = auto()
    OUTPUT_EXISTS = auto()
    OUTPUT_BUSY = auto()
    NOT_READY = auto()
    INTERNAL = auto()


EXIT_CODES: Final[dict[Reason, int]] = {
    Reason.USAGE: 2,
    Reason.EXTERNAL_REFERENCE: 1,
    Reason.AMBIGUOUS_FORMAT: 1,
    Reason.NESTED_FORMAT: 1,
    Reason.FORMAT_MISMATCH: 1,
    Reason.UNKNOWN_FORMAT: 1,
    Reason.UNSUPPORTED_SUBFORMAT: 1,
    Reason.UNKNOWN_FEATURE: 1,
    Reason.CODEC_MISSING: 1,
    Reason.ENCRYPTED: 1,
    Reason.DIFFERENTIAL: 1,
    Reason.BAD_CHECKSUM: 3,
    Reason.BAD_VALUE: 3,
    Reason.OUT_OF_FILE: 3,
    Reason.OVERLAP: 3,
    Reason.SHARED_CLUSTERS: 3,
    Reason.TRUNCATED: 3,
    Reason.CORRUPT_FLAG: 3,
    Reason.CORRUPT_DATA: 3,
    Reason.NEEDS_REPLAY: 3,
    Reason.UNCLEAN: 3,
    Reason.LEAKED: 3,
    Reason.LIMIT_SIZE: 7,
    Reason.LIMIT_METADATA: 7,
    Reason.LIMIT_EXPANSION: 7,
    Reason.LIMIT_TIME: 7,
    Reason.IN_USE: 6,
    Reason.SOURCE_CHANGED: 6,
    Reason.READ_ERROR: 4,
    Reason.WRITE_ERROR: 4,
    Reason.NO_SPACE: 5,
    Reason.VERIFY_FAILED: 4,
    Reason.NOT_REGULAR: 1,
    Reason.OUTPUT_EXISTS: 1,
    Reason.OUTPUT_BUSY: 6,
    Reason.NOT_READY: 1,
    Reason.INTERNAL: 8,
}


class Severity(IntEnum):
    """How much a finding weighs.

    `DAMAGE` and `ERROR` fail a check. Only `ERROR` keeps the converter from running: after `DAMAGE` (wrong reference
    counts, a lost copy of a table) the bytes of the guest are still known.
    """

    NOTE = 0
    WARNING = 1
    DAMAGE = 2
    ERROR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a check saw.

    `offset` is a place in the file (bytes), `guest_offset` a place on the guest's disk (bytes);
    either is None where there is no such place. `remedy` says what to do, in the imperative. `path` is the file
    that it is about, None for the image that was asked about.
    """

    reason: Reason
    severity: Severity
    message: str
    offset: int | None = None
    guest_offset: int | None = None
    remedy: str | None = None
    path: str | None = None


class DiskfmtError(Exception):
    """The base of every exception that leaves this library.

    Attributes are those of a `Finding`, and `path`, the file that it is about (None if not about a file).
    `str()` is one line: file, message, reason, offset, remedy.
    """

    default_reason = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        path: str | None = None,
        offset: int | None = None,
        guest_offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.path = path
        self.offset = offset
        self.guest_offset = guest_offset
        self.remedy = remedy

    @property
    def exit_code(self) -> int:
        """The exit code of the command line for this error."""
        return EXIT_CODES[self.reason]

    def about(self, path: str) -> Self:
        """The same error, naming the file it is about unless it names one already."""
        if self.path is None:
            self.path = path
        return self

    def __str__(self) -> str:
        where = [self.reason.value]
        if self.offset is not None:
            where.append(f"offset {self.offset:#x}")
        if self.guest_offset is not None:
            where.append(f"guest offset {self.guest_offset:#x}")
        head = f"{self.path}: " if self.path is not None else ""
        tail = f"; {self.remedy}" if self.remedy else ""
        return f"{head}{self.message} [{', '.join(where)}]{tail}"


class UsageError(DiskfmtError, ValueError):
    """The caller asked for something that does not exist."""

    default_reason = Reason.USAGE


class RefusedError(DiskfmtError, ValueError):
    """The image is understood well enough to say no."""

    default_reason = Reason.UNSUPPORTED_SUBFORMAT


class NotReadyError(RefusedError):
    """The gate found an open blocker."""


class CorruptError(DiskfmtError, ValueError):
    """The image is damaged, lies about itself, or was cut short."""

    default_reason = Reason.BAD_VALUE


class LimitError(DiskfmtError, ValueError):
    """The image asks for more than a limit allows."""

    default_reason = Reason.LIMIT_SIZE


class IOFailedError(DiskfmtError, OSError):
    """The system could not read or write; `errno` is set where there was one."""

    default_reason = Reason.READ_ERROR

    def __init__(
        self,
        message: str,
        *,
        errno: int | None = None,
        reason: Reason | None = None,
        path: str | None = None,
        offset: int | None = None,
        guest_offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason, path=path, offset=offset, guest_offset=guest_offset, remedy=remedy)
        self.errno = errno


class InUseError(DiskfmtError, OSError):
    """Somebody else writes the file, or it changed while we looked."""

    default_reason = Reason.IN_USE


class InternalError(DiskfmtError, RuntimeError):
    """A bug of diskfmt, not of the image."""

    default_reason = Reason.INTERNAL


_BY_EXIT_CODE: Final[dict[int, type[DiskfmtError]]] = {
    1: RefusedError,
    2: UsageError,
    3: CorruptError,
    4: IOFailedError,
    5: IOFailedError,
    6: InUseError,
    7: LimitError,
    8: InternalError,
}


def error_from(finding: Finding, *, path: str | None = None) -> DiskfmtError:
    """The exception that says the same as a finding; its class follows from the reason. `path`: unless it names one."""
    return _BY_EXIT_CODE[EXIT_CODES[finding.reason]](
        finding.message,
        reason=finding.reason,
        path=finding.path or path,
        offset=finding.offset,
        guest_offset=finding.guest_offset,
        remedy=finding.remedy,
    )


def finding_from(error: DiskfmtError, severity: Severity = Severity.ERROR) -> Finding:
    """The finding that says the same as an exception: the inverse of `error_from`."""
    return Finding(
        reason=error.reason,
        severity=severity,
        message=error.message,
        offset=error.offset,
        guest_offset=error.guest_offset,
        remedy=error.remedy,
    )


def first_error(findings: Iterable[Finding]) -> Finding | None:
    """The first finding of severity `ERROR`, or None."""
    return next((finding for finding in findings if finding.severity is Severity.ERROR), None)
