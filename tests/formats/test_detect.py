"""Which format a file has: one claim a detector, the rule that decides, and every image of the corpus."""

import gzip
import os
import re
import struct
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from builders import raw as build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import PROJECT, Corpus, corpus_ids

from diskfmt.errors import CorruptError, Reason, RefusedError, Severity, UsageError
from diskfmt.formats.detect import HEAD_LENGTH, TAIL_LENGTH, Identification, identify, nested_claims
from diskfmt.formats.known import KNOWN, MAGICS, SUPPORTED, Kind
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
MBR = build.mbr((0x83, 1, 2047))
DISK = MBR.ljust(MIB, b"\0")
QCOW2 = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, MIB, 0, 1, 0x30000, 0x10000, 1, 0, 0).ljust(
    65536, b"\0"
)
DESCRIPTOR = b'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
Identify = Callable[..., Identification]


def vhd_footer(*, checksum_good: bool = True) -> bytes:
    footer = bytearray(512)
    struct.pack_into(">8sIIQI4sI4sQQHBBI", footer, 0, b"conectix", 2, 0x10000, 0xFFFFFFFFFFFFFFFF, 0, b"win ", 0x60003,
                     b"Wi2k", MIB, MIB, 30, 4, 17, 2)  # fmt: skip
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF if checksum_good else 0)
    return bytes(footer)


@pytest.fixture
def of(tmp_path: Path) -> Identify:
    def do(content: bytes, expected: str | None = None) -> Identification:
        path = tmp_path / "image"
        path.write_bytes(content)
        with SourceFile(path) as source:
            return identify(source, expected)

    return do


def reasons(found: Identification, severity: Severity = Severity.ERROR) -> list[Reason]:
    return [finding.reason for finding in found.findings if finding.severity is severity]


def names(found: Identification) -> set[str]:
    return {claim.name for claim in found.claims}


# what is read


def test_partition_table_makes_raw(of: Identify) -> None:
    found = of(DISK)
    assert (found.format, names(found), found.findings) == ("raw", {"mbr"}, ())


@pytest.mark.parametrize("version", [2, 3, 4, 0, 0xFFFFFFFF])
def test_qcow2_magic_of_any_version_is_qcow2(of: Identify, version: int) -> None:
    assert of(b"QFI\xfb" + struct.pack(">I", version)).format == "qcow2"


def test_qcow2_cut_after_magic_is_qcow2(of: Identify) -> None:
    assert of(b"QFI\xfb").format == "qcow2"


@pytest.mark.parametrize("head", [DISK, bytes(MIB), b"\xff" * MIB])
@pytest.mark.parametrize("cut", [0, 1])
def test_fixed_vhd_by_its_footer_alone_is_vhd(of: Identify, head: bytes, cut: int) -> None:
    footer = vhd_footer()
    assert of(head + footer[: 512 - cut]).format == "vhd"


def test_vhd_head_and_tail_are_one_claim_to_be(of: Identify) -> None:
    assert of(vhd_footer() + bytes(4096) + vhd_footer()).format == "vhd"


@pytest.mark.parametrize("behind", [1, 7, 512, 4096, 60000])
def test_vhd_footer_before_the_end_is_not_raw(of: Identify, behind: int) -> None:
    found = of(DISK + vhd_footer() + bytes(behind))
    assert found.format == "vhd"
    assert f"{behind} bytes behind it" in str(found.claims[-1])


def test_vhd_cookie_before_the_end_without_checksum_is_guest_data(of: Identify) -> None:
    assert of(DISK + vhd_footer(checksum_good=False) + bytes(512)).format == "raw"


def test_vhd_footer_among_the_last_clusters_leaves_qcow2_alone(of: Identify) -> None:
    assert of(QCOW2 + vhd_footer() + bytes(4096)).format == "qcow2"


