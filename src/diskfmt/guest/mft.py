"""One record of NTFS's master file table, for the little that libfsntfs does not tell.

Source: "New Technologies File System (NTFS)" (libyal), "The MFT entry" and "The MFT attribute".
"""

import struct
from typing import Final

from diskfmt.guest.base import DamagedError

_HEADER: Final = struct.Struct("<4sHH12xHHI")
_ATTRIBUTE: Final = struct.Struct("<IIBB6xIH")
_END: Final = 0xFFFFFFFF
_SECTOR: Final = 512


def resident_attribute(record: bytes, kind: int) -> bytes | None:
    """What the unnamed resident attribute of a type holds, None where this record has none.

    Raises DamagedError: the record makes no sense or was torn while written.
    """
    magic, fix_at, fix_count, at, _, used = _HEADER.unpack_from(record)
    if magic != b"FILE" or fix_at + fix_count * 2 > len(record) or (fix_count - 1) * _SECTOR != len(record):
        raise DamagedError("a file record that makes no sense")
    raw = bytearray(record)
    mark, fixes = record[fix_at : fix_at + 2], record[fix_at + 2 : fix_at + fix_count * 2]
    for index in range(fix_count - 1):
        place = (index + 1) * _SECTOR - 2
        if raw[place : place + 2] != mark:
            raise DamagedError("a file record that was not written wholly")
        raw[place : place + 2] = fixes[index * 2 : index * 2 + 2]
    used = min(used, len(raw))
    while at + 4 <= used:
        if int.from_bytes(raw[at : at + 4], "little") == _END:
            return None
        if at + _ATTRIBUTE.size > used:
            break
        own, length, elsewhere, name, size, content = _ATTRIBUTE.unpack_from(raw, at)
        if length < 24 or length % 8 or at + length > used:
            break
        if own == kind and not elsewhere and not name:
            if content + size > length:
                break
            return bytes(raw[at + content : at + content + size])
        at += length
    raise DamagedError("a file record with an attribute that makes no sense")
