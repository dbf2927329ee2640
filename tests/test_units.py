"""Sizes and alignment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    align_down,
    align_up,
    ceil_div,
    format_size,
    is_power_of_two,
    parse_size,
)


@given(st.integers(0, 2**70), st.integers(1, 2**40))
def test_alignment_is_the_nearest_multiple(value: int, unit: int) -> None:
    assert align_up(value, unit) % unit == align_down(value, unit) % unit == 0
    assert align_down(value, unit) <= value <= align_up(value, unit)
    assert align_up(value, unit) - align_down(value, unit) in (0, unit)
    assert ceil_div(value, unit) * unit == align_up(value, unit)


@pytest.mark.parametrize("value", [1, 2, 4, 512, 2**63])
def test_is_power_of_two_powers_are(value: int) -> None:
    assert is_power_of_two(value)


@pytest.mark.parametrize("value", [0, -1, -2, 3, 6, 2**63 - 1])
def test_is_power_of_two_others_are_not(value: int) -> None:
    assert not is_power_of_two(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("65536", 65536),
        ("512b", 512),
        ("64k", 64 * KIB),
        ("64K", 64 * KIB),
        ("64KiB", 64 * KIB),
        ("64kb", 64 * KIB),
        (" 2M ", 2 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("0.25t", TIB // 4),
        ("8388608.0", 8388608),
        ("9007199254740993", 2**53 + 1),
        ("9007199254740993.0", 2**53 + 1),  # not by way of a float
    ],
)
def test_parse_size_as_people_write_it(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "k", "-1", "+1", "1 k", "1_000", "1e3", "0x10", "inf", "nan", "1.", ".5k", "1..5k", "64kk", "1p"),
        *("64bib", "64ib", "٣", "0.3k", "1.5", "9" * 400, "9" * 400 + ".0", "1." + "0" * 400),
    ],
)
def test_parse_size_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@given(st.text(max_size=12))
def test_parse_size_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        value = parse_size(text)
    except ValueError:
        return
    assert value >= 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 bytes"),
        (7, "7 bytes"),
        (1023, "1023 bytes"),
        (KIB, "1 KiB"),
        (64 * KIB, "64 KiB"),
        (1536, "1.5 KiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (12_345_678, "11.8 MiB"),
        (1000 * MIB + 1, "1000 MiB"),  # not 1e+03
        (1023 * MIB + 900 * KIB, "1024 MiB"),
        (64 * TIB, "64 TiB"),
        (2**63 - 512, "8 EiB"),
        (2**80, "1048576 EiB"),
    ],
)
def test_format_size_for_people(value: int, text: str) -> None:
    assert format_size(value) == text


@given(st.integers(0, 2**90))
def test_format_size_never_needs_an_exponent(value: int) -> None:
    assert "e+" not in format_size(value)