@pytest.mark.parametrize("magic", [b"KDMV", b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"])
def test_binary_vmdk_magic_is_vmdk(of: Identify, magic: bytes) -> None:
    assert of(magic.ljust(512, b"\0")).format == "vmdk"


def test_vmdk_footer_without_head_is_vmdk(of: Identify) -> None:
    end = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + b"KDMV".ljust(512, b"\0") + bytes(512)
    assert of(bytes(65536) + end).format == "vmdk"
    assert of(b"KDMV" + bytes(65532) + end).format == "vmdk"


# text descriptors (TM-408)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\n\n", "# made by hand\n\n", " \t\n", "#\n" * 900])
def test_text_descriptor_in_any_dress_is_vmdk(of: Identify, encoding: str, end: str, before: str) -> None:
    text = (before + DESCRIPTOR.decode()).replace("\n", end)
    assert of(text.encode(encoding)).format == "vmdk"


@pytest.mark.parametrize(
    "first", [b"version=1\n", b"  version = 2\r\n", b'createType="x"\n', b"CID=1\n", b"#\n\nversion=3\n"]
)
def test_text_descriptor_without_signature_is_vmdk(of: Identify, first: bytes) -> None:
    assert of(first + b"more\n").format == "vmdk"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    comments=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=40), max_size=8),
    signature=st.sampled_from(
        ["# Disk DescriptorFile", "#Disk Descriptor File", "#   DISK DESCRIPTORFILE  ", "# disk descriptorfile"]
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32"]),
    after=st.binary(max_size=600),
)
def test_signature_comment_never_passes_as_raw(
    tmp_path: Path, comments: list[str], signature: str, end: str, encoding: str, after: bytes
) -> None:
    text = end.join(["#" + comment for comment in comments] + [signature, ""])
    content = bytearray(text.encode(encoding, "surrogatepass") + after)
    if len(content) - len(after) <= 510 and len(content) >= 512:
        content[510:512] = b"\x55\xaa"
    path = tmp_path / "d.vmdk"
    path.write_bytes(content)
    with SourceFile(path) as source:
        found = identify(source)
    assert "vmdk" in names(found)
    assert found.format != "raw"


def test_nothing_but_comments_is_not_a_disk(of: Identify) -> None:
    found = of(b"# note\n" * 20000)
    assert (found.format, reasons(found), names(found)) == (None, [Reason.UNKNOWN_FORMAT], {"comments"})


# two things at once (TM-402)


def iso(*, hybrid: bool) -> bytes:
    pieces = {0: MBR} if hybrid else {}
    return build.joined({**pieces, 0x8000: b"\1CD001\1\0"}, 0x20000)


def test_isohybrid_is_raw_and_told(of: Identify) -> None:
    found = of(iso(hybrid=True))
    assert found.format == "raw"
    assert reasons(found, Severity.NOTE) == [Reason.AMBIGUOUS_FORMAT]
    assert of(iso(hybrid=False)).findings == ()


POLYGLOTS = {
    "qcow2+vhd": QCOW2 + vhd_footer(),
    "qcow2+mbr": QCOW2[:446] + MBR[446:] + QCOW2[512:],
    "qcow2+gpt": QCOW2[:512] + b"EFI PART" + QCOW2[520:],
    "qcow2+iso": QCOW2[:0x8000] + b"\1CD001\1\0" + QCOW2[0x8008:],
    "vhdx+vhd": b"vhdxfile" + bytes(4096) + vhd_footer(),
    "text+mbr": DESCRIPTOR.ljust(446, b"\n") + MBR[446:],
    "gzip+vhd": gzip.compress(b"x" * 100) + vhd_footer(),
    "vmdk+vdi": b"KDMV" + bytes(0x3C) + b"\x7f\x10\xda\xbe" + bytes(512),
    "parallels+dmg": b"WithoutFreeSpace" + bytes(496) + b"koly\0\0\0\4\0\0\2\0".ljust(512, b"\0"),
}


@pytest.mark.parametrize("which", POLYGLOTS)
def test_polyglot_is_ambiguous(of: Identify, which: str) -> None:
    found = of(POLYGLOTS[which])
    assert (found.format, reasons(found)) == (None, [Reason.AMBIGUOUS_FORMAT])
    for rival in which.split("+"):
        assert rival in found.findings[0].message.lower()


def test_boot_signature_alone_is_no_rival(of: Identify) -> None:
    assert of(QCOW2[:510] + MBR[510:] + QCOW2[512:]).format == "qcow2"


