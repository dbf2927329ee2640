"""Golden bytes of the records, the checksum and the geometry."""

import pytest
from builders import vhd as build

from diskfmt.formats.vhd import records

# The first 84 bytes of both footers, and the first 40 of the dynamic header, of
# `qemu-img create -f vpc -o subformat=dynamic g.vhd 8M` (qemu-img 7.2.22); everything behind is zero.
QEMU_FOOTER = bytes.fromhex(
    "636f6e65637469780000000200010000" "000000000000020032985e2c71656d75"
    "000500035769326b0000000000800800" "000000000080080000f1041100000003"
    "ffffeff55285b51a3c3f4b0daf5fa46c" "02218fd5"
).ljust(512, b"\0")  # fmt: skip
QEMU_HEADER = bytes.fromhex(
    "6378737061727365ffffffffffffffff" "00000000000006000001000000000005" "00200000fffff472"
).ljust(1024, b"\0")  # fmt: skip


def test_footer_of_qemu_is_parsed_field_by_field() -> None:
    footer, good = records.parse_footer(QEMU_FOOTER)
    assert good
    assert footer.features == 2
    assert footer.version == 0x10000
    assert footer.data_offset == 512
    assert footer.timestamp == 0x32985E2C
    assert footer.creator == b"qemu"
    assert footer.creator_version == 0x50003
    assert footer.creator_os == b"Wi2k"
    assert footer.original_size == footer.current_size == 0x800800
    assert footer.geometry == (241, 4, 17)
    assert footer.geometry_size == 8390656
    assert footer.disk_type == records.DYNAMIC
    assert footer.checksum == 0xFFFFEFF5
    assert footer.unique_id.hex() == "5285b51a3c3f4b0daf5fa46c02218fd5"


def test_dynamic_header_of_qemu_is_parsed_field_by_field() -> None:
    header, good = records.parse_dynamic(QEMU_HEADER)
    assert good
    assert header.data_offset == records.NO_OFFSET
    assert header.table_offset == 1536
    assert (header.max_entries, header.block_size) == (5, 2 << 20)
    assert records.parse_locators(header.locators) == ()


def test_records_packed_again_equal_what_was_parsed() -> None:
    assert records.pack_footer(records.parse_footer(QEMU_FOOTER)[0]) == QEMU_FOOTER
    assert records.pack_dynamic(records.parse_dynamic(QEMU_HEADER)[0]) == QEMU_HEADER


def test_records_of_the_builder_are_good() -> None:
    assert records.parse_footer(build.footer(1 << 20, 3))[1]
    assert records.parse_dynamic(build.header(1, 4096))[1]


@pytest.mark.parametrize("at", range(0, 512, 37))
def test_checksum_with_one_byte_changed_is_wrong(at: int) -> None:
    changed = bytearray(QEMU_FOOTER)
    changed[at] ^= 1
    assert not records.parse_footer(bytes(changed))[1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Virtual PC's own answer for its largest disk, and those of XenServer's and qemu's writers for small ones.
        (136365211648, (65278, 16, 255)),
        (4 << 20, (120, 4, 17)),
        (16 << 20, (481, 4, 17)),
        (512, (0, 4, 17)),
        (65535 * 16 * 255 * 512, (65535, 16, 255)),
        (2040 << 30, (65535, 16, 255)),
        (65535 * 16 * 63 * 512, (16191, 16, 255)),
        (65535 * 16 * 63 * 512 - 512, (65534, 16, 63)),
        # The borders between 17, 31 and 63 sectors a track.
        (1024 * 16 * 17 * 512 - 512, (1023, 16, 17)),
        (1024 * 16 * 17 * 512, (561, 16, 31)),
        (1024 * 16 * 31 * 512 - 512, (1023, 16, 31)),
        (1024 * 16 * 31 * 512, (503, 16, 63)),
    ],
)
def test_geometry_of_a_size_follows_the_appendix(size: int, expected: tuple[int, int, int]) -> None:
    assert records.geometry(size) == expected


@pytest.mark.parametrize(
    ("block", "expected"), [(4096, 512), (512 << 10, 512), (2 << 20, 512), (4 << 20, 1024), (256 << 20, 65536)]
)
def test_bitmap_is_padded_to_sectors(block: int, expected: int) -> None:
    assert records.bitmap_size(block) == expected
