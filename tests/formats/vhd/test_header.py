"""What is accepted, doubted and refused of footers and dynamic headers: one hostile image a check."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import vhd as build

from diskfmt.errors import CorruptError, DiskfmtError, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image
from diskfmt.formats.vhd.header import open_image
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
NOTE, WARNING, DAMAGE, ERROR = sorted(Severity)
Opener = Callable[[bytes | bytearray], Image]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def do(image: bytes | bytearray) -> Image:
        path = tmp_path / "d.vhd"
        path.write_bytes(image)
        with SourceFile(str(path)) as source:
            return open_image(source)

    return do


def good(**changed: object) -> bytearray:
    """Four blocks of 512 KiB, one stored."""
    size = 512 << 10
    return build.dynamic(4 * size, {1: (build.full(size), b"data")}, block_size=size, changed=changed)


def found(image: Image) -> list[tuple[Severity, Reason]]:
    return [(finding.severity, finding.reason) for finding in image.findings]


def test_dynamic_disk_is_described(opened: Opener) -> None:
    image = opened(good())
    assert (image.format, image.subformat, image.virtual_size, image.unit) == ("vhd", "dynamic", 2 * MIB, 512 << 10)
    assert image.findings == ()
    assert image.references == ()
    assert image.extra == {"dirty-flag": False}
    assert image.specific == {
        "type": "dynamic",
        "creator": "win ",
        "creator-version": "6.3",
        "creator-host-os": "Wi2k",
        "created": "2000-01-02T00:00:00+00:00",
        "unique-id": "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "original-size": 2 * MIB,
        "current-size": 2 * MIB,
        "geometry": {"cylinders": 65535, "heads": 16, "sectors": 255},
        "geometry-size": 136899993600,
        "saved-state": False,
        "block-size": 512 << 10,
        "max-table-entries": 4,
    }


def test_fixed_disk_is_described(opened: Opener) -> None:
    image = opened(build.fixed(bytes(MIB)))
    assert (image.subformat, image.virtual_size, image.unit) == ("fixed", MIB, None)
    assert image.findings == ()
    assert image.header.dynamic is None


@pytest.mark.parametrize("creator", [b"vpc ", b"qemu"])
def test_size_of_geometry_creators_is_the_geometry(opened: Opener, creator: bytes) -> None:
    image = opened(good(creator=creator, cylinders=60, heads=4, sectors=17))
    assert image.virtual_size == 60 * 4 * 17 * 512
    assert found(image) == [(WARNING, Reason.DIFFERENTIAL)]
    assert str(2 * MIB) in image.findings[0].message


@pytest.mark.parametrize(
    "creator", [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"xo  ", b"vbox", b"vs  ", b"\0\0\0\0"]
)
def test_size_of_other_creators_is_the_current_size(opened: Opener, creator: bytes) -> None:
    image = opened(good(creator=creator, cylinders=30, heads=4, sectors=17))
    assert image.virtual_size == 2 * MIB
    assert found(image) == [(WARNING, Reason.DIFFERENTIAL)]


@pytest.mark.parametrize("creator", [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"])
def test_rounding_of_the_specification_is_no_finding(opened: Opener, creator: bytes) -> None:
    assert opened(good(creator=creator, cylinders=60, heads=4, sectors=17)).findings == ()


@pytest.mark.parametrize("creator", [b"xo  ", b"vbox"])
def test_rounding_with_a_creator_that_readers_do_not_know_is_doubted(opened: Opener, creator: bytes) -> None:
    image = opened(good(creator=creator, cylinders=60, heads=4, sectors=17))
    assert found(image) == [(WARNING, Reason.DIFFERENTIAL)]


@pytest.mark.parametrize("creator", [b"vpc ", b"qemu", b"win ", b"xo  "])
def test_largest_geometry_means_current_size(opened: Opener, creator: bytes) -> None:
    image = opened(good(creator=creator))
    assert image.virtual_size == 2 * MIB
    assert image.findings == ()


def test_geometry_of_zero_is_not_believed(opened: Opener) -> None:
    image = opened(good(creator=b"vpc ", cylinders=0, heads=0, sectors=0))
    assert image.virtual_size == 2 * MIB
    assert found(image) == [(WARNING, Reason.DIFFERENTIAL)]


def good_with_table(entries: int) -> bytearray:
    """A disk without blocks whose BAT has so many entries, as XenServer makes it for a disk that may grow."""
    end = build.footer(4 * MIB, 3)
    table = (b"\xff" * (4 * entries)).ljust(-(-entries * 4 // 512) * 512, b"\xff")
    return bytearray(end + build.header(entries, 2 * MIB) + table + end)


FINDINGS: dict[str, tuple[Callable[[], bytearray], list[tuple[Severity, Reason]]]] = {
    "original-size": (lambda: good(original_size=MIB), [(WARNING, Reason.DIFFERENTIAL)]),
    "saved-state": (lambda: good(saved_state=1), [(WARNING, Reason.UNCLEAN)]),
    "hidden": (lambda: good(hidden=1), [(NOTE, Reason.BAD_VALUE)]),
    "hidden-at-the-head-only": (lambda: build.patch(good(), "head", "hidden", 1), []),
    "hidden-by-old-tapdisk": (
        lambda: build.patch(good(creator=b"tap\0", creator_version=0x10001), "both", "hidden", 1, mend=False),
        [(NOTE, Reason.BAD_VALUE)]),
    "hidden-by-new-tapdisk": (
        lambda: build.patch(good(creator=b"tap\0", creator_version=0x10003), "both", "hidden", 1, mend=False),
        [(ERROR, Reason.BAD_CHECKSUM), (NOTE, Reason.BAD_VALUE)]),
    "old-bits": (lambda: good(creator=b"tap\0", creator_version=1), [(WARNING, Reason.DIFFERENTIAL)]),
    "old-bits-in-one-copy": (
        lambda: build.patch(good(creator=b"tap\0", creator_version=0x10001), "head", "creator_version", 1),
        [(ERROR, Reason.DIFFERENTIAL)]),
    "creator-version-in-one-copy": (
        lambda: build.patch(good(), "head", "creator_version", 1), [(WARNING, Reason.DIFFERENTIAL)]),
    "reserved": (lambda: good(reserved=1), [(WARNING, Reason.BAD_VALUE)]),
    "temporary": (lambda: good(features=3), []),
    "reserved-feature-clear": (lambda: good(features=0), [(WARNING, Reason.BAD_VALUE)]),
    "unknown-feature": (lambda: good(features=6), [(ERROR, Reason.UNKNOWN_FEATURE)]),
    "tail-cookie": (
        lambda: build.patch(good(), "tail", "cookie", b"conectiX"), [(WARNING, Reason.TRUNCATED)]),
    "tail-checksum": (
        lambda: build.patch(good(), "tail", "checksum", 1), [(WARNING, Reason.BAD_CHECKSUM)]),
    "head-checksum": (
        lambda: build.patch(good(), "head", "checksum", 1), [(WARNING, Reason.BAD_CHECKSUM)]),
    "both-checksums": (
        lambda: build.patch(good(), "both", "checksum", 1), [(ERROR, Reason.BAD_CHECKSUM)]),
    "head-cookie": (lambda: build.patch(good(), "head", "cookie", b"conectiX"), [(WARNING, Reason.BAD_VALUE)]),
    "head-size": (
        lambda: build.patch(good(), "head", "current_size", MIB), [(ERROR, Reason.DIFFERENTIAL)]),
    "head-type": (lambda: build.patch(good(), "head", "disk_type", 4), [(ERROR, Reason.DIFFERENTIAL)]),
    "head-geometry": (lambda: build.patch(good(), "head", "heads", 15), [(ERROR, Reason.DIFFERENTIAL)]),
    "head-creator": (
        lambda: build.patch(good(), "head", "creator", b"qemu"), [(ERROR, Reason.DIFFERENTIAL)]),
    "head-time": (lambda: build.patch(good(), "head", "timestamp", 1), [(WARNING, Reason.DIFFERENTIAL)]),
    "header-checksum": (
        lambda: build.patch(good(), "header", "checksum", 1), [(ERROR, Reason.BAD_CHECKSUM)]),
    "header-data-offset": (
        lambda: build.patch(good(), "header", "data_offset", 512), [(WARNING, Reason.BAD_VALUE)]),
    "header-data-offset-of-the-text": (
        lambda: build.patch(good(), "header", "data_offset", 0xFFFFFFFF), []),
    "header-reserved1": (
        lambda: build.patch(good(), "header", "reserved1", b"\0\0\0\1"), [(WARNING, Reason.BAD_VALUE)]),
    "header-reserved2": (lambda: build.patch(good(), "header", "reserved2", 1), [(WARNING, Reason.BAD_VALUE)]),
    "parent-id": (
        lambda: build.patch(good(), "header", "parent_id", b"x" * 16), [(WARNING, Reason.EXTERNAL_REFERENCE)]),
    "differencing": (lambda: build.patch(good(), "both", "disk_type", 4), []),
    "locator-of-a-disk-without-parent": (
        lambda: build.dynamic(MIB, {}, block_size=MIB, locators=[(b"W2ku", b"p\0")]),
        [(WARNING, Reason.EXTERNAL_REFERENCE)]),
    "locator-longer-than-its-room": (
        lambda: build.patch(
            build.patch(good(), "both", "disk_type", 4), "header", "locators",
            struct.pack(">4sIIIQ", b"W2ku", 1, 514, 0, 2048)),
        [(WARNING, Reason.BAD_VALUE)]),
    "locator-too-long": (
        lambda: build.dynamic(MIB, {}, block_size=MIB, disk_type=4, locators=[(b"W2ku", bytes((64 << 10) + 2))]),
        [(ERROR, Reason.LIMIT_METADATA)]),
    "locator-outside-of-a-disk-without-parent": (
        lambda: build.patch(good(), "header", "locators", struct.pack(">4sIIIQ", b"W2ku", 512, 8, 0, 1 << 63)),
        [(WARNING, Reason.EXTERNAL_REFERENCE)]),
    "locator-outside": (
        lambda: build.patch(
            build.patch(good(), "both", "disk_type", 4), "header", "locators",
            struct.pack(">4sIIIQ", b"W2ku", 512, 8, 0, 1 << 63)),
        [(ERROR, Reason.OUT_OF_FILE)]),
    "small-blocks": (
        lambda: build.dynamic(8192, {0: (b"\xff", b"x")}, block_size=4096), [(WARNING, Reason.BAD_VALUE)]),
    "one-byte-more": (lambda: good() + b"x", [(ERROR, Reason.TRUNCATED)]),
    "length-odd-with-footer": (
        lambda: good()[:-512] + b"x" + good()[-512:], [(ERROR, Reason.DIFFERENTIAL)]),
    "footer-of-511-bytes": (lambda: good()[:-1], [(WARNING, Reason.DIFFERENTIAL)]),
    "fixed-511": (lambda: build.fixed(bytes(MIB))[:-1], [(WARNING, Reason.DIFFERENTIAL)]),
    "fixed-cut": (lambda: build.fixed(bytes(MIB))[512:], [(ERROR, Reason.TRUNCATED)]),
    "fixed-longer": (
        lambda: bytearray(512) + build.fixed(bytes(MIB)), [(ERROR, Reason.DIFFERENTIAL)]),
    "fixed-not-mib": (lambda: build.fixed(bytes(MIB + 512)), [(NOTE, Reason.BAD_VALUE)]),
    "fixed-data-offset-of-the-text": (
        lambda: build.fixed(bytes(MIB), data_offset=0xFFFFFFFF), [(WARNING, Reason.BAD_VALUE)]),
    "fixed-checksum": (lambda: build.fixed(bytes(MIB), checksum=1), [(ERROR, Reason.BAD_CHECKSUM)]),
    "fixed-with-forged-head": (
        lambda: build.fixed(build.footer(MIB, 3) + bytes(MIB - 512)), [(ERROR, Reason.DIFFERENTIAL)]),
    "fixed-geometry-larger": (
        lambda: build.fixed(bytes(MIB), creator=b"vpc ", cylinders=100, heads=4, sectors=17),
        [(WARNING, Reason.DIFFERENTIAL), (ERROR, Reason.TRUNCATED), (NOTE, Reason.BAD_VALUE)]),
    "table-with-spare-entries": (
        lambda: build.patch(good(), "header", "max_entries", 5), []),
    "table-of-a-disk-that-may-grow": (lambda: good_with_table(1 << 20), []),
    "table-too-large": (lambda: good_with_table((1 << 20) + 1), [(ERROR, Reason.LIMIT_METADATA)]),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_finding_of_one_change_is_named(opened: Opener, name: str) -> None:
    build_it, expected = FINDINGS[name]
    image = opened(build_it())
    assert found(image) == expected
    for finding in image.findings:
        assert finding.offset is not None
        assert finding.message[0].islower() or finding.message[0].isdigit()
        assert not finding.message.endswith(".")
        assert finding.remedy or finding.severity is not ERROR


def header_with(name: str, value: object) -> Callable[[], bytearray]:
    return lambda: build.patch(good(), "header", name, value)


def footer_with(name: str, value: object) -> Callable[[], bytearray]:
    return lambda: build.patch(good(), "both", name, value)


REFUSED: dict[str, tuple[Callable[[], bytes | bytearray], type[DiskfmtError], Reason, int | None]] = {
    "empty": (lambda: b"", RefusedError, Reason.FORMAT_MISMATCH, None),
    "raw": (lambda: bytes(4096), RefusedError, Reason.FORMAT_MISMATCH, None),
    "no-footer": (lambda: build.fixed(bytes(MIB))[:-512], RefusedError, Reason.FORMAT_MISMATCH, None),
    "version": (footer_with("version", 0x20000), RefusedError, Reason.UNSUPPORTED_SUBFORMAT, 12),
    "type-0": (footer_with("disk_type", 0), CorruptError, Reason.BAD_VALUE, 60),
    "type-5": (footer_with("disk_type", 5), CorruptError, Reason.BAD_VALUE, 60),
    "size-zero": (footer_with("current_size", 0), CorruptError, Reason.BAD_VALUE, 48),
    "size-odd": (footer_with("current_size", MIB + 1), CorruptError, Reason.BAD_VALUE, 48),
    "size-over-the-limit": (
        footer_with("current_size", (2040 << 30) + 512), LimitError, Reason.LIMIT_SIZE, 48),
    "size-max": (footer_with("current_size", (1 << 64) - 1), LimitError, Reason.LIMIT_SIZE, 48),
    "data-offset-odd": (footer_with("data_offset", 513), CorruptError, Reason.BAD_VALUE, 16),
    "data-offset-zero": (footer_with("data_offset", 0), CorruptError, Reason.BAD_VALUE, 16),
    "data-offset-outside": (footer_with("data_offset", 1 << 62), CorruptError, Reason.OUT_OF_FILE, None),
    "data-offset-elsewhere": (footer_with("data_offset", 1024), CorruptError, Reason.BAD_VALUE, None),
    "fixed-data-offset": (
        lambda: build.fixed(bytes(MIB), data_offset=512), CorruptError, Reason.BAD_VALUE, 16),
    "fixed-head-only": (
        lambda: build.footer(MIB, 2) + bytes(4096), CorruptError, Reason.BAD_VALUE, None),
    "header-cookie": (header_with("cookie", b"cxsparsX"), CorruptError, Reason.BAD_VALUE, None),
    "header-version": (
        header_with("version", 0x20000), RefusedError, Reason.UNSUPPORTED_SUBFORMAT, None),
    "block-size-zero": (header_with("block_size", 0), CorruptError, Reason.BAD_VALUE, None),
    "block-size-odd": (header_with("block_size", 3 * MIB), CorruptError, Reason.BAD_VALUE, None),
    "block-size-small": (header_with("block_size", 2048), LimitError, Reason.LIMIT_METADATA, None),
    "block-size-large": (header_with("block_size", 1 << 29), LimitError, Reason.LIMIT_METADATA, None),
    "table-too-small": (header_with("max_entries", 3), CorruptError, Reason.BAD_VALUE, None),
    "table-outside": (header_with("max_entries", 0xFFFFFFFF), CorruptError, Reason.OUT_OF_FILE, None),
    "table-behind": (header_with("table_offset", 1 << 62), CorruptError, Reason.OUT_OF_FILE, None),
    "table-odd": (header_with("table_offset", 1537), CorruptError, Reason.BAD_VALUE, None),
    "table-on-the-footer": (header_with("table_offset", 0), CorruptError, Reason.BAD_VALUE, None),
    "table-on-the-header": (header_with("table_offset", 1024), CorruptError, Reason.OVERLAP, None),
    "cut-in-header": (lambda: good()[:1200], CorruptError, Reason.TRUNCATED, None),
    "cut-in-table": (lambda: good()[:1540], CorruptError, Reason.TRUNCATED, None),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_structure_without_sense_is_refused(opened: Opener, name: str) -> None:
    build_it, kind, reason, field = REFUSED[name]
    with pytest.raises(kind) as caught:
        opened(build_it())
    assert caught.value.reason is reason
    assert caught.value.remedy
    if field is not None:
        assert caught.value.offset == len(build_it()) - 512 + field


def test_copy_at_the_head_counts_if_the_tail_is_damaged(opened: Opener) -> None:
    damaged = build.patch(build.patch(good(), "tail", "current_size", MIB, mend=False), "tail", "checksum", 7)
    image = opened(damaged)
    assert image.virtual_size == 2 * MIB
    assert image.header.data_end == len(damaged) - 512


def test_parent_is_named_in_every_spelling_and_nothing_is_opened(opened: Opener) -> None:
    image = build.dynamic(
        1 << 20, {}, block_size=1 << 20, disk_type=4,
        changed_header=build.parent_fields("parent.vhd", b"p" * 16, 86400),
        locators=[
            (b"MacX", b"file:///vm/a%20b.vhd"),
            (b"Mac ", b"alias"),
            (b"W2ku", r"C:\vm\parent.vhd".encode("utf-16-le")),
            (b"W2ru", r"..\vm\parent.vhd".encode("utf-16-le")),
        ],
    )  # fmt: skip
    described = opened(image)
    assert [(reference.name, reference.offset) for reference in described.references] == [
        (r"..\vm\parent.vhd", 2048 + 3 * 512), (r"C:\vm\parent.vhd", 2048 + 2 * 512), ("parent.vhd", 576),
        ("/vm/a b.vhd", 2048)]  # fmt: skip
    assert {(reference.kind, reference.format) for reference in described.references} == {("parent", "vhd")}
    assert described.subformat == "differencing"
    assert found(described) == []
    specific: Any = described.specific
    assert specific["parent-unique-id"] == "70707070-7070-7070-7070-707070707070"
    assert specific["parent-modified"] == "2000-01-02T00:00:00+00:00"


@pytest.mark.parametrize(
    ("version", "encoded"),
    [
        (0x10003, "parent.vhd".encode("utf-16-be")),
        (1, "parent.vhd".encode("utf-16-le")),
        (1, b"\xff\xfe" + "parent.vhd".encode("utf-16-le")),
        (1, b"\xfe\xff" + "parent.vhd".encode("utf-16-be")),
    ],
)
def test_name_in_the_header_is_read_as_its_tapdisk_wrote_it(opened: Opener, version: int, encoded: bytes) -> None:
    fields = {"parent_id": b"p" * 16, "parent_name": encoded.ljust(512, b"\0")}
    changed = {"creator": b"tap\0", "creator_version": version}
    image = opened(build.dynamic(4096, {}, disk_type=4, changed=changed, changed_header=fields))
    assert [reference.name for reference in image.references] == ["parent.vhd"]


def test_url_of_another_kind_stays_as_it_is_so_that_nobody_follows_it(opened: Opener) -> None:
    image = opened(build.dynamic(4096, {}, disk_type=4, locators=[(b"MacX", b"http://host/file%3A/p.vhd")]))
    assert [reference.name for reference in image.references] == ["http://host/file%3A/p.vhd"]


def test_name_longer_than_a_sector_is_read_to_its_end(opened: Opener) -> None:
    name = "\\".join(["directory"] * 200) + "\\parent.vhd"
    image = opened(build.dynamic(4096, {}, disk_type=4, locators=[(b"W2ku", name.encode("utf-16-le"))]))
    assert [reference.name for reference in image.references] == [name]


def test_hidden_disk_is_described(opened: Opener) -> None:
    assert opened(good(hidden=1)).specific["hidden"] is True


def test_opening_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.vhd"
    path.write_bytes(good())
    total = 0
    real = SourceFile.read_at

    def counted(self: SourceFile, offset: int, length: int) -> bytes:
        nonlocal total
        total += length
        return real(self, offset, length)

    monkeypatch.setattr(SourceFile, "read_at", counted)
    with SourceFile(str(path)) as source:
        open_image(source)
    assert total <= 4096


def told(opened: Opener, image: bytes | bytearray) -> bool:
    """Whether opening an image refuses it, or names a doubt."""
    try:
        return bool(opened(image).findings)
    except DiskfmtError as error:
        return error.reason is not Reason.INTERNAL


@pytest.mark.parametrize("at", [*range(0, 1536, 7), -512, -448, -1])
def test_flipped_bit_of_a_record_is_told(opened: Opener, at: int) -> None:
    image = good()
    image[at] ^= 0x10
    assert told(opened, image)


@pytest.mark.parametrize("edge", [0, 512, 1536, 1540, 2048, 2560, len(good()) - 512, len(good())])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_file_cut_at_a_boundary_is_told(opened: Opener, edge: int, by: int) -> None:
    length = edge + by
    if 0 <= length < len(good()):
        assert told(opened, good()[:length])
