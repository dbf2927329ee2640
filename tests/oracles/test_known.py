"""The smallest image for each known error of an oracle; skips where a newer version has lost it."""

import random
import struct
import subprocess
from pathlib import Path

import pytest

from oracles import GuestDigest, OracleError, digest_file, known_error, missing, read_guest
from oracles.known import KNOWN, Traits
from oracles.readers import dissect, run


def _qemu(folder: Path, raw: bytes, format: str, *arguments: str) -> tuple[str, GuestDigest]:
    """An image that qemu-img makes of these bytes, and the right digest."""
    source, image = str(folder / "disk.raw"), str(folder / f"image.{format}")
    Path(source).write_bytes(raw)
    run("qemu-img", "convert", "-f", "raw", "-O", format, *arguments, source, image)
    return image, digest_file(source)


def _text(size: int) -> bytes:
    return (random.Random(1).randbytes(64) * (size // 64 + 1))[:size]


def _wrong(oracle: str, image: str, format: str, right: GuestDigest) -> None:
    """The oracle refuses or differs, while qemu-img is right; skips where it is right too."""
    reason = missing(oracle)
    if reason:
        pytest.skip(reason)
    assert read_guest(image, format) == right
    try:
        seen = read_guest(image, format, oracle)
    except OracleError:
        return
    if seen == right:
        pytest.skip(f"fixed in this version of {oracle}: take the rule out of known.py and docs/oracles.md")


@pytest.mark.parametrize("oracle", ["libyal", "7zip"])
def test_zstd_clusters_are_not_read(oracle: str, qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(65536), "qcow2", "-c", "-o", "compression_type=zstd")
    _wrong(oracle, image, "qcow2", right)


def test_compressed_cluster_at_odd_offset_libqcow_reads_zeroes(qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, b"".join(_text(60000 + n).ljust(65536, b"-") for n in range(16)), "qcow2", "-c")
    data = Path(image).read_bytes()
    (l1_at,) = struct.unpack_from(">Q", data, 40)
    (l2_at,) = struct.unpack_from(">Q", data, l1_at)
    entries = struct.unpack_from(">16Q", data, l2_at & 0x00FF_FFFF_FFFF_FE00)
    if all(entry & 1 == 0 for entry in entries):
        pytest.skip("this qemu-img happens to place all frames at even offsets")
    _wrong("libyal", image, "qcow2", right)


def test_compressed_cluster_at_odd_offset_of_version_2_libqcow_is_right(qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(1 << 18), "qcow2", "-c", "-o", "compat=0.10")
    if missing("libyal"):
        pytest.skip("libqcow is not installed")
    assert read_guest(image, "qcow2", "libyal") == right


def test_odd_capacity_dissect_fails(qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(512), "vmdk")
    _wrong("dissect", image, "vmdk", right)


def test_seekable_stream_7zip_does_not_open(qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(65536), "vmdk", "-o", "subformat=streamOptimized")
    _wrong("7zip", image, "vmdk", right)


def test_zeroed_grain_libvmdk_reads_as_place(qemu_img: str, qemu_io: str, tmp_path: Path) -> None:
    image, _ = _qemu(tmp_path, _text(1 << 17), "vmdk", "-o", "zeroed_grain=on")
    subprocess.run([qemu_io, "-c", "write -z 0 64k", image], check=True, capture_output=True)
    Path(tmp_path / "disk.raw").write_bytes(bytes(1 << 16) + _text(1 << 17)[1 << 16 :])
    _wrong("libyal", image, "vmdk", digest_file(str(tmp_path / "disk.raw")))


@pytest.mark.parametrize("oracle", ["libyal", "7zip"])
def test_extended_l2_is_not_read(oracle: str, qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(65536), "qcow2", "-o", "extended_l2=on")
    _wrong(oracle, image, "qcow2", right)


@pytest.mark.slow
def test_extended_l2_dissect_does_not_end(qemu_img: str, tmp_path: Path) -> None:
    image, right = _qemu(tmp_path, _text(4096) + bytes(61440), "qcow2", "-o", "extended_l2=on")
    if missing("dissect"):
        pytest.skip("dissect is not installed")
    try:
        seen = dissect(image, "qcow2")
    except OracleError:
        return
    if seen == right:
        pytest.skip("fixed in this version of dissect: take the rule out of known.py and docs/oracles.md")


def test_known_errors_are_on_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "oracles.md").read_text()
    assert [known.key for known in KNOWN if known.key not in page] == []


def test_plain_image_no_oracle_is_excused() -> None:
    plain = Traits(format="qcow2", size=1 << 20)
    assert [oracle for oracle in ("qemu-img", "libyal", "dissect", "7zip") if known_error(oracle, plain)] == []
