"""The LZO decoder on what liblzo2 makes, where it is there, and on nonsense."""

import contextlib
import ctypes
import ctypes.util
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.base import DamagedError
from diskfmt.guest.btrfs.codecs import lzo1x


def compress(data: bytes) -> bytes:
    name = ctypes.util.find_library("lzo2")
    if name is None:
        pytest.skip("liblzo2 is not installed")
    library = ctypes.CDLL(name)
    out = ctypes.create_string_buffer(len(data) + len(data) // 16 + 67)
    size = ctypes.c_size_t(len(out))
    assert library.lzo1x_1_compress(data, ctypes.c_size_t(len(data)), out, ctypes.byref(size), bytes(1 << 17)) == 0
    return out.raw[: size.value]


def samples() -> list[bytes]:
    noise = random.Random(3)
    words = [noise.randbytes(noise.randrange(1, 12)) for _ in range(40)]
    mixed = [b"".join(noise.choice(words) for _ in range(count)) for count in (1, 5, 60, 500, 9000)]
    return [
        b"a",
        bytes(5),
        bytes(100_000),
        noise.randbytes(9000),
        *mixed,
        b"ab" * 3000 + noise.randbytes(400) + bytes(70_000),
    ]


@pytest.mark.parametrize("data", samples(), ids=len)
def test_what_liblzo2_compresses(data: bytes) -> None:
    packed = compress(data)
    assert lzo1x(packed, len(data)) == data
    with pytest.raises(DamagedError):
        lzo1x(packed, len(data) - 1)
    with pytest.raises(DamagedError):
        lzo1x(packed[:-1], len(data))
    with pytest.raises(DamagedError):
        lzo1x(packed + b"x", len(data))


@given(st.binary(max_size=300), st.integers(0, 5000))
def test_nonsense_stays_inside_its_limit(data: bytes, limit: int) -> None:
    with contextlib.suppress(DamagedError):
        assert len(lzo1x(data, limit)) <= limit
