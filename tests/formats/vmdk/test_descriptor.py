"""The parser of descriptors: one meaning or a refusal."""

from contextlib import suppress

import pytest
from builders import vmdk
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.errors import CorruptError, DiskfmtError, LimitError, Reason, RefusedError
from diskfmt.formats.vmdk.descriptor import MAX_EXTENTS, NO_PARENT, parse

# The example of VMware's Virtual Disk Format 1.1, "The Descriptor File".
SPECIFICATION = b"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentSparse"
# Extent description
RW 4192256 SPARSE "test-s001.vmdk"
RW 4192256 SPARSE "test-s002.vmdk"
RW 2101248 SPARSE "test-s003.vmdk"
# The Disk Data Base
#DDB
ddb.adapterType = "ide"
ddb.geometry.sectors = "63"
ddb.geometry.heads = "16"
ddb.geometry.cylinders = "10402"
"""
GOOD = vmdk.text("monolithicFlat", ('RW 32768 FLAT "d-flat.vmdk" 0',))


def test_example_of_the_specification_gives_its_values():
    found = parse(SPECIFICATION)
    assert (found.version, found.cid, found.parent_cid) == (1, 0xFFFFFFFE, NO_PARENT)
    assert found.create_type == "twoGbMaxExtentSparse"
    assert [(extent.access, extent.length, extent.kind, extent.name) for extent in found.extents] == [
        ("RW", 4192256 * 512, "SPARSE", "test-s001.vmdk"),
        ("RW", 4192256 * 512, "SPARSE", "test-s002.vmdk"),
        ("RW", 2101248 * 512, "SPARSE", "test-s003.vmdk"),
    ]
    assert found.ddb["geometry.cylinders"] == "10402"
    assert found.size == (4192256 * 2 + 2101248) * 512


def test_extent_offset_is_where_its_line_starts():
    assert parse(SPECIFICATION, 512).extents[0].offset == 512 + SPECIFICATION.index(b"RW 4192256")


@pytest.mark.parametrize(
    "good",
    [
        GOOD.replace(b"\n", b"\r\n"),
        GOOD + bytes(300),
        GOOD.rstrip(b"\n"),
        GOOD.replace(b" = ", b"="),
        GOOD.replace(b"# Extent", b"\n\n# Extent"),
        GOOD.replace(b"CID=fffffffe", b"CID=e"),
        GOOD + b'ddb.uuid.image="9b8f"\nddb.comment=""\n',
        GOOD.replace(b"version=1\n", b'version=1\nencoding="UTF-8"\nisNativeSnapshot="no"\n'),
        GOOD.replace(b"# The Disk Data Base", b"# The Disk Data Base "),
    ],
    ids=["crlf", "padded", "no-last-newline", "no-spaces", "blank-lines", "short-cid", "vbox", "vmware", "comment"],
)
def test_what_writers_write_is_read(good):
    assert parse(good).extents[0].name == "d-flat.vmdk"


def rewritten(old: bytes, new: bytes) -> bytes:
    """A text over an older one, as a writer leaves it that ends its text with a NUL and writes no further."""
    return new + b"\0" + old[len(new) + 1 :]


@pytest.mark.parametrize("digits", range(1, 8))
def test_end_of_an_older_longer_text_is_no_text(digits):
    shorter = GOOD.replace(b"CID=fffffffe", b"CID=" + b"e" * digits)
    data = rewritten(GOOD, shorter) + bytes(100)
    assert parse(data).cid == int("e" * digits, 16)
    again = GOOD.replace(b"CID=fffffffe", b"CID=e")
    assert parse(rewritten(data, again)).cid == 0xE


@pytest.mark.parametrize("rest", [b"\0" + GOOD[-7:], b'\0X"\n', b"\0RW 1", b"\0\nCID=2\n"])
def test_other_text_behind_a_nul_is_refused(rest):
    with pytest.raises(RefusedError) as caught:
        parse(GOOD + rest)
    assert caught.value.reason is Reason.DIFFERENTIAL


@pytest.mark.parametrize("encoding, codec", [("GBK", "gbk"), ("UTF-8", "utf-8"), ("windows-1252", "cp1252")])
def test_name_in_declared_encoding_is_decoded(encoding, codec):
    name = "虚拟机-flat.vmdk" if codec != "cp1252" else "Größe-flat.vmdk"
    data = GOOD.replace(b"d-flat.vmdk", name.encode(codec)).replace(
        b"version=1\n", f'version=1\nencoding="{encoding}"\n'.encode()
    )
    assert parse(data).extents[0].name == name


def swap(old: bytes, new: bytes) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


DIFFERENTIAL = {
    "no-signature": swap(b"# Disk DescriptorFile", b"# Disk Descriptor"),
    "signature-case": swap(b"# Disk DescriptorFile", b"# disk descriptorfile"),
    "blank-before-signature": b"\n" + GOOD,
    "byte-order-mark": b"\xef\xbb\xbf" + GOOD,
    "nul-inside": swap(b"# Extent", b"\0 Extent"),
    "lone-cr": swap(b"version=1\n", b"version=1\r"),
    "tab": swap(b"RW 32768", b"RW\t32768"),
    "control-byte": swap(b"# Extent", b"# \x1b[2J"),
    "long-line": swap(b"# Extent", b"#" * 520),
    "high-byte-in-comment": swap(b"# Extent", b"# \xe4"),
    "high-byte-in-key": GOOD + b'ddb.\xe4 = "1"\n',
    "high-byte-without-encoding": swap(b"d-flat", b"\xe4-flat"),
    "high-byte-unknown-encoding": swap(b"d-flat", b"\xe4-flat").replace(b"CID", b'encoding="x-none"\nCID', 1),
    "high-byte-wrong-encoding": swap(b"d-flat", b"\xe4-flat").replace(b"CID", b'encoding="UTF-8"\nCID', 1),
    "key-twice": GOOD + b'createType="custom"\n',
    "ddb-key-twice": GOOD + b'ddb.adapterType = "ide"\n',
    "key-in-other-case": swap(b"createType", b"CreateType"),
    "ddb-in-other-case": GOOD + b'DDB.x = "1"\n',
    "unknown-key": GOOD + b'colour="red"\n',
    "key-in-comment": GOOD + b'# createType="custom"\n',
    "cid-in-comment": GOOD + b"#CID=12345678\n",
    "key-in-value": GOOD + b'ddb.comment = "parentFileNameHint=x"\n',
    "key-in-name": swap(b"d-flat", b"createType"),
    "key-in-ddb-key": GOOD + b'ddb.createType = "custom"\n',
    "cid-in-ddb-key": GOOD + b'ddb.CID="1"\n',
    "parent-before-cid": swap(b"CID=fffffffe\nparentCID=ffffffff", b"parentCID=ffffffff\nCID=fffffffe"),
    "no-sign": GOOD + b"createType\n",
    "no-key": GOOD + b'="x"\n',
    "two-spaces-before-sign": GOOD + b'ddb.x  = "1"\n',
    "two-spaces-behind-sign": GOOD + b'ddb.x =  "1"\n',
    "space-behind-value": GOOD + b'ddb.x = "1" \n',
    "leading-space": GOOD + b' ddb.x = "1"\n',
    "no-quotes": swap(b'"monolithicFlat"', b"monolithicFlat"),
    "one-quote": swap(b'"monolithicFlat"', b'"monolithicFlat'),
    "three-quotes": swap(b'"monolithicFlat"', b'"mono"Flat"'),
    "version-sign": swap(b"version=1", b"version=+1"),
    "version-leading-zero": swap(b"version=1", b"version=01"),
    "version-quoted": swap(b"version=1", b'version="1"'),
    "version-empty": swap(b"version=1", b"version="),
    "cid-too-long": swap(b"CID=fffffffe", b"CID=0fffffffe"),
    "cid-prefix": swap(b"CID=fffffffe", b"CID=0xffffff"),
    "size-negative": swap(b"RW 32768", b"RW -2048"),
    "size-21-digits": swap(b"RW 32768", b"RW 118059162071741130342"),
    "size-hex": swap(b"RW 32768", b"RW 0x8000"),
    "access-case": swap(b"RW 32768", b"rw 32768"),
    "kind-case": swap(b"FLAT", b"Flat"),
    "kind-missing": swap(b"FLAT ", b""),
    "extent-two-spaces": swap(b"RW 32768", b"RW  32768"),
    "name-without-quotes": swap(b'"d-flat.vmdk"', b"d-flat.vmdk"),
    "name-unclosed": swap(b'"d-flat.vmdk" 0', b'"d-flat.vmdk'),
    "name-without-space": swap(b'FLAT "', b'FLAT"'),
    "flat-without-start": swap(b'vmdk" 0', b'vmdk"'),
    "start-without-space": swap(b'vmdk" 0', b'vmdk"0'),
    "text-behind-extent": swap(b'vmdk" 0', b'vmdk" 0 x'),
    "text-behind-sparse": swap(b'FLAT "d-flat.vmdk" 0', b'SPARSE "d-flat.vmdk" 0'),
}  # fmt: skip


@pytest.mark.parametrize("data", DIFFERENTIAL.values(), ids=DIFFERENTIAL.keys())
def test_text_with_two_readings_is_refused(data):
    with pytest.raises(RefusedError) as caught:
        parse(data, 512)
    assert caught.value.reason is Reason.DIFFERENTIAL
    assert caught.value.offset is not None
    assert caught.value.offset >= 512
    assert caught.value.remedy


@pytest.mark.parametrize("key", [b"CID=fffffffe\n", b"parentCID=ffffffff\n", b'createType="monolithicFlat"\n'])
def test_missing_key_is_bad_value(key):
    with pytest.raises(CorruptError) as caught:
        parse(swap(key, b""))
    assert caught.value.reason is Reason.BAD_VALUE


def test_too_large_extent_is_a_limit():
    with pytest.raises(LimitError) as caught:
        parse(swap(b"RW 32768", b"RW 36028797018963968"))
    assert caught.value.reason is Reason.LIMIT_SIZE


def test_too_many_extents_are_a_limit():
    lines = b"RW 1 ZERO\n" * (MAX_EXTENTS + 1)
    with pytest.raises(LimitError) as caught:
        parse(GOOD + lines)
    assert caught.value.reason is Reason.LIMIT_METADATA


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_changed_byte_is_refused_or_read_without_another_error(at, value):
    with suppress(DiskfmtError):
        parse(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])


@given(st.binary(max_size=600))
def test_any_bytes_behind_the_signature_end_in_a_verdict(data):
    with suppress(DiskfmtError):
        parse(b"# Disk DescriptorFile\n" + data)


WORDS = {
    "Big5": ("big5", "機"),
    "Shift_JIS": ("shift_jis", "機械"),
    "EUC-KR": ("euc_kr", "기"),
    "ISO-8859-2": ("iso8859_2", "ż"),
    "windows-1251": ("cp1251", "диск"),
    "windows-949": ("cp949", "기"),
    "GB18030": ("gb18030", "机"),
    "KOI8-R": ("koi8_r", "д"),
    "windows-31j": ("cp932", "機"),
    "EUC-JP": ("euc_jp", "機"),
    "macintosh": ("mac_roman", "ü"),
    "US-ASCII": ("ascii", "d"),
}


@pytest.mark.parametrize(("encoding", "codec", "word"), [(name, *rest) for name, rest in WORDS.items()])
def test_name_is_read_in_the_encoding_that_is_declared(encoding, codec, word):
    data = swap(b"d-flat", f"{word}-flat".encode(codec)).replace(b"CID", f'encoding="{encoding}"\nCID'.encode(), 1)
    assert parse(data).extents[0].name == f"{word}-flat.vmdk"


def test_unknown_encoding_matters_only_to_what_is_not_ascii():
    data = GOOD.replace(b"CID", b'encoding="x-none"\nCID', 1)
    assert parse(data).extents[0].name == "d-flat.vmdk"


@pytest.mark.parametrize(
    "tail", [b" partitionUUID 60-ab", b" deviceIdentifier 5", b" partitionUUID a deviceIdentifier b"]
)
def test_line_of_a_partition_is_known_as_one(tail):
    assert parse(swap(b'.vmdk" 0', b'.vmdk" 63' + tail)).extents[0].device


@pytest.mark.parametrize("tail", [b" 0 0", b" 0 x", b" 0 partitionUUID", b"  0", b" 0 "])
def test_other_text_behind_an_extent_is_refused(tail):
    with pytest.raises(RefusedError) as caught:
        parse(swap(b'.vmdk" 0', b'.vmdk"' + tail))
    assert caught.value.reason is Reason.DIFFERENTIAL
