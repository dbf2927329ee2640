"""Changed bytes in headers and tables: a refusal, or what an independent reader sees too (T4)."""

import os
import random
import subprocess

import pytest
from builders import vhd
from oracles.readers import alone

import diskfmt
from hostile.kit import SECTOR, Sample, guard, samples, to_raw

SAMPLES = {sample.name: sample for sample in samples()}
QUICK = 80
QEMU = {"vhd": "vpc"}


def qemu_reads(path, format: str, size: int) -> bytes | None:
    """The first `size` guest bytes as qemu-img sees them, or None if it does not."""
    with alone(str(path), format) as copy:
        raw = f"{copy}.raw"
        command = ["qemu-img", "convert", "-f", QEMU.get(format, format), "-O", "raw", copy, raw]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode:
            return None
        with open(raw, "rb") as file:
            return file.read(size)


def changed_bytes(sample: Sample, count: int | None, seed: int):
    """(place, new value): each byte of headers and tables once, or a sample of them."""
    rng = random.Random(f"{sample.name} {seed}")
    places = sorted({at for start, end in sample.tables for at in range(start, end)})
    if count is not None and count < len(places):
        places = sorted(rng.sample(places, count))
    for at in places:
        old = sample.data[at]
        new = rng.choice([old ^ 1 << rng.randrange(8), 0, 255, (old + 1) % 256, rng.randrange(256)])
        yield at, new if new != old else old ^ 0x80


def judge(path, folder, sample: Sample, image: bytes, what: str) -> bool:
    """Whether the changed image was refused; if not, its bytes are the old ones or those that qemu-img reads."""
    path.write_bytes(image)
    found = to_raw(path, folder / "o")
    if found is None or found == sample.guest:
        return found is None
    seen = qemu_reads(path, sample.format, len(found))
    assert seen is not None, f"{what}: read, but qemu-img refuses it"
    assert seen == found[: len(seen)], f"{what}: other bytes than qemu-img"
    assert not found[len(seen) :].strip(b"\0"), what
    return False


def sweep(tmp_path, name: str, count: int | None, seed: int) -> None:
    sample = SAMPLES[name]
    folder = tmp_path / "out"
    folder.mkdir()
    path = tmp_path / f"i.{sample.format}"
    refused = 0
    for at, new in changed_bytes(sample, count, seed):
        image = sample.data[:at] + bytes([new]) + sample.data[at + 1 :]
        refused += judge(path, folder, sample, image, f"{name}: {sample.data[at]:#x} → {new:#x} at {at}")
    assert refused


@pytest.mark.parametrize("name", SAMPLES)
def test_changed_byte_is_refused_or_read_as_others_do(tmp_path, qemu_img, name):
    sweep(tmp_path, name, QUICK, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SAMPLES)
def test_each_changed_byte_is_refused_or_read_as_others_do(tmp_path, qemu_img, name, seed):
    sweep(tmp_path, name, None, 100 + seed)


@pytest.mark.parametrize("name", SAMPLES)
def test_random_damage_never_escapes(tmp_path, name):
    """Several bytes at once, zeroed sectors, swapped sectors: documented errors only, and in time."""
    sample = SAMPLES[name]
    rng = random.Random(name)
    path = tmp_path / "i"
    for _ in range(40):
        image = bytearray(sample.data)
        start, end = rng.choice(sample.tables)
        kind = rng.randrange(4)
        if kind == 0:
            for _ in range(rng.randrange(2, 9)):
                image[rng.randrange(start, end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 1:
            image[start : start + SECTOR] = bytes(SECTOR)
        elif kind == 2:
            image[start:end] = b"\xff" * (end - start)
        else:
            other = rng.randrange(0, len(image) // SECTOR) * SECTOR
            image[start : start + 64] = sample.data[other : other + 64].ljust(64, b"\0")
        path.write_bytes(image)
        for job in (diskfmt.inspect, lambda p: diskfmt.check(p, deep=True), diskfmt.digest):
            with guard():
                try:
                    job(path)
                except diskfmt.DiskfmtError as error:
                    assert error.reason is not diskfmt.Reason.INTERNAL
                    assert "\n" not in str(error)


@pytest.mark.parametrize("name", SAMPLES)
def test_unchanged_image_reads_as_built(tmp_path, name):
    sample = SAMPLES[name]
    (tmp_path / "i").write_bytes(sample.data)
    (tmp_path / "out").mkdir()
    assert to_raw(tmp_path / "i", tmp_path / "out" / "o") == sample.guest
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("bits", [0x00, 0x01, 0x80, 0x0F, 0xAA, 0xFE, 0xFF])
def test_bitmap_of_a_vhd_decides_sector_by_sector(tmp_path, bits):
    """qemu-img looks at no bitmap, so this is the specification's word: a clear bit reads as zero."""
    sample = SAMPLES["vhd-dynamic"]
    image = bytearray(sample.data)
    at = vhd.entry(image, 4) * SECTOR
    image[at] = bits
    want = bytearray(sample.guest)
    for sector in range(8):
        if not bits >> (7 - sector) & 1:
            start = 4 * 4096 + sector * SECTOR
            want[start : start + SECTOR] = bytes(SECTOR)
    (tmp_path / "i").write_bytes(image)
    (tmp_path / "out").mkdir()
    assert to_raw(tmp_path / "i", tmp_path / "out" / "o") == bytes(want)
