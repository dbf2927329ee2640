"""Chains of images: what may be opened, and that the disk is what qemu-img says it is."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import diskfmt
from diskfmt.chain import MAX_DEPTH, permission
from diskfmt.errors import DiskfmtError, Reason, UsageError

MIB = 1 << 20


@pytest.fixture
def qemu(qemu_img: str, qemu_io: str):
    """Run qemu-img, or qemu-io's commands on a file."""

    class Qemu:
        def img(self, *words: object) -> None:
            subprocess.run([qemu_img, *map(str, words)], check=True, capture_output=True)

        def io(self, path: Path, *commands: str, format: str = "qcow2") -> None:
            words = [word for command in commands for word in ("-c", command)]
            subprocess.run([qemu_io, "-f", format, *words, path], check=True, capture_output=True)

        def content(self, path: Path, format: str = "qcow2") -> str:
            raw = path.with_suffix(".content")
            self.img("convert", "-f", format, "-O", "raw", path, raw)
            return hashlib.sha256(raw.read_bytes()).hexdigest()

    return Qemu()


def content(path: Path, **how: str) -> str:
    with diskfmt.open_disk(path, **how) as disk:
        return hashlib.sha256(disk.read_at(0, disk.size)).hexdigest()


def chain_of(qemu, folder: Path, base_format: str, sizes: tuple[int, ...]) -> Path:
    """A base with overlays of qcow2 on it, each with data, zeroes and holes of its own."""
    base = folder / f"base.{base_format}"
    qemu.img("create", "-f", base_format, base, sizes[0])
    qemu.io(base, "write -P 1 0 1M", "write -P 2 3M 100k", "write -P 3 5000k 30k", format=base_format)
    below, name = base, base_format
    for number, size in enumerate(sizes[1:]):
        top = folder / f"top{number}.qcow2"
        qemu.img("create", "-f", "qcow2", "-F", name, "-b", below.name, top, size)
        at = number * 300
        qemu.io(
            top,
            f"write -P {10 + number} {at}k 70k",
            f"write -z {3000 + at}k 128k",
            f"write -P 7 {size // 1024 - 64}k 64k",
        )
        below, name = top, "qcow2"
    return below


@pytest.mark.parametrize("base_format", ["raw", "qcow2", "vpc", "vmdk"])
@pytest.mark.parametrize(
    "sizes", [(8 * MIB, 8 * MIB), (6 * MIB, 9 * MIB, 12 * MIB), (8 * MIB, 8 * MIB, 5 * MIB, 10 * MIB)]
)
def test_chain_reads_as_qemu_reads_it(qemu, tmp_path: Path, base_format: str, sizes: tuple[int, ...]) -> None:
    top = chain_of(qemu, tmp_path, base_format, sizes)
    assert content(top, follow="same-directory") == qemu.content(top)
    # The same through another directory, and into an image that stands alone.
    other = tmp_path / "other"
    other.mkdir()
    os.rename(top, other / "moved.qcow2")
    out = tmp_path / "out.qcow2"
    result = diskfmt.convert(other / "moved.qcow2", out, format="qcow2", follow=str(tmp_path), verify=True)
    assert result.digest == diskfmt.digest(out)
    assert content(out) == qemu.content(out)


