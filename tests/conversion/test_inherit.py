"""Outputs that are a difference to another image, read back by others than their writer."""

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

import diskfmt
from diskfmt.conversion.inherit import inheritance, own_rows
from diskfmt.conversion.progress import Progress
from diskfmt.errors import InUseError, RefusedError, UsageError
from diskfmt.kinds import Kind

MIB = 1 << 20


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def qemu_sha(qemu_img: str, path: Path) -> str:
    raw = path.with_suffix(".seen")
    subprocess.run([qemu_img, "convert", "-O", "raw", path, raw], check=True)
    return sha(raw.read_bytes())


@pytest.fixture
def chain(qemu_img: str, qemu_io: str, tmp_path: Path) -> tuple[Path, Path]:
    """A base of 8 MiB and an overlay on it with data, zeroes over data, and most of the disk untouched."""
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", base, "8M"], check=True)
    subprocess.run([qemu_io, "-c", "write -P 1 0 3M", "-c", "write -P 2 5M 1M", base], check=True, capture_output=True)
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", top], check=True)
    commands = ["write -P 9 100k 4k", "write -z 1M 256k", "write -P 8 6M 64k", "write -P 0 2M 64k"]
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run([qemu_io, *words, top], check=True, capture_output=True)
    return base, top


@pytest.mark.parametrize("subformat", ["v3", "v2"])
@pytest.mark.parametrize("compress", [None, "zlib"])
def test_overlay_of_a_chain_stores_only_what_it_adds(
    chain: tuple[Path, Path], qemu_img: str, subformat: str, compress: str | None
) -> None:
    _, top = chain
    out = top.with_name("out.qcow2")
    result = diskfmt.convert(
        top,
        out,
        format=f"qcow2:{subformat}",
        compress=compress,
        below="base.qcow2",
        follow="same-directory",
        verify=True,
    )
    expected = qemu_sha(qemu_img, top)
    assert qemu_sha(qemu_img, out) == expected
    with diskfmt.open_disk(out, follow="same-directory") as disk:
        assert sha(disk.read_at(0, disk.size)) == expected
        own = [row for row in diskfmt.map_rows(out, follow="same-directory") if row.depth == 0 and row.data]
    assert sum(row.length for row in own) <= 7 * 65536  # two clusters of data, in v2 also those of zeroes
    assert result.digest == diskfmt.digest(top, follow="same-directory")
    assert diskfmt.inspect(out).references[0].name == "base.qcow2"
    subprocess.run([qemu_img, "check", "-q", out], check=True)


@pytest.mark.parametrize("subformat", ["v3", "v2"])
def test_disk_that_stands_alone_hides_what_lies_below(
    chain: tuple[Path, Path], qemu_img: str, tmp_path: Path, subformat: str
) -> None:
    alone = tmp_path / "alone.raw"
    data = np.random.Generator(np.random.PCG64(3)).bytes(MIB)
    alone.write_bytes(bytes(2 * MIB) + data + bytes(5 * MIB))
    out = tmp_path / "out.qcow2"
    diskfmt.convert(alone, out, format=f"qcow2:{subformat}", source_format="raw", below="base.qcow2", verify=True)
    assert qemu_sha(qemu_img, out) == sha(alone.read_bytes())


def test_rows_are_left_to_the_image_below_in_whole_units(chain: tuple[Path, Path]) -> None:
    base, top = chain
    with diskfmt.open_disk(top, follow="same-directory") as disk, diskfmt.open_disk(base) as below:
        shared = inheritance(disk, below)
        assert shared.depth == 1
        rows = np.concatenate(list(own_rows(disk, shared, start=0, stop=disk.size, unit=MIB)))
        own = rows[rows["kind"] != Kind.HOLE]
        assert own["guest_off"].min() == 0
        holes = rows[rows["kind"] == Kind.HOLE]
        assert (holes["guest_off"] % MIB == 0).all()
        assert int(holes["length"].sum()) == 4 * MIB  # units 3, 4, 5 and 7
        assert inheritance(below, disk).depth is None


def test_formats_without_a_parent_say_so(chain: tuple[Path, Path], tmp_path: Path) -> None:
    _, top = chain
    for target in ("raw", "vmdk", "vhd:fixed"):
        with pytest.raises(UsageError):
            diskfmt.convert(top, tmp_path / "out", format=target, below="base.qcow2", follow="same-directory")


def test_snapshot_is_no_part_of_the_disk_that_holds_it(qemu_img: str, qemu_io: str, tmp_path: Path) -> None:
    disk, out = tmp_path / "disk.qcow2", tmp_path / "out.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    subprocess.run([qemu_io, "-c", "write -P 1 0 64k", disk], check=True, capture_output=True)
    subprocess.run([qemu_img, "snapshot", "-c", "before", disk], check=True)
    expected = qemu_sha(qemu_img, disk)
    subprocess.run([qemu_io, "-c", "write -P 2 0 128k", disk], check=True, capture_output=True)
    diskfmt.convert(disk, out, format="qcow2", below="disk.qcow2", snapshot="before")
    assert qemu_sha(qemu_img, out) == expected


@pytest.mark.parametrize("nested", [True, False])
def test_image_of_the_chain_has_the_format_that_it_has_there(
    qemu_img: str, qemu_io: str, tmp_path: Path, nested: bool
) -> None:
    base, top, out = tmp_path / "base.raw", tmp_path / "top.qcow2", tmp_path / "out.qcow2"
    inner = tmp_path / "inner.qcow2"
    if nested:  # a raw disk that begins as an image does: only the image above knows better
        subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", inner, "1M"], check=True)
        base.write_bytes(inner.read_bytes().ljust(MIB, b"\1"))
    else:  # nor does its content say anything
        base.write_bytes(b"\1" * MIB)
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", top], check=True)
    subprocess.run([qemu_io, "-c", "write -P 2 0 64k", top], check=True, capture_output=True)
    diskfmt.convert(top, out, format="qcow2", below="base.raw", follow="same-directory")
    assert qemu_sha(qemu_img, out) == qemu_sha(qemu_img, top)
    assert diskfmt.inspect(out).references[0].format == "raw"


@pytest.mark.parametrize("name", ["base.qcow2", "link.qcow2"])
def test_output_does_not_replace_the_image_below_it(chain: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    base, top = chain
    alone, before = tmp_path / "alone.qcow2", base.read_bytes()
    diskfmt.convert(top, alone, format="qcow2", follow="same-directory")
    base.with_name("link.qcow2").hardlink_to(base)
    with pytest.raises(RefusedError, match="the image below"):
        diskfmt.convert(alone, base.with_name(name), format="qcow2", below="base.qcow2", force=True)
    assert base.read_bytes() == before


def test_change_of_the_image_below_is_seen(chain: tuple[Path, Path], tmp_path: Path) -> None:
    base, top = chain
    alone, out = tmp_path / "alone.qcow2", tmp_path / "out.qcow2"
    diskfmt.convert(top, alone, format="qcow2", follow="same-directory")

    def touch(progress: Progress) -> None:
        if progress.phase == "copy":
            with base.open("r+b") as file:
                file.seek(0, 2)
                file.write(bytes(512))

    with pytest.raises(InUseError):
        diskfmt.convert(alone, out, format="qcow2", below="base.qcow2", progress=touch)
    assert not out.exists()
