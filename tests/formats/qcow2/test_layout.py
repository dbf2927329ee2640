"""Files that the layout describes: judged by qemu-img, by our own check, and by what a request may ask."""

import json
import random
import subprocess
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.digest import digest_file
from oracles.readers import missing, read_guest

import diskfmt
from diskfmt import engine
from diskfmt.errors import InternalError, LimitError, Reason, UsageError
from diskfmt.extents import ROW, Kind
from diskfmt.formats.base import Below, Image, Layout, Piece, Request, Statistics
from diskfmt.formats.qcow2 import FORMAT
from diskfmt.formats.qcow2.layout import ReferenceCounts
from diskfmt.formats.qcow2.layout import layout as output_of
from diskfmt.kinds import Codec
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
SETUPS = [("v3", None), ("v2", None), ("v2", "zlib"), ("v3", "zlib"), ("v3", "zstd")]


def layout(wanted: Request) -> Layout:
    """The layout of an output's only file."""
    (part,) = output_of(wanted).parts
    return part.layout


def request(size: int, *, subformat: str = "v3", compress: str | None = None, level: int | None = None,
            below: Below | None = None, recompress: bool = False, **options: str) -> Request:  # fmt: skip
    return Request(subformat=subformat, virtual_size=size, name="d.qcow2", options=options, compress=compress,
                   level=level, below=below, recompress=recompress)  # fmt: skip


def below(name: str, format: str = "raw", size: int = MIB) -> Below:
    image = Image(format=format, subformat="", virtual_size=size, unit=None, header=None)
    return Below(name=name, format=format, image=image, mtime=0)


def frame_of(codec: Codec, data: bytes) -> bytes:
    if codec is Codec.ZSTD:
        return zstandard.ZstdCompressor().compress(data)
    deflate = zlib.compressobj(wbits=-12)
    return deflate.compress(data) + deflate.flush()