def test_map_of_a_chain_is_that_of_qemu(qemu, qemu_img: str, tmp_path: Path) -> None:
    import json

    top = chain_of(qemu, tmp_path, "qcow2", (8 * MIB, 8 * MIB, 8 * MIB))
    told = subprocess.run([qemu_img, "map", "--output=json", top], check=True, capture_output=True).stdout
    ours = [row.to_json() for row in diskfmt.map_rows(top, follow="same-directory")]

    def known(rows) -> list[tuple[object, ...]]:
        """What both tell: for each 64 KiB whether it is data, and from which image."""
        keys = [(row["data"], row["zero"], row["depth"] if row["data"] else None) for row in rows]
        return [key for key, row in zip(keys, rows, strict=True) for _ in range(row["length"] // 65536)]

    assert known(ours) == known(json.loads(told))


def test_nothing_below_is_opened_unless_it_is_allowed(qemu, tmp_path: Path) -> None:
    top = chain_of(qemu, tmp_path, "raw", (MIB * 8, MIB * 8))
    for follow in (None, "pieces"):
        with pytest.raises(DiskfmtError) as caught:
            diskfmt.convert(top, tmp_path / "out", format="raw", follow=follow)
        assert caught.value.reason is Reason.EXTERNAL_REFERENCE
        assert "--follow" in str(caught.value)
    assert not (tmp_path / "out").exists()
    report = diskfmt.check(top)
    assert report.ok
    assert [finding.reason for finding in report.findings] == [Reason.EXTERNAL_REFERENCE]
    (alone,) = diskfmt.inspect_chain(top)
    assert alone.references[0].kind == "backing"
    both = diskfmt.inspect_chain(top, follow="same-directory")
    assert [info.format for info in both] == ["qcow2", "raw"]


def test_format_below_is_never_guessed(qemu, tmp_path: Path) -> None:
    top = chain_of(qemu, tmp_path, "qcow2", (MIB * 8, MIB * 8))
    qemu.img("rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", top)
    data = bytearray(top.read_bytes())
    at = data.index(bytes.fromhex("e2792aca"))
    data[at : at + 4] = bytes.fromhex("11111111")  # an extension that nobody knows in place of the format's name
    top.write_bytes(data)
    with pytest.raises(DiskfmtError, match="format") as caught:
        content(top, follow="same-directory")
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE
    expected = content(top, follow="same-directory", below_format="qcow2")
    assert expected != content(top, follow="same-directory", below_format="raw")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("json:{}", "not the name of a file"),
        ("nbd://localhost/x", "not the name of a file"),
        ("missing.raw", "no such file"),
        ("..", "not the bare name"),
        ("link.raw", "symbolic link"),
    ],
)
def test_name_below_leads_nowhere_else(qemu, tmp_path: Path, name: str, word: str) -> None:
    top = tmp_path / "top.qcow2"
    qemu.img("create", "-f", "qcow2", top, MIB)
    qemu.img("rebase", "-u", "-b", name, "-F", "raw", top)
    os.symlink("/etc/passwd", tmp_path / "link.raw")
    with pytest.raises(DiskfmtError, match=word):
        content(top, follow="same-directory")


def test_directories_of_a_recorded_name_do_not_count(qemu, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(b"x" * 512)
    top = tmp_path / "top.qcow2"
    qemu.img("create", "-f", "qcow2", top, 512)
    qemu.img("rebase", "-u", "-b", "/etc/passwd", "-F", "raw", top)
    assert content(top, follow="same-directory") == hashlib.sha256(b"x" * 512).hexdigest()


def test_chain_that_comes_back_or_never_ends_is_refused(qemu, tmp_path: Path) -> None:
    one, two = tmp_path / "one.qcow2", tmp_path / "two.qcow2"
    for path in (one, two):
        qemu.img("create", "-f", "qcow2", path, MIB)
    qemu.img("rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", one)
    qemu.img("rebase", "-u", "-b", "one.qcow2", "-F", "qcow2", two)
    with pytest.raises(DiskfmtError, match="comes back") as caught:
        content(one, follow="same-directory")
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE
    for number in range(MAX_DEPTH + 1):
        path = tmp_path / f"{number}.qcow2"
        qemu.img("create", "-f", "qcow2", path, MIB)
        if number:
            qemu.img("rebase", "-u", "-b", f"{number - 1}.qcow2", "-F", "qcow2", path)
    assert content(tmp_path / f"{MAX_DEPTH - 1}.qcow2", follow="same-directory")
    with pytest.raises(DiskfmtError, match=f"more than {MAX_DEPTH}"):
        content(tmp_path / f"{MAX_DEPTH}.qcow2", follow="same-directory")


def test_damage_below_names_the_file_below(qemu, tmp_path: Path) -> None:
    top = chain_of(qemu, tmp_path, "qcow2", (MIB * 8, MIB * 8))
    base = tmp_path / "base.qcow2"
    os.truncate(base, base.stat().st_size // 2)
    with pytest.raises(DiskfmtError) as caught:
        content(top, follow="same-directory")
    assert caught.value.path == str(base)


def test_follow_says_where(tmp_path: Path) -> None:
    assert (permission(None).pieces, permission(None).directory) == (False, None)
    assert (permission("pieces").pieces, permission("pieces").directory) == (True, None)
    assert permission("same-directory").directory == ""
    assert permission(str(tmp_path)).directory == str(tmp_path)
    with pytest.raises(UsageError):
        permission("")
