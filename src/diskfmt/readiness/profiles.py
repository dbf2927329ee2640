"""Profiles by name or from a file: TOML in, a frozen `Profile` out, or a `UsageError` that says which key is wrong.

    file ─► flatten: {"size.max-virtual": Cell(value, source) …} ─┐
    the one it extends ─► flatten ────────────────────────────────┼─► laid over each other ─► checked ─► Profile
    its switches that are on ─► flatten ──────────────────────────┘

docs/profiles.md describes the files.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from diskfmt.errors import UsageError
from diskfmt.readiness.profile import LIMITS, SECTIONS, SEVERITIES, Profile, RuleWeight, Source, number

__all__ = ["Profile", "RuleWeight", "Source", "load", "names"]

FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profiles")
BASE: Final = "base"
"""What all profiles start from, and where the rules are listed. It is no cloud."""

MAX_FILE: Final = 1 << 20
MAX_EXTENDS: Final = 8
OFF: Final = "-"

_RULE_KEYS: Final = ("severity", "windows", "error", "source")
_TOP_KEYS: Final = ("title", "extends", "sources", *SECTIONS, "limits", "rules", "switches")


@dataclass(frozen=True, slots=True)
class _Cell:
    """A value as it stands in a file."""

    value: object
    source: Source | None
    file: str


_Cells = Mapping[str, _Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    title: str
    extends: str | None
    cells: _Cells
    switches: Mapping[str, tuple[str, _Cells]]


def names() -> tuple[str, ...]:
    """The names of the clouds that come with diskfmt."""
    found = (name.removesuffix(".toml") for name in os.listdir(FOLDER) if name.endswith(".toml"))
    return tuple(sorted(name for name in found if name != BASE))


def load(name_or_path: str, switches: Iterable[str] = ()) -> Profile:
    """The profile with this name, or of this file (something with a `/` or the suffix `.toml`).

    Switches may also be written behind it: `tencent-cvm+strict-docs`. Later ones win.

    Raises:
        UsageError: there is no such profile or switch, or the file has something in it that is not allowed.

    """
    where, given = _split(name_or_path)
    chain = _chain(where)
    known = {name: about for file in reversed(chain) for name, (about, _) in file.switches.items()}
    on = tuple(dict.fromkeys((*given, *switches)))
    cells: dict[str, _Cell] = {}
    for file in reversed(chain):
        cells.update(file.cells)
    for switch in on:
        if switch not in known:
            raise UsageError(
                f"profile {where} has no switch {switch!r}", remedy=f"use one of {', '.join(known) or 'none'}"
            )
        for file in reversed(chain):
            cells.update(file.switches.get(switch, ("", {}))[1])
    sections = {name: _section(name, cls, cells) for name, cls in SECTIONS.items()}
    return Profile(
        name=os.path.basename(where).removesuffix(".toml"),
        title=chain[0].title,
        **sections,
        limits=MappingProxyType(_limits(cells)),
        rules=MappingProxyType(_rules(cells, chain[-1].cells)),
        sources=MappingProxyType({key: cell.source for key, cell in cells.items() if cell.source is not None}),
        switches=MappingProxyType(known),
        switched=on,
        origin=where,
    )


def _split(text: str) -> tuple[str, list[str]]:
    stem, suffix, rest = text.rpartition(".toml")
    if suffix and (not rest or rest.startswith("+")):
        return stem + suffix, rest.split("+")[1:]
    if "/" in text:
        return text, []
    name, *given = text.split("+")
    return name, given


def _is_path(where: str) -> bool:
    return "/" in where or where.endswith(".toml")


def _chain(where: str) -> list[_File]:
    """The file, the one it extends, and so on; the base last."""
    chain: list[_File] = []
    seen: list[str] = []
    following: str | None = where
    while following is not None:
        path = following if _is_path(following) else os.path.join(FOLDER, f"{following}.toml")
        if not _is_path(following) and following not in (*names(), BASE):
            raise UsageError(
                f"there is no profile {following!r}" + (f" (named in {seen[-1]})" if seen else ""),
                remedy=f"use one of {', '.join(names())}, or the path of a file",
            )
        real = os.path.realpath(path)
        if real in seen or len(seen) >= MAX_EXTENDS:
            raise UsageError(f"{path}: extends: a profile cannot extend itself, nor more than {MAX_EXTENDS} others")
        seen.append(real)
        file = _parse(path)
        chain.append(file)
        following = file.extends or (None if real == os.path.realpath(os.path.join(FOLDER, f"{BASE}.toml")) else BASE)
        if following is not None and _is_path(following):
            following = os.path.join(os.path.dirname(path), following)
    return chain


def _parse(path: str) -> _File:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise UsageError(f"{path}: a profile has at most {MAX_FILE} bytes")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", remedy="give a name or a file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: this is not TOML: {error}") from error
    for key in document:
        if key not in _TOP_KEYS:
            raise _wrong(path, key, "there is no such key", _near(key, _TOP_KEYS))
    title = document.get("title", os.path.basename(path).removesuffix(".toml"))
    extends = document.get("extends")
    if not isinstance(title, str):
        raise _wrong(path, "title", f"is {title!r}", "text in quotes")
    if extends is not None and not isinstance(extends, str):
        raise _wrong(path, "extends", f"is {extends!r}", f"one of {', '.join(names())}, or a path")
    sources = _sources(path, document.get("sources", {}))
    switches: dict[str, tuple[str, _Cells]] = {}
    for name, overlay in _table(path, "switches", document.get("switches", {})).items():
        switch = dict(_table(path, f"switches.{name}", overlay))
        about = switch.pop("about", "")
        if not isinstance(about, str):
            raise _wrong(path, f"switches.{name}.about", f"is {about!r}", "text in quotes")
        switches[name] = (about, _flatten(path, switch, sources, prefix=f"switches.{name}."))
    body = {key: value for key, value in document.items() if key in (*SECTIONS, "limits", "rules")}
    return _File(title=title, extends=extends, cells=_flatten(path, body, sources), switches=switches)


def _sources(path: str, tables: object) -> Mapping[str, Source]:
    found = {}
    for key, table in _table(path, "sources", tables).items():
        if not isinstance(table, dict) or set(table) != {"title", "date"}:
            raise _wrong(path, f"sources.{key}", "is not a source", '{ title = "…", date = "YYYY-MM" }')
        if not all(isinstance(value, str) and value for value in table.values()):
            raise _wrong(path, f"sources.{key}", "is not a source", "title and date as text")
        found[key] = Source(table["title"], table["date"])
    return found


def _flatten(
    path: str, body: Mapping[str, object], sources: Mapping[str, Source], prefix: str = ""
) -> dict[str, _Cell]:
    """Every value by its dotted key. `prefix` is for messages only."""

    def source_of(key: str, name: object, otherwise: Source | None) -> Source | None:
        if name is None:
            return otherwise
        if not isinstance(name, str) or name not in sources:
            known = ", ".join(sources) or "none"
            raise _wrong(path, prefix + key, f"names the source {name!r}", f"a key of [sources]: {known}")
        return sources[name]

    cells: dict[str, _Cell] = {}
    for section, table in body.items():
        if section not in (*SECTIONS, "limits", "rules"):
            allowed = _near(section, (*SECTIONS, "limits", "rules"))
            raise _wrong(path, prefix + section, "there is no such key", allowed)
        entries = dict(_table(path, prefix + section, table))
        common = source_of(f"{section}.source", entries.pop("source", None), None)
        for name, entry in entries.items():
            key = f"{section}.{name}"
            if section == "rules":
                parts = {"severity": entry} if isinstance(entry, str) else dict(_table(path, prefix + key, entry))
                for part in parts:
                    if part not in _RULE_KEYS:
                        raise _wrong(path, f"{prefix}{key}.{part}", "there is no such key", ", ".join(_RULE_KEYS))
                source = source_of(key, parts.pop("source", None), common)
                cells.update({f"{key}.{part}": _Cell(value, source, path) for part, value in parts.items()})
            elif isinstance(entry, dict) and set(entry) == {"value", "source"}:
                cells[key] = _Cell(entry["value"], source_of(key, entry["source"], common), path)
            else:
                cells[key] = _Cell(entry, common, path)
    return cells


def _section(name: str, cls: type, cells: _Cells) -> Any:
    checks = {field.name.replace("_", "-"): field.metadata["check"] for field in fields(cls)}
    values = {}
    for key, cell in _under(name, cells):
        if key not in checks:
            raise _wrong(cell.file, f"{name}.{key}", "there is no such key", _near(key, checks))
        try:
            values[key.replace("-", "_")] = checks[key](cell.value)
        except ValueError as error:
            raise _wrong(cell.file, f"{name}.{key}", f"is {_shown(cell.value)}", str(error)) from None
    return cls(**values)


def _limits(cells: _Cells) -> dict[str, int]:
    found = {}
    for key, cell in _under("limits", cells):
        if key not in LIMITS:
            raise _wrong(cell.file, f"limits.{key}", "there is no such key", _near(key, LIMITS))
        try:
            found[key] = number(cell.value)
        except ValueError as error:
            raise _wrong(cell.file, f"limits.{key}", f"is {_shown(cell.value)}", str(error)) from None
    return found


def _rules(cells: _Cells, known: _Cells) -> dict[str, RuleWeight]:
    """The weights of the rules. `known`: those of the base, which lists every rule."""
    weights: dict[str, dict[str, Any]] = {}
    for key, cell in _under("rules", cells):
        rule, _, part = key.rpartition(".")
        if f"rules.{rule}.severity" not in known:
            listed = [name.rpartition(".")[0] for name, _ in _under("rules", known)]
            raise _wrong(cell.file, f"rules.{rule}", "there is no such rule", _near(rule, listed))
        value = cell.value
        if part == "error":
            if not isinstance(value, str) or not value:
                raise _wrong(cell.file, f"rules.{key}", f"is {_shown(value)}", "text in quotes")
        elif value not in SEVERITIES and not (value == OFF and part == "severity"):
            allowed = ", ".join((*SEVERITIES, *((repr(OFF),) if part == "severity" else ())))
            raise _wrong(cell.file, f"rules.{key}", f"is {_shown(value)}", f"one of {allowed}")
        weights.setdefault(rule, {})[part] = None if value == OFF else value
    return {rule: RuleWeight(**weight) for rule, weight in weights.items()}


def _under(section: str, cells: _Cells) -> Iterable[tuple[str, _Cell]]:
    head = f"{section}."
    return [(key.removeprefix(head), cell) for key, cell in cells.items() if key.startswith(head)]


def _table(path: str, key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, key, f"is {_shown(value)}", "a table")
    return value


def _near(word: str, words: Iterable[str]) -> str:
    """The words that are meant, or all of them."""
    listed = list(words)
    return "one of " + ", ".join(get_close_matches(word, listed, n=3) or listed)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _wrong(path: str, key: str, what: str, allowed: str) -> UsageError:
    return UsageError(f"{path}: {key}: {what}", remedy=f"allowed: {allowed}")
