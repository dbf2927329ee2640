"""What is said of a raw disk: its length, and what its partition table says of that."""

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
    assert opened(size, pieces).findings == ()
    assert found(opened(size * 2, pieces)) == []
    cut = opened(size - sector_size, {at: data for at, data in pieces.items() if at < size - sector_size})
    assert found(cut) == [(Severity.WARNING, Reason.TRUNCATED)]


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
        ("guest-debian12-wholedisk-ext4", []),
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
    assert all(finding.severity is Severity.WARNING for finding in findings)
