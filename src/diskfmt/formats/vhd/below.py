"""Whether another image is the parent of a differencing VHD."""

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from diskfmt.errors import Finding, Reason
from diskfmt.formats.base import Image
from diskfmt.formats.vhd.describe import time
from diskfmt.formats.vhd.findings import ERROR, WARNING, finding
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.records import EPOCH
from diskfmt.stores.source import Identity

_SLACK: Final = 2
"""Seconds by which times of the same change may differ: FAT counts in twos."""
_FIND: Final = "find the parent that belongs to it, as it was when the disk was made"


def judge_below(image: Image, below: Image, identity: Identity) -> Iterator[Finding]:
    """What speaks against `below` being the parent of `image`.

    Source: VHD spec, "Dynamic Disk Header Format": Parent Unique ID, Parent Time Stamp. A parent without an id can
    only be a raw disk, which has none (XenServer).
    """
    header: Vhd = image.header
    dynamic: Any = header.dynamic
    at = header.footer.data_offset
    if below.format == "vhd":
        parent: Vhd = below.header
        own = parent.footer.unique_id
        if own != dynamic.parent_id:
            yield finding(
                ERROR,
                Reason.DIFFERENTIAL,
                at + 40,
                f"the parent has the id {UUID(bytes=own)}, the disk was made for {UUID(bytes=dynamic.parent_id)}",
                _FIND,
            )
    elif below.format != "raw" or any(dynamic.parent_id):
        yield finding(ERROR, Reason.DIFFERENTIAL, at + 40, f"the parent of a VHD cannot be {below.format}", _FIND)
    if image.virtual_size != below.virtual_size:
        grown = header.footer.tapdisk and image.virtual_size > below.virtual_size
        yield finding(
            WARNING if grown else ERROR,
            Reason.DIFFERENTIAL,
            at,
            f"the disk has {image.virtual_size} bytes, the parent {below.virtual_size}"
            f"{': XenServer made it larger later' if grown else ''}",
            None if grown else _FIND,
        )
    changed = identity.mtime_ns // 10**9 - EPOCH
    if dynamic.parent_timestamp and abs(changed - dynamic.parent_timestamp) > _SLACK:
        yield finding(
            WARNING,
            Reason.DIFFERENTIAL,
            at + 56,
            f"the file of the parent changed at {time(changed)}, the disk was made for one of "
            f"{time(dynamic.parent_timestamp)}; a copy loses the time",
            "make sure that nothing wrote to the parent after the disk was made",
        )
