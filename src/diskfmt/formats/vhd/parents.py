"""The names by which a differencing VHD knows its parent.

There are up to nine: one in the header and one in each of eight parent locators. They are given in the order in which
to look: relative, absolute, the bare name, a Macintosh URL.
Source: VHD spec, "Dynamic Disk Header Format", "Parent Locator Entries".
"""

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

from diskfmt.errors import Finding, Reason
from diskfmt.formats.base import Reference
from diskfmt.formats.vhd.describe import plain
from diskfmt.formats.vhd.findings import COPY_AGAIN, ERROR, WARNING, finding
from diskfmt.formats.vhd.records import (
    DIFFERENCING,
    LOCATORS_AT,
    MAX_LOCATOR_TEXT,
    PARENT_NAME_AT,
    DynamicHeader,
    Footer,
    Locator,
    parse_locators,
)
from diskfmt.stores.source import SourceFile

_NAME: Final = b"name"  # stands for the name in the header among the platform codes
_ORDER: Final = (b"W2ru", b"W2ku", _NAME, b"MacX")
_FILE_URL: Final = re.compile(r"file://[^/]*", re.IGNORECASE)


def parents(source: SourceFile, header: DynamicHeader, footer: Footer) -> tuple[tuple[Reference, ...], list[Finding]]:
    """The parent under all its names, and what is wrong with them.

    Without a parent id, which only a VHD has, the parent may be a raw disk (XenServer): its format is not recorded
    then. A dynamic disk has no parent, whatever these fields say: Xen Orchestra leaves them when it merges a chain.
    """
    at, differs = footer.data_offset, footer.disk_type == DIFFERENCING
    locators = parse_locators(header.locators)
    if not differs and not any(header.parent_id) and not locators:
        return (), []
    found = []
    spelled = [(_NAME, _header_name(header, footer), at + PARENT_NAME_AT)]
    for locator in locators:
        wrong = list(_doubts(locator, at + LOCATORS_AT, source.size))
        found += wrong
        if locator.platform in _TEXT and not any(entry.severity is ERROR for entry in wrong):
            data = source.read_at(locator.offset, locator.length)
            spelled.append((locator.platform, _TEXT[locator.platform](data), locator.offset))
    names: dict[str, int] = {}
    for _, name, where in sorted((entry for entry in spelled if entry[1]), key=lambda entry: _ORDER.index(entry[0])):
        names.setdefault(name, where)
    if not differs:
        unused = [Reference(kind="former-parent", name=name, offset=where) for name, where in names.items()]
        return tuple(unused), [_left_over(at + 40)]
    form = "vhd" if any(header.parent_id) else None
    references = [Reference(kind="parent", name=name, format=form, offset=where) for name, where in names.items()]
    return tuple(references or [Reference(kind="parent", name="", format=form, offset=at)]), found


def _left_over(at: int) -> Finding:
    return finding(
        WARNING,
        Reason.EXTERNAL_REFERENCE,
        at,
        "the disk is dynamic, but names a parent: it has none, the type decides",
        "compare with the disk that the guest saw",
    )


def _header_name(header: DynamicHeader, footer: Footer) -> str:
    """The name in the header: big-endian, but tapdisk 0.1 wrote it as its machine did, with a mark or little-endian."""
    data = header.parent_name
    if footer.old_bits:
        return _until_nul(data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-16-le", "replace"))
    return _until_nul(data.decode("utf-16-be", "replace"))


def _doubts(locator: Locator, at: int, size: int) -> Iterator[Finding]:
    """What is wrong with a locator in a table at `at`, in a file of `size` bytes."""
    name = f"parent locator {plain(locator.platform)!r} at {locator.offset:#x}"
    if locator.offset + locator.length > size:
        yield finding(ERROR, Reason.OUT_OF_FILE, at, f"{name} lies outside the file", COPY_AGAIN)
    if locator.length > MAX_LOCATOR_TEXT:
        yield finding(
            ERROR,
            Reason.LIMIT_METADATA,
            at,
            f"{name} has {locator.length} bytes, at most {MAX_LOCATOR_TEXT} are read",
            COPY_AGAIN,
        )
    if locator.room < locator.length:
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            at,
            f"{name} has {locator.length} bytes, but room for {locator.room}",
        )


def _windows(data: bytes) -> str:
    return _until_nul(data.decode("utf-16-le", "replace"))


def _url(data: bytes) -> str:
    """The path of a file URL (RFC 2396); any other URL as it is, because it must not be followed."""
    text = _until_nul(data.decode("utf-8", "replace"))
    return unquote(text[found.end() :]) if (found := _FILE_URL.match(text)) else text


_TEXT: Final[dict[bytes, Callable[[bytes], str]]] = {b"W2ru": _windows, b"W2ku": _windows, b"MacX": _url}
"""Locators with a name in them. Others are deprecated, or a Macintosh alias record."""


def _until_nul(text: str) -> str:
    return text.partition("\0")[0]