@pytest.mark.parametrize("expected", ["qcow2", "vhd"])
def test_expected_format_settles_ambiguity_and_tells_of_it(of: Identify, expected: str) -> None:
    found = of(QCOW2 + vhd_footer(), expected)
    assert found.format == expected
    assert reasons(found, Severity.WARNING) == [Reason.AMBIGUOUS_FORMAT]


def test_gpt_backup_of_the_guest_at_the_end_is_no_rival(of: Identify) -> None:
    assert of(QCOW2 + bytes(4096) + b"EFI PART".ljust(512, b"\0")).format == "qcow2"
    assert of(vhd_footer() + bytes(4096) + b"EFI PART".ljust(512, b"\0") + vhd_footer()).format == "vhd"


def test_file_system_of_the_guest_where_a_block_lies_is_no_rival(of: Identify) -> None:
    data = build.joined({0: vhd_footer(), 0x1000: b"EFI PART", 0x9000: b"\1CD001\1\0", 0x9800: b"\0NSR02\1\0"}, MIB)
    assert of(data).format == "vhd"


# what is only recognised


@pytest.mark.parametrize("row", MAGICS, ids=lambda row: f"{row.name}@{row.offset:#x}-{row.magic[:6].hex()}")
def test_magic_is_claimed_by_name(of: Identify, row: Any) -> None:
    size = HEAD_LENGTH + TAIL_LENGTH + 12345
    content = bytearray(size)
    place = row.offset if row.offset >= 0 else size + row.offset
    content[place : place + len(row.magic)] = row.magic
    if row.name == "bcache":
        content[0x1018 : 0x1018 + 16] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    found = of(bytes(content))
    claim = next(claim for claim in found.claims if claim.name == row.name)
    assert (claim.offset, claim.kind) == (place, KNOWN[row.name].kind)
    if KNOWN[row.name].kind is Kind.CONTENT:
        assert found.format == "raw"
    elif row.name in SUPPORTED:
        assert found.format == row.name
    else:
        assert found.format is None
        assert KNOWN[row.name].title in found.findings[0].message
        assert KNOWN[row.name].remedy in found.findings[0].remedy


def test_qcow1_is_refused_by_name(of: Identify) -> None:
    found = of(b"QFI\xfb\0\0\0\1".ljust(512, b"\0"))
    assert reasons(found) == [Reason.UNSUPPORTED_SUBFORMAT]
    with pytest.raises(RefusedError, match="qcow version 1") as error:
        found.require("a.img")
    assert (error.value.path, error.value.reason) == ("a.img", Reason.UNSUPPORTED_SUBFORMAT)


def test_luks_is_encrypted(of: Identify) -> None:
    content = b"LUKS\xba\xbe\0\2".ljust(4096, b"\0")
    assert reasons(of(content)) == [Reason.ENCRYPTED]
    assert (of(content, "raw").format, reasons(of(content, "raw"), Severity.WARNING)) == ("raw", [Reason.ENCRYPTED])


@pytest.mark.parametrize(
    ("member", "name"), [("vm.ovf", "ova"), ("VM.OVF", "ova"), ("ova.xml", "xva"), ("disk.raw", "tar")]
)
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_tar_is_named_by_its_first_member(of: Identify, member: str, name: str, kind: int) -> None:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for item in (member, "second.vmdk"):
            info = tarfile.TarInfo(item)
            info.size = 3
            archive.addfile(info, BytesIO(b"abc"))
    found = of(buffer.getvalue())
    assert names(found) == {name}
    assert reasons(found) == [Reason.UNSUPPORTED_SUBFORMAT]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0", "pe"),
        (b"<!DOCTYPE html><html>not found</html>", "html"),
        (b"\r\n <HTML>", "html"),
        (b'<?xml version="1.0"?>\n<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1">', "ovf"),
        (b'<?xml version="1.0"?>\n<ovf:Envelope>', "ovf"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><a/>', "xml"),
        ('<?xml version="1.0"?><a/>'.encode("utf-16"), "xml"),
        (b"#!/bin/sh\necho\n", "script"),
    ],
)
def test_things_given_by_mistake_are_named(of: Identify, content: bytes, name: str) -> None:
    found = of(content)
    assert (found.format, reasons(found)) == (None, [Reason.UNKNOWN_FORMAT])
    assert name in names(found)
    assert KNOWN[name].title in found.findings[0].message


