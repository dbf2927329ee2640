"""What is asked for: the text of `-O`, `-o` and `-c`, turned into records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from diskfmt.errors import UsageError
from diskfmt.formats import by_name
from diskfmt.formats.base import Format

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

COMPRESSORS: Final = ("zlib", "zstd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The format of an output and its options. `level` None is the codec's fast default."""

    format: Format
    subformat: str
    options: Mapping[str, str] = field(default_factory=lambda: _NONE)
    compress: str | None = None
    level: int | None = None


def parse_target(
    name: str,
    *,
    subformat: str | None = None,
    options: Mapping[str, str] | None = None,
    compress: str | None = None,
) -> Target:
    """The target that `FMT[:SUBFORMAT]` names, in any case; `subformat` may also come apart.

    Raises:
        UsageError: no such format, subformat, option or compressor; the message lists those that exist.

    """
    name, colon, suffix = name.partition(":")
    found = by_name(name)
    wanted = suffix if colon else subformat or found.subformats[0]
    matches = [entry for entry in found.subformats if entry.lower() == wanted.lower()]
    if not matches:
        raise UsageError(
            f"{found.name} has no subformat {wanted!r}", remedy=f"use one of {', '.join(found.subformats)}"
        )
    given = dict(options or _NONE)
    for key in given:
        if key not in found.options:
            known = ", ".join(sorted(found.options)) or "none"
            raise UsageError(f"{found.name} has no option {key!r}", remedy=f"the options are: {known}")
    codec, level = parse_compress(compress) if compress is not None else (None, None)
    return Target(format=found, subformat=matches[0], options=MappingProxyType(given), compress=codec, level=level)


def parse_options(text: str) -> dict[str, str]:
    """The pairs of `key=value,key=value`. Raises UsageError."""
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(f"{part!r} is not key=value", remedy="write -o key=value,key=value")
        pairs[key] = value
    return pairs


def parse_compress(text: str) -> tuple[str, int | None]:
    """The codec and level of `CODEC[:LEVEL]`. Raises UsageError."""
    codec, colon, level = text.lower().partition(":")
    if codec not in COMPRESSORS:
        raise UsageError(f"there is no codec {codec!r}", remedy=f"use one of {', '.join(COMPRESSORS)}")
    if not colon:
        return codec, None
    if not level.isascii() or not level.isdecimal() or len(level) > 3 or int(level) == 0:
        raise UsageError(f"{level!r} is not a level", remedy="levels are 1, 2, 3 …; higher is smaller and slower")
    return codec, int(level)
