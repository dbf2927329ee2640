"""What the layout writes, through the engine, judged by independent readers."""

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from oracles.digest import digest_file
from oracles.readers import ORACLES, missing

from diskfmt.engine import Copier
from diskfmt.errors import UsageError
from diskfmt.extents import ROW, Kind, chunks
from diskfmt.formats.base import Finale, Layout, Request
from diskfmt.formats.vhd.check import check
from diskfmt.formats.vhd.header import open_image
from diskfmt.formats.vhd.layout import layout as output_of
from diskfmt.formats.vhd.map import extents
from diskfmt.stores.source import SourceFile

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PRINT = bytes(range(32))


def layout(wanted: Request) -> Layout:
    """The layout of an output's only file."""
    (part,) = output_of(wanted).parts
    return part.layout


def request(size: int, subformat: str = "dynamic", **options: str) -> Request:
    return Request(subformat=subformat, virtual_size=size, name="d.vhd", options=options)


def write(raw: Path, target: Path, wanted: Request) -> Finale:
    """Write a raw file as a VHD, as the converter does."""
    place = layout(wanted)
    placement = place.placement
    size = wanted.virtual_size
    rows = np.zeros(1, ROW)
    rows["length"] = rows["host_len"] = size
    rows["kind"] = Kind.DATA
    with open(raw, "rb") as source, open(target, "w+b") as out:
        with Copier(
            fds=[source.fileno()], paths=[str(raw)], target_fd=out.fileno(), target_path=str(target),
            placement=placement, threads=2,
        ) as copier:  # fmt: skip
            for chunk in chunks([rows], unit=placement.unit, max_units=max(1, 64 * MIB // placement.unit)):
                first, places, stored = copier.run(chunk)
                pieces, copier.end = place.add(first, places, stored, copier.end)
                assert not pieces
            copier.finish()
            finale = place.finish(copier.end, PRINT)
        for piece in finale.pieces:
            os.pwrite(out.fileno(), piece.data, piece.offset)
        os.ftruncate(out.fileno(), finale.size)
    return finale


def sparse_raw(path: Path, size: int, seed: int) -> Path:
    """A raw disk with some data, the first and the last sector included."""
    picks = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in {0, size - 512, *(picks.randrange(size // 512) * 512 for _ in range(12))}:
            data = picks.randbytes(min(picks.choice((512, 4096, 70000)), size - offset))
            os.pwrite(file.fileno(), data, offset)
    return path


SIZES = (512, 1 * MIB, 2 * MIB - 512, 2 * MIB + 512, 16 * MIB, 33 * MIB + 1024)
KINDS = (
    ("dynamic", {}),
    ("dynamic", {"block_size": "512K"}),
    ("dynamic", {"block_size": "4M"}),
    ("fixed", {}),
)


@pytest.mark.parametrize("oracle", ["qemu-img", "libyal", "dissect", "7zip"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("subformat", "options"), KINDS)
def test_written_disk_is_read_back_by_others(
    tmp_path: Path, oracle: str, size: int, subformat: str, options: dict[str, str]
) -> None:
    if missing(oracle):
        pytest.skip(missing(oracle) or "")
    raw = sparse_raw(tmp_path / "guest.raw", size, size)
    write(raw, tmp_path / "d.vhd", request(size, subformat, **options))
    assert ORACLES[oracle](str(tmp_path / "d.vhd"), "vhd") == digest_file(str(raw))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("subformat", "options"), KINDS)
def test_written_disk_is_described_and_mapped_as_asked(
    tmp_path: Path, size: int, subformat: str, options: dict[str, str]
) -> None:
    raw = sparse_raw(tmp_path / "guest.raw", size, size)
    write(raw, tmp_path / "d.vhd", request(size, subformat, **options))
    with SourceFile(str(tmp_path / "d.vhd")) as source:
        image = open_image(source)
        assert [finding for finding in image.findings if finding.severity > 0] == []
        assert (image.subformat, image.virtual_size) == (subformat, size)
        assert list(check(image, [source], True)) == []
        guest = bytearray(size)
        for window in extents(image, [source], 0, size):
            for row in window[window["kind"] == Kind.DATA]:
                at, length = int(row["guest_off"]), int(row["length"])
                guest[at : at + length] = source.read_at(int(row["host_off"]), length)
    assert guest == raw.read_bytes()


def test_places_become_entries_of_the_table_and_blocks_stay_whole() -> None:
    place = layout(request(5 * MIB))
    numbers = place.placement
    assert (numbers.unit, numbers.first, numbers.align, numbers.prefix_len, numbers.prefix_byte) == (
        2 * MIB, 2048, 4096, 512, 0xFF)  # fmt: skip
    assert numbers.fingerprint
    assert not numbers.fixed
    pieces, end = place.add(0, np.array([4096, 0], np.uint64), np.array([2 * MIB, 0], np.uint64), 4096 + 2 * MIB)
    assert (tuple(pieces), end) == ((), 4096 + 2 * MIB)
    at = 4096 + 2 * MIB + 4096
    place.add(2, np.array([at], np.uint64), np.array([MIB], np.uint64), at + MIB)
    finale = place.finish(at + MIB, PRINT)
    table, header, tail, head = finale.pieces
    assert [piece.offset for piece in finale.pieces] == [1536, 512, at + 2 * MIB, 0]
    assert struct.unpack(">3I", table.data[:12]) == (7, 0xFFFFFFFF, (at - 512) // 512)
    assert table.data[12:] == b"\xff" * 500
    assert head.data == tail.data
    assert header.data[:8] == b"cxsparse"
    assert finale.size == at + 2 * MIB + 512


@pytest.mark.parametrize(("subformat", "options"), KINDS)
@pytest.mark.parametrize("size", [512, 9 * MIB + 512])
def test_full_size_is_that_of_a_disk_without_zeros(
    tmp_path: Path, size: int, subformat: str, options: dict[str, str]
) -> None:
    (tmp_path / "guest.raw").write_bytes(b"x" * size)
    wanted = request(size, subformat, **options)
    assert write(tmp_path / "guest.raw", tmp_path / "d.vhd", wanted).size == layout(wanted).full_size


def test_table_of_the_largest_disk_is_one_piece() -> None:
    place = layout(request(2040 * GIB))
    finale = place.finish(place.placement.first, PRINT)
    assert len(finale.pieces[0].data) == 2040 * 512 * 4
    assert place.placement.first == 1536 + 2040 * 512 * 4
    assert finale.size == place.placement.first + 512


def test_fixed_disk_is_the_guest_and_a_footer() -> None:
    place = layout(request(3 * MIB, "fixed"))
    assert place.placement.fixed
    assert (place.placement.base, place.placement.guest_size) == (0, 3 * MIB)
    finale = place.finish(0, PRINT)
    assert [piece.offset for piece in finale.pieces] == [3 * MIB]
    assert finale.size == 3 * MIB + 512
    assert finale.pieces[0].data[16:24] == b"\xff" * 8


def footer_of(wanted: Request, fingerprint: bytes = PRINT) -> bytes:
    return layout(wanted).finish(0, fingerprint).pieces[-1].data


def test_footer_is_deterministic_and_its_id_follows_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    one = footer_of(request(MIB))
    assert footer_of(request(MIB)) == one
    assert one[24:28] == bytes(4)
    assert one[28:40] == b"win \x00\x0a\x00\x00Wi2k"
    other = footer_of(request(MIB), bytes(32))
    assert one[68:84] != other[68:84]
    assert one[68:84].hex() == "000102030405860788090a0b0c0d0e0f"


def test_options_reach_the_footer() -> None:
    identity = "12345678-1234-1234-1234-123456789abc"
    made = footer_of(request(MIB, "fixed", creator="tap", timestamp="946771200", uuid=identity))
    assert made[24:28] == struct.pack(">I", 86400)
    assert made[28:32] == b"tap\0"
    assert made[68:84].hex() == identity.replace("-", "")


@pytest.mark.parametrize(
    ("creator", "version"), [("win", 0x000A0000), ("qem2", 0x000A0000), ("CTXS", 0x000A0000), ("tap", 0x00010001)]
)
def test_version_of_tapdisk_is_one_that_needs_no_bat_map(creator: str, version: int) -> None:
    # XenServer's libvhd looks for a bat map in every image of tapdisk 1.2 and later, and fails without.
    assert footer_of(request(MIB, "fixed", creator=creator))[32:36] == struct.pack(">I", version)


@pytest.mark.parametrize(("epoch", "expected"), [("946684801", 1), ("0", 0), ("", 0)])
def test_source_date_epoch_is_the_time_stamp(monkeypatch: pytest.MonkeyPatch, epoch: str, expected: int) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert footer_of(request(MIB))[24:28] == struct.pack(">I", expected)


WRONG = {
    "size-zero": request(0),
    "size-odd": request(513),
    "size-over-the-limit": request(2040 * GIB + 512),
    "subformat": request(MIB, "differencing"),
    "option": request(MIB, colour="red"),
    "block-size-text": request(MIB, block_size="large"),
    "block-size-odd": request(MIB, block_size="3M"),
    "block-size-small": request(MIB, block_size="256K"),
    "block-size-large": request(MIB, block_size="512M"),
    "block-size-of-fixed": request(MIB, "fixed", block_size="2M"),
    "creator-by-geometry": request(MIB, creator="vpc"),
    "creator-unknown": request(MIB, creator="abcd"),
    "uuid": request(MIB, uuid="x"),
    "timestamp": request(MIB, timestamp="yesterday"),
    "timestamp-too-early": request(MIB, timestamp="946684799"),
    "timestamp-too-late": request(MIB, timestamp="9999999999"),
    "compression": Request(subformat="dynamic", virtual_size=MIB, name="d.vhd", compress="zlib"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_vhd_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        layout(WRONG[name])
    assert caught.value.remedy
