"""The text of -O, -o and -c."""

import pytest

from diskfmt.conversion.target import parse_compress, parse_options, parse_target
from diskfmt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "format", "subformat"),
    [
        ("raw", "raw", "raw"),
        ("QCOW2", "qcow2", "v3"),
        ("vpc", "vhd", "dynamic"),
        ("vhd:FIXED", "vhd", "fixed"),
        ("vmdk", "vmdk", "monolithicSparse"),
        ("vmdk:streamoptimized", "vmdk", "streamOptimized"),
        ("VMDK:MONOLITHICFLAT", "vmdk", "monolithicFlat"),
    ],
)
def test_target_is_found_in_any_case(text, format, subformat):
    target = parse_target(text)
    assert (target.format.name, target.subformat) == (format, subformat)


def test_subformat_may_come_apart():
    assert parse_target("vhd", subformat="fixed").subformat == "fixed"


@pytest.mark.parametrize("text", ["", "vhdx", "vmdk:", "vmdk:floppy", "raw:fixed", "qcow2:v2:v3"])
def test_unknown_target_lists_what_exists(text):
    with pytest.raises(UsageError, match="use one of"):
        parse_target(text)


def test_unknown_option_lists_what_exists():
    with pytest.raises(UsageError, match="cluster_size"):
        parse_target("qcow2", options={"cluster": "64k"})


@pytest.mark.parametrize(
    ("text", "pairs"),
    [("", {}), ("a=1", {"a": "1"}), ("a=1,b=x=y", {"a": "1", "b": "x=y"}), ("a=,", {"a": ""})],
)
def test_options_are_pairs(text, pairs):
    assert parse_options(text) == pairs


@pytest.mark.parametrize("text", ["a", "=1", "a=1,b"])
def test_options_that_are_no_pairs_are_refused(text):
    with pytest.raises(UsageError):
        parse_options(text)


@pytest.mark.parametrize(
    ("text", "found"), [("zlib", ("zlib", None)), ("ZSTD:19", ("zstd", 19)), ("zlib:1", ("zlib", 1))]
)
def test_compressor_has_an_optional_level(text, found):
    assert parse_compress(text) == found


@pytest.mark.parametrize("text", ["", "lz4", "zlib:", "zlib:0", "zlib:-1", "zlib:fast", "zstd:9999", "zlib:²"])
def test_compressor_that_does_not_exist_is_refused(text):
    with pytest.raises(UsageError):
        parse_compress(text)
