"""GRUB's script language as far as menus need it: words, variables, blocks, conditions on variables.

Source: GNU GRUB manual 2.06, "Writing full configuration files directly". Nothing is executed: a condition that
depends on the machine is `None`, and what is set under it is marked as uncertain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from diskfmt.guest.base import BudgetError, DamagedError
from diskfmt.guest.linux.text import MAX_LINE, MAX_WORDS, decode

MAX_STATEMENTS: Final = 50_000
MAX_BLOCKS: Final = 16
_SPACE: Final = b" \t\r"
_ALONE: Final = frozenset({"then", "else", "do"})  # words that a command may follow on the same line


@dataclass(frozen=True, slots=True)
class Word:
    """Pieces of text and names of variables, in order; `bare` for a word without quotes or variables."""

    pieces: tuple[tuple[bool, str], ...]
    bare: bool

    def text(self, variables: Mapping[str, str]) -> str:
        """The word with its variables' values; unknown ones are empty."""
        value = "".join(variables.get(piece, "") if variable else piece for variable, piece in self.pieces)
        if len(value) > MAX_LINE:
            raise BudgetError("a word of more text than a menu has")
        return value


@dataclass(frozen=True, slots=True)
class Statement:
    """The words up to a line's end or `;`, and the line."""

    words: tuple[Word, ...]
    line: int

    @property
    def name(self) -> str:
        """The command, empty where it is a variable's value."""
        first = self.words[0]
        return first.pieces[0][1] if len(first.pieces) == 1 and not first.pieces[0][0] else ""

    @property
    def opens(self) -> bool:
        """Whether a block begins behind it."""
        return self.words[-1].bare and self.words[-1].pieces == ((False, "{"),)


