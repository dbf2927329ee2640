"""What the bytes of a VHD are for: against a count by hand, byte by byte."""

from pathlib import Path

import numpy as np
import pytest
from builders import vhd as build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import Corpus

from diskfmt.extents import Kind
from diskfmt.formats.vhd import FORMAT
from diskfmt.formats.vhd import map as vhd_map
from diskfmt.formats.vhd import regions as vhd_regions
from diskfmt.stores.source import SourceFile

BLOCK = 4096
CODES = {"header": "H", "table": "T", "preallocated": "p"}


def sectors(path: Path | str) -> str:
    """A letter for each sector of the file, rows as D, nothing as a dot. Proves that nothing is counted twice."""
    with SourceFile(str(path)) as source:
        image = FORMAT.open(source)
        seen = np.zeros(source.size, np.uint8)
        places = [
            (CODES[found.kind], int(offset), int(length))
            for found in FORMAT.regions(image, [source])
            for offset, length in zip(found.offsets, found.lengths, strict=True)
        ]
        for rows in FORMAT.extents(image, [source], 0, image.virtual_size):
            places += [("D", int(row["host_off"]), int(row["length"])) for row in rows[rows["kind"] == Kind.DATA]]
        for code, offset, length in places:
            assert 0 < length <= source.size - offset
            assert not seen[offset : offset + length].any(), (code, offset)
            seen[offset : offset + length] = ord(code)
    text = seen.tobytes().replace(b"\0", b".").decode()
    whole = [text[at : at + 512] for at in range(0, len(text), 512)]
    assert all(len(set(sector)) == 1 for sector in whole)
    return "".join(sector[0] for sector in whole)


def told(path: Path, image: bytes | bytearray) -> str:
    path.write_bytes(image)
    return sectors(path)


def test_fixed_disk_is_data_and_a_footer(tmp_path: Path) -> None:
    assert told(tmp_path / "d", build.fixed(b"x" * 2048)) == "DDDDH"


def test_dynamic_disk_is_told_sector_by_sector(tmp_path: Path) -> None:
    image = build.dynamic(3 * BLOCK, {2: (b"\xff", b""), 0: (b"\x1e", b"")}, block_size=BLOCK)
    assert told(tmp_path / "d", image) == "HHHT" "TDDDDDDDD" "TpppDDDDp" "H"  # fmt: skip


def test_what_lies_between_blocks_is_nothing(tmp_path: Path) -> None:
    image = build.set_entry(build.dynamic(2 * BLOCK, {0: (b"\xff", b""), 1: (b"\xff", b"")}), 0, 0xFFFFFFFF)
    assert told(tmp_path / "d", image) == "HHHT" "........." "TDDDDDDDD" "H"  # fmt: skip


@pytest.mark.parametrize("bits", [b"\xff", b"\xc0", b"\x3f", b"\0"])
def test_last_block_has_more_than_the_disk(tmp_path: Path, bits: bytes) -> None:
    image = build.dynamic(BLOCK + 1024, {1: (bits, b"")}, block_size=BLOCK)
    start = "DD" if bits in (b"\xff", b"\xc0") else "pp"
    assert told(tmp_path / "d", image) == "HHHT" "T" + start + "pppppp" "H"  # fmt: skip


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_short_last_block_has_no_more_than_the_disk(tmp_path: Path, order: tuple[int, int]) -> None:
    image = build.dynamic(BLOCK + 1024, dict.fromkeys(order, (b"\xff", b"")), block_size=BLOCK)
    at = build.entry(image, 1) * 512 + 512 + 1024
    del image[at : at + BLOCK - 1024]
    if order == (1, 0):
        image = build.set_entry(image, 0, build.entry(image, 0) - 6)
    blocks = {1: "TDD", 0: "TDDDDDDDD"}
    assert told(tmp_path / "d", image) == "HHHT" + "".join(blocks[number] for number in order) + "H"


def test_differencing_disk_has_names_of_its_parent(tmp_path: Path) -> None:
    image = build.dynamic(BLOCK, {0: (b"\xf0", b"")}, disk_type=4, locators=[(b"W2ru", b"p\0"), (b"W2ku", bytes(600))])
    assert told(tmp_path / "d", image) == "HHHT" "T" "TT" "TDDDDpppp" "H"  # fmt: skip


def test_bat_map_of_xenserver_is_a_table(tmp_path: Path) -> None:
    image = build.dynamic(
        2 << 20, {}, block_size=2 << 20, changed={"creator": b"tap\0", "creator_version": 0x10003},
        bat_map=build.bat_map(2048, b"\0"),
    )  # fmt: skip
    assert told(tmp_path / "d", image) == "HHHTTTH"


def test_locator_outside_the_file_is_cut(tmp_path: Path) -> None:
    image = build.dynamic(BLOCK, {}, disk_type=4, locators=[(b"W2ru", b"p\0")])
    at = len(image) - 1024
    image[512 + 576 + 4 : 512 + 576 + 8] = (1 << 20).to_bytes(4, "big")
    image = build.patch(image, "header", "parent_timestamp", 1)
    (tmp_path / "d").write_bytes(image)
    with SourceFile(str(tmp_path / "d")) as source:
        tables = [found for found in FORMAT.regions(FORMAT.open(source), [source]) if found.kind == "table"]
    assert (at, len(image) - at) in [
        (int(offset), int(length))
        for found in tables
        for offset, length in zip(found.offsets, found.lengths, strict=True)
    ]


@given(
    bits=st.dictionaries(st.integers(0, 9), st.binary(min_size=1, max_size=1), max_size=8),
    missing=st.integers(0, 7),
    step=st.sampled_from([1, 2, 1 << 18]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_of_a_block_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, bits: dict[int, bytes], missing: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("regions") / "d.vhd"
    path.write_bytes(
        build.dynamic(10 * BLOCK - missing * 512, {n: (b, b"") for n, b in bits.items()}, block_size=BLOCK)
    )
    with pytest.MonkeyPatch.context() as patched:
        for module in (vhd_map, vhd_regions):
            patched.setattr(module, "WINDOW_ROWS", step)
            patched.setattr(module, "MAX_BITS", step * 8)
        found = sectors(path)
    want = "HHHT"
    for number, (byte,) in bits.items():
        on_disk = 8 - missing if number == 9 else 8
        want += "T" + "".join("D" if byte >> (7 - s) & 1 and s < on_disk else "p" for s in range(8))
    assert found == want + "H"


@pytest.mark.parametrize(
    "case", ["vhd-vhdutil-dynamic", "vhd-vhdutil-differencing", "vhd-vhdlib-dynamic", "vhd-dynamic-forceon"]
)
def test_foreign_image_has_little_that_is_for_nothing(corpus: Corpus, case: str) -> None:
    assert sectors(corpus.path(case)).count(".") < 64
