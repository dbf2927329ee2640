"""Sizes and the arithmetic of alignment. Everything is in bytes unless a name says otherwise."""

import re
from typing import Final

SECTOR: Final = 512
KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

_NAMES: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_FACTORS: Final = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
# Ten digits more than any disk has, so that no text costs time.
_SIZE: Final = re.compile(r"([0-9]{1,29})(?:\.([0-9]{1,29}))?(?:([kmgt])(?:ib|b)?|b)?")


def ceil_div(value: int, divisor: int) -> int:
    """How many pieces of `divisor` it takes to hold `value`."""
    return -(-value // divisor)


def align_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit


def align_down(value: int, unit: int) -> int:
    """The largest multiple of `unit` that is not above `value`."""
    return value // unit * unit


def is_power_of_two(value: int) -> bool:
    """True for 1, 2, 4, 8 …"""
    return value > 0 and value & (value - 1) == 0


def parse_size(text: str) -> int:
    """Bytes of a size as people write it: `65536`, `64k`, `2M`, `1.5G`, `64KiB`.

    Raises:
        ValueError: not a size, or not a whole number of bytes.

    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    whole, part, suffix = match.group(1), match.group(2) or "", match.group(3) or ""
    divisor: int = 10 ** len(part)
    value, rest = divmod(int(whole + part) * _FACTORS[suffix], divisor)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return value


def format_size(value: float) -> str:
    """A size for people: `64 KiB`, `1.5 GiB`, `7 bytes`."""
    for name in _NAMES:
        if value < 1024 or name == _NAMES[-1]:
            break
        value /= 1024
    # Three digits; from 1000 on, three would be written with an exponent.
    return f"{value:.0f} {name}" if value == int(value) or value >= 999.5 else f"{value:.3g} {name}"