class _Lexer:
    """One pass over the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._line = 1
        self._pieces: list[tuple[bool, str]] = []
        self._text = bytearray()
        self._quoted = False
        self._variable = False
        self._words: list[Word] = []
        self._start = 1
        self.statements: list[Statement] = []

    def run(self) -> list[Statement]:
        data = self._data
        while self._at < len(data):
            byte = data[self._at]
            self._at += 1
            if byte in _SPACE:
                self._end_word()
            elif byte in b"\n;|&":
                self._end_statement()
                self._line += byte == 0x0A
            elif byte == 0x5C:
                self._escape()
            elif byte == 0x27:
                self._single()
            elif byte == 0x22:
                self._double()
            elif byte == 0x24:
                self._dollar()
            elif byte == 0x23 and not (self._text or self._pieces or self._quoted):
                stop = data.find(b"\n", self._at)
                self._at = len(data) if stop < 0 else stop
            elif byte == 0x7D and not (self._text or self._pieces or self._quoted):
                self._end_statement()
                self._text.append(byte)
                self._end_statement()
            else:
                self._text.append(byte)
        self._end_statement()
        return self.statements

    def _escape(self) -> None:
        if self._at < len(self._data):
            byte = self._data[self._at]
            self._at += 1
            if byte == 0x0A:
                self._line += 1
            else:
                self._text.append(byte)
                self._quoted = True

    def _single(self) -> None:
        stop = self._data.find(b"'", self._at)
        if stop < 0:
            raise DamagedError(f"line {self._line}: a quote that never ends", offset=self._at)
        self._text += self._data[self._at : stop]
        self._line += self._data.count(b"\n", self._at, stop)
        self._at, self._quoted = stop + 1, True

    def _double(self) -> None:
        self._quoted = True
        begin = self._at
        while self._at < len(self._data):
            byte = self._data[self._at]
            self._at += 1
            if byte == 0x22:
                return
            if byte == 0x24:
                self._dollar()
            elif byte == 0x5C and self._data[self._at : self._at + 1] in (b'"', b"\\", b"$"):
                self._text.append(self._data[self._at])
                self._at += 1
            else:
                self._line += byte == 0x0A
                self._text.append(byte)
        raise DamagedError("a quote that never ends", offset=begin)

    def _dollar(self) -> None:
        data, at = self._data, self._at
        if data[at : at + 1] == b"{":
            stop = data.find(b"}", at, at + 256)
            if stop < 0:
                raise DamagedError(f"line {self._line}: a variable that never ends", offset=at)
            name, self._at = data[at + 1 : stop], stop + 1
        else:
            stop = at
            while stop < len(data) and (chr(data[stop]).isalnum() or data[stop] == 0x5F) and data[stop] < 0x80:
                stop += 1
            name, self._at = data[at:stop], stop
        if not name:
            self._text.append(0x24)
            return
        self._flush()
        self._pieces.append((True, decode(name)))
        self._variable = True

    def _flush(self) -> None:
        if self._text:
            self._pieces.append((False, decode(bytes(self._text))))
            self._text.clear()

    def _end_word(self) -> None:
        self._flush()
        if self._pieces or self._quoted:
            if not self._words:
                self._start = self._line
            self._words.append(Word(tuple(self._pieces), bare=not (self._quoted or self._variable)))
            if len(self._words) > MAX_WORDS:
                raise BudgetError(f"line {self._line}: more words than a command has")
        self._pieces, self._quoted, self._variable = [], False, False
        if self._words and self._words[-1].bare:
            text = self._words[-1].pieces[0][1]
            if text == "{" or (len(self._words) == 1 and text in _ALONE):
                self._add()

    def _end_statement(self) -> None:
        self._end_word()
        self._add()

    def _add(self) -> None:
        if self._words:
            self.statements.append(Statement(tuple(self._words), self._start))
            self._words = []
            if len(self.statements) > MAX_STATEMENTS:
                raise BudgetError(f"line {self._line}: more commands than a menu has")


def parse(data: bytes) -> list[Statement]:
    """The statements of a script; a `}` is one of its own. Raises DamagedError for quotes without end, BudgetError."""
    return _Lexer(data).run()


Command = Callable[[Statement, list[str], int], int]
"""(statement, its words' texts, index behind it) → index to go on at."""


class Interpreter:
    """Goes over statements once: sets variables, chooses branches, hands commands on.

    `exists`: whether a file of `[ -s FILE ]` exists, None where that depends on the machine. `uncertain`: names that
    were set where only the machine knows whether.
    """

    def __init__(
        self, statements: list[Statement], variables: dict[str, str], exists: Callable[[str], bool | None]
    ) -> None:
        self.statements = statements
        self.variables = variables
        self.uncertain: set[str] = set()
        self._exists = exists
        self._doubts = 0

    def block_end(self, start: int) -> int:
        """The index of the `}` that ends the block whose first statement is at `start`."""
        depth = 1
        for at in range(start, len(self.statements)):
            statement = self.statements[at]
            if statement.opens:
                depth += 1
            elif statement.name == "}":
                depth -= 1
                if depth == 0:
                    return at
        raise DamagedError(f"line {self.statements[start - 1].line}: a block that never ends")

    def run(self, start: int, stop: int, command: Command, depth: int = 0) -> None:
        """Statements [start, stop)."""
        if depth > MAX_BLOCKS:
            raise BudgetError("blocks inside blocks beyond what a menu has")
        at = start
        while at < stop:
            statement = self.statements[at]
            name = statement.name
            at += 1
            if name == "if":
                at = self._if(at - 1, stop, command, depth)
            elif name == "function" and statement.opens:
                at = self.block_end(at) + 1
            elif name in ("while", "until", "for"):
                at = self._skip(at, stop, frozenset({"while", "until", "for"}), "done")
            else:
                texts = [word.text(self.variables) for word in statement.words]
                assignment = texts[1:] if name in ("set", "export") else texts if len(texts) == 1 else []
                if len(assignment) == 1 and "=" in assignment[0] and name != "export":
                    self._set(*assignment[0].split("=", 1))
                else:
                    at = command(statement, texts, at)

    def _set(self, name: str, value: str) -> None:
        self.variables[name] = value
        if self._doubts:
            self.uncertain.add(name)
        else:
            self.uncertain.discard(name)

    def _skip(self, at: int, stop: int, openers: frozenset[str], closer: str) -> int:
        depth = 1
        while at < stop:
            name = self.statements[at].name
            depth += (name in openers) - (name == closer)
            at += 1
            if depth == 0:
                return at
        raise DamagedError(f"no {closer}")

    def _if(self, at: int, stop: int, command: Command, depth: int) -> int:
        """`if A; then …; elif B; then …; else …; fi`: the branch that is taken, or all where nobody knows."""
        end = self._skip(at + 1, stop, frozenset({"if"}), "fi")
        marks = [at, *self._branches(at + 1, end - 1), end - 1]
        decided: bool | None = False
        for begin, after in pairwise(marks):
            if decided is True:
                break
            statement = self.statements[begin]
            condition: bool | None = True
            first = begin + 1
            if statement.name in ("if", "elif"):
                condition = self._condition(statement)
                while first < after and self.statements[first].name != "then":
                    condition = None  # a list of commands, and the last one counts
                    first += 1
                first += 1
            if condition is False:
                continue
            doubt = condition is None or decided is None
            self._doubts += doubt
            self.run(first, after, command, depth + 1)
            self._doubts -= doubt
            decided = True if condition is True else None
        return end

    def _branches(self, at: int, stop: int) -> list[int]:
        found, depth = [], 0
        while at < stop:
            name = self.statements[at].name
            if name == "if":
                depth += 1
            elif name == "fi":
                depth -= 1
            elif depth == 0 and name in ("elif", "else"):
                found.append(at)
            at += 1
        return found

    def _condition(self, statement: Statement) -> bool | None:
        texts = [word.text(self.variables) for word in statement.words[1:]]
        if (
            not texts
            or texts[0] not in ("[", "test")
            or any(piece in self.uncertain for word in statement.words for variable, piece in word.pieces if variable)
        ):
            return None
        match [text for text in texts[1:] if text != "]"]:
            case []:
                return False
            case [value]:
                return bool(value)
            case ["-n", value]:
                return bool(value)
            case ["-z", value]:
                return not value
            case ["-s" | "-f" | "-e", path]:
                return self._exists(path)
            case [left, "=" | "==", right]:
                return left == right
            case [left, "!=", right]:
                return left != right
            case _:
                return None
