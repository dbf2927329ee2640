"""Checksums against what is published and against each other."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.checksums import ALGORITHMS, crc32c, crc32c_raw, digests, xxhash64


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, appendix B.4, and the check value of the catalogue of CRCs
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # test vectors of the xxHash specification's reference implementation, seed 0
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"123456789", 0x8CB841DB40E6AE83),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_xxhash64(data: bytes, expected: int) -> None:
    assert xxhash64(data) == expected


@given(st.binary(max_size=4000))
def test_lanes_give_what_single_bytes_give(data: bytes) -> None:
    register = 0xFFFFFFFF
    for byte in data:
        register = crc32c_raw(bytes([byte]), register)
    assert crc32c(data) == register ^ 0xFFFFFFFF


@pytest.mark.parametrize("kind", sorted(ALGORITHMS))
@pytest.mark.parametrize("size", [512, 4096])
def test_many_blocks_at_once(kind: int, size: int) -> None:
    data = os.urandom(size * 9)
    expected = [ALGORITHMS[kind][1](data[at : at + size]) for at in range(0, len(data), size)]
    assert digests(kind, data, size) == expected
