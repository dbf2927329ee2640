"""The C engine through its Python side: against a model, and where things go wrong."""

import errno
import os
import random
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import zstandard
from builders import reference_engine as reference
from builders.reference_engine import Model, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diskfmt import engine, extents
from diskfmt.engine import ZERO_PLACE, Copier, Fault, Op, Placement, SystemCalls, Zeroes
from diskfmt.errors import CorruptError, InternalError, IOFailedError, Reason, RefusedError
from diskfmt.extents import Rows
from diskfmt.kinds import Codec

KIB = 1024
CODECS = [codec for codec in (Codec.DEFLATE, Codec.ZLIB, Codec.ZSTD) if engine.can_decode(codec)]


class Memory:
    """A file in memory, closed by `close`."""

    def __init__(self, content: bytes = b"") -> None:
        self.fd = os.memfd_create("diskfmt-test")
        os.pwrite(self.fd, content, 0)

    def read(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Source:
    """A table over the content of some files."""

    runs: list[Run]
    files: list[bytes]
    disk: bytes

    @property
    def rows(self) -> Rows:
        return np.frombuffer(b"".join(run.pack() for run in self.runs), extents.ROW).copy()


def content(rng: random.Random, length: int) -> bytes:
    """Zero, text, noise, or a lonely byte."""
    match rng.randrange(5):
        case 0:
            return bytes(length)
        case 1:
            sentence = b"all work and no play makes jack a dull boy %d " % rng.randrange(100)
            return (sentence * (length // 40 + 1))[:length]
        case 2:
            return rng.randbytes(length)
        case 3:
            lonely = bytearray(length)
            lonely[rng.randrange(length)] = 1
            return bytes(lonely)
        case _:  # pages of zero between others
            return b"".join(rng.choice((bytes(4096), b"x" * 4096)) for _ in range(length // 4096 + 1))[:length]


def make_source(seed: int, *, rows: int, longest: int, sector: int = 512) -> Source:
    """A table in normal form with rows of all kinds over three files."""
    rng = random.Random(seed)
    files = [bytearray(rng.randbytes(rng.randrange(3000))) for _ in range(3)]
    runs: list[Run] = []
    at = 0
    for _ in range(rows):
        length = rng.randrange(1, longest // sector + 1) * sector
        file = rng.randrange(3)
        files[file] += rng.randbytes(rng.choice((1, 100, 5000)))  # a gap, so that neighbours never join
        kind = rng.choice((1, 1, 2, 2, 3, 4))
        here = len(files[file])
        if kind == reference.DATA:
            files[file] += content(rng, length)
            runs.append(Run(guest_off=at, length=length, kind=1, host_off=here, host_len=length, file_id=file))
        elif kind == reference.ENCODED and CODECS:
            codec = rng.choice(CODECS)
            skip, tail = rng.choice(((0, 0), (0, 0), (512, 0), (0, 777), (1000, 3000)))
            frame = reference.deflate(codec, content(rng, skip + length + tail))
            extra = rng.choice((0, 0, 300))
            files[file] += frame + rng.randbytes(extra)
            runs.append(
                Run(
                    guest_off=at,
                    length=length,
                    kind=2,
                    host_off=here,
                    host_len=len(frame) + extra,
                    frame_len=skip + length + tail,
                    frame_skip=skip,
                    file_id=file,
                    codec=codec,
                )
            )
        else:
            empty = 3 if runs and runs[-1].kind == 4 else 4 if runs and runs[-1].kind == 3 else rng.choice((3, 4))
            runs.append(Run(guest_off=at, length=length, kind=empty))
        at += length
    contents = [bytes(file) for file in files]
    return Source(runs, contents, reference.guest_bytes(runs, contents))


@contextmanager
def opened(files: Sequence[bytes]) -> Iterator[list[int]]:
    memories = [Memory(file) for file in files]
    try:
        yield [memory.fd for memory in memories]
    finally:
        for memory in memories:
            memory.close()


def copier(fds: Sequence[int], target: int, placement: Placement, threads: int = 1) -> Copier:
    names = [f"source-{i}" for i in range(len(fds))]
    return Copier(fds=fds, paths=names, target_fd=target, target_path="target", placement=placement, threads=threads)


@st.composite
def placements(draw: st.DrawFn, guest_size: int) -> Placement:
    """Numbers of targets like those of the formats, and odd ones."""
    unit = 512 << draw(st.integers(0, 13))
    group: dict[str, Any] = {}
    if draw(st.booleans()):
        group = {"group_units": draw(st.integers(1, 40)), "group_room": draw(st.sampled_from((0, 512, 2560)))}
    common: dict[str, Any] = {"unit": unit, "guest_size": guest_size, "fingerprint": unit >= 64 * KIB}
    kind = draw(st.sampled_from(("fixed", "plain", "prefix", "encoded")))
    common["zeroes"] = draw(st.sampled_from(Zeroes))
    if kind == "fixed":
        return Placement(fixed=True, base=draw(st.sampled_from((0, 512, 65536, 1000))), **common)
    first = draw(st.sampled_from((512, 1536, 65536, 12345)))
    align = draw(st.sampled_from((1, 512, 4096, 65536)))
    if kind == "plain":
        return Placement(first=first, align=align, frame_align=512, **common, **group)
    if kind == "prefix":
        prefix = draw(st.integers(1, min(unit, 8192)))
        return Placement(
            first=first, align=align, prefix_len=prefix, prefix_byte=draw(st.sampled_from((0, 255))), **common, **group
        )
    codec = draw(st.sampled_from([c for c in CODECS if engine.can_encode(c)]))
    return Placement(
        first=first,
        align=align,
        codec=codec,
        window_bits=draw(st.sampled_from((12, 15))) if engine.can_encode(codec, 0, 12) else 15,
        frame_align=draw(st.sampled_from((1, 512))),
        allow_plain=draw(st.booleans()),
        marker=draw(st.booleans()),
        adopt=draw(st.booleans()),
        **common,
        **group,
    )


def windows_of(rows: Rows, every: int) -> Iterator[Rows]:
    for i in range(0, len(rows), every):
        yield rows[i : i + every]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_copy_any_table_any_target_is_what_the_model_says(data: st.DataObject) -> None:
    longest = data.draw(st.sampled_from((4096, 70_000, 300_000)), "longest")
    source = make_source(
        data.draw(st.integers(0, 2**32), "seed"),
        rows=data.draw(st.integers(1, 30), "rows"),
        longest=longest,
        sector=data.draw(st.sampled_from((1, 512, 4096)), "sector"),
    )
    placement = data.draw(placements(len(source.disk)), "placement")
    threads = data.draw(st.integers(1, 5), "threads")
    per_run = data.draw(st.sampled_from((1, 3, 17, 1000)), "max_units")
    every = data.draw(st.integers(1, 31), "window")
    tables = data.draw(st.booleans(), "tables")
    model = Model(
        disk=source.disk,
        rows=source.runs,
        zeroes=placement.zeroes,
        unit=placement.unit,
        end=placement.first,
        fixed=placement.fixed,
        base=placement.base,
        align=placement.align,
        frame_align=placement.frame_align,
        codec=placement.codec,
        allow_plain=placement.allow_plain,
        prefix_len=placement.prefix_len,
        prefix_byte=placement.prefix_byte,
        marker=placement.marker,
        group_units=placement.group_units,
        group_room=placement.group_room,
    )
    with (
        opened(source.files) as fds,
        closing(Memory()) as target,
        copier(fds, target.fd, placement, threads) as copy,
    ):
        windows = windows_of(source.rows, every)
        zeroes = placement.zeroes is not Zeroes.SKIP
        for rows in extents.chunks(windows, unit=placement.unit, max_units=per_run, zeroes=zeroes):
            first, places, stored = copy.run(rows)
            wanted = model.run(
                first,
                min(per_run, -(-int(rows["length"].sum()) // placement.unit)),
                stored.tolist(),
                lambda offset, length: os.pread(target.fd, length, offset),
            )
            assert (places.tolist(), stored.tolist()) == wanted
            assert copy.end == model.end
            if tables and not placement.fixed:
                copy.end += 700
                model.end += 700
        copy.finish()
        model.finish()
        assert copy.end == model.end
        assert copy.done == sum(run.length for run in source.runs if run.kind <= reference.ENCODED)
        size = max(len(model.file), os.fstat(target.fd).st_size)
        os.ftruncate(target.fd, size)
        got, want = target.read(), bytes(model.file.ljust(size, b"\0"))
        assert got == want, f"differs at {next(i for i in range(size) if got[i] != want[i])}"
        assert fingerprint_of(source, placement.unit) in (copy.fingerprint, None)


def fingerprint_of(source: Source, unit: int) -> int | None:
    """The fingerprint by another way: the disk as one file, one thread, one run."""
    if unit < 64 * KIB:
        return None
    placement = Placement(unit=1 << 20, guest_size=len(source.disk), fixed=True, fingerprint=True)
    rows = row_of(Run(guest_off=0, length=len(source.disk), kind=1, host_len=len(source.disk)))
    with opened([source.disk]) as fds, copier(fds, -1, placement) as copy:
        copy.run(rows)
        return copy.fingerprint


def row_of(*runs: Run) -> Rows:
    return np.frombuffer(b"".join(run.pack() for run in runs), extents.ROW)


@pytest.mark.parametrize("codec", [Codec.NONE, *CODECS])
def test_copy_with_any_number_of_threads_gives_the_same_bytes(codec: Codec) -> None:
    source = make_source(7, rows=60, longest=200_000)
    placement = Placement(
        unit=64 * KIB,
        guest_size=len(source.disk),
        first=512,
        codec=codec,
        align=512,
        frame_align=512,
        marker=codec != Codec.NONE,
        fingerprint=True,
    )
    seen = set()
    with opened(source.files) as fds:
        for threads in (1, 2, 3, 5, 64):
            with closing(Memory()) as target, copier(fds, target.fd, placement, threads) as copy:
                _, places, stored = copy.run(source.rows)
                os.ftruncate(target.fd, copy.end)
                seen.add((target.read(), places.tobytes(), stored.tobytes(), copy.end, copy.fingerprint))
            with copier(fds, -1, placement, threads) as copy:  # to measure
                copy.run(source.rows)
                assert copy.end == next(iter(seen))[3]
    assert len(seen) == 1


# ---- zero units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [512, 4 * KIB, 64 * KIB, 2 << 20])
@pytest.mark.parametrize("zeroes", Zeroes)
def test_copy_units_of_zeroes_are_left_out_told_or_stored(unit: int, zeroes: Zeroes) -> None:
    runs = [
        Run(guest_off=0, length=unit, kind=4),
        Run(guest_off=unit, length=2 * unit, kind=3),
        Run(guest_off=3 * unit, length=unit, kind=1, host_len=unit),  # zeroes of the file
        Run(guest_off=4 * unit, length=2 * unit - 1, kind=4),
        Run(guest_off=6 * unit - 1, length=1, kind=3),
    ]
    said = [False, True, True, True, False, True]
    with opened([bytes(unit)]) as fds, closing(Memory()) as target:
        placement = Placement(unit=unit, guest_size=6 * unit, first=512, align=512, zeroes=zeroes)
        with copier(fds, target.fd, placement, 2) as copy:
            _, places, stored = copy.run(row_of(*runs))
            if zeroes is Zeroes.STORE:
                assert places[said].tolist() == [512 + i * unit for i in range(4)]
                assert stored.tolist() == [unit * is_said for is_said in said]
                assert copy.end == 512 + 4 * unit
            else:
                told = ZERO_PLACE if zeroes is Zeroes.TELL else 0
                assert places.tolist() == [told * is_said for is_said in said]
                assert not stored.any()
                assert copy.end == 512
            assert places[~np.array(said)].tolist() == [0, 0]
        assert not any(target.read())


# ---- frames that are kept --------------------------------------------------------------------------------------------


def packed(codec: Codec, plain: bytes, window_bits: int) -> bytes:
    """A frame by another library; deflate and zlib with this window."""
    if codec is Codec.ZSTD:
        return reference.deflate(codec, plain)
    packer = zlib.compressobj(6, zlib.DEFLATED, window_bits if codec is Codec.ZLIB else -window_bits)
    return packer.compress(plain) + packer.flush()


def framed(codec: Codec, disk: bytes, unit: int, window_bits: int) -> tuple[Rows, list[bytes]]:
    """A disk in one frame a unit, each followed by what is left of its sector; the table, and the exact frames."""
    runs, frames, at = [], [], 0
    for offset in range(0, len(disk), unit):
        plain = disk[offset : offset + unit]
        frame = packed(codec, plain.ljust(unit, b"\0"), window_bits)
        room = -(-len(frame) // 512) * 512
        runs.append(
            Run(
                guest_off=offset,
                length=len(plain),
                kind=2,
                host_off=at,
                host_len=room,
                frame_len=unit,
                codec=codec,
            )
        )
        frames.append(frame)
        at += room
    return row_of(*runs), frames


def body(codec: Codec, frame: bytes) -> bytes:
    """The deflate stream in a frame; a frame of zstd."""
    return frame[2:-4] if codec is Codec.ZLIB else frame


PAIRS = [
    (a, b) for a in CODECS for b in CODECS if (a is Codec.ZSTD) == (b is Codec.ZSTD) and engine.can_encode(b, 0, 12)
]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda codec: codec.name.lower())
@pytest.mark.parametrize("threads", [1, 3])
def test_copy_frames_of_the_source_are_kept_byte_for_byte(source: Codec, target: Codec, threads: int) -> None:
    rng = random.Random(8)
    unit = 64 * KIB
    disk = b"".join(b"%d " % rng.randrange(3000) for _ in range(250_000))[: 15 * unit + 1000]
    rows, frames = framed(source, disk, unit, 12)
    placement = Placement(
        unit=unit,
        guest_size=len(disk),
        first=512,
        codec=target,
        window_bits=12,
        allow_plain=True,
        adopt=True,
    )
    file = b"".join(frame.ljust(-(-len(frame) // 512) * 512, b"\xee") for frame in frames)
    with opened([file]) as fds, closing(Memory()) as out, copier(fds, out.fd, placement, threads) as copy:
        _, places, stored = copy.run(rows)
        assert copy.adopted == len(frames)
        for frame, place, length in zip(frames, places.tolist(), stored.tolist(), strict=True):
            kept = os.pread(out.fd, length, place)
            assert body(target, kept) == body(source, frame)
            assert reference.inflate(target, kept, unit) == reference.inflate(source, frame, unit)


def test_copy_frames_with_a_larger_window_are_made_anew() -> None:
    rng = random.Random(9)
    unit = 64 * KIB
    noise = rng.randbytes(20_000)
    disk = (noise * 4)[:unit] * 2
    rows, frames = framed(Codec.DEFLATE, disk, unit, 15)
    for window_bits, kept in ((12, 0), (15, 2)):
        if not engine.can_encode(Codec.DEFLATE, 0, window_bits):
            continue
        placement = Placement(
            unit=unit, guest_size=len(disk), first=512, codec=Codec.DEFLATE, window_bits=window_bits, adopt=True
        )
        file = b"".join(frame.ljust(-(-len(frame) // 512) * 512, b"\0") for frame in frames)
        with opened([file]) as fds, closing(Memory()) as out, copier(fds, out.fd, placement) as copy:
            _, places, stored = copy.run(rows)
            assert copy.adopted == kept
            for i, (place, length) in enumerate(zip(places.tolist(), stored.tolist(), strict=True)):
                frame = os.pread(out.fd, length, place)
                assert inflate_within(window_bits, frame) == disk[i * unit : (i + 1) * unit]


def test_copy_damaged_frame_is_not_kept() -> None:
    unit = 64 * KIB
    disk = b"a disk " * (2 * unit // 7 + 1)
    rows, frames = framed(Codec.ZLIB, disk[: 2 * unit], unit, 12)
    file = bytearray(b"".join(frame.ljust(-(-len(frame) // 512) * 512, b"\0") for frame in frames))
    file[int(rows[1]["host_off"]) + len(frames[1]) - 1] ^= 1  # its checksum
    placement = Placement(unit=unit, guest_size=2 * unit, first=512, codec=Codec.DEFLATE, window_bits=12, adopt=True)
    with opened([bytes(file)]) as fds, copier(fds, -1, placement) as copy, pytest.raises(CorruptError) as caught:
        copy.run(rows)
    assert (caught.value.reason, caught.value.guest_offset) == (Reason.CORRUPT_DATA, unit)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_copy_appended_file_cut_to_its_end_keeps_no_reserve(tmp_path: Any) -> None:
    disk = b"x" * 100_000  # the last unit ends behind the disk: so the file ends behind what was written
    placement = Placement(unit=64 * KIB, guest_size=len(disk), first=512)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    try:
        with opened([disk]) as fds, copier(fds, target, placement) as copy:
            copy.run(row_of(Run(guest_off=0, length=len(disk), kind=1, host_len=len(disk))))
            os.ftruncate(target, copy.end)
        os.fsync(target)
        assert os.fstat(target).st_blocks * 512 < 1 << 20
    finally:
        os.close(target)


def test_fingerprint_of_another_disk_differs() -> None:
    seen = set()
    for offset in range(0, 1 << 20, 64 * KIB):
        disk = bytearray(1 << 20)
        disk[offset] = 1
        seen.add(fingerprint_of(Source([], [], bytes(disk)), 1 << 20))
    assert len(seen) == 16


# ---- reading ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_read_rows_any_range_is_the_disk(seed: int, data: st.DataObject) -> None:
    source = make_source(seed, rows=12, longest=9000, sector=1)
    start = data.draw(st.integers(0, len(source.disk)))
    stop = data.draw(st.integers(start, len(source.disk)))
    out = bytearray(stop - start)
    with opened(source.files) as fds:
        engine.read_rows(fds, ["a", "b", "c"], source.rows, start, out)
    assert out == source.disk[start:stop]


def test_read_rows_file_too_short_names_file_and_both_offsets() -> None:
    rows = row_of(
        Run(guest_off=0, length=1000, kind=3),
        Run(guest_off=1000, length=5000, kind=1, host_off=300, host_len=5000, file_id=1),
    )
    with opened([b"", bytes(2300)]) as fds, pytest.raises(CorruptError) as caught:
        engine.read_rows(fds, ["a", "b"], rows, 500, bytearray(5500))
    error = caught.value
    assert (error.reason, error.path, error.offset, error.guest_offset) == (Reason.TRUNCATED, "b", 2300, 3000)


@pytest.mark.parametrize("codec", CODECS)
def test_read_rows_damaged_frame_is_corrupt_data_at_its_row(codec: Codec) -> None:
    frame = bytearray(reference.deflate(codec, bytes(range(256)) * 16))
    frame[len(frame) // 2 :] = b"\xff" * (len(frame) - len(frame) // 2)
    rows = row_of(
        Run(guest_off=0, length=4096, kind=4),
        Run(guest_off=4096, length=4096, kind=2, host_off=7, host_len=len(frame), frame_len=4096, codec=codec),
    )
    with opened([bytes(7) + frame]) as fds, pytest.raises(CorruptError) as caught:
        engine.read_rows(fds, ["a"], rows, 0, bytearray(8192))
    error = caught.value
    assert (error.reason, error.path, error.offset, error.guest_offset) == (Reason.CORRUPT_DATA, "a", 7, 4096)


def test_read_rows_table_that_makes_no_sense_is_an_internal_error() -> None:
    rows = row_of(Run(guest_off=0, length=4096, kind=1, host_len=4095))
    with opened([bytes(4096)]) as fds, pytest.raises(InternalError):
        engine.read_rows(fds, ["a"], rows, 0, bytearray(10))


def test_read_rows_missing_codec_is_refused() -> None:
    rows = row_of(Run(guest_off=0, length=512, kind=2, host_len=100, frame_len=512, codec=77))
    with opened([bytes(4096)]) as fds, pytest.raises(RefusedError) as caught:
        engine.read_rows(fds, ["a"], rows, 0, bytearray(512))
    assert caught.value.reason is Reason.CODEC_MISSING


# ---- codecs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("length", [1, 512, 65536, 1 << 20])
def test_decode_frames_of_other_libraries(codec: Codec, length: int) -> None:
    plain = content(random.Random(length), length)
    frame = reference.deflate(codec, plain)
    assert engine.decode(codec, frame, length) == plain
    assert engine.decode(codec, frame + b"tail", length) == plain
    for wrong in {max(1, length - 1), length + 1} - {length}:
        with pytest.raises(CorruptError) as caught:
            engine.decode(codec, frame, wrong)
        assert caught.value.reason is Reason.CORRUPT_DATA


@pytest.mark.skipif(Codec.ZSTD not in CODECS, reason="a build without zstd")
def test_decode_frames_of_a_length_that_nobody_knows() -> None:
    plain = content(random.Random(1), 300_000)
    frames = [zstandard.ZstdCompressor(write_content_size=False).compress(part) for part in (plain, b"more" * 70_000)]
    data = b"".join(frames)
    whole = plain + b"more" * 70_000
    assert engine.decode_frames(data + b"070701", 1 << 20) == (whole, len(data))
    assert engine.decode_frames(data, len(whole)) == (whole, len(data))
    for damaged, limit in [(data, len(whole) - 1), (data[:-1], 1 << 20), (b"", 16), (b"070701", 16)]:
        with pytest.raises(CorruptError) as caught:
            engine.decode_frames(damaged, limit)
        assert caught.value.reason is Reason.CORRUPT_DATA


@pytest.mark.parametrize("codec", [c for c in CODECS if engine.can_encode(c)])
def test_encode_other_libraries_read_it(codec: Codec) -> None:
    for seed in range(20):
        plain = content(random.Random(seed), 65536)
        assert reference.inflate(codec, engine.encode(codec, plain), 65536) == plain


def inflate_within(window_bits: int, frame: bytes) -> bytes:
    """What a raw deflate stream decodes to. zlib forgives distances into what one call has put out: a byte a call."""
    unpacker = zlib.decompressobj(-window_bits)
    out = bytearray()
    while not unpacker.eof:
        part = unpacker.decompress(frame, 1)
        if not part and not unpacker.eof and not unpacker.unconsumed_tail:
            raise ValueError("the frame is not complete")
        out += part
        frame = unpacker.unconsumed_tail
    return bytes(out)


def test_inflate_within_refuses_a_larger_window() -> None:
    plain = random.Random(1).randbytes(5000) * 3
    frame = packed(Codec.DEFLATE, plain, 15)
    assert inflate_within(13, frame) == plain
    with pytest.raises(zlib.error):
        inflate_within(12, frame)


@pytest.mark.parametrize("level", [1, 2, 3, 6, 9])
def test_encode_with_window_of_4_kib_needs_no_larger_one(level: int) -> None:
    if not engine.can_encode(Codec.DEFLATE, level, 12):
        pytest.skip("no encoder with a bounded window in this build")
    rng = random.Random(1)
    for plain in (rng.randbytes(5000) * 12, b"".join(b"%d " % rng.randrange(999) for _ in range(15_000))):
        frame = engine.encode(Codec.DEFLATE, plain, level=level, window_bits=12)
        assert inflate_within(12, frame) == plain


def test_encode_unknown_level_is_refused() -> None:
    assert not engine.can_encode(Codec.ZSTD, 99)
    with pytest.raises(RefusedError) as caught:
        engine.encode(Codec.ZLIB, b"x", level=99)
    assert caught.value.reason is Reason.CODEC_MISSING


def test_codecs_names_all_three_roles() -> None:
    assert all(word in engine.codecs() for word in ("inflate: ", "deflate: ", "zstd: "))


# ---- zero test, gather, runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512", "neon"])
def test_is_zero_finds_a_lonely_bit(name: str) -> None:
    if engine.zero_implementation(name) is None:
        pytest.skip(f"{name} is not for this machine")
    try:
        for length in (0, 1, 63, 64, 65, 128, 1000):
            assert engine.is_zero(bytes(length))
            for at in range(length):
                assert not engine.is_zero(bytes(at) + b"\x80" + bytes(length - at - 1))
    finally:
        engine.zero_implementation()


def test_gather_reads_pieces_in_any_order() -> None:
    text = random.Random(5).randbytes(100_000)
    offsets = np.array([0, 512, 1024, 99_488, 7, 7, 50_000], np.uint64)
    with closing(Memory(text)) as file:
        got = engine.gather(file.fd, offsets, 512)
        assert got.shape == (7, 512)
        assert [bytes(row) for row in got] == [text[at : at + 512] for at in offsets.tolist()]
        assert engine.gather(file.fd, offsets[:0], 512).shape == (0, 512)
        assert engine.gather(file.fd, offsets[::2], 10).shape == (4, 10)


def test_gather_behind_the_end_names_the_piece() -> None:
    with closing(Memory(bytes(2000))) as file, pytest.raises(CorruptError) as caught:
        engine.gather(file.fd, np.array([0, 512, 1024, 1536], np.uint64), 512)
    assert (caught.value.reason, caught.value.offset) == (Reason.TRUNCATED, 1536)


def test_data_runs_in_pieces_is_what_is_stored() -> None:
    with closing(Memory()) as file:
        os.ftruncate(file.fd, 10 << 20)
        for i in range(5):
            os.pwrite(file.fd, b"x" * 65536, (2 * i + 1) << 20)
        seen: list[list[int]] = []
        at = 0
        while at < 10 << 20:
            runs, at = engine.data_runs(file.fd, at, 10 << 20, 2)
            seen += runs.tolist()
    assert seen == [[(2 * i + 1) << 20, 65536] for i in range(5)]


# ---- faults ----------------------------------------------------------------------------------------------------------


def copy_with(
    monkeypatch: pytest.MonkeyPatch, calls: SystemCalls, source: Source, *, codec: Codec = Codec.NONE, threads: int = 2
) -> None:
    monkeypatch.setattr(engine, "system", lambda: calls)
    placement = Placement(unit=64 * KIB, guest_size=len(source.disk), first=512, codec=codec)
    with opened(source.files) as fds, closing(Memory()) as target, copier(fds, target.fd, placement, threads) as copy:
        copy.run(source.rows)


@pytest.mark.parametrize(
    ("op", "code", "reason", "on_target"),
    [
        (Op.PREAD, errno.EIO, Reason.READ_ERROR, False),
        (Op.PWRITE, errno.EIO, Reason.WRITE_ERROR, True),
        (Op.PWRITE, errno.ENOSPC, Reason.NO_SPACE, True),
        (Op.PWRITE, errno.EDQUOT, Reason.NO_SPACE, True),
        (Op.PWRITE, errno.EFBIG, Reason.NO_SPACE, True),
        (Op.FALLOCATE, errno.EIO, Reason.WRITE_ERROR, True),
    ],
)
def test_copy_failing_call_is_said_with_errno_and_file(
    monkeypatch: pytest.MonkeyPatch, op: Op, code: int, reason: Reason, on_target: bool
) -> None:
    source = make_source(3, rows=40, longest=100_000)
    with pytest.raises(IOFailedError) as caught:
        copy_with(monkeypatch, SystemCalls.faulty(op, 1, code=code, sticky=True), source)
    error = caught.value
    assert (error.reason, error.errno) == (reason, code)
    assert (error.path == "target") == on_target
    assert error.offset is not None


@pytest.mark.parametrize("threads", [1, 4])
def test_copy_out_of_memory_at_any_allocation_is_a_memory_error(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    source = make_source(3, rows=10, longest=100_000)
    codec = CODECS[0] if CODECS else Codec.NONE
    for nth in range(1, 30):
        calls = SystemCalls.faulty(Op.MALLOC, nth, sticky=True)
        try:
            copy_with(monkeypatch, calls, source, codec=codec, threads=threads)
        except MemoryError:
            continue
        assert calls.count(Op.MALLOC) < nth
        return
    assert threads > 1


@pytest.mark.parametrize("op", [Op.PREAD, Op.PWRITE])
def test_copy_short_transfers_change_nothing(monkeypatch: pytest.MonkeyPatch, op: Op) -> None:
    source = make_source(3, rows=10, longest=100_000)
    calls = SystemCalls.faulty(op, 1, how=Fault.SHORT, sticky=True)
    copy_with(monkeypatch, calls, source)
    assert calls.count(op) > 10


def test_copy_cancelled_is_an_interrupted_error() -> None:
    source = make_source(3, rows=40, longest=100_000)
    placement = Placement(unit=64 * KIB, guest_size=len(source.disk), fixed=True)
    with opened(source.files) as fds, copier(fds, -1, placement, 2) as copy:
        thread = threading.Thread(target=copy.cancel)
        thread.start()
        thread.join()
        with pytest.raises(InterruptedError):
            copy.run(source.rows)
    copy.cancel()  # too late, and harmless
    assert copy.done == 0


def test_copy_end_moves_forward_only() -> None:
    with opened([b""]) as fds, copier(fds, -1, Placement(unit=512, guest_size=512, first=1000)) as copy:
        copy.end = 2000
        assert copy.end == 2000
        with pytest.raises(InternalError):
            copy.end = 1999


def test_copy_tables_in_descending_order_are_an_internal_error() -> None:
    rows = row_of(Run(guest_off=512, length=512, kind=3))
    with opened([b""]) as fds, copier(fds, -1, Placement(unit=512, guest_size=4096, first=512)) as copy:
        copy.run(rows)
        with pytest.raises(InternalError):
            copy.run(rows)


def test_copy_unsound_numbers_do_not_start() -> None:
    with opened([b""]) as fds:
        for placement in (
            Placement(unit=500, guest_size=512, first=512),
            Placement(unit=512, guest_size=512),  # appended at offset 0, which says "not stored"
            Placement(unit=512, guest_size=512, first=512, fingerprint=True),
        ):
            with pytest.raises(MemoryError):
                copier(fds, -1, placement)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_rename_onto_an_existing_file_is_refused_unless_it_may_replace(tmp_path: Any) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"bb")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(RefusedError) as caught:
            engine.rename(folder, "a", "b", replace=False, path="b")
        assert caught.value.reason is Reason.OUTPUT_EXISTS
        assert (tmp_path / "b").read_bytes() == b"bb"
        engine.rename(folder, "a", "b", replace=True, path="b")
        assert (tmp_path / "b").read_bytes() == b"a"
        assert not (tmp_path / "a").exists()
    finally:
        os.close(folder)


def test_writing_helpers_do_what_they_say_and_fail_with_the_path() -> None:
    file = Memory()
    engine.pwrite(file.fd, b"hello", 10, "name")
    engine.truncate(file.fd, 20, "name")
    engine.fsync(file.fd, "name")
    assert file.read() == bytes(10) + b"hello" + bytes(5)
    assert engine.filesystem(file.fd) == 0x01021994  # tmpfs
    engine.close(file.fd, "name")
    calls: list[Callable[[], None]] = [
        lambda: engine.pwrite(file.fd, b"x", 0, "name"),
        lambda: engine.truncate(file.fd, 0, "name"),
        lambda: engine.fsync(file.fd, "name"),
        lambda: engine.close(file.fd, "name"),
    ]
    for call in calls:
        with pytest.raises(IOFailedError) as caught:
            call()
        assert (caught.value.reason, caught.value.path, caught.value.errno) == (
            Reason.WRITE_ERROR,
            "name",
            errno.EBADF,
        )
