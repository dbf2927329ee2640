"""Block devices as sources, on loop devices: size, sector size, mounted or not. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builders import raw as build

from diskfmt.errors import Reason, RefusedError, Severity
from diskfmt.formats.detect import identify
from diskfmt.formats.raw import FORMAT
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
Attach = Callable[..., str]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
    pytest.mark.skipif(shutil.which("losetup") is None, reason="losetup is not installed"),
]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def attach() -> Iterator[Attach]:
    with ExitStack() as stack:

        def do(path: Path, *options: str) -> str:
            try:
                device = run("losetup", "--find", "--show", *options, str(path))
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no loop device: {error.stderr.strip()}")
            stack.callback(run, "losetup", "--detach", device)
            return device

        yield do


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_device_is_described_and_raw(tmp_path: Path, attach: Attach, sector_size: int) -> None:
    sectors = 8 * MIB // sector_size
    path = build.sparse(tmp_path / "d", 8 * MIB, build.gpt(sectors, sector_size=sector_size))
    device = attach(path, "--sector-size", str(sector_size))
    with SourceFile(device) as source:
        assert (source.size, source.sector_size, source.is_block_device) == (8 * MIB, sector_size, True)
        assert source.trusts_holes is False
        assert source.in_use() is None
        assert source.read_at(8 * MIB - sector_size, 8) == b"EFI PART"
        assert identify(source).format == "raw"
        image = FORMAT.open(source)
        assert image.virtual_size == 8 * MIB
        noted = [finding.severity for finding in image.findings]  # that other machines count in sectors of 512 bytes
        assert noted == ([Severity.NOTE] if sector_size == 4096 else [])
        assert image.header.declared_end == 8 * MIB
        assert [len(rows) for rows in FORMAT.extents(image, [source], 0, source.size)] == [1]
        source.require_unchanged()


def test_file_behind_a_device_is_in_use_unless_the_device_is_for_reading(tmp_path: Path, attach: Attach) -> None:
    path = build.sparse(tmp_path / "d", MIB, {})
    with SourceFile(path) as source:
        attach(path, "--read-only")
        assert source.in_use() is None
        attach(path)
        finding = source.in_use()
    assert finding is not None
    assert finding.reason is Reason.IN_USE


def test_mounted_device_is_in_use(tmp_path: Path, attach: Attach) -> None:
    path = build.sparse(tmp_path / "d", 4 * MIB, {})
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mkfs.ext4", "-q", str(path))
    device = attach(path)
    with SourceFile(device) as source:
        assert source.in_use() is None
        try:
            run("mount", device, str(mount))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot mount: {error.stderr.strip()}")
        try:
            finding = source.in_use()
        finally:
            run("umount", str(mount))
    assert finding is not None
    assert "mounted" in finding.message


def test_device_is_no_piece_of_an_image(tmp_path: Path, attach: Attach) -> None:
    device = attach(build.sparse(tmp_path / "d", MIB, {}))
    node = tmp_path / "p"
    os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
    with SourceFile(build.sparse(tmp_path / "vm.vmdk", 512, {})) as source:
        with pytest.raises(RefusedError, match="block device") as error:
            source.open_beside("p")
        assert error.value.reason is Reason.NOT_REGULAR
