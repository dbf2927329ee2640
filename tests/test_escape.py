"""Text from others, made safe to print (TM-1401, TM-1402)."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.escape import LIMIT, escape, mask_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm-flat.vmdk", "vm-flat.vmdk"),
        ("a\\b", "a\\\\b"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("line\nfeed\r\0", "line\\x0afeed\\x0d\\x00"),
        ("\x7f", "\\x7f"),
        ("\x9b31m", "\\u009b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("虚拟机", "\\u865a\\u62df\\u673a"),
        ("\U0001f600", "\\U0001f600"),
        ("caf\udce9", "caf\\xe9"),
        (b"caf\xe9", "caf\\xe9"),
        ("", ""),
    ],
)
def test_escape_leaves_printable_ascii_only(text: str | bytes, expected: str) -> None:
    assert escape(text) == expected


@given(st.text(st.characters(codec=None), max_size=40))
def test_escaped_text_is_printable_and_can_be_read_back(text: str) -> None:
    shown = escape(text)
    assert shown.isascii()
    assert shown.isprintable()
    if not any(0xDC80 <= ord(char) <= 0xDCFF for char in text):
        assert ast.literal_eval('"' + shown.replace('"', '\\"') + '"') == text


@given(st.text(max_size=50), st.integers(0, 60))
def test_long_text_is_cut_between_characters(text: str, limit: int) -> None:
    shown = escape(text, limit)
    assert len(shown) <= limit
    if shown != escape(text, 10_000):
        assert shown.endswith("..."[:limit])
        assert escape(text, 10_000).startswith(shown.removesuffix("..."[:limit]))


def test_limit_holds_for_megabytes() -> None:
    assert len(escape("\n" * 1_000_000)) <= LIMIT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@host/disk.qcow2", "http://***@host/disk.qcow2"),
        ("https://host/disk?sig=abc&exp=1", "https://host/disk?***"),
        ("json:{'url':'s3://key:pass@host/b?token=x'}", "json:{'url':'s3://***@host/b?***'}"),
        ("/srv/images/user@host.qcow2", "/srv/images/user@host.qcow2"),
        ("http://169.254.169.254/latest/meta-data", "http://169.254.169.254/latest/meta-data"),
    ],
)
def test_credentials_of_urls_are_masked(text: str, expected: str) -> None:
    assert mask_credentials(text) == expected
