"""What is worth showing of the headers of a VHD, as plain JSON values."""

import uuid
from datetime import UTC, datetime

from diskfmt.formats.vhd.records import DIFFERENCING, EPOCH, TYPE_NAMES, DynamicHeader, Footer


def specific(footer: Footer, header: DynamicHeader | None) -> dict[str, object]:
    """What is worth showing of the headers, as plain JSON values. Sizes are in bytes, time is UTC."""
    shown: dict[str, object] = {
        "type": TYPE_NAMES[footer.disk_type],
        "creator": plain(footer.creator),
        "creator-version": f"{footer.creator_version >> 16}.{footer.creator_version & 0xFFFF}",
        "creator-host-os": plain(footer.creator_os),
        "created": time(footer.timestamp),
        "unique-id": str(uuid.UUID(bytes=footer.unique_id)),
        "original-size": footer.original_size,
        "current-size": footer.current_size,
        "geometry": {"cylinders": footer.cylinders, "heads": footer.heads, "sectors": footer.sectors},
        "geometry-size": footer.geometry_size,
        "saved-state": footer.saved_state != 0,
    }
    if footer.hidden:
        shown["hidden"] = True
    if header:
        shown |= {"block-size": header.block_size, "max-table-entries": header.max_entries}
    if header and (footer.disk_type == DIFFERENCING or any(header.parent_id)):
        shown["parent-unique-id"] = str(uuid.UUID(bytes=header.parent_id))
        shown["parent-modified"] = time(header.parent_timestamp)
    return shown


def time(stamp: int) -> str:
    """A time stamp, seconds since 2000, for people."""
    return datetime.fromtimestamp(EPOCH + stamp, UTC).isoformat()


def plain(name: bytes) -> str:
    """A four-character code as text."""
    return name.decode("latin-1").rstrip("\0")
