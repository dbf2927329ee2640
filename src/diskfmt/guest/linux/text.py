"""Text of a guest, which may be hostile: linear tokenizers on bytes, nothing evaluated, everything bounded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import BudgetError

MAX_LINES: Final = 100_000
MAX_LINE: Final = 64 << 10
MAX_WORDS: Final = 4096

_SPACE: Final = b" \t\r\x0b\x0c"


def decode(data: bytes) -> str:
    r"""Text that is safe to keep: what is no UTF-8 becomes `\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end). Raises BudgetError for more or longer lines than configuration has."""
    start, number = 0, 0
    while start < len(data):
        stop = data.find(b"\n", start)
        stop = len(data) if stop < 0 else stop
        number += 1
        if number > MAX_LINES or stop - start > MAX_LINE:
            raise BudgetError(f"line {number}: more or longer lines than configuration has", offset=start)
        yield number, data[start:stop].rstrip(b"\r")
        start = stop + 1


def significant(data: bytes, comment: bytes = b"#") -> Iterator[tuple[int, bytes]]:
    """The lines that are neither empty nor begin with one of the comment characters, stripped."""
    for number, line in lines(data):
        stripped = line.strip(_SPACE)
        if stripped and stripped[0] not in comment:
            yield number, stripped


def joined(data: bytes, comment: bytes = b"#") -> Iterator[tuple[int, bytes]]:
    """Significant lines, those that end with a backslash joined with the next one."""
    held, at = b"", 0
    for number, line in lines(data):
        stripped = line.strip(_SPACE)
        if not held and (not stripped or stripped[0] in comment):
            continue
        at = at or number
        if len(held) + len(stripped) > MAX_LINE:
            raise BudgetError(f"line {at}: longer than a line of configuration is")
        if stripped.endswith(b"\\"):
            held += stripped[:-1] + b" "
            continue
        yield at, held + stripped
        held, at = b"", 0
    if held.strip(_SPACE):
        yield at, held.strip(_SPACE)


def words(line: bytes, *, comments: bool = True) -> list[bytes]:
    """The words of a line as a shell splits them: quotes and backslashes taken off, nothing expanded.

    Without `comments` a `#` is a letter like any other. Raises BudgetError above MAX_WORDS words.
    """
    found: list[bytes] = []
    word = bytearray()
    quote, within, at = 0, False, 0
    while at < len(line):
        byte = line[at]
        at += 1
        if quote:
            if byte == quote:
                quote = 0
            elif byte == 0x5C and quote == 0x22 and at < len(line) and line[at] in b'"\\$`':
                word.append(line[at])
                at += 1
            else:
                word.append(byte)
        elif byte in b"\"'":
            quote, within = byte, True
        elif byte == 0x5C and at < len(line):
            word.append(line[at])
            at, within = at + 1, True
        elif byte in _SPACE:
            if within:
                found.append(bytes(word))
                word, within = bytearray(), False
        elif byte == 0x23 and not within and comments:
            break
        else:
            word.append(byte)
            within = True
        if len(found) > MAX_WORDS:
            raise BudgetError("a line of more words than configuration has")
    if within:
        found.append(bytes(word))
    return found


def _is_name(name: bytes) -> bool:
    return name.replace(b"_", b"a").isalnum()  # bytes: ASCII letters and digits only


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and the line it stands on."""

    value: str
    line: int


def assignments(data: bytes) -> dict[str, Setting]:
    """`NAME=value` lines of a file for a shell or systemd; the last one of a name counts. Nothing is expanded."""
    found: dict[str, Setting] = {}
    for number, line in joined(data):
        text = line.removeprefix(b"export ").lstrip(_SPACE)
        name, equals, rest = text.partition(b"=")
        if equals and _is_name(name):
            value = words(rest)
            found[decode(name)] = Setting(decode(value[0]) if value else "", number)
    return found


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an INI file: keys in lower case, the last value of each; `lists` has all of them."""

    name: str
    line: int
    values: dict[str, Setting]
    lists: dict[str, list[str]]


def ini(data: bytes, comment: bytes = b"#;") -> list[Section]:
    """The sections of an INI file (systemd units, NetworkManager keyfiles), in order; repeated ones stay apart."""
    found: list[Section] = []
    for number, line in joined(data, comment):
        if line.startswith(b"[") and b"]" in line:
            found.append(Section(decode(line[1 : line.index(b"]")].strip()), number, {}, {}))
        elif found and b"=" in line:
            key, _, value = line.partition(b"=")
            name, text = decode(key.strip(_SPACE)).lower(), decode(value.strip(_SPACE))
            found[-1].values[name] = Setting(text, number)
            found[-1].lists.setdefault(name, []).append(text)
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern of `*`, `?` and letters. Linear in practice: the last star is the only way back."""
    at = star = 0
    back = -1
    spot = 0
    while at < len(name):
        if spot < len(pattern) and (pattern[spot] == "?" or pattern[spot] == name[at]) and pattern[spot] != "*":
            at, spot = at + 1, spot + 1
        elif spot < len(pattern) and pattern[spot] == "*":
            back, star = spot, at
            spot += 1
        elif back >= 0:
            star += 1
            at, spot = star, back + 1
        else:
            return False
    return not pattern[spot:].strip("*")


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """What versions are ordered by: numbers as numbers, letters below them, `~` below the end (rpmvercmp, dpkg)."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while at < len(text):
        start = at
        letter = text[at]
        if letter.isascii() and letter.isdigit():
            while at < len(text) and text[at].isascii() and text[at].isdigit():
                at += 1
            found.append((2, int(text[start:at][:18]), ""))
        elif letter.isascii() and letter.isalpha():
            while at < len(text) and text[at].isascii() and text[at].isalpha():
                at += 1
            found.append((1, 0, text[start:at]))
        else:
            at += 1
            if letter == "~":
                found.append((-1, 0, ""))
    return (*found, (0, 0, ""))
