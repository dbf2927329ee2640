"""Differencing VHDs that the layout writes: other readers see the same disk over the same parent."""

import os
import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import vhd as build
from formats.vhd.chains import EPOCH, libvhdi, seven_zip

import diskfmt
from diskfmt.engine import Copier, Zeroes
from diskfmt.errors import Severity, UsageError
from diskfmt.extents import ROW, Kind, chunks, merge
from diskfmt.formats.base import Below, Request
from diskfmt.formats.vhd import FORMAT
from diskfmt.formats.vhd.check import check
from diskfmt.formats.vhd.header import open_image
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
UNIT = 512 << 10
PRINT = bytes(range(32))


def below(path: Path, name: str | None = None) -> Below:
    with SourceFile(str(path)) as source:
        image = open_image(source)
        mtime = source.identity.mtime_ns // 10**9
    return Below(name=name or path.name, format="vhd", image=image, mtime=mtime)


def request(size: int, parent: Below | None, subformat: str = "differencing", **options: str) -> Request:
    return Request(subformat=subformat, virtual_size=size, name="d.vhd", options=options, below=parent)


def rows_of(disk: bytes, parent: bytes, unit: int) -> np.ndarray:
    """DATA where a unit of `disk` is not that of `parent`, HOLE elsewhere, as the converter gives them."""
    starts = range(0, len(disk), unit)
    rows = np.zeros(len(starts), ROW)
    for row, start in zip(rows, starts, strict=True):
        stop = min(start + unit, len(disk))
        row["guest_off"], row["length"], row["kind"] = start, stop - start, Kind.HOLE
        if disk[start:stop] != parent[start:stop]:
            row["kind"], row["host_off"], row["host_len"] = Kind.DATA, start, stop - start
    return merge(rows)


def write(folder: Path, name: str, disk: bytes, parent: bytes, wanted: Request) -> Path:
    """Write a disk over its parent as the converter does."""
    (folder / "guest.raw").write_bytes(disk)
    target = folder / name
    (part,) = FORMAT.layout(wanted).parts
    layout, numbers = part.layout, part.layout.placement
    with open(folder / "guest.raw", "rb") as source, open(target, "w+b") as out:
        with Copier(
            fds=[source.fileno()], paths=["guest.raw"], target_fd=out.fileno(), target_path=name, placement=numbers,
            threads=2,
        ) as copier:  # fmt: skip
            for chunk in chunks([rows_of(disk, parent, numbers.unit)], unit=numbers.unit, max_units=64):
                first, places, stored = copier.run(chunk)
                assert layout.add(first, places, stored, copier.end)[0] == ()
            copier.finish()
            finale = layout.finish(copier.end, PRINT)
        for piece in finale.pieces:
            os.pwrite(out.fileno(), piece.data, piece.offset)
        os.ftruncate(out.fileno(), finale.size)
    return target


def changed(disk: bytes, seed: int, places: Sequence[int]) -> bytes:
    """The disk with a little noise at some places."""
    result = bytearray(disk)
    for at in places:
        result[at : at + 100] = random.Random(seed).randbytes(len(result[at : at + 100]))
    return bytes(result)


