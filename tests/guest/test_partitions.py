"""Partition tables against sfdisk, sgdisk and blkid, and what is wrong with damaged ones."""

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Corpus, corpus_ids

from diskfmt.disk import open_disk
from diskfmt.guest.base import GuestError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.mbr import BootCode
from diskfmt.guest.partitions import Problem, Table, TableKind, read_table
from guest.kit import MIB, Memory, blkid, device, memory, need, run, sparse

MBR = """label: dos
label-id: 0x5eed0001
start=2048, size=4096, type=83, bootable
start=8192, size=4096, type=82
start=16384, size=40960, type=f
start=18432, size=2048, type=83
start=22528, size=2048, type=7
start=26624, size=2048, type=8e
"""
GPT = """label: gpt
label-id: 5EED0000-0000-4000-8000-0000000000D0
start=2048, size=4096, type=21686148-6449-6E6F-744E-656564454649, name="BIOS boot"
start=8192, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="ESP", attrs="RequiredPartition GUID:63"
start=20480, size=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="größer ☃", attrs="LegacyBIOSBootable"
"""
ATTRIBUTES = {"RequiredPartition": 0, "NoBlockIOProtocol": 1, "LegacyBIOSBootable": 2}


def disk(path: Path, script: str, size: int = 32 * MIB) -> Path:
    need("sfdisk")
    sparse(path, size)
    run("sfdisk", "-q", path, stdin=script)
    return path


def agrees(table: Table, path: Path) -> None:
    """Prove that a table is what sfdisk and blkid say it is."""
    printed: dict[str, Any] = json.loads(run("sfdisk", "--json", path))["partitiontable"]
    assert table.id == printed["id"]
    assert {"dos": TableKind.MBR, "gpt": TableKind.GPT}[printed["label"]] is table.kind
    assert len(table.partitions) == len(printed.get("partitions", []))
    for ours, theirs in zip(table.partitions, printed.get("partitions", []), strict=True):
        assert ours.number == int(re.search(r"\d+$", theirs["node"])[0])  # type: ignore[index]
        assert (ours.start, ours.size) == (theirs["start"] * 512, theirs["size"] * 512)
        assert ours.type == theirs["type"]
        if table.kind is TableKind.GPT:
            assert ours.name == theirs.get("name", "")
            assert ours.partuuid == theirs["uuid"].lower()
            assert ours.attributes == attributes(theirs.get("attrs", ""))
        else:
            assert ours.active == theirs.get("bootable", False)
    assert table.id.lower().removeprefix("0x") == blkid(path)["PTUUID"]


def attributes(text: str) -> int:
    bits = [ATTRIBUTES[word] for word in text.split() if word in ATTRIBUTES]
    bits += [int(bit) for word in text.split() if word.startswith("GUID:") for bit in word[5:].split(",")]
    return sum(1 << bit for bit in bits)


def test_mbr_with_logical_partitions(tmp_path: Path) -> None:
    path = disk(tmp_path / "d", MBR)
    table = read_table(device(path))
    agrees(table, path)
    assert table.issues == ()
    assert [p.number for p in table.partitions] == [1, 2, 3, 5, 6, 7]
    assert [p.extended for p in table.partitions] == [False, False, True, False, False, False]
    assert [p.logical for p in table.partitions] == [False, False, False, True, True, True]
    assert [p.partuuid for p in table.partitions][3:] == ["5eed0001-05", "5eed0001-06", "5eed0001-07"]
    assert table.boot.code is BootCode.ZERO


def test_gpt(tmp_path: Path) -> None:
    path = disk(tmp_path / "d", GPT)
    table = read_table(device(path))
    agrees(table, path)
    assert table.issues == ()
    assert table.mbr.strict
    assert [p.active for p in table.partitions] == [False, False, True]
    assert table.gpt is not None
    assert table.gpt.backup_at_end


def test_empty_gpt_and_empty_disk(tmp_path: Path) -> None:
    path = disk(tmp_path / "d", "label: gpt\n")
    agrees(read_table(device(path)), path)
    assert read_table(memory(bytes(MIB))).kind is TableKind.NONE


