"""Compressed clusters and grains at the edges of what is legal (TM-901), against qemu-img where it reads them."""

import subprocess
import zlib

import pytest
import zstandard
from builders import qcow2, vmdk

import diskfmt
from diskfmt import Reason
from hostile.kit import guard, text

CLUSTER = 65536
DATA = text(CLUSTER, 3)


def deflate(data: bytes, *, window: int = 12, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -window, 9, strategy)
    return packer.compress(data) + packer.flush()


def flushed(data: bytes, step: int) -> bytes:
    """A stream with a flush, and so an empty block, after every few bytes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    parts = [
        packer.compress(data[at : at + step]) + packer.flush(zlib.Z_FULL_FLUSH) for at in range(0, len(data), step)
    ]
    return b"".join(parts) + packer.flush()


def zstd(data: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def skippable(size: int) -> bytes:
    return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)


# name: (codec, frame, whether it is one cluster)
FRAMES = {
    "deflate": ("deflate", deflate(DATA), True),
    "deflate-huffman": ("deflate", deflate(DATA, strategy=zlib.Z_HUFFMAN_ONLY), True),
    "deflate-fixed": ("deflate", deflate(DATA, strategy=zlib.Z_FIXED), True),
    "deflate-rle": ("deflate", deflate(DATA, strategy=zlib.Z_RLE), True),
    "deflate-many-blocks": ("deflate", flushed(DATA, 1024), True),
    "deflate-then-garbage": ("deflate", deflate(DATA) + b"\xa5" * 300, True),
    "deflate-byte-short": ("deflate", deflate(DATA[:-1]), False),
    "deflate-empty": ("deflate", deflate(b""), False),
    "deflate-cut": ("deflate", deflate(DATA)[:-700], False),
    "deflate-of-nothing": ("deflate", bytes(512), False),
    "zstd": ("zstd", zstd(DATA), True),
    "zstd-checksum": ("zstd", zstd(DATA, write_checksum=True), True),
    "zstd-no-size": ("zstd", zstd(DATA, write_content_size=False), True),
    "zstd-two-frames": ("zstd", zstd(DATA[:30000]) + zstd(DATA[30000:]), True),
    "zstd-many-frames": ("zstd", b"".join(zstd(DATA[at : at + 4096]) for at in range(0, CLUSTER, 4096)), True),
    "zstd-then-zeroes": ("zstd", zstd(DATA) + bytes(200), True),
    "zstd-short": ("zstd", zstd(DATA[:-1]), False),
    "zstd-long": ("zstd", zstd(DATA + b"x"), False),
    "zstd-cut": ("zstd", zstd(DATA)[:-700], False),
    "zstd-bad-checksum": ("zstd", zstd(DATA, write_checksum=True)[:-4] + b"\0\0\0\0", False),
}


def with_frame(codec: str, frame: bytes) -> bytes:
    """A qcow2 image whose second cluster is this frame, in whole sectors."""
    built = qcow2.image({0: ("data", text(CLUSTER)), 1: ("data", b"")}, size=4 * CLUSTER, bits=16)
    if codec == "zstd":
        built.patch(incompatible=8, compression_type=1)
    at = built.places[1]
    sectors = (len(frame) - 1) // 512
    built.poke(built.entry(1), at | sectors << 54 | qcow2.COMPRESSED)
    built.data[at : at + len(frame)] = frame
    return bytes(built.data)


@pytest.mark.parametrize("name", FRAMES)
def test_frame_is_the_cluster_or_corrupt(tmp_path, qemu_img, name):
    codec, frame, good = FRAMES[name]
    path = tmp_path / "d.qcow2"
    path.write_bytes(with_frame(codec, frame))
    want = text(CLUSTER) + DATA
    with guard(), diskfmt.open_disk(path) as disk:
        if good:
            assert disk.read_at(0, 2 * CLUSTER) == want
        else:
            with pytest.raises(diskfmt.CorruptError) as caught:
                disk.read_at(0, 2 * CLUSTER)
            assert caught.value.reason is Reason.CORRUPT_DATA
            assert caught.value.guest_offset == CLUSTER
    if good:
        raw = tmp_path / "raw"
        command = [qemu_img, "convert", "-f", "qcow2", "-O", "raw", path, raw]
        if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0:
            assert raw.read_bytes()[: 2 * CLUSTER] == want
    for target, compress in (("qcow2", "zstd"), ("qcow2", "zlib"), ("raw", None), ("vmdk:streamOptimized", None)):
        out = tmp_path / "out"
        try:
            diskfmt.convert(path, out, format=target, compress=compress, sync=False, force=True)
        except diskfmt.CorruptError as error:
            assert not good, str(error)
            assert not out.exists()
        else:
            assert good
            assert diskfmt.digest(out, format=target.partition(":")[0]) == diskfmt.digest(path)
            out.unlink()


@pytest.mark.parametrize(
    ("frame", "good"),
    [
        (zlib.compress(DATA, 1), True),
        (zlib.compress(DATA, 9), True),
        (zlib.compress(DATA)[:-4] + b"\0\0\0\0", False),
        (zlib.compress(DATA)[:-1], False),
        (zlib.compress(DATA[:-1]), False),
        (zlib.compress(DATA + b"x"), False),
        (deflate(DATA), False),
        (b"\x78\xbb" + zlib.compress(DATA)[2:], False),
    ],
    ids=["fast", "best", "bad-checksum", "cut", "short", "long", "no-zlib-header", "dictionary"],
)
def test_grain_is_a_whole_zlib_stream_or_corrupt(tmp_path, frame, good):
    image = bytearray(vmdk.stream({0: DATA}, capacity=256))
    at = vmdk.STREAM_OVERHEAD * 512
    old = int.from_bytes(image[at + 8 : at + 12], "little")
    if len(frame) + 12 > -(-(old + 12) // 512) * 512:
        pytest.skip("does not fit where the grain was")
    image[at + 8 : at + 12] = len(frame).to_bytes(4, "little")
    image[at + 12 : at + 12 + len(frame)] = frame
    path = tmp_path / "d.vmdk"
    path.write_bytes(image)
    with guard(), diskfmt.open_disk(path) as disk:
        if good:
            assert disk.read_at(0, CLUSTER) == DATA
            return
        with pytest.raises(diskfmt.CorruptError) as caught:
            disk.read_at(0, CLUSTER)
        assert caught.value.reason is Reason.CORRUPT_DATA
    for target in ("raw", "qcow2", "vmdk:streamOptimized"):
        with pytest.raises(diskfmt.CorruptError), guard():
            diskfmt.convert(path, tmp_path / "o", format=target)
    assert not (tmp_path / "o").exists()
    assert not diskfmt.check(path, deep=True).ok