def test_kernel_image_with_boot_signature_is_a_program(of: Identify) -> None:
    image = bytearray(b"MZ".ljust(0x200, b"\0") + b"PE\0\0" + bytes(8192))
    image[60:64] = struct.pack("<I", 0x200)
    image[510:512] = b"\x55\xaa"
    assert of(bytes(image)).format is None


# raw without evidence, and the caller's word (TM-403, TM-404)


@pytest.mark.parametrize("content", [b"x", b"\0", bytes(511), bytes(512), bytes(MIB), os.urandom(64)], ids=len)
def test_content_without_a_claim_is_unknown_unless_called_raw(of: Identify, content: bytes) -> None:
    found = of(content)
    assert (found.format, reasons(found)) == (None, [Reason.UNKNOWN_FORMAT])
    assert "-f raw" in (found.findings[0].remedy or "")
    assert of(content, "raw") == Identification(format="raw", claims=found.claims)


@pytest.mark.parametrize("expected", [None, "raw", "qcow2"])
def test_empty_file_is_refused(of: Identify, expected: str | None) -> None:
    with pytest.raises(CorruptError, match="empty"):
        of(b"", expected).require("a.img")


@pytest.mark.parametrize("expected", sorted(SUPPORTED - {"raw"}))
def test_expected_container_that_is_not_there_is_a_mismatch(of: Identify, expected: str) -> None:
    for content in (DISK, b"\0" * 512, b"vhdxfile", {"qcow2": DESCRIPTOR}.get(expected, QCOW2)):
        found = of(content, expected)
        assert (found.format, reasons(found)) == (None, [Reason.FORMAT_MISMATCH])


def test_raw_that_looks_like_a_container_is_raw_with_a_warning(of: Identify) -> None:
    for content in (QCOW2, DISK + vhd_footer(), DESCRIPTOR, b"vhdxfile".ljust(512, b"\0")):
        found = of(content, "raw")
        assert (found.format, reasons(found, Severity.WARNING)[:1]) == ("raw", [Reason.NESTED_FORMAT])


def test_raw_that_is_packed_is_refused(of: Identify) -> None:
    found = of(gzip.compress(DISK), "raw")
    assert (found.format, reasons(found)) == (None, [Reason.FORMAT_MISMATCH])
    assert found.findings[0].remedy == "unpack it first: gzip -d"


def test_unknown_expected_format_is_a_usage_error(of: Identify) -> None:
    with pytest.raises(UsageError, match="vdi"):
        of(DISK, "vdi")


# how it looks


@pytest.mark.parametrize("chunk", [1, 3, 511, 512, 513, 4096, MIB])
def test_answer_does_not_depend_on_the_size_of_reads(of: Identify, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    contents = (QCOW2 + vhd_footer(), DESCRIPTOR, DISK[:8192], iso(hybrid=True)[: 0x8000 + 4096])
    whole = [of(content) for content in contents]
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: pread(fd, min(count, chunk), offset))
    assert [of(content) for content in contents] == whole


def test_only_head_and_tail_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.sparse(tmp_path / "big", 1 << 40, {0: MBR})
    seen = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: seen.append((offset, count)) or pread(fd, count, offset))
    with SourceFile(path) as source:
        assert identify(source).format == "raw"
    assert seen == [(0, HEAD_LENGTH), ((1 << 40) - TAIL_LENGTH, TAIL_LENGTH)]


def test_table_names_are_all_known() -> None:
    assert {row.name for row in MAGICS} <= set(KNOWN)
    assert all(known.remedy for known in KNOWN.values() if known.kind in {Kind.WRAPPER, Kind.OTHER})


