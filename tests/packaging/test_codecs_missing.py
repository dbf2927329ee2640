"""A build without a codec says so; nothing else breaks."""

import json
import os
import subprocess
import sys

import pytest
from install_kit import ROOT, run

CODECS = ("LIBDEFLATE", "ISAL", "ZSTD", "ZLIB")


def build_without(*codecs):
    """The interpreter of an environment whose engine lacks these codecs."""
    options = [f"-DDISKFMT_WITH_{codec}={'OFF' if codec in codecs else 'ON'}" for codec in CODECS]
    name = "without-" + "-".join(codecs).lower()
    overlay = os.path.join(ROOT, "tools", "overlay.py")
    return run(sys.executable, overlay, name, *options, "-DDISKFMT_NATIVE_DEPS=system").strip()


@pytest.fixture(scope="module")
def bare():
    return build_without(*CODECS)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20) + b"diskfmt!" * (1 << 17))
    return path


def refused(python, *arguments):
    done = subprocess.run([python, "-m", "diskfmt", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_version_without_codecs_says_none(bare):
    assert "none" in run(bare, "-m", "diskfmt", "--version")


@pytest.mark.parametrize("options", [("qcow2", "-c", "zstd"), ("qcow2", "-c", "zlib"), ("vmdk:streamOptimized",)])
def test_convert_to_missing_codec_is_refused_by_name_and_leaves_nothing(bare, disk, tmp_path, options):
    target = tmp_path / "out"
    assert "CODEC_MISSING" in refused(bare, "convert", "-f", "raw", "-O", *options, str(disk), str(target))
    assert sorted(os.listdir(tmp_path)) == ["disk.raw"]


def test_convert_from_missing_codec_is_refused_by_name_and_leaves_nothing(bare, disk, tmp_path):
    packed = tmp_path / "disk.qcow2"
    run(sys.executable, "-m", "diskfmt", "convert", "-f", "raw", "-O", "qcow2", "-c", "zstd", str(disk), str(packed))
    assert "CODEC_MISSING" in refused(bare, "convert", "-O", "raw", str(packed), str(tmp_path / "out.raw"))
    assert sorted(os.listdir(tmp_path)) == ["disk.qcow2", "disk.raw"]


def test_plain_conversion_needs_no_codec(bare, disk, tmp_path):
    image, back = tmp_path / "disk.vhd", tmp_path / "back.raw"
    run(bare, "-m", "diskfmt", "convert", "-f", "raw", "-O", "vhd", str(disk), str(image))
    run(bare, "-m", "diskfmt", "convert", "-O", "raw", str(image), str(back))
    assert back.read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("codecs", [("LIBDEFLATE", "ISAL"), ("ISAL", "ZLIB")])
def test_each_fallback_reads_what_the_full_build_wrote_and_back(codecs, disk, tmp_path):
    python = build_without(*codecs)
    ours, theirs, back = tmp_path / "full.vmdk", tmp_path / "fallback.vmdk", tmp_path / "back.raw"
    run(sys.executable, "-m", "diskfmt", "convert", "-f", "raw", "-O", "vmdk:streamOptimized", str(disk), str(ours))
    run(python, "-m", "diskfmt", "convert", "-O", "vmdk:streamOptimized", str(ours), str(theirs))
    run(sys.executable, "-m", "diskfmt", "convert", "-O", "raw", str(theirs), str(back))
    assert back.read_bytes() == disk.read_bytes()
    info = json.loads(run(python, "-m", "diskfmt", "info", "--output", "json", str(theirs)))
    assert info["format"] == "vmdk"
