"""The digest against a few lines that follow its definition and nothing else."""

import hashlib
import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import diskfmt
from diskfmt.treehash import guest_digest

MIB = 1 << 20


def model(data: bytes) -> str:
    """RFC 6962's tree over zero-filled leaves of 1 MiB, the size hashed on top."""
    leaves = [
        hashlib.sha256(b"\x00" + data[at : at + MIB].ljust(MIB, b"\x00")).digest() for at in range(0, len(data), MIB)
    ]

    def top(part):
        if len(part) == 1:
            return part[0]
        split = 1 << ((len(part) - 1).bit_length() - 1)
        return hashlib.sha256(b"\x01" + top(part[:split]) + top(part[split:])).digest()

    return hashlib.sha256(b"diskfmt-digest-1" + len(data).to_bytes(8, "little") + top(leaves)).hexdigest()


def raw(tmp_path, data: bytes) -> str:
    path = tmp_path / "disk.raw"
    with open(path, "wb") as file:  # zero megabytes become holes, as a sparse file has them
        for at in range(0, len(data), MIB):
            part = data[at : at + MIB]
            if part.count(0) != len(part):
                file.seek(at)
                file.write(part)
        file.truncate(len(data))
    return str(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    leaves=st.lists(st.integers(0, 3), min_size=1, max_size=21),
    tail=st.sampled_from([1, 511, 512, MIB - 1, MIB]),
)
def test_digest_of_any_disk_equals_the_definition(tmp_path, leaves, tail):
    data = b"".join(bytes([value]) * MIB for value in leaves[:-1]) + bytes([leaves[-1]]) * tail
    assume(len(data) >= 512)  # no disk has less than a sector
    assert diskfmt.digest(raw(tmp_path, data), format="raw") == model(data)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_digest_does_not_depend_on_threads(tmp_path, threads):
    data = os.urandom(20 * MIB) + bytes(9 * MIB) + b"end"
    with diskfmt.open_disk(raw(tmp_path, data), format="raw") as disk:
        assert guest_digest(disk, threads=threads) == model(data)


def test_digest_with_a_larger_size_is_that_of_the_filled_up_disk(tmp_path):
    data = b"x" * (MIB + 100)
    with diskfmt.open_disk(raw(tmp_path, data), format="raw") as disk:
        assert guest_digest(disk, threads=1, size=3 * MIB) == model(data.ljust(3 * MIB, b"\x00"))


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")
def test_digest_of_64_tib_of_nothing_follows_from_constants(tmp_path):
    path = tmp_path / "huge.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "64T"], check=True)
    zero = hashlib.sha256(b"\x00" + bytes(MIB)).digest()
    for _ in range(26):
        zero = hashlib.sha256(b"\x01" + zero + zero).digest()
    top = hashlib.sha256(b"diskfmt-digest-1" + (64 << 40).to_bytes(8, "little") + zero)
    assert diskfmt.digest(path) == top.hexdigest()


@pytest.mark.parametrize("place", [0, 1, MIB, 8 * MIB - 1, 8 * MIB, 20 * MIB + 5])
def test_compare_finds_the_first_difference(tmp_path, place):
    data = bytearray(21 * MIB)
    data[9 * MIB : 10 * MIB] = b"y" * MIB
    other = bytearray(data)
    other[place] ^= 1
    other[-1] ^= 1
    (tmp_path / "b").mkdir()
    result = diskfmt.compare(raw(tmp_path, bytes(data)), raw(tmp_path / "b", bytes(other)), formats=("raw", "raw"))
    assert not result.equal
    assert result.first_difference == place


def test_compare_takes_a_longer_disk_that_ends_in_zeroes_for_equal_unless_strict(tmp_path):
    (tmp_path / "b").mkdir()
    one, other = raw(tmp_path, b"z" * MIB), raw(tmp_path / "b", b"z" * MIB + bytes(3 * MIB))
    assert diskfmt.compare(one, other, formats=("raw", "raw")).equal
    strict = diskfmt.compare(one, other, formats=("raw", "raw"), strict=True)
    assert not strict.equal
    assert strict.first_difference is None
    assert strict.sizes == (MIB, 4 * MIB)


def test_compare_of_a_longer_disk_with_data_behind_is_different_there(tmp_path):
    (tmp_path / "b").mkdir()
    one, other = raw(tmp_path, b"z" * MIB), raw(tmp_path / "b", b"z" * MIB + bytes(MIB) + b"!")
    assert diskfmt.compare(one, other, formats=("raw", "raw")).first_difference == 2 * MIB