def test_partuuids_are_those_of_blkid(tmp_path: Path) -> None:
    for name, script in (("mbr", MBR), ("gpt", GPT)):
        path = disk(tmp_path / name, script)
        for partition in read_table(device(path)).partitions:
            if partition.extended:
                continue
            part = tmp_path / f"{name}-{partition.number}"
            part.write_bytes(b"")
            said = run("partx", "-g", "-o", "UUID,START", "-n", str(partition.number), path).split()
            assert (partition.partuuid, partition.start // 512) == (said[0], int(said[1]))


def test_4096_byte_sectors(tmp_path: Path) -> None:
    need("sgdisk")
    path = sparse(tmp_path / "d", 64 * MIB)
    raw = bytearray(gpt_disk(64 * MIB, 4096, [(256, 511), (512, 4095)]))
    path.write_bytes(raw)
    table = read_table(device(path))
    assert (table.kind, table.sector_size, table.issues) == (TableKind.GPT, 4096, ())
    assert [(p.start, p.size) for p in table.partitions] == [(MIB, MIB), (2 * MIB, 14 * MIB)]
    said = run("sfdisk", "--sector-size", "4096", "--json", path) if _sfdisk_has("--sector-size") else None
    if said is not None:
        parts = json.loads(said)["partitiontable"]["partitions"]
        assert [(p["start"] * 4096, p["size"] * 4096) for p in parts] == [(p.start, p.size) for p in table.partitions]


def _sfdisk_has(option: str) -> bool:
    return option in run("sfdisk", "--help")


def test_hybrid(tmp_path: Path) -> None:
    need("sgdisk")
    path = disk(tmp_path / "d", GPT)
    run("sgdisk", "-h", "2:3", path)
    table = read_table(device(path))
    assert table.kind is TableKind.HYBRID
    assert not table.mbr.strict
    assert len(table.partitions) == 3
    assert sorted(record.type for record in table.mbr.used) == [0x83, 0xEE, 0xEF]


@pytest.mark.parametrize("writer", ["sfdisk", "sgdisk", "parted"])
def test_protective_mbr_is_strict(tmp_path: Path, writer: str) -> None:
    need(writer)
    path = sparse(tmp_path / "d", 32 * MIB)
    match writer:
        case "sfdisk":
            run("sfdisk", "-q", path, stdin=GPT)
        case "sgdisk":
            run("sgdisk", "-n", "1:2048:4096", path)
        case _:
            run("parted", "-s", path, "mklabel", "gpt")
    assert read_table(device(path)).mbr.strict


@pytest.mark.parametrize(
    ("place", "value"), [(446, 0x81), (447, 1), (448, 1), (450, 0xEF), (454, 2), (466, 0x83), (510, 0)]
)
def test_protective_mbr_that_is_not_strict(tmp_path: Path, place: int, value: int) -> None:
    raw = bytearray(disk(tmp_path / "d", GPT).read_bytes())
    raw[place] = value
    assert not read_table(memory(raw)).mbr.strict


# ---- what is wrong with a GPT ----------------------------------------------------------------------------------------


def gpt_disk(size: int, unit: int, parts: list[tuple[int, int]]) -> bytes:
    """A disk with a GPT, written from the specification and not by the code that is tested."""
    raw = bytearray(size)
    last = size // unit - 1
    raw[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    raw[510:512] = b"\x55\xaa"
    table = bytearray(128 * 128)
    for number, (first, end) in enumerate(parts):
        kind = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
        table[128 * number : 128 * number + 56] = kind + bytes([number + 1] * 16) + struct.pack("<QQQ", first, end, 0)
    sectors = len(table) // unit
    for own, other, at in ((1, last, 2), (last, 1, last - sectors)):
        raw[at * unit : at * unit + len(table)] = table
        fields = (own, other, 2 + sectors, last - sectors - 1, b"G" * 16, at, 128, 128, zlib.crc32(table))
        header = bytearray(struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, *fields))
        header[16:20] = struct.pack("<I", zlib.crc32(header))
        raw[own * unit : own * unit + 92] = header
    return bytes(raw)


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return disk(tmp_path_factory.mktemp("gpt") / "d", GPT, 16 * MIB).read_bytes()


def problems(raw: bytes | bytearray) -> set[str]:
    return {issue.problem.value for issue in read_table(memory(raw)).issues}


def test_primary_header_wiped(gpt: bytes) -> None:
    raw = bytearray(gpt)
    raw[512:1024] = bytes(512)
    table = read_table(memory(raw))
    assert (table.kind, len(table.partitions)) == (TableKind.GPT, 3)
    assert problems(raw) == {"primary-missing"}


@pytest.mark.parametrize("place", [512 + 17, 512 + 40, 512 + 60, 1024 + 5, 1024 + 40])
def test_primary_damaged(gpt: bytes, place: int) -> None:
    raw = bytearray(gpt)
    raw[place] ^= 1
    table = read_table(memory(raw))
    assert len(table.partitions) == 3
    assert problems(raw) == {"primary-bad"}


def test_backup_damaged_or_missing(gpt: bytes) -> None:
    raw = bytearray(gpt)
    raw[-512 + 40] ^= 1
    assert problems(raw) == {"backup-bad"}
    raw[-512:] = bytes(512)
    assert problems(raw) == {"backup-missing"}


def test_image_enlarged_and_mended_by_sgdisk(gpt: bytes, tmp_path: Path) -> None:
    raw = gpt + bytes(MIB)
    assert problems(raw) == {"backup-misplaced"}
    need("sgdisk")
    path = tmp_path / "d"
    path.write_bytes(raw)
    run("sgdisk", "-e", path)
    assert problems(path.read_bytes()) == set()


def test_image_cut_short(gpt: bytes) -> None:
    raw = gpt[: 8 * MIB]
    table = read_table(memory(raw))
    assert problems(raw) == {"primary-bad", "backup-missing", "past-end"}
    assert [issue.numbers for issue in table.issues if issue.problem is Problem.PAST_END] == [(3,)]
    assert len(table.partitions) == 3


def test_protective_mbr_wiped(gpt: bytes) -> None:
    raw = bytes(512) + gpt[512:]
    assert read_table(memory(raw)).kind is TableKind.GPT
    assert problems(raw) == {"protective-missing"}


def test_protective_mbr_without_gpt(gpt: bytes) -> None:
    raw = gpt[:512] + bytes(len(gpt) - 512)
    table = read_table(memory(raw))
    assert (table.kind, table.partitions) == (TableKind.GPT, ())
    assert problems(raw) == {"primary-missing"}


def test_headers_that_say_different_things(gpt: bytes) -> None:
    raw = bytearray(gpt)
    raw[-512 + 56] ^= 1  # the disk's GUID
    header = bytearray(raw[-512:-420])
    header[16:20] = bytes(4)
    raw[-496:-492] = struct.pack("<I", zlib.crc32(header))
    assert problems(raw) == {"backup-differs"}


def test_left_over_gpt_under_an_mbr(gpt: bytes, tmp_path: Path) -> None:
    mbr = disk(tmp_path / "d", MBR, 16 * MIB * 2).read_bytes()
    table = read_table(memory(mbr[:512] + gpt[512:]))
    assert table.kind is TableKind.MBR
    assert table.has(Problem.STALE_GPT)
    assert table.gpt is not None


def test_left_over_backup_under_a_file_system(gpt: bytes, tmp_path: Path) -> None:
    need("mke2fs")
    path = tmp_path / "d"
    path.write_bytes(gpt)
    run("mke2fs", "-q", "-F", path, "8M")
    table = read_table(device(path))
    assert (table.kind, table.partitions) == (TableKind.NONE, ())
    assert table.has(Problem.STALE_GPT)


def test_gpt_entries_that_overlap_or_run_backwards() -> None:
    raw = gpt_disk(16 * MIB, 512, [(2048, 8191), (4096, 4097), (8000, 9000), (20000, 19000)])
    table = read_table(memory(raw))
    overlaps = {issue.numbers for issue in table.issues if issue.problem is Problem.OVERLAP}
    assert overlaps == {(1, 2), (1, 3)}
    assert [issue.numbers for issue in table.issues if issue.problem is Problem.BACKWARDS] == [(4,)]


def test_absurd_gpt_numbers_are_not_followed(gpt: bytes) -> None:
    for place, value in ((72, 1 << 63), (80, 0xFFFFFFFF), (84, 0xFFFFFFFF), (84, 0), (12, 0), (12, 5000)):
        raw = bytearray(gpt)
        raw[512 + place : 512 + place + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        header = bytearray(raw[512 : 512 + 92])
        header[16:20] = bytes(4)
        raw[512 + 16 : 512 + 20] = struct.pack("<I", zlib.crc32(header))
        assert "primary-bad" in problems(raw)


# ---- what is wrong with an MBR ---------------------------------------------------------------------------------------


def record(kind: int, start: int, sectors: int, flag: int = 0) -> bytes:
    return struct.pack("<B3sB3sII", flag, bytes(3), kind, bytes(3), start, sectors)


def mbr_disk(size: int, *records: bytes) -> bytearray:
    raw = bytearray(size)
    raw[440:444] = b"\1\0\xed\x5e"
    for slot, entry in enumerate(records):
        raw[446 + 16 * slot : 462 + 16 * slot] = entry
    raw[510:512] = b"\x55\xaa"
    return raw


def chain(raw: bytearray, at: int, *records: bytes) -> None:
    for slot, entry in enumerate(records):
        raw[at * 512 + 446 + 16 * slot : at * 512 + 462 + 16 * slot] = entry
    raw[at * 512 + 510 : at * 512 + 512] = b"\x55\xaa"


def test_loop_in_the_chain() -> None:
    raw = mbr_disk(8 * MIB, record(5, 2048, 8192))
    chain(raw, 2048, record(0x83, 63, 100), record(5, 1000, 500))
    chain(raw, 3048, record(0x83, 63, 100), record(5, 0, 500))
    table = read_table(memory(raw))
    assert [p.number for p in table.partitions] == [1, 5, 6]
    assert {issue.problem for issue in table.issues} == {Problem.CHAIN_BAD}


def test_endless_chain_is_cut() -> None:
    raw = mbr_disk(8 * MIB, record(5, 2048, 14000))
    for number in range(1000):
        chain(raw, 2048 + number * 4, record(0x83, 1, 1), record(5, (number + 1) * 4, 4))
    table = read_table(memory(raw))
    assert len(table.partitions) == 257
    assert table.has(Problem.CHAIN_BAD)


def test_chain_that_leaves_the_disk_or_has_no_signature() -> None:
    for start in (1 << 30, 3000):
        raw = mbr_disk(8 * MIB, record(5, 2048, 8192))
        chain(raw, 2048, record(0x83, 63, 100), record(5, start, 500))
        table = read_table(memory(raw))
        assert [p.number for p in table.partitions] == [1, 5]
        assert table.has(Problem.CHAIN_BAD)


def test_past_the_end_overlapping_and_outside() -> None:
    raw = mbr_disk(
        8 * MIB, record(0x83, 2048, 4096), record(0x83, 6000, 100), record(5, 6100, 8000), record(7, 15000, 99999)
    )
    chain(raw, 6100, record(0x83, 9000, 100))
    table = read_table(memory(raw))
    found = {(issue.problem.value, issue.numbers) for issue in table.issues}
    assert found == {
        ("overlap", (1, 2)),
        ("overlap", (1, 3)),
        ("overlap", (4, 5)),
        ("past-end", (4,)),
        ("outside-extended", (5,)),
    }


def test_other_flags_are_no_partition_table() -> None:
    assert read_table(memory(mbr_disk(MIB, record(0x83, 1, 5, flag=0x7F)))).kind is TableKind.NONE


@pytest.mark.parametrize(
    "command",
    [
        ("mkfs.vfat", "-F", "12"),
        ("mkfs.vfat", "-F", "16"),
        ("mkfs.vfat", "-F", "32"),
        ("mkfs.vfat", "--mbr=n"),
        ("mkntfs", "-q", "-F"),
        ("mke2fs", "-q", "-F"),
        ("mkfs.xfs", "-q"),
        ("mkswap",),
    ],
    ids=" ".join,
)
def test_bare_file_systems_have_no_table(tmp_path: Path, command: tuple[str, ...]) -> None:
    need(command[0])
    path = sparse(tmp_path / "d", 300 * MIB if command[0] == "mkfs.xfs" else 40 * MIB if "32" in command else 12 * MIB)
    run(*command, path)
    assert "PTTYPE" not in blkid(path)
    assert read_table(device(path)).kind is TableKind.NONE


# ---- boot code -------------------------------------------------------------------------------------------------------

LOADERS = {
    "/usr/lib/grub/i386-pc/boot.img": BootCode.GRUB,
    "/usr/lib/syslinux/mbr/mbr.bin": BootCode.SYSLINUX,
    "/usr/lib/syslinux/mbr/gptmbr.bin": BootCode.SYSLINUX,
    "/usr/lib/EXTLINUX/altmbr.bin": BootCode.SYSLINUX,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_boot_code(loader: str, tmp_path: Path) -> None:
    if not Path(loader).exists():
        pytest.skip(f"no {loader}")
    raw = bytearray(disk(tmp_path / "d", MBR).read_bytes())
    code = Path(loader).read_bytes()[:440]
    raw[: len(code)] = code
    boot = read_table(memory(raw)).boot
    assert boot.code is LOADERS[loader]
    if boot.code is BootCode.GRUB:
        assert (boot.core, boot.core_zero) == (1, True)
        raw[512:520] = b"core.img"
        assert read_table(memory(raw)).boot.core_zero is False
        raw[0x5C:0x64] = b"\xff" * 8
        assert read_table(memory(raw)).boot.core_zero is None


def test_windows_and_unknown_boot_code() -> None:
    raw = mbr_disk(MIB, record(7, 1, 5, flag=0x80))
    raw[300:380] = b"Invalid partition table\0Error loading operating system\0Missing operating system\0"[:80]
    assert read_table(memory(raw)).boot.code is BootCode.WINDOWS
    raw[300:380] = b"x" * 80
    assert read_table(memory(raw)).boot.code is BootCode.UNKNOWN


# ---- the corpus, and everything else ---------------------------------------------------------------------------------

NAMES = {"dos": TableKind.MBR, "gpt": TableKind.GPT, None: TableKind.NONE}


@pytest.mark.parametrize("case", corpus_ids(set="guests"))
def test_corpus_guests(corpus: Corpus, case: str, tmp_path: Path, qemu_img: str) -> None:
    content = corpus.cases[case]["content"]
    path = corpus.path(case)
    if corpus.cases[case].get("subformat") == "twoGbMaxExtentSparse":
        run(qemu_img, "convert", "-O", "raw", path, tmp_path / "raw")
        path = str(tmp_path / "raw")
    with open_disk(path) as opened:
        table = read_table(DiskDevice(opened))
    assert table.kind is NAMES[content["table"]]
    assert table.issues == ()
    if content["table"] is not None:
        assert table.id == content["table_id"]
    expected = [(p["n"], p["start"], p["sectors"], p["type"], p.get("name", "")) for p in content.get("partitions", [])]
    assert [(p.number, p.start // 512, p.size // 512, p.type, p.name) for p in table.partitions] == expected


@settings(max_examples=300)
@given(data=st.data())
def test_any_first_sectors_give_a_table_or_a_guest_error(data: st.DataObject, gpt: bytes) -> None:
    """Changed bytes of a good table never raise anything else, and never take partitions from a wrong checksum."""
    raw = bytearray(gpt[: 64 * 512] + gpt[-64 * 512 :])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.sampled_from([440, 446, 510, 512, 1024, len(raw) - 512])) + data.draw(st.integers(0, 127))
        if place < len(raw):
            raw[place] = data.draw(st.integers(0, 255))
    try:
        table = read_table(DiskDevice(Memory(raw)))
    except GuestError:
        return
    assert all(p.size >= 0 and p.start >= 0 for p in table.partitions)
