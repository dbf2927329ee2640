"""What the walk over all blocks finds."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import vhd as build

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.formats.base import Statistics
from diskfmt.formats.vhd import check as vhd_check
from diskfmt.formats.vhd import map as vhd_map
from diskfmt.formats.vhd.header import open_image
from diskfmt.stores.source import SourceFile

BLOCK = 4096
NOTE, WARNING, DAMAGE, ERROR = sorted(Severity)


def run(path: Path, image: bytes | bytearray, *, deep: bool = False) -> tuple[list[Finding], Statistics]:
    file = path / "d.vhd"
    file.write_bytes(image)
    findings = []
    with SourceFile(str(file)) as source:
        walk = vhd_check.check(open_image(source), [source], deep)
        while True:
            try:
                findings.append(next(walk))
            except StopIteration as end:
                return findings, end.value


def kinds(findings: list[Finding]) -> list[tuple[Severity, Reason]]:
    return [(finding.severity, finding.reason) for finding in findings]


def blocks(bits: bytes = b"\xff", data: bytes = b"x" * BLOCK) -> bytearray:
    return build.dynamic(8 * BLOCK, {2: (bits, data), 5: (b"\xff", b"b")}, block_size=BLOCK)


def test_good_disk_has_no_finding(tmp_path: Path) -> None:
    image = blocks()
    assert run(tmp_path, image) == (
        [], Statistics(total_units=8, stored_units=2, encoded_units=0, end=len(image))
    )  # fmt: skip


def test_fixed_disk_is_one_stored_unit(tmp_path: Path) -> None:
    image = build.fixed(bytes(1 << 20))
    assert run(tmp_path, image) == (
        [], Statistics(total_units=1, stored_units=1, encoded_units=0, end=len(image))
    )  # fmt: skip


def test_data_under_clear_bits_is_doubted(tmp_path: Path) -> None:
    findings, _ = run(tmp_path, blocks(b"\xfb"))  # the sixth sector is clear
    assert kinds(findings) == [(WARNING, Reason.DIFFERENTIAL)]
    assert findings[0].guest_offset == 2 * BLOCK + 5 * 512
    assert findings[0].offset == build.entry(blocks(), 2) * 512 + 512 + 5 * 512
    assert findings[0].message.startswith("512 bytes")


def test_zeros_under_clear_bits_are_fine(tmp_path: Path) -> None:
    assert run(tmp_path, blocks(b"\x80", b"x" * 512))[0] == []


def test_data_under_clear_bits_behind_the_end_of_the_disk_is_fine(tmp_path: Path) -> None:
    image = build.dynamic(BLOCK + 512, {1: (b"\x80", b"x" * BLOCK)}, block_size=BLOCK)
    assert run(tmp_path, image)[0] == []


def test_clear_bits_of_a_differencing_disk_are_the_parents(tmp_path: Path) -> None:
    image = build.patch(blocks(b"\x00"), "both", "disk_type", 4)
    assert run(tmp_path, image)[0] == []


@pytest.mark.parametrize(("deep", "expected"), [(False, [(NOTE, Reason.DIFFERENTIAL)]), (True, [])])
def test_clear_bits_over_the_budget_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: bool, expected: list[object]
) -> None:
    monkeypatch.setattr(vhd_check, "CLEAR_SECTORS", 3)
    monkeypatch.setattr(vhd_check, "BATCH", 2)
    assert kinds(run(tmp_path, blocks(b"\x00", b""), deep=deep)[0]) == expected


def test_every_fault_of_the_table_is_found_in_one_walk(tmp_path: Path) -> None:
    image = blocks()
    first = build.entry(image, 2)
    for number, sector in ((0, 0xFFFFFFFE), (1, 3), (3, first)):
        image = build.set_entry(image, number, sector)
    findings, statistics = run(tmp_path, image)
    assert {finding.reason for finding in findings} == {Reason.OUT_OF_FILE, Reason.OVERLAP, Reason.SHARED_CLUSTERS}
    assert {finding.severity for finding in findings} == {ERROR}
    assert statistics.stored_units == 5


def test_blocks_that_share_a_place_over_windows_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "WINDOW_ROWS", 1)
    image = build.dynamic(8 * BLOCK, dict.fromkeys(range(5), (b"\xff", b"x")), block_size=BLOCK)
    image = build.set_entry(image, 7, build.entry(image, 0))
    findings, _ = run(tmp_path, build.set_entry(image, 4, 0xFFFFFFFF))
    assert kinds(findings) == [(ERROR, Reason.SHARED_CLUSTERS)]


def test_short_last_block_is_no_overlap_over_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "WINDOW_ROWS", 1)
    image = build.dynamic(BLOCK + 512, {1: (b"\xff", b""), 0: (b"\xff", b"")}, block_size=BLOCK)
    short = BLOCK - 512
    at = build.entry(image, 1) * 512 + 1024
    del image[at : at + short]
    image = build.set_entry(image, 0, build.entry(image, 0) - short // 512)
    assert run(tmp_path, image)[0] == []


def test_unused_space_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "SLACK", 4096)
    findings, _ = run(tmp_path, build.set_entry(blocks(), 5, 0xFFFFFFFF))
    assert kinds(findings) == [(NOTE, Reason.LEAKED)]
    assert findings[0].offset == build.entry(blocks(), 5) * 512


def test_block_behind_the_end_of_the_disk_is_doubted(tmp_path: Path) -> None:
    image = blocks()
    for name, value in (("creator", b"vpc "), ("cylinders", 5), ("heads", 4), ("sectors", 1)):
        image = build.patch(image, "both", name, value)  # 20 sectors: blocks 0 to 2
    findings, statistics = run(tmp_path, image)
    assert kinds(findings) == [(WARNING, Reason.LEAKED)]
    assert findings[0].guest_offset == 5 * BLOCK
    assert statistics.total_units == 3


def test_more_blocks_than_are_compared_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "MAX_PLACES", 1)
    assert kinds(run(tmp_path, blocks())[0]) == [(NOTE, Reason.OVERLAP)]


def test_more_blocks_than_fit_into_the_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "WINDOW_ROWS", 1)
    image = blocks()
    for number in range(8):
        image = build.set_entry(image, number, build.entry(blocks(), 2))
    assert {finding.reason for finding in run(tmp_path, image)[0]} == {Reason.SHARED_CLUSTERS}


def test_bitmaps_are_taken_apart_in_pieces_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build.dynamic(8 * BLOCK, {n: (bytes([0xFF ^ 1 << n]), b"x" * BLOCK) for n in range(8)}, block_size=BLOCK)
    whole = run(tmp_path, image)
    monkeypatch.setattr(vhd_check, "MAX_BITS", 8)
    monkeypatch.setattr(vhd_map, "MAX_BITMAP_BYTES", 1024)
    assert run(tmp_path, image) == whole
    assert whole[0][0].message.startswith("4 KiB")


SIZE, LARGE = 24 << 20, 2 << 20
MAP_AT = 2048


def of_xenserver(bits: bytes = b"\x40", **changed: int) -> bytearray:
    """Twelve blocks, number 1 full and number 2 stored by half; `bits` and `changed` go into the bat map."""
    blocks = {1: (build.full(LARGE), b"x" * LARGE), 2: (b"\xff" * 256, b"y" * (LARGE // 2))}
    return build.dynamic(
        SIZE, blocks, block_size=LARGE, changed={"creator": b"tap\0", "creator_version": 0x10003},
        bat_map=build.bat_map(MAP_AT, bits, **changed),
    )  # fmt: skip


BAT_MAPS: dict[str, tuple[Callable[[], bytearray], list[tuple[Severity, Reason]]]] = {
    "right": (of_xenserver, []),
    "empty": (lambda: of_xenserver(b"\0"), []),
    "half-block": (lambda: of_xenserver(b"\x60"), [(WARNING, Reason.DIFFERENTIAL)]),
    "no-block": (lambda: of_xenserver(b"\x50"), [(WARNING, Reason.DIFFERENTIAL)]),
    "behind-the-disk": (lambda: of_xenserver(b"\x40\0\xff"), []),
    "checksum": (lambda: of_xenserver(checksum=1), [(WARNING, Reason.BAD_CHECKSUM)]),
"version": (lambda: of_xenserver(version=0x10003), [(WARNING, Reason.BAD_VALUE)]),
    "outside": (lambda: of_xenserver(offset=1 << 40), [(WARNING, Reason.OUT_OF_FILE)]),
    "too-small": (lambda: of_xenserver(sectors=0), [(WARNING, Reason.BAD_VALUE)]),
    "signed-checksum": (
        lambda: of_xenserver(b"\x40\x00\xff", version=0x10001, checksum=~(0x40 - 1) & 0xFFFFFFFF), []),
    "of-another-creator": (lambda: build.patch(of_xenserver(b"\x60"), "both", "creator", b"win "), []),
}  # fmt: skip


@pytest.mark.parametrize("name", BAT_MAPS)
def test_bat_map_of_xenserver_is_compared(tmp_path: Path, name: str) -> None:
    make, expected = BAT_MAPS[name]
    assert kinds(run(tmp_path, make())[0]) == expected


def test_bat_map_that_lies_is_told_with_its_first_block(tmp_path: Path) -> None:
    (finding,), _ = run(tmp_path, of_xenserver(b"\x78"))  # blocks 1 to 4; only 1 is full
    assert (finding.offset, finding.guest_offset) == (MAP_AT + 512, 2 * LARGE)
    assert "of 3 blocks" in finding.message


def test_bat_map_is_no_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhd_check, "SLACK", 0)
    assert run(tmp_path, of_xenserver())[0] == []


@pytest.mark.parametrize(("disk_type", "expected"), [(4, [(WARNING, Reason.OVERLAP)]), (3, [])])
@pytest.mark.parametrize("at", [0, 1, 8])
def test_block_on_the_name_of_the_parent_is_doubted(
    tmp_path: Path, disk_type: int, expected: list[object], at: int
) -> None:
    image = build.dynamic(4 * BLOCK, {0: (b"\xff", b"x")}, disk_type=disk_type, locators=[(b"W2ru", b"p\0")])
    sector = build.entry(image, 0) + at
    where = struct.pack(">4sIIIQ", b"W2ru", 512, 2, 0, sector * 512)
    image = build.patch(image, "header", "locators", where.ljust(192, b"\0"))
    findings, _ = run(tmp_path, image)
    assert kinds(findings) == expected
    assert all(finding.offset == sector * 512 for finding in findings)


def test_block_beside_the_name_of_the_parent_is_fine(tmp_path: Path) -> None:
    locators = [(b"W2ru", b"p\0"), (b"W2ku", b"p\0")]
    image = build.dynamic(4 * BLOCK, {0: (b"\xff", b"x"), 3: (b"\xff", b"x")}, disk_type=4, locators=locators)
    assert run(tmp_path, image)[0] == []


def test_block_on_the_bat_map_is_doubted(tmp_path: Path) -> None:
    image = of_xenserver()
    first = build.entry(image, 1)
    findings, _ = run(tmp_path, build.set_entry(image, 1, first - 1))
    assert (WARNING, Reason.OVERLAP) in kinds(findings)