# the guest's disk (TM-405)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (DISK, set()),
        (QCOW2.ljust(MIB, b"\0"), {"qcow2"}),
        (DISK + vhd_footer(), {"vhd"}),
        (DESCRIPTOR.ljust(MIB, b"\0"), {"vmdk"}),
        (b"LUKS\xba\xbe\0\2".ljust(MIB, b"\0"), set()),
        (iso(hybrid=True), set()),
        (b"#!/bin/sh\n", set()),
        (b"", set()),
    ],
)
def test_nested_container_is_found_in_the_guest_disk(disk: bytes, expected: set[str]) -> None:
    area = 65536
    for head in (disk[:area], disk[:512]):
        claims = nested_claims(head, disk[0x8000:0x9000], disk[-area:], len(disk))
        assert {claim.name for claim in claims} == expected


# the corpus

REFUSED_BY_NAME = ("vhdx", "vdi", "qcow1", "luks", "ova", "ewf", "dmg", "parallels", "hive")
BY_FORMAT = [(name, case) for name in sorted(SUPPORTED) for case in corpus_ids(format=name)]
OTHERS = [(name, case) for name in REFUSED_BY_NAME for case in corpus_ids(format=name)]

EXCEPTIONS = {
    "raw-empty-file": Reason.TRUNCATED,
    "raw-odd-bytes": Reason.UNKNOWN_FORMAT,
    "mix-one-byte": Reason.UNKNOWN_FORMAT,
    "mix-raw-xz": Reason.UNSUPPORTED_SUBFORMAT,
    "mix-raw-with-qcow2-magic": Reason.AMBIGUOUS_FORMAT,
    "mix-vhd-fixed-with-qcow2-head": Reason.AMBIGUOUS_FORMAT,
    "mix-vhdx-named-vhd": Reason.UNSUPPORTED_SUBFORMAT,
    "vmdk-magic-bad": Reason.UNKNOWN_FORMAT,
    "cut-vhdx-00": Reason.UNKNOWN_FORMAT,  # one byte
}


@pytest.mark.parametrize(("name", "case"), BY_FORMAT)
def test_corpus_image_is_identified(corpus: Corpus, name: str, case: str) -> None:
    with SourceFile(corpus.path(case)) as source:
        found = identify(source)
        asked = identify(source, name)
    if case in EXCEPTIONS:
        assert reasons(found) == [EXCEPTIONS[case]]
    elif case.startswith("cut-vhd-fixed") or case == "mix-qcow2-named-vhd":
        # The footer is what was cut off, or the name lies: the caller's word is what tells.
        assert found.format in {"raw", "qcow2"}
        assert reasons(asked) == [Reason.FORMAT_MISMATCH]
    else:
        assert (found.format, asked.format) == (name, name)


@pytest.mark.parametrize(("name", "case"), OTHERS)
def test_corpus_image_of_another_format_is_refused_by_name(corpus: Corpus, name: str, case: str) -> None:
    with SourceFile(corpus.path(case)) as source:
        found = identify(source)
    if case in EXCEPTIONS:
        assert reasons(found) == [EXCEPTIONS[case]]
        return
    assert (found.format, [claim.name for claim in found.claims]) == (None, [name])
    assert KNOWN[name].title in found.findings[0].message


@pytest.mark.parametrize("case", corpus_ids(expect="probe"))
def test_corpus_sample_is_named(corpus: Corpus, case: str) -> None:
    kinds = {
        "fat32": "fat",
        "small": "fat",
        "ext2": "ext",
        "reiser3": "reiserfs",
        "swap1": "swap",
        "iso": "iso9660",
        "dos": "mbr",
    }
    word = re.split("[_+]", case.removeprefix("utillinux-").split("-")[1], maxsplit=1)[0]
    word = {"hpt37x": "hpt_raid", "lsi": "lsi_raid", "nvidia": "nvidia_raid", "via": "via_raid"}.get(word, word)
    with SourceFile(corpus.path(case)) as source:
        assert kinds.get(word, word) in names(identify(source))


def test_page_lists_everything_that_is_recognised() -> None:
    page = " ".join((PROJECT / "docs" / "detection.md").read_text().split())
    assert [known.title for known in KNOWN.values() if known.title not in page] == []
