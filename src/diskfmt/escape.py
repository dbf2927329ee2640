"""Text that others chose, made safe to print: names inside images, labels, paths, whatever a guest wrote.

Everything that was read from a file goes through `escape` before it reaches a terminal or a log: control
bytes could repaint the screen, line feeds forge log lines, bidirectional marks swap left and right.
"""

import re
from typing import Final

LIMIT: Final = 1024
"""Longest text in a report, in characters after escaping."""

_ELLIPSIS: Final = "..."
_USER_INFO: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}://)[^/@\s\"']{1,1024}@")
_QUERY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}://[^?\s\"']{0,1024}\?)[^\s\"']{1,4096}")


def escape(text: str | bytes, limit: int = LIMIT) -> str:
    r"""The same text in printable ASCII, at most `limit` characters.

    Printable ASCII stays as it is, except that a backslash is doubled, so that the result can be read back.
    An ASCII control and a byte that is no text becomes `\xNN`, any other character `\uNNNN` or `\UNNNNNNNN`.
    A text that is too long is cut between two characters and ends in `...`.
    """
    if isinstance(text, bytes):
        text = text.decode("ascii", "surrogateescape")
    out: list[str] = []
    length = 0
    cut = 0  # how many parts fit together with the ellipsis
    for char in text[: limit + 1]:
        part = _escape_char(char)
        length += len(part)
        if length > limit:
            return "".join(out[:cut]) + _ELLIPSIS[:limit]
        out.append(part)
        if length <= limit - len(_ELLIPSIS):
            cut = len(out)
    return "".join(out)


def _escape_char(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if 0x20 <= code < 0x7F:
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text, as the file system's names carry it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str, limit: int = LIMIT) -> str:
    r"""A message of our own in printable ASCII; unlike `escape` it leaves backslashes alone: commands have them."""
    return "\\".join(escape(part, limit) for part in text.split("\\"))


def mask_credentials(text: str) -> str:
    """The same text with user, password and query string of every URL in it replaced by `***`."""
    return _QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))
