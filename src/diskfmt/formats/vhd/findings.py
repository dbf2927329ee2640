"""What the modules of this format share to say what is wrong."""

from typing import Final

from diskfmt.errors import Finding, Reason, Severity

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
COPY_AGAIN: Final = "copy the image again, or repair it with the tool that wrote it"
CONVERT_ELSEWHERE: Final = "convert the image with the tool that wrote it"


def finding(severity: Severity, reason: Reason, offset: int, message: str, remedy: str | None = None) -> Finding:
    """A finding about byte `offset` of the file."""
    return Finding(severity=severity, reason=reason, offset=offset, message=message, remedy=remedy)
