"""Detectors that need more than a magic number at one place.

Each takes a `View` of a file and yields claims. They never raise and never look outside the view.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.formats.known import COMPANIONS, KNOWN, MAGICS, Claim

_TEXT_LENGTH: Final = 64 << 10
"""Bytes of the head that are looked at as text."""
_SIGNATURE: Final = re.compile(rb"disk[ \t_]?descriptor[ \t_]?file", re.IGNORECASE)
_KEY: Final = re.compile(rb"(?:version|encoding|cid|parentcid|createtype)[ \t]*=", re.IGNORECASE)
_LINE_ENDS: Final = (re.compile(rb"\n"), re.compile(rb"[\r\n]"))
_MISPLACED_AREA: Final = 64 << 10
"""Bytes of the tail that are searched for a VHD footer."""
_BLANK: Final = b" \t\r\x0b\x0c"
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The parts of a file that detectors may look at: (offset, bytes) pairs of a file of `size` bytes."""

    size: int
    parts: tuple[tuple[int, bytes], ...]

    def at(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset` (below zero: from the end); fewer or none where the view has no more."""
        if offset < 0:
            offset += self.size
        for start, data in self.parts:
            if 0 <= offset - start < len(data):
                return data[offset - start : offset - start + length]
        return b""


def claim(view: View, name: str, offset: int, detail: str | None = None) -> Claim:
    """A claim of a known name at `offset` (below zero: from the end)."""
    place = offset + view.size if offset < 0 else offset
    return Claim(name=name, kind=KNOWN[name].kind, offset=place, detail=detail or KNOWN[name].title)


def magics(view: View) -> Iterator[Claim]:
    """Claims of the table of magic numbers."""
    for row in MAGICS:
        if view.at(row.offset, len(row.magic)) == row.magic:
            second = COMPANIONS.get(row.name)
            if second is None or view.at(second[0], len(second[1])) == second[1]:
                yield claim(view, row.name, row.offset)


def qcow(view: View) -> Iterator[Claim]:
    """Qcow and qcow2 share a magic. Source: qemu docs/interop/qcow2.rst, Header."""
    head = view.at(0, 8)
    if head[:4] == b"QFI\xfb":
        yield claim(view, "qcow1" if head[4:] == b"\0\0\0\1" else "qcow2", 0)


def vmdk_text(view: View) -> Iterator[Claim]:
    """A text descriptor, whatever its encoding, line ends and leading comments (TM-408).

    Known by its signature comment, or by one of its keys in the first line that is not a comment: qemu takes
    `version=` there for a descriptor too. A carriage return alone ends a line for some readers only, so both
    readings are tried.
    """
    readings = [_describes(text, end) for text in _texts(view.at(0, _TEXT_LENGTH)) for end in _LINE_ENDS]
    if any(readings):
        yield claim(view, "vmdk", 0, "VMDK text descriptor")
    elif None in readings:
        yield claim(view, "comments", 0)


def _texts(head: bytes) -> Iterator[bytes]:
    """What the head says in each encoding that it could have, as ASCII or UTF-8."""
    for mark in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            yield head.removeprefix(mark).replace(b"\0", b"")
    yield head.replace(b"\0", b"")
    if b"\0" in head[:4] or head.startswith(_BYTE_ORDER_MARKS):  # the first character of a descriptor is ASCII
        for codec in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            yield head.decode(codec, "replace").removeprefix("\ufeff").encode("utf-8", "replace")


def _describes(text: bytes, line_end: re.Pattern[bytes]) -> bool | None:
    """Whether a text is a VMDK descriptor; None if it has only comments and does not say."""
    comments = False
    at = 0
    while at < len(text):
        end = line_end.search(text, at)
        line = text[at : end.start() if end else len(text)].strip(_BLANK)
        at = end.end() if end else len(text)
        if line.startswith(b"#"):
            comments = True
            if _SIGNATURE.search(line):
                return True
        elif line:
            return _KEY.match(line) is not None
    return None if comments else False


def vmdk_footer(view: View) -> Iterator[Claim]:
    """The footer of a streamOptimized extent: marker of type 3, header, end-of-stream marker."""
    if view.at(-1024, 4) == b"KDMV" and view.at(-1536, 16) == struct.pack("<QII", 1, 0, 3):
        yield claim(view, "vmdk", -1024, "VMDK footer")


def vhd_misplaced(view: View) -> Iterator[Claim]:
    """A VHD footer with a good checksum that is not at the end: something was added, or the end is missing."""
    start = max(0, view.size - _MISPLACED_AREA)
    tail = view.at(start, _MISPLACED_AREA)
    at = tail.rfind(b"conectix")
    footer = tail[at : at + 512]
    if at < 0 or len(footer) < 512:
        return
    total = sum(footer) - sum(footer[64:68])
    if int.from_bytes(footer[64:68]) == ~total & 0xFFFFFFFF:
        behind = view.size - start - at - 512
        yield claim(view, "vhd", start + at, f"VHD footer with {behind} bytes behind it")


def tar(view: View) -> Iterator[Claim]:
    """Tar by its checksum, told apart by the first member. Source: POSIX pax, ustar; DMTF DSP0243 (OVA)."""
    header = view.at(0, 512)
    if len(header) < 512 or not header[0]:
        return
    stored = header[148:156].strip(b" \0")
    total = sum(header) - sum(header[148:156]) + 8 * 0x20
    if not re.fullmatch(rb"[0-7]{1,7}", stored) or int(stored, 8) != total:
        return
    member = header[:100].split(b"\0")[0].lower()
    yield claim(view, "ova" if member.endswith(b".ovf") else "xva" if member == b"ova.xml" else "tar", 0)


def program(view: View) -> Iterator[Claim]:
    """A PE program: MZ, and PE where it points to."""
    head = view.at(0, 64)
    if head[:2] == b"MZ" and len(head) == 64 and view.at(int.from_bytes(head[60:64], "little"), 4) == b"PE\0\0":
        yield claim(view, "pe", 0)


def markup(view: View) -> Iterator[Claim]:
    """OVF, other XML, web pages: what a download of an image can be instead."""
    head = view.at(0, 4096).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        yield claim(view, "html", 0)
    elif head.startswith((b"<?xml", b"<envelope")):
        yield claim(view, "ovf" if b"<envelope" in head or b":envelope" in head else "xml", 0)


def mbr(view: View) -> Iterator[Claim]:
    """A partition table with sane entries, or at least a boot sector's signature."""
    sector = view.at(0, 512)
    if len(sector) < 512 or sector[510:] != b"\x55\xaa":
        return
    entries = [sector[at : at + 16] for at in range(446, 510, 16)]
    used = [entry for entry in entries if entry[4]]
    sane = all(entry[0] in {0, 0x80} for entry in entries) and all(any(entry[12:16]) for entry in used)
    if used and sane:
        yield claim(view, "mbr", 0, "protective MBR" if any(entry[4] == 0xEE for entry in used) else None)
    elif sane or sector[0] in {0xEB, 0xE9, 0xFA, 0x33, 0x31, 0xFC, 0xB8, 0x90}:
        yield claim(view, "boot_sector", 0)  # an empty table, or what boot code starts with


def sun_label(view: View) -> Iterator[Claim]:
    """A Sun disklabel: magic, and the XOR of all 16-bit words is zero."""
    sector = view.at(0, 512)
    if len(sector) == 512 and sector[508:510] == b"\xda\xbe":
        check = 0
        for (word,) in struct.iter_unpack(">H", sector):
            check ^= word
        if check == 0:
            yield claim(view, "sun", 508)


def fat(view: View) -> Iterator[Claim]:
    """FAT by the text that formatters write, or by a parameter block that makes sense."""
    sector = view.at(0, 512)
    if len(sector) < 512 or sector[0] not in {0xEB, 0xE9}:
        return
    named = sector[54:58] == b"FAT1" or sector[82:90] == b"FAT32   " or sector[54:62] == b"FAT     "
    size, per_cluster, reserved, fats = struct.unpack_from("<HBHB", sector, 11)
    counts = size in {512, 1024, 2048, 4096} and per_cluster in {1 << n for n in range(8)} and reserved
    if named or (counts and fats in {1, 2} and sector[21] >= 0xF0 and sector[510:] == b"\x55\xaa"):
        yield claim(view, "fat", 0)


def ext(view: View) -> Iterator[Claim]:
    """ext2/3/4 and external journals. Source: Linux Documentation/filesystems/ext4/super.rst."""
    block = view.at(0x400, 0x68)
    if len(block) < 0x68 or block[0x38:0x3A] != b"\x53\xef":
        return
    log_block_size, revision, incompatible = (int.from_bytes(block[at : at + 4], "little") for at in (0x18, 0x4C, 0x60))
    if log_block_size <= 6 and revision <= 1:
        yield claim(view, "jbd" if incompatible & 0x8 else "ext", 0x438)


def hfs(view: View) -> Iterator[Claim]:
    """HFS: signature, allocation block size, place of the bitmap. Source: Inside Macintosh, Files, 2-60."""
    block = view.at(0x400, 24)
    if len(block) == 24 and block[:2] == b"BD" and int.from_bytes(block[14:16]) >= 3:
        unit = int.from_bytes(block[20:24])
        if unit and unit % 512 == 0:
            yield claim(view, "hfs", 0x400)


def minix(view: View) -> Iterator[Claim]:
    """Minix versions 1 to 3 in both byte orders; the two-byte magic is backed by the sizes of the bitmaps."""
    block = view.at(0x400, 32)
    if len(block) < 32:
        return
    for order in "<>":
        _, _, imap, zmap, first, log_zone, _, magic = struct.unpack_from(order + "HHHHHHIH", block)
        if magic in {0x137F, 0x138F, 0x2468, 0x2478} and imap and zmap and first >= 4 and log_zone <= 4:
            yield claim(view, "minix", 0x410)
        imap, zmap, _, log_zone = struct.unpack_from(order + "HHHH", block, 6)
        if struct.unpack_from(order + "H", block, 24)[0] == 0x4D5A and imap and zmap and log_zone <= 4:
            yield claim(view, "minix", 0x418)


def udf(view: View) -> Iterator[Claim]:
    """UDF: a volume recognition sequence with NSR02 or NSR03. Source: ECMA-167 2/8.3, 3/9.1."""
    if view.at(0x8001, 5) not in {b"BEA01", b"CD001"}:
        return
    if any(view.at(at + 1, 5) in {b"NSR02", b"NSR03"} for at in range(0x8000, 0x10000, 0x800)):
        yield claim(view, "udf", 0x8000)


def zfs(view: View) -> Iterator[Claim]:
    """ZFS: an uberblock of the first label."""
    for at in range(0x20000, 0x40000, 1024):
        if view.at(at, 8) in {b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c"}:
            yield claim(view, "zfs", at)
            return


def md(view: View) -> Iterator[Claim]:
    """MD superblocks near the end: 0.90 in the last whole 64 KiB but one, 1.0 in the last 8 to 12 KiB."""
    for at in (view.size // 0x10000 * 0x10000 - 0x10000, (view.size // 512 - 16) // 8 * 8 * 512):
        if at > 0 and view.at(at, 4) in {b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"}:
            yield claim(view, "md", at)


def drbd(view: View) -> Iterator[Claim]:
    """DRBD 8 and 9 metadata in the last 4 KiB of the device, or of its whole 4 KiB blocks."""
    for at in dict.fromkeys((view.size - 4096, view.size // 4096 * 4096 - 4096)):
        if at > 0 and any(view.at(at + place, 3) == b"\x83\x74\x02" for place in (60, 64)):
            yield claim(view, "drbd", at)


def via_raid(view: View) -> Iterator[Claim]:
    """VIA RAID: signature, version and checksum in the last sector."""
    at = view.size // 512 * 512 - 512
    sector = view.at(at, 512) if at > 0 else b""
    if len(sector) == 512 and sector[:2] == b"\x55\xaa" and sector[2] <= 1 and sum(sector[:50]) & 0xFF == sector[50]:
        yield claim(view, "via_raid", at)


Probe = Callable[[View], Iterator[Claim]]

CONTAINER_PROBES: Final[tuple[Probe, ...]] = (magics, qcow, vmdk_text, vmdk_footer)
"""What is asked about a guest's disk too (TM-405)."""

PROBES: Final[tuple[Probe, ...]] = (
    *CONTAINER_PROBES,
    tar,
    program,
    markup,
    mbr,
    sun_label,
    fat,
    ext,
    hfs,
    minix,
    udf,
    zfs,
    md,
    drbd,
    via_raid,
)

LAST_PROBES: Final[tuple[Probe, ...]] = (vhd_misplaced,)
"""What is asked only when no container was found: its answer could be a guest's data."""
