"""LVM2: physical volumes, their text metadata, and logical volumes as devices.

    label ─► PV header ─► metadata area ─► text ─► VolumeGroup ─► LogicalVolume ─► Device

Linear and striped volumes are read; thin, RAID, mirror, cache, snapshot and others are known by name. No public
specification exists; source: LVM2, lib/format_text/layout.h, lib/label/label.h, and lvmsystemid(7), lvm.conf(5).
"""

import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from diskfmt.guest.base import BudgetError, DamagedError, Device, GuestError, UnsupportedError
from diskfmt.guest.device import require_inside
from diskfmt.guest.lvmtext import Section, parse
from diskfmt.guest.signatures import lvm_id
from diskfmt.units import MIB

_SECTOR: Final = 512
_MAX_TEXT: Final = 4 * MIB  # metadata of thousands of volumes; the largest area that LVM makes by itself is 1 MiB
_MAX_PLACES: Final = 64
_MAX_VOLUMES: Final = 4096
_MAX_SEGMENTS: Final = 65536
_CRC_START: Final = 0xF597A6CF
_AREA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_PLACE: Final = Struct("<QQ")
_LOCATION: Final = Struct("<QQII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Physical:
    """A physical volume on a device. `id` as LVM prints it; `areas`: metadata, offset and size in bytes."""

    id: str
    size: int
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripe:
    """A part of a segment: on the physical volume of that id, from that byte of it on."""

    physical: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Bytes [start, start + size) of a logical volume. `kind` as in the metadata; only `striped` has `stripes`."""

    start: int
    size: int
    kind: str
    stripe_size: int = 0
    stripes: tuple[Stripe, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """A logical volume. `visible`: not a part of another one. `segments` in order."""

    name: str
    id: str
    visible: bool
    size: int
    segments: tuple[Segment, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its segments, each once, as lvs prints them: `linear` for one stripe."""
        names = ("linear" if s.kind == "striped" and len(s.stripes) == 1 else s.kind for s in self.segments)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A physical volume as the metadata knows it: `name` (pv0), `id`, first extent in bytes, size in bytes."""

    name: str
    id: str
    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeGroup:
    """A volume group. `missing`: ids of the physical volumes that the disk does not have."""

    name: str
    id: str
    sequence: int
    extent_size: int
    members: tuple[Member, ...]
    volumes: tuple[Logical, ...]
    missing: tuple[str, ...] = ()


def read_physical(device: Device) -> Physical | None:
    """The physical volume that a device is; None: it is none. Raises DamagedError: wrong checksum, or no sense."""
    head = device.read_at(0, min(4 * _SECTOR, device.size))
    for at in range(0, len(head) - _SECTOR + 1, _SECTOR):
        sector = head[at : at + _SECTOR]
        if sector.startswith(b"LABELONE") and sector[24:32] == b"LVM2 001":
            break
    else:
        return None
    if _crc(sector[20:]) != int.from_bytes(sector[16:20], "little"):
        raise DamagedError("checksum of the LVM label is wrong", offset=at)
    place = int.from_bytes(sector[20:24], "little")
    if place > _SECTOR - 40:
        raise DamagedError("the LVM label makes no sense", offset=at)
    identity = lvm_id(sector[place : place + 32])
    size = int.from_bytes(sector[place + 32 : place + 40], "little")
    _, behind = _places(sector, place + 40)
    areas, _ = _places(sector, behind)
    return Physical(id=identity, size=size, areas=areas)


def _places(sector: bytes, at: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """A list of offsets and sizes that ends with zeroes, and where the next begins."""
    places: list[tuple[int, int]] = []
    while at + _PLACE.size <= len(sector) and len(places) < _MAX_PLACES:
        offset, size = _PLACE.unpack_from(sector, at)
        at += _PLACE.size
        if offset == 0:
            return tuple(places), at
        places.append((offset, size))
    raise DamagedError("the header of the LVM physical volume has no end")


def read_group(device: Device, physical: Physical) -> VolumeGroup | None:
    """The volume group, from the first metadata area that is whole; None: the volume belongs to none.

    Raises:
        DamagedError: all areas have wrong checksums or make no sense.
        UnsupportedError: this volume has no copy of the metadata, or a format that is not LVM2's.

    """
    problem: GuestError | None = None
    if not physical.areas:
        raise UnsupportedError("LVM physical volume without metadata")
    for offset, size in physical.areas:
        try:
            text = _text(device, offset, size)
            return None if text is None else _group(text)
        except GuestError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def _text(device: Device, offset: int, size: int) -> bytes | None:
    """The metadata in an area: a ring behind a header sector; None where nothing was written yet."""
    header = device.read_at(offset, _SECTOR)
    if header[4:20] != _AREA_MAGIC or _crc(header[4:]) != int.from_bytes(header[:4], "little"):
        raise DamagedError("checksum of an LVM metadata area is wrong", offset=offset)
    place, length, crc, flags = _LOCATION.unpack_from(header, 40)
    if place == 0:
        return None
    if flags & 1:
        raise UnsupportedError("LVM metadata that is ignored")
    if not _SECTOR <= place < size or length > size - _SECTOR:
        raise DamagedError("an LVM metadata area points outside itself", offset=offset)
    if length > _MAX_TEXT:
        raise BudgetError(f"LVM metadata of {length} bytes", offset=offset)
    first = min(length, size - place)
    text = device.read_at(offset + place, first)
    if first < length:
        text += device.read_at(offset + _SECTOR, length - first)
    if _crc(text) != crc:
        raise DamagedError("checksum of the LVM metadata is wrong", offset=offset + place)
    return text


def _crc(data: bytes) -> int:
    """LVM's checksum: CRC-32 with a start value of its own and nothing inverted."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _group(text: bytes) -> VolumeGroup:
    top = parse(text)
    names = [name for name, value in top.items() if isinstance(value, Section)]
    if len(names) != 1:
        raise DamagedError(f"LVM metadata of {len(names)} volume groups")
    section = top.section(names[0])
    if section.text("format", "lvm2") not in {"lvm2", "lvm1"}:
        raise UnsupportedError(f"LVM format {section.text('format')}")
    extent = section.number("extent_size") * _SECTOR
    if extent <= 0:
        raise DamagedError("LVM extents of no size")
    members = tuple(
        Member(
            name=name,
            id=part.text("id"),
            start=part.number("pe_start") * _SECTOR,
            size=part.number("dev_size", 0) * _SECTOR,
        )
        for name, part in section.section("physical_volumes").sections()
    )
    known = {member.name: member for member in members}
    volumes = [
        _logical(name, part, extent, known) for name, part in section.section("logical_volumes", Section()).sections()
    ]
    if len(volumes) > _MAX_VOLUMES or sum(len(volume.segments) for volume in volumes) > _MAX_SEGMENTS:
        raise BudgetError("too many LVM volumes or segments")
    return VolumeGroup(
        name=names[0],
        id=section.text("id"),
        sequence=section.number("seqno"),
        extent_size=extent,
        members=members,
        volumes=tuple(volumes),
    )


def _logical(name: str, part: Section, extent: int, members: dict[str, Member]) -> Logical:
    segments = []
    at = 0
    for number in range(1, part.number("segment_count") + 1):
        segment = _segment(part.section(f"segment{number}"), extent, members)
        if segment.start != at:
            raise DamagedError(f"LVM volume {name} has a gap")
        at += segment.size
        segments.append(segment)
    return Logical(
        name=name,
        id=part.text("id"),
        visible="VISIBLE" in part.strings("status"),
        size=at,
        segments=tuple(segments),
    )


def _segment(part: Section, extent: int, members: dict[str, Member]) -> Segment:
    kind = part.text("type")
    start, size = part.number("start_extent") * extent, part.number("extent_count") * extent
    if size <= 0:
        raise DamagedError("an LVM segment of no size")
    if kind != "striped":
        return Segment(start=start, size=size, kind=kind)
    flat = part.items_of("stripes")
    stripes = []
    for name, number in zip(flat[::2], flat[1::2], strict=False):
        if not isinstance(name, str) or not isinstance(number, int):
            raise DamagedError("an LVM stripe that makes no sense")
        member = members.get(name)
        if member is None:  # the volume is made of other logical volumes
            return Segment(start=start, size=size, kind="stacked")
        stripes.append(Stripe(physical=member.id, offset=member.start + number * extent))
    stripe_size = part.number("stripe_size", 0) * _SECTOR
    count = part.number("stripe_count")
    if len(stripes) != count or len(flat) != 2 * count or not count or size % count:
        raise DamagedError("an LVM segment whose stripes make no sense")
    if count > 1 and (stripe_size <= 0 or (size // count) % stripe_size):
        raise DamagedError(f"LVM stripes of {stripe_size} bytes")
    return Segment(start=start, size=size, kind=kind, stripe_size=stripe_size, stripes=tuple(stripes))


class LogicalDevice:
    """A logical volume as a device.

    Raises:
        UnsupportedError: a segment that is neither linear nor striped, by the name of its type.
        GuestError: a physical volume is missing.

    """

    def __init__(self, volume: Logical, devices: dict[str, Device]) -> None:
        for segment in volume.segments:
            if segment.kind != "striped":
                raise UnsupportedError(f"LVM {segment.kind}")
            for stripe in segment.stripes:
                if stripe.physical not in devices:
                    raise GuestError(f"LVM physical volume {stripe.physical} is not on this disk")
        self._segments = volume.segments
        self._devices = devices
        self.size = volume.size
        self.sector_size = max((device.sector_size for device in devices.values()), default=_SECTOR)

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises GuestError."""
        require_inside(self, offset, length)
        out = bytearray()
        stop = offset + length
        for segment in self._segments:
            at = max(offset, segment.start)
            until = min(stop, segment.start + segment.size)
            while at < until:
                stripe, place, room = _locate(segment, at - segment.start)
                count = min(room, until - at)
                out += self._devices[stripe.physical].read_at(place, count)
                at += count
        return bytes(out)


def _locate(segment: Segment, at: int) -> tuple[Stripe, int, int]:
    """The stripe that has byte `at` of a segment, the place on its volume, and how many bytes follow there."""
    count = len(segment.stripes)
    if count == 1:
        stripe = segment.stripes[0]
        return stripe, stripe.offset + at, segment.size - at
    chunk, inside = divmod(at, segment.stripe_size)
    stripe = segment.stripes[chunk % count]
    return stripe, stripe.offset + chunk // count * segment.stripe_size + inside, segment.stripe_size - inside
