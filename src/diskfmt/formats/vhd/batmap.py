"""XenServer's bat map: a bit for each block of which all sectors are stored, so that tapdisk need not ask its bitmap.

Behind the BAT is a sector with the map's header, which says where the map is. The specification does not know it;
it is a copy of what the bitmaps say, so it is compared, never followed. It exists where tapdisk 1.1 or later wrote
the image, always with blocks of 2 MiB.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diskfmt.errors import Finding, Reason
from diskfmt.formats.vhd.findings import COPY_AGAIN, WARNING, finding
from diskfmt.formats.vhd.header import Vhd
from diskfmt.formats.vhd.records import BAT_MAP_COOKIE, BAT_MAP_VERSION, OLD_TAPDISK, BatMap, parse_bat_map
from diskfmt.stores.source import SourceFile
from diskfmt.units import MIB, SECTOR, align_up, ceil_div

_BLOCK: Final = 2 * MIB
_SIGNED: Final = 0x00010001
"""The version whose checksum counts bytes as signed."""
_REMEDY: Final = "repair the image with vhd-util, or convert it"


def header_at(header: Vhd) -> int:
    """Where the header of a bat map is, if there is one."""
    dynamic: Any = header.dynamic
    return align_up(int(dynamic.table_offset) + 4 * int(dynamic.max_entries), SECTOR)


def find_bat_map(file: SourceFile, header: Vhd) -> BatMap | None:
    """The header of the bat map, None where there is none."""
    footer, dynamic, at = header.footer, header.dynamic, header_at(header) if header.dynamic else 0
    if dynamic is None or not footer.tapdisk or footer.creator_version <= OLD_TAPDISK or dynamic.block_size != _BLOCK:
        return None
    if at + SECTOR > header.data_end:
        return None
    found = parse_bat_map(file.read_at(at, SECTOR))
    return found if found.cookie == BAT_MAP_COOKIE else None


def read_bat_map(file: SourceFile, header: Vhd, found: BatMap) -> tuple[npt.NDArray[np.bool_] | None, list[Finding]]:
    """The bits of the map, shape (blocks of the disk,), None where it cannot be used; and what is wrong with it."""
    wrong = list(_doubts(header, found))
    if wrong:
        return None, wrong
    data = np.frombuffer(file.read_at(found.offset, _size(header)), np.uint8)
    total = int(data.view(np.int8 if found.version == _SIGNED else np.uint8).sum(dtype=np.int64))
    if found.checksum != ~total & 0xFFFFFFFF:
        at = header_at(header) + 24
        return None, [finding(WARNING, Reason.BAD_CHECKSUM, at, "wrong checksum of XenServer's bat map", _REMEDY)]
    return np.unpackbits(data)[: header.entries] != 0, []


def _size(header: Vhd) -> int:
    """Bytes of the map: a bit for each block, whole sectors."""
    return max(1, ceil_div(ceil_div(header.entries, 8), SECTOR)) * SECTOR


def _doubts(header: Vhd, found: BatMap) -> Iterator[Finding]:
    at, size = header_at(header), _size(header)
    if found.version > BAT_MAP_VERSION:
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 20,
            f"the bat map of XenServer has the unknown version {found.version:#010x}",
        )
    elif found.sectors * SECTOR < size:
        yield finding(
            WARNING,
            Reason.BAD_VALUE,
            at + 16,
            f"the bat map of XenServer has {found.sectors} sectors, the disk needs {size // SECTOR}",
            _REMEDY,
        )
    elif found.offset + found.sectors * SECTOR > header.data_end:
        yield finding(
            WARNING,
            Reason.OUT_OF_FILE,
            at + 8,
            f"the bat map of XenServer at {found.offset:#x} lies outside the file",
            COPY_AGAIN,
        )
