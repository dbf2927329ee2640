"""The text of LVM's metadata: sections in braces, numbers, strings and lists of these. Source: LVM2, libdm/config."""

import re
from collections.abc import Iterator
from typing import Final, TypeVar

from diskfmt.guest.base import BudgetError, DamagedError

Scalar = str | int | float
_T = TypeVar("_T")

_MAX_DEPTH: Final = 16
_MAX_TOKENS: Final = 1_000_000
_TOKEN: Final = re.compile(
    rb"""[ \t\r\n\0]+ | \#[^\n]*            # nothing
      | (?P<mark>[{}\[\]=,])
      | "(?P<text>(?:[^"\\]|\\.)*)"
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?)(?![A-Za-z0-9_.+-])
      | (?P<name>[A-Za-z0-9_.+/@-]+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_END: Final = ("end", "")


class Section(dict[str, "Scalar | list[Scalar] | Section"]):
    """A section: names and what they are set to. What has another type than asked for is DamagedError."""

    def section(self, name: str, default: "Section | None" = None) -> "Section":
        """A section inside this one."""
        return self._typed(name, Section, default)

    def sections(self) -> Iterator[tuple[str, "Section"]]:
        """All sections inside this one, with their names."""
        return ((name, value) for name, value in self.items() if isinstance(value, Section))

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number that is not negative."""
        value = self._typed(name, int, default)
        if value < 0:
            raise DamagedError(f"LVM metadata: {name} is negative")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        return self._typed(name, str, default)

    def strings(self, name: str) -> list[str]:
        """The strings of a list; none where it is missing."""
        return [value for value in self.items_of(name) if isinstance(value, str)]

    def items_of(self, name: str) -> list[Scalar]:
        """What is in a list; nothing where it is missing."""
        empty: list[Scalar] = []
        return self._typed(name, list, empty)

    def _typed(self, name: str, kind: type[_T], default: _T | None) -> _T:
        value = self.get(name, default)
        if not isinstance(value, kind):
            raise DamagedError(f"LVM metadata: {name} is missing or of the wrong type")
        return value


def parse(text: bytes) -> Section:
    """The sections of the text. Raises DamagedError: not such a text; BudgetError: too much of it."""
    tokens = _tokens(text)
    top = Section()
    open_sections = [top]
    for kind, word in tokens:
        if kind == "}" and len(open_sections) > 1:
            open_sections.pop()
            continue
        if kind not in {"name", "number", "text"}:  # a volume may be called 2024
            raise DamagedError(f"LVM metadata: {word!r} where a name should be")
        sign, _ = next(tokens, _END)
        if sign == "{":
            if len(open_sections) > _MAX_DEPTH:
                raise BudgetError("LVM metadata: too many sections in each other")
            inner = Section()
            open_sections[-1][word] = inner
            open_sections.append(inner)
        elif sign == "=":
            open_sections[-1][word] = _value(tokens)
        else:
            raise DamagedError(f"LVM metadata: nothing is said of {word}")
    if len(open_sections) > 1:
        raise DamagedError("LVM metadata: a section has no end")
    return top


def _value(tokens: Iterator[tuple[str, str]]) -> "Scalar | list[Scalar]":
    kind, word = next(tokens, _END)
    if kind in {"text", "number"}:
        return _scalar(kind, word)
    if kind != "[":
        raise DamagedError(f"LVM metadata: {word!r} is no value")
    values: list[Scalar] = []
    for part, piece in tokens:
        if part == "]":
            return values
        if part in {"text", "number"}:
            values.append(_scalar(part, piece))
        elif part != ",":
            break
    raise DamagedError("LVM metadata: a list has no end")


def _scalar(kind: str, word: str) -> Scalar:
    if kind == "text":
        return word
    if len(word) > 20:
        raise DamagedError("LVM metadata: a number of too many digits")
    return float(word) if "." in word else int(word)


def _tokens(text: bytes) -> Iterator[tuple[str, str]]:
    """Kind and text of each token: a mark is its own kind, the others are `text`, `number`, `name`."""
    at = 0
    for _ in range(_MAX_TOKENS):
        if at == len(text):
            return
        match = _TOKEN.match(text, at)
        if match is None:
            raise DamagedError(f"LVM metadata: what is at byte {at}?")
        at = match.end()
        kind = match.lastgroup
        if kind is None:
            continue
        word = match.group(kind)
        if kind == "text":
            word = _ESCAPED.sub(rb"\1", word)
        name = word.decode("utf-8", "replace")
        yield (name if kind == "mark" else kind), name
    raise BudgetError("LVM metadata: too long")