def write(target: Layout, guest: bytes, path: Path, chunks: Iterable[range] | None = None,
          base: bytes = b"") -> list[Piece]:  # fmt: skip
    """Write `guest` unit by unit as the engine does; returns all pieces in their order. `base`: what lies below."""
    placement = target.placement
    unit, end = placement.unit, placement.first
    written: list[Piece] = []
    with path.open("w+b") as file:

        def put(pieces: Iterable[Piece]) -> None:
            for piece in pieces:
                written.append(piece)
                file.seek(piece.offset)
                file.write(piece.data)

        for chunk in [range(-(-len(guest) // unit))] if chunks is None else chunks:
            places, stored = np.zeros(len(chunk), np.uint64), np.zeros(len(chunk), np.uint64)
            for index, number in enumerate(chunk):
                data = guest[number * unit : (number + 1) * unit].ljust(unit, b"\0")
                if data == base[number * unit : (number + 1) * unit].ljust(unit, b"\0"):
                    continue
                if not any(data) and placement.zeroes is not engine.Zeroes.STORE:
                    assert placement.zeroes is engine.Zeroes.TELL
                    places[index] = engine.ZERO_PLACE
                    continue
                frame = data if placement.codec is Codec.NONE else frame_of(placement.codec, data)
                plain = len(frame) >= unit
                align = placement.align if plain else placement.frame_align
                end = -(-end // align) * align
                places[index], stored[index] = end, unit if plain else len(frame)
                file.seek(end)
                file.write(data if plain else frame)
                end += int(stored[index])
            pieces, end = target.add(chunk.start, places, stored, end)
            put(pieces)
        finale = target.finish(end, bytes(32))
        put(finale.pieces)
        file.truncate(finale.size)
    return written


def disk(size: int, filled: float, seed: int) -> bytes:
    """Sectors of noise, of one byte each, and of zero."""
    source = random.Random(seed)
    guest = bytearray(size)
    for at in range(0, size, 512):
        if source.random() < filled:
            guest[at : at + 512] = source.randbytes(512) if at // 16384 % 3 else bytes([source.randrange(1, 256)]) * 512
    return bytes(guest)


def chunks_of(guest: bytes, unit: int, step: int) -> list[range]:
    """Chunks of `step` units; as the converter does, those without data are left out."""
    count = -(-len(guest) // unit)
    chunks = [range(at, min(at + step, count)) for at in range(0, count, step)]
    return [chunk for chunk in chunks if any(guest[chunk.start * unit : chunk.stop * unit])]


def judged(qemu_img: str, path: Path, guest: bytes) -> None:
    """No error, no leak, the same content."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(guest)
    subprocess.run([qemu_img, "check", path], check=True, capture_output=True)
    subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "qcow2", raw, path], check=True, capture_output=True)


def checked(path: Path) -> Statistics:
    """Our own check finds nothing."""
    with SourceFile(str(path)) as source:
        image = FORMAT.open(source)
        assert image.findings == ()
        generator = FORMAT.check(image, [source], True)
        try:
            while True:
                raise AssertionError(next(generator))
        except StopIteration as stop:
            statistics: Statistics = stop.value
            return statistics


@pytest.mark.parametrize(("subformat", "compress"), SETUPS)
@pytest.mark.parametrize("cluster_size", ["512", "4k", "64k", "2M"])
@pytest.mark.parametrize(("size", "filled", "step"), [(0, 0, 1), (512, 1, 1), (3 * MIB + 512, 0.4, 7),
                                                      (2 * MIB, 1, 97)])  # fmt: skip
def test_file_has_no_error_and_no_leak(
    subformat: str, compress: str | None, cluster_size: str, size: int, filled: float, step: int, qemu_img: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    guest = disk(size, filled, seed=size)
    target = layout(request(size, subformat=subformat, compress=compress, cluster_size=cluster_size))
    path = tmp_path / "d.qcow2"
    write(target, guest, path, chunks_of(guest, target.placement.unit, step))
    judged(qemu_img, path, guest)
    statistics = checked(path)
    length = path.stat().st_size
    assert length % target.placement.unit == 0
    assert length <= target.full_size
    assert statistics.end == length
    if filled == 1 and compress is None:
        assert length == target.full_size


@given(size=st.integers(0, 600), filled=st.sampled_from([0.0, 0.05, 0.5, 1.0]), step=st.integers(1, 200),
       setup=st.sampled_from(SETUPS), bits=st.sampled_from([9, 10, 11, 14]))  # fmt: skip
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_chunks_give_a_file_that_the_check_accepts(
    tmp_path: Path, size: int, filled: float, step: int, setup: tuple[str, str | None], bits: int,
) -> None:  # fmt: skip
    guest = disk(size * 512, filled, seed=size)
    target = layout(request(len(guest), subformat=setup[0], compress=setup[1], cluster_size=str(1 << bits)))
    path = tmp_path / "d.qcow2"
    pieces = write(target, guest, path, chunks_of(guest, 1 << bits, step))
    checked(path)
    assert pieces[-1].offset == 0
    ranges = sorted((piece.offset, piece.offset + len(piece.data)) for piece in pieces)
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


@pytest.mark.parametrize(("compress", "level"), [(None, None), ("zlib", None), ("zlib", 9), ("zstd", 3)])
def test_file_by_the_engine_has_no_error_and_no_leak(compress: str | None, level: int | None, qemu_img: str,
                                                     tmp_path: Path) -> None:  # fmt: skip
    guest = disk(9 * MIB + 512, 0.6, seed=9)
    (tmp_path / "g").write_bytes(guest)
    target = layout(request(len(guest), compress=compress, level=level))
    rows = np.zeros(1, ROW)
    rows["length"] = rows["host_len"] = len(guest)
    rows["kind"] = Kind.DATA
    path = tmp_path / "d.qcow2"
    with SourceFile(str(tmp_path / "g")) as source, path.open("w+b") as file:
        with engine.Copier(fds=[source.fd], paths=[source.path], target_fd=file.fileno(), target_path=str(path),
                           placement=target.placement, threads=2) as copier:  # fmt: skip
            pieces, copier.end = target.add(*copier.run(rows), copier.end)
            copier.finish()
            finale = target.finish(copier.end, bytes(32))
        for piece in (*pieces, *finale.pieces):
            file.seek(piece.offset)
            file.write(piece.data)
        file.truncate(finale.size)
    judged(qemu_img, path, guest)
    assert (checked(path).encoded_units > 0) is (compress is not None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32, 64])
@pytest.mark.parametrize(("compress", "cluster_size"), [(None, "512"), (None, "64k"), ("zlib", "64k"), ("zstd", "4k"),
                                                        ("zlib", "2M"), ("zlib", "512")])  # fmt: skip
def test_reference_counts_of_every_width(bits: int, compress: str | None, cluster_size: str, qemu_img: str,
                                         tmp_path: Path) -> None:  # fmt: skip
    """Frames share clusters as far as a count can say so; with one bit, none does."""
    guest = disk(3 * MIB + 512, 0.4, seed=bits)
    target = layout(request(len(guest), compress=compress, cluster_size=cluster_size, refcount_bits=str(bits)))
    path = tmp_path / "d.qcow2"
    write(target, guest, path, chunks_of(guest, target.placement.unit, 97))
    judged(qemu_img, path, guest)
    checked(path)
    with SourceFile(str(path)) as source:
        assert FORMAT.open(source).specific["refcount-bits"] == bits
    if compress is None:
        for oracle in ("libyal", "dissect"):
            if not missing(oracle):
                assert read_guest(str(path), "qcow2", oracle) == digest_file(str(path.with_suffix(".raw")))
        full = disk(MIB, 1, seed=1)
        target = layout(request(len(full), cluster_size=cluster_size, refcount_bits=str(bits)))
        write(target, full, path)
        assert path.stat().st_size == target.full_size


def test_frames_fill_clusters_up_to_what_counts_can_say(tmp_path: Path) -> None:
    """Many frames as small as can be, in clusters whose counts have few bits."""
    guest = b"\1" * (4 * MIB)
    for bits in (2, 4, 8):
        target = layout(request(len(guest), compress="zstd", cluster_size="4k", refcount_bits=str(bits)))
        write(target, guest, tmp_path / "d.qcow2")
        assert checked(tmp_path / "d.qcow2").encoded_units == 1024


BELOW = {  # format by our name: what qemu-img calls it, options
    "raw": ("raw", ""), "qcow2": ("qcow2", "cluster_size=4k"), "vhd": ("vpc", "subformat=dynamic,force_size=on"),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
}  # fmt: skip


@pytest.mark.parametrize("format", BELOW)
@pytest.mark.parametrize(("subformat", "compress"), SETUPS)
@pytest.mark.parametrize("size", [MIB, 3 * MIB, 5 * MIB])
def test_difference_to_an_image_below(format: str, subformat: str, compress: str | None, size: int, qemu_img: str,
                                      tmp_path: Path) -> None:  # fmt: skip
    """As long as the disk, shorter and longer; data below that the disk does not have must not come through."""
    name, options = BELOW[format]
    base = disk(size, 0.3, seed=4)
    guest = bytearray(base[: 3 * MIB].ljust(3 * MIB, b"\0"))
    guest[600_000:800_000] = disk(200_704, 1, seed=6)[:200_000]
    guest[131072:400_000] = bytes(400_000 - 131072)
    guest[-70_000:] = disk(70_144, 1, seed=7)[:70_000]
    (tmp_path / "raw").write_bytes(base)
    subprocess.run([qemu_img, "convert", "-f", "raw", "-O", name, *(["-o", options] if options else []),
                    tmp_path / "raw", tmp_path / "base.img"], check=True)  # fmt: skip
    target = layout(request(len(guest), subformat=subformat, compress=compress, below=below("base.img", format)))
    zeroes = engine.Zeroes.TELL if subformat == "v3" else engine.Zeroes.STORE
    assert target.placement.zeroes is zeroes
    path = tmp_path / "d.qcow2"
    write(target, bytes(guest), path, base=base)
    judged(qemu_img, path, bytes(guest))
    checked(path)
    told = json.loads(subprocess.run([qemu_img, "info", "--output=json", path], check=True, capture_output=True).stdout)
    assert (told["backing-filename"], told["backing-filename-format"]) == ("base.img", name)
    with diskfmt.open_disk(path, follow="same-directory") as opened:
        assert opened.read_at(0, opened.size) == guest
        assert opened.read_at(131072, 4096) == bytes(4096) != base[131072 : 131072 + 4096]


def test_longest_name_below_displaces_the_names_of_features(tmp_path: Path) -> None:
    name = "n" * 350
    target = layout(request(MIB, cluster_size="512", below=below(name)))
    write(target, bytes(MIB), tmp_path / "d", [], base=bytes(MIB))
    with SourceFile(str(tmp_path / "d")) as source:
        image = FORMAT.open(source)
    assert [reference.name for reference in image.references] == [name]
    assert [extension.kind for extension in image.header.extensions] == [0xE2792ACA]


@pytest.mark.parametrize("bits", ["12", "13", "14", "15"])
def test_window_of_deflate_is_as_asked(bits: str) -> None:
    assert layout(request(MIB, compress="zlib", deflate_window=bits)).placement.window_bits == int(bits)


def test_frames_are_adopted_unless_asked_otherwise() -> None:
    assert layout(request(MIB, compress="zstd")).placement.adopt
    assert not layout(request(MIB, compress="zstd", recompress=True)).placement.adopt
    assert not layout(request(MIB)).placement.adopt


def test_memory_does_not_grow_with_the_file() -> None:
    """256 GiB of data: counts of one block, places of the blocks, and the L1 table are all that stays."""
    target = layout(request(1 << 38))
    end, step = target.placement.first, 1 << 14
    for first in range(0, 1 << 22, step):
        places = np.uint64(end) + np.arange(step, dtype=np.uint64) * np.uint64(65536)
        pieces, end = target.add(first, places, np.full(step, 65536, np.uint64), end + step * 65536)
        assert sum(len(piece.data) for piece in pieces) <= 3 * 65536
    counts = target._counts  # type: ignore[attr-defined]
    assert len(counts._counts) <= 32768 + step
    finale = target.finish(end, bytes(32))
    assert finale.size == target.full_size
    assert finale.pieces[-1].offset == 0


def test_same_request_and_places_give_the_same_pieces(tmp_path: Path) -> None:
    guest = disk(MIB, 0.5, seed=1)
    first = write(layout(request(MIB, compress="zlib")), guest, tmp_path / "a")
    second = write(layout(request(MIB, compress="zlib")), guest, tmp_path / "b")
    assert first == second
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_placement_is_what_readers_can_decode() -> None:
    zlib_placement = layout(request(MIB, compress="zlib", level=4)).placement
    assert (zlib_placement.codec, zlib_placement.window_bits, zlib_placement.level) == (Codec.DEFLATE, 12, 4)
    assert zlib_placement.allow_plain
    assert (zlib_placement.align, zlib_placement.frame_align) == (65536, 1)
    assert layout(request(MIB, compress="zstd")).placement.codec is Codec.ZSTD


@pytest.mark.parametrize(("compat", "version"), [("0.10", 2), ("v2", 2), ("1.1", 3), ("V3", 3)])
def test_compat_decides_the_version(compat: str, version: int, tmp_path: Path) -> None:
    write(layout(request(MIB, compat=compat)), bytes(MIB), tmp_path / "d", [])
    with SourceFile(str(tmp_path / "d")) as source:
        assert FORMAT.open(source).header.version == version


@pytest.mark.parametrize(("wrong", "words"), [
    ({"backing_file": "x"}, "no option 'backing_file'"),
    ({"compat": "1.2"}, "no version '1.2'"),
    ({"subformat": "v4"}, "no version 'v4'"),
    ({"cluster_size": "256"}, "clusters of '256'"),
    ({"cluster_size": "4M"}, "clusters of '4M'"),
    ({"cluster_size": "65535"}, "clusters of '65535'"),
    ({"cluster_size": "many"}, "'many' is not a size"),
    ({"refcount_bits": "3"}, "refcount_bits '3'"),
    ({"refcount_bits": "8", "subformat": "v2"}, "version 2 of qcow2 has no counts of 8 bits"),
    ({"deflate_window": "12"}, "deflate_window is for zlib only"),
    ({"deflate_window": "12", "compress": "zstd"}, "deflate_window is for zlib only"),
    ({"deflate_window": "16", "compress": "zlib"}, "deflate_window '16'"),
    ({"below": below("")}, '"" cannot be the name'),
    ({"below": below("nbd:x")}, '"nbd:x" cannot be the name'),
    ({"below": below("a\0b")}, "cannot be the name"),
    ({"below": below("n" * 1024)}, "1024 bytes, the longest have 1023"),
    ({"below": below("n" * 400), "cluster_size": "512"}, "does not fit into the first cluster"),
    ({"compress": "lzma"}, "no compression 'lzma'"),
    ({"compress": "zstd", "subformat": "v2"}, "has no zstd"),
    ({"compress": "zlib", "level": 10}, "zlib has no level 10"),
    ({"compress": "zstd", "level": 0}, "zstd has no level 0"),
    ({"size": 1000}, "multiple of 512"),
])  # fmt: skip
def test_request_that_qcow2_cannot_keep_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        layout(request(wrong.pop("size", MIB), **wrong))  # type: ignore[arg-type]
    assert caught.value.remedy


def test_small_clusters_for_a_large_disk_are_refused_naming_larger_ones() -> None:
    with pytest.raises(LimitError) as caught:
        layout(request((128 << 30) + 512, cluster_size="512"))
    assert caught.value.reason is Reason.LIMIT_METADATA
    assert caught.value.remedy == "give -o cluster_size=1024"


def test_disk_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitError) as caught:
        layout(request((64 << 40) + 512, cluster_size="2M"))
    assert caught.value.reason is Reason.LIMIT_SIZE


def test_more_frames_than_a_count_can_say_is_a_bug() -> None:
    counts = ReferenceCounts(512)
    counts.add(np.zeros(65536, np.uint64), np.ones(65536, np.uint64))
    with pytest.raises(InternalError):
        counts.take(1, 512)


def test_refcount_table_over_the_limit_is_refused() -> None:
    """128 GiB of host clusters of 512 bytes are what a table of 8 MiB can describe."""
    counts = ReferenceCounts(512)
    with pytest.raises(LimitError) as caught:
        counts.take((8 << 20) // 8 + 1, 512)
    assert caught.value.reason is Reason.LIMIT_METADATA
