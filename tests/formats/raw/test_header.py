"""What is said of a raw disk: its length, and what its partition table says of that."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from builders import raw as build
from images import Corpus

from diskfmt.errors import CorruptError, Finding, Reason, Severity
from diskfmt.formats.base import Image
from diskfmt.formats.raw import FORMAT
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
Opener = Callable[..., Image]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def do(size: int, pieces: Mapping[int, bytes] | None = None) -> Image:
        with SourceFile(build.sparse(tmp_path / "d.raw", size, pieces or {})) as source:
            return FORMAT.open(source)

    return do


def found(image: Image) -> list[tuple[Severity, Reason]]:
    return [(finding.severity, finding.reason) for finding in image.findings]


def test_disk_is_described(opened: Opener) -> None:
    image = opened(MIB)
    assert (image.format, image.subformat, image.virtual_size, image.unit) == ("raw", "raw", MIB, None)
    assert (image.references, image.findings, dict(image.specific)) == ((), (), {})


def test_empty_file_is_truncated(opened: Opener) -> None:
    with pytest.raises(CorruptError) as error:
        opened(0)
    assert error.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("size", [1, 511])
def test_less_than_a_sector_is_refused(opened: Opener, size: int) -> None:
    with pytest.raises(CorruptError, match=f"{size} bytes, less than one sector") as error:
        opened(size)
    assert error.value.reason is Reason.TRUNCATED


@pytest.mark.parametrize("size", [513, MIB + 1, (1 << 40) - 1])
def test_odd_length_is_kept_and_told(opened: Opener, size: int) -> None:
    image = opened(size)
    assert image.virtual_size == size
    assert found(image) == [(Severity.WARNING, Reason.BAD_VALUE)]
    assert str(size) in image.findings[0].message


@pytest.mark.parametrize(("sectors", "whole"), [(2047, True), (2048, False), (1 << 31, False)])
def test_partition_behind_the_end_is_told(opened: Opener, sectors: int, whole: bool) -> None:
    image = opened(MIB, {0: build.mbr((0x83, 1, 100), (0x83, 1, sectors))})
    assert found(image) == ([] if whole else [(Severity.WARNING, Reason.TRUNCATED)])
    assert image.header.declared_end == (1 + sectors) * 512


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_gpt_disk_is_whole_or_cut(opened: Opener, sector_size: int) -> None:
    size = 256 * sector_size
    pieces = build.gpt(256, sector_size=sector_size)
    note = [] if sector_size == 512 else [(Severity.NOTE, Reason.BAD_VALUE)]
    assert found(opened(size, pieces)) == note
    assert opened(size, pieces).specific == {"logical-sector-size": sector_size}
    assert found(opened(size * 2, pieces)) == note
    cut = opened(size - sector_size, {at: data for at, data in pieces.items() if at < size - sector_size})
    assert found(cut) == [(Severity.WARNING, Reason.TRUNCATED), *note]


def test_disk_with_a_gpt_for_each_sector_size_is_told(opened: Opener) -> None:
    pieces = build.gpt(2048) | {4096: build.gpt(256, sector_size=4096)[4096]}
    image = opened(MIB, pieces)
    assert found(image) == [(Severity.NOTE, Reason.BAD_VALUE)]
    assert "512 bytes and one for 4096" in image.findings[0].message
    assert image.specific == {"logical-sector-size": 512}


def superblock() -> dict[int, bytes]:
    """What shows that there is an ext4 file system."""
    return {0x438: b"\x53\xef", 0x44C: b"\1"}


FAT = (b"\xeb\x3c\x90mkfs.fat" + struct.pack("<HBHBHHB", 512, 4, 4, 2, 512, 2048, 0xF8)).ljust(510, b"\0") + b"\x55\xaa"
TEXT = b"This is not a bootable disk."
NTFS = (b"\xeb\x52\x90NTFS    " + struct.pack("<HB", 512, 8)).ljust(446, b"\0") + TEXT.ljust(64, b" ") + b"\x55\xaa"

WHOLE_DISK = {
    "ext4": (superblock(), "no firmware boots it"),
    "ext4-with-boot-sector": ({0: b"\xfa".ljust(510, b"\0") + b"\x55\xaa", **superblock()}, "by a boot sector"),
    "xfs": ({0: b"XFSB" + struct.pack(">I", 4096)}, "no firmware boots it"),
    "btrfs": ({0x10040: b"_BHRfS_M"}, "no firmware boots it"),
    "lvm": ({512: b"LABELONE", 512 + 24: b"LVM2 001"}, "no firmware boots it"),
    "swap": ({4086: b"SWAPSPACE2"}, "no firmware boots it"),
    "fat": ({0: FAT}, "by a boot sector"),
    "ntfs": ({0: NTFS}, "by a boot sector"),
}


@pytest.mark.parametrize("name", WHOLE_DISK)
def test_file_system_in_place_of_a_partition_table_is_told(opened: Opener, name: str) -> None:
    pieces, text = WHOLE_DISK[name]
    image = opened(MIB, pieces)
    assert found(image) == [(Severity.NOTE, Reason.BAD_VALUE)]
    assert text in image.findings[0].message
    assert image.findings[0].remedy


SILENT = {
    "nothing": {},
    "mbr": {0: build.mbr((0x83, 1, 100)), **superblock()},
    "gpt": {**build.gpt(2048), 0x10040: b"_BHRfS_M"},
    "fat-with-a-table": {0: FAT[:446] + build.mbr((0x83, 1, 100))[446:]},
    "two-file-systems": {0: b"XFSB", **superblock()},
    "magic-elsewhere": {0x838: b"\x53\xef"},
    "sun": {0: bytes(508) + b"\xda\xbe\xda\xbe", **superblock()},
    "optical": {0x8000: b"\1CD001"},
}


@pytest.mark.parametrize("name", SILENT)
def test_disk_with_a_table_or_without_a_file_system_is_not_told(opened: Opener, name: str) -> None:
    assert opened(MIB, SILENT[name]).findings == ()


def test_opening_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = 0
    real = SourceFile.read_at

    def counted(self: SourceFile, offset: int, length: int) -> bytes:
        nonlocal total
        total += length
        return real(self, offset, length)

    monkeypatch.setattr(SourceFile, "read_at", counted)
    with SourceFile(build.sparse(tmp_path / "d.raw", 1 << 30, superblock())) as source:
        FORMAT.open(source)
    assert total <= 69 << 10


def test_gpt_disk_cut_to_its_first_sector_says_nothing(opened: Opener) -> None:
    assert opened(512, {0: build.gpt(256)[0]}).findings == ()


@pytest.mark.parametrize(
    "sector",
    [
        build.mbr((0x83, 1, 1 << 31), flags=0x41),
        build.mbr((0x83, 0, 1 << 31)),
        build.mbr((0x83, 1 << 31, 0)),
        build.mbr((0x83, 1, 1 << 31))[:510].ljust(512, b"\0"),
        build.mbr(),
    ],
    ids=["flags", "first", "count", "signature", "empty"],
)
def test_table_that_is_none_says_nothing(opened: Opener, sector: bytes) -> None:
    image = opened(MIB, {0: sector})
    assert (image.header.declared_end, image.findings) == (None, ())


@pytest.mark.parametrize(
    "change", [{512: b"EFI TRAP"}, {512 + 24: b"\2"}, {512 + 32: b"\xff" * 8}], ids=["signature", "own", "other"]
)
def test_gpt_that_is_none_says_nothing(opened: Opener, change: dict[int, bytes]) -> None:
    pieces = [*build.gpt(256).items(), *change.items()]
    content = bytearray(MIB)
    for at, data in pieces:
        content[at : at + len(data)] = data
    assert opened(MIB, {0: bytes(content)}).header.declared_end is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("raw-pattern", []),
        ("guest-debian12-wholedisk-ext4", [Reason.BAD_VALUE]),
        ("disk-fat-sector-0", [Reason.BAD_VALUE]),
        ("disk-ntfs-cluster-0", [Reason.BAD_VALUE]),
        ("utillinux-fs-lvm2", [Reason.BAD_VALUE]),
        ("utillinux-fs-iso-joliet", []),
        ("raw-odd-bytes", [Reason.BAD_VALUE]),
        ("cut-gpt-06", [Reason.TRUNCATED]),
        ("cut-gpt-18", [Reason.TRUNCATED]),
        ("cut-gpt-19", [Reason.BAD_VALUE, Reason.TRUNCATED]),
        ("disk-mbr-part-beyond", [Reason.TRUNCATED]),
        ("disk-gpt-both-bad", []),
        ("cut-vhd-fixed-12", [Reason.BAD_VALUE, Reason.TRUNCATED]),
    ],
)
def test_corpus_disk_tells_of_its_end(corpus: Corpus, case: str, expected: list[Reason]) -> None:
    with SourceFile(corpus.path(case)) as source:
        findings: tuple[Finding, ...] = FORMAT.open(source).findings
    assert [finding.reason for finding in findings] == expected
    assert all(finding.severity <= Severity.WARNING for finding in findings)
