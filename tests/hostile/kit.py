"""Small images of every kind, what is true of them, and a guard against hanging."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from builders import qcow2, raw, vhd, vmdk

import diskfmt

SECTOR = 512
HANG = 20  # seconds after which a job of milliseconds counts as hung


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A good image. `tables`: ranges of the file that decide where the guest's bytes are."""

    name: str
    format: str
    data: bytes
    guest: bytes
    tables: tuple[tuple[int, int], ...]


@cache
def text(size: int, seed: int = 0) -> bytes:
    """Bytes that compress, and that differ everywhere."""
    return b"".join(b"%07d\n" % (at + 31 * seed) for at in range(0, size, 8))[:size]


def _qcow2(version: int, codec: str) -> Sample:
    cluster = 4096
    size = 530 * cluster
    clusters: dict[int, qcow2.Cluster] = {
        0: ("data", text(cluster, 1)),
        1: (codec, text(cluster, 2)),
        2: (codec, text(cluster, 3)),
        7: ("data", text(cluster, 4)),
        8: ("data", text(cluster, 5)),
        520: ("data", text(cluster, 6)),
    }
    if version == 3:
        clusters[9] = ("zero", b"")
    built = qcow2.image(clusters, size=size, bits=12, version=version)
    guest = bytearray(size)
    for number, (_, data) in clusters.items():
        guest[number * cluster : number * cluster + len(data)] = data
    used = [(built.l2[0], built.l2[0] + 96), (built.l2[1], built.l2[1] + 96)]
    return Sample(
        name=f"qcow2-v{version}-{codec}",
        format="qcow2",
        data=bytes(built.data),
        guest=bytes(guest),
        tables=((0, 136), (built.l1, built.l1 + 24), *used, (built.table, built.table + 16)),
    )


def _vhd_dynamic() -> Sample:
    block = 4096
    size = 6 * block
    half = b"\xf0"
    data = text(block, 2)
    image = vhd.dynamic(size, {0: (b"\xff", text(block, 1)), 3: (half, data), 4: (b"\xff", text(block, 3))})
    guest = bytearray(size)
    guest[:block] = text(block, 1)
    guest[3 * block : 3 * block + 2048] = data[:2048]
    guest[4 * block : 5 * block] = text(block, 3)
    return Sample(
        name="vhd-dynamic",
        format="vhd",
        data=bytes(image),
        guest=bytes(guest),
        tables=(
            (0, 90),
            (SECTOR, SECTOR + 100),
            (vhd.TABLE_AT, vhd.TABLE_AT + 32),
            (len(image) - SECTOR, len(image) - SECTOR + 90),
        ),
    )


def _vhd_fixed() -> Sample:
    guest = text(1 << 16, 9)
    image = bytes(vhd.fixed(guest))
    end = len(image)
    return Sample(name="vhd-fixed", format="vhd", data=image, guest=guest, tables=((end - 512, end - 420),))


def _vmdk_sparse() -> Sample:
    grain, capacity = 16, 16 * 600
    grains = {0: text(grain * SECTOR, 1), 5: text(grain * SECTOR, 2), 599: text(grain * SECTOR, 3)}
    image = vmdk.sparse(grains, capacity=capacity, grain=grain)
    guest = bytearray(capacity * SECTOR)
    for number, data in grains.items():
        guest[number * grain * SECTOR : (number + 1) * grain * SECTOR] = data
    directory = vmdk.field(image, "gdOffset") * SECTOR
    redundant = vmdk.field(image, "rgdOffset") * SECTOR
    entries = [vmdk.entry_at(image, number) for number in (0, 512)]
    return Sample(
        name="vmdk-sparse",
        format="vmdk",
        data=image,
        guest=bytes(guest),
        tables=(
            (0, 82),
            (SECTOR, SECTOR + 200),
            (directory, directory + 12),
            (redundant, redundant + 12),
            *((at, at + 32) for at in entries),
        ),
    )


def _vmdk_stream() -> Sample:
    grain, capacity = 16, 16 * 600
    grains = {0: text(grain * SECTOR, 1), 5: text(grain * SECTOR, 2), 599: text(grain * SECTOR, 3)}
    image = vmdk.stream(grains, capacity=capacity, grain=grain)
    guest = bytearray(capacity * SECTOR)
    for number, data in grains.items():
        guest[number * grain * SECTOR : (number + 1) * grain * SECTOR] = data
    footer = vmdk.footer_at(image)
    first = vmdk.STREAM_OVERHEAD * SECTOR
    directory = vmdk.field(image, "gdOffset", footer) * SECTOR
    entry = vmdk.entry_at(image, 0, at=footer)
    return Sample(
        name="vmdk-stream",
        format="vmdk",
        data=image,
        guest=bytes(guest),
        tables=(
            (0, 82),
            (SECTOR, SECTOR + 120),
            (first, first + 40),
            (directory - SECTOR, directory + 12),
            (entry, entry + 32),
            (footer - SECTOR, footer - SECTOR + 16),
            (footer, footer + 82),
            (footer + SECTOR, footer + SECTOR + 16),
        ),
    )


def samples() -> list[Sample]:
    """One small image of each kind."""
    return [
        _qcow2(2, "deflate"),
        _qcow2(3, "deflate"),
        _qcow2(3, "zstd"),
        _vhd_dynamic(),
        _vhd_fixed(),
        _vmdk_sparse(),
        _vmdk_stream(),
    ]


@cache
def mbr_disk(size: int = 1 << 20) -> bytes:
    """A raw disk that is recognised by its partition table."""
    return raw.mbr((0x83, 1, size // SECTOR - 1)) + text(size - SECTOR)


class HungError(BaseException):
    """A job did not end in time: no handler of errors may swallow it."""


@contextmanager
def guard(seconds: float = HANG) -> Iterator[None]:
    """Stop what is inside if it hangs."""

    def stop(*_: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def to_raw(path: str | os.PathLike[str], target: str | os.PathLike[str], **options: object) -> bytes | None:
    """The guest's bytes as `convert` writes them, None where it refuses; then there is no output at all."""
    folder = os.path.dirname(target)
    try:
        with guard():
            diskfmt.convert(path, target, **{"format": "raw", "sync": False, "force": True, "threads": 1} | options)
    except diskfmt.DiskfmtError as error:
        assert "\n" not in str(error)
        assert error.reason is not diskfmt.Reason.INTERNAL, str(error)
        assert os.listdir(folder) == [], str(error)
        return None
    with open(target, "rb") as file:
        data = file.read()
    os.unlink(target)
    assert os.listdir(folder) == []
    return data


def refusal(job: Callable[[], object]) -> diskfmt.DiskfmtError | None:
    """What a job raises, if it is an error of this library."""
    try:
        job()
    except diskfmt.DiskfmtError as error:
        return error
    return None
