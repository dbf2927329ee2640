"""Sizes and the arithmetic of alignment. Everything is in bytes unless a name says otherwise."""

from typing import Final

SECTOR: Final = 512
KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

_NAMES: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_FACTORS: Final = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


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
    number = text.strip().lower().removesuffix("ib").removesuffix("b")
    suffix = number[-1:] if number[-1:] in "kmgt" else ""
    digits = number.removesuffix(suffix)
    if not digits or not digits.replace(".", "", 1).isdecimal():
        raise ValueError(f"{text!r} is not a size")
    value = float(digits) * _FACTORS[suffix] if "." in digits else int(digits) * _FACTORS[suffix]
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(value)


def format_size(value: float) -> str:
    """A size for people: `64 KiB`, `1.5 GiB`, `7 bytes`."""
    for name in _NAMES:
        if value < 1024 or name == _NAMES[-1]:
            break
        value /= 1024
    return f"{value:.0f} {name}" if value == int(value) else f"{value:.3g} {name}"