@pytest.mark.parametrize("size", [512, 3 * UNIT, 5 * UNIT - 512, 7 * UNIT + 512])
@pytest.mark.parametrize("block_size", ["512K", "2M"])
def test_chain_that_is_written_is_read_by_others(tmp_path: Path, size: int, block_size: int) -> None:
    disks = [changed(random.Random(size).randbytes(size // 2).ljust(size, b"\0"), 1, [0])]
    disks.append(changed(disks[0], 2, [0, size - 100]))
    disks.append(changed(disks[1], 3, [size // 2]))
    wanted = replace(request(size, None, "dynamic"), options={"block_size": block_size})
    paths = [write(tmp_path, "level0.vhd", disks[0], bytes(size), wanted)]
    for level in (1, 2):
        os.utime(paths[0], (EPOCH + level, EPOCH + level))
        wanted = request(size, below(paths[0]), block_size=block_size)
        paths.insert(0, write(tmp_path, f"level{level}.vhd", disks[level], disks[level - 1], wanted))
    assert libvhdi(paths) == disks[2]
    assert seven_zip(paths[0]) == disks[2]
    with diskfmt.open_disk(paths[0], follow="same-directory") as disk:
        assert [finding for finding in disk.findings if finding.severity > Severity.NOTE] == []
        assert disk.read_at(0, size) == disks[2]
        for layer in disk.layers:
            assert list(check(layer.image, layer.files, True)) == []
        ids = {layer.image.header.footer.unique_id for layer in disk.layers}
        assert len(ids) == 3


def test_what_libvhdi_says_of_the_parent(tmp_path: Path) -> None:
    pyvhdi = pytest.importorskip("pyvhdi")
    parent = tmp_path / "the parent ä.vhd"
    parent.write_bytes(build.dynamic(MIB, {}, block_size=MIB))
    path = write(tmp_path, "child.vhd", b"x" * MIB, bytes(MIB), request(MIB, below(parent)))
    file = pyvhdi.file()
    file.open(str(path))
    assert file.get_parent_filename().replace("\\", "/").rpartition("/")[2] == parent.name
    assert file.get_parent_identifier() == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    file.close()


def header_of(path: Path, name: str) -> bytes:
    """The dynamic header of an empty difference to a parent under this name."""
    (part,) = FORMAT.layout(request(MIB, below(path, name))).parts
    pieces = part.layout.finish(part.layout.placement.first, PRINT).pieces
    return next(piece.data for piece in pieces if piece.data.startswith(b"cxsparse"))


def names_of(path: Path, name: str) -> list[str]:
    (part,) = FORMAT.layout(request(MIB, below(path, name))).parts
    target = path.parent / "names.vhd"
    finale = part.layout.finish(part.layout.placement.first, PRINT)
    with open(target, "wb") as out:
        for piece in finale.pieces:
            os.pwrite(out.fileno(), piece.data, piece.offset)
    with SourceFile(str(target)) as source:
        return [reference.name for reference in open_image(source).references]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "p.vhd"
    path.write_bytes(build.dynamic(MIB, {}, block_size=MIB))
    os.utime(path, (EPOCH + 77, EPOCH + 77))
    return path


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("p.vhd", [r".\p.vhd", "p.vhd"]),
        ("./p.vhd", [r".\p.vhd", "p.vhd"]),
        ("../vm/p.vhd", [r".\..\vm\p.vhd", "p.vhd"]),
        ("/vm/p.vhd", [r".\p.vhd", r"\vm\p.vhd", "p.vhd"]),
        (255 * "n", [".\\" + 255 * "n", 255 * "n"]),
    ],
)
def test_parent_is_named_as_windows_spells_it(parent: Path, name: str, spellings: list[str]) -> None:
    assert names_of(parent, name) == spellings


def test_id_and_time_of_the_parent_are_recorded(parent: Path) -> None:
    header = header_of(parent, "p.vhd")
    assert header[40:56] == bytes(range(16))
    assert struct.unpack(">I", header[56:60]) == (77,)
    assert header[576:580] == b"W2ru"
    assert header[600:604] == b"W2ku"
    assert struct.unpack(">II", header[580:588]) == (512, 2 * len(r".\p.vhd"))


@pytest.mark.parametrize(("mtime", "stamp"), [(0, 0), (EPOCH - 1, 0), (EPOCH + (1 << 33), 0xFFFFFFFF)])
def test_time_that_a_vhd_cannot_hold_is_cut(parent: Path, mtime: int, stamp: int) -> None:
    (part,) = FORMAT.layout(request(MIB, replace(below(parent), mtime=mtime))).parts
    pieces = part.layout.finish(part.layout.placement.first, PRINT).pieces
    header = next(piece.data for piece in pieces if piece.data.startswith(b"cxsparse"))
    assert struct.unpack(">I", header[56:60]) == (stamp,)


def test_zeroes_of_a_difference_are_stored(parent: Path) -> None:
    (part,) = FORMAT.layout(request(MIB, below(parent))).parts
    assert part.layout.placement.zeroes is Zeroes.STORE
    assert part.layout.placement.prefix_byte == 0xFF
    (part,) = FORMAT.layout(request(MIB, None, "dynamic")).parts
    assert part.layout.placement.zeroes is Zeroes.SKIP


def test_two_empty_differences_to_different_parents_have_different_ids(parent: Path, tmp_path: Path) -> None:
    def made(of: Path) -> bytes:
        (part,) = FORMAT.layout(request(MIB, below(of))).parts
        return part.layout.finish(part.layout.placement.first, PRINT).pieces[-1].data[68:84]

    other = tmp_path / "o.vhd"
    other.write_bytes(build.dynamic(MIB, {}, block_size=MIB, changed={"unique_id": b"o" * 16}))
    assert made(parent) != made(other)
    assert made(parent) == made(parent)


def test_what_cannot_be_a_difference_is_refused(parent: Path) -> None:
    good = below(parent)
    nameless = open_image_of(build.dynamic(MIB, {}, changed={"unique_id": bytes(16)}, block_size=MIB), parent)
    wrong = {
        "no-parent": request(MIB, None),
        "dynamic": request(MIB, good, "dynamic"),
        "fixed": request(MIB, good, "fixed"),
        "other-format": request(MIB, replace(good, format="qcow2")),
        "other-size": request(2 * MIB, good),
        "no-id": request(MIB, replace(good, image=nameless)),
        "empty-name": request(MIB, replace(good, name="/vm/")),
        "long-name": request(MIB, replace(good, name=256 * "n")),
        "long-path": request(MIB, replace(good, name="d/" * 20000 + "p.vhd")),
        "backslash": request(MIB, replace(good, name="a\\b.vhd")),
        "no-text": request(MIB, replace(good, name="p\udcff.vhd")),
        "compressed": replace(request(MIB, good), compress="zlib"),
    }
    for name, one in wrong.items():
        with pytest.raises(UsageError) as caught:
            FORMAT.layout(one)
        assert caught.value.remedy, name


def open_image_of(data: bytes, beside: Path):
    path = beside.with_name("of.vhd")
    path.write_bytes(data)
    with SourceFile(str(path)) as source:
        return open_image(source)


def test_full_size_is_that_of_a_difference_in_every_block(parent: Path, tmp_path: Path) -> None:
    wanted = request(MIB, below(parent), block_size="512K")
    path = write(tmp_path, "child.vhd", b"x" * MIB, bytes(MIB), wanted)
    (part,) = FORMAT.layout(wanted).parts
    assert path.stat().st_size == part.layout.full_size
