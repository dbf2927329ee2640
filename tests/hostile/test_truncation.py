"""Files that lost their end: told before any output exists, or nothing was lost that the guest can see (TM-805, T3)."""

import os
import random

import pytest
from builders import qcow2
from conformance.kit import PLAIN, VARIANTS, Variant, content, write_sparse

import diskfmt
from diskfmt import CorruptError
from hostile.kit import Sample, guard, mbr_disk, samples, to_raw

SAMPLES = {sample.name: sample for sample in samples()}


def cuts(size: int, boundaries: set[int], seed: str) -> list[int]:
    rng = random.Random(seed)
    around = {edge + step for edge in boundaries for step in (-512, -1, 0, 1)}
    shares = {size * percent // 100 for percent in (10, 50, 90)}
    some = {rng.randrange(size) for _ in range(12)}
    return sorted(
        at for at in around | shares | some | {size - 1, size - 511, size - 512, size - 513} if 0 <= at < size
    )


def try_cuts(path, folder, image: bytes, guest: bytes, places: list[int], **options) -> tuple[int, int]:
    """How many cuts were refused, and how many did no harm; anything else fails."""
    refused = harmless = 0
    for at in places:
        path.write_bytes(image[:at])
        found = to_raw(path, folder / "o", **options)
        refused += found is None
        if found is not None:
            assert found == guest, f"cut at {at} of {len(image)}: other bytes"
            harmless += 1
    return refused, harmless


@pytest.mark.parametrize("name", SAMPLES)
def test_built_image_cut_anywhere_is_refused_or_unharmed(tmp_path, name):
    sample: Sample = SAMPLES[name]
    (tmp_path / "out").mkdir()
    edges = {edge for start, end in sample.tables for edge in (start, end)}
    edges |= set(range(0, len(sample.data), 4096))
    places = cuts(len(sample.data), edges, name)
    refused, harmless = try_cuts(tmp_path / "i", tmp_path / "out", sample.data, sample.guest, places)
    assert refused > 0.8 * len(places)
    assert refused + harmless == len(places)


@pytest.mark.parametrize(
    ("variant", "format_given"),
    [
        (variant, given)
        for variant in VARIANTS
        for given in (False, True)
        # A fixed VHD without its footer is a raw disk, as far as anybody can see.
        if variant.format != "raw" and (given or variant.subformat != "fixed")
    ],
    ids=str,
)
def test_output_cut_anywhere_is_refused_or_unharmed(tmp_path, variant: Variant, format_given):
    guest = mbr_disk(1 << 19) + content("patches", 1 << 20) + bytes(1 << 20) + content("last", 1 << 18)
    write_sparse(tmp_path / "in", guest)
    (tmp_path / "out").mkdir()
    path = tmp_path / f"d.{variant.format}"
    result = variant.convert(tmp_path / "in", path)
    flat = tmp_path / "d-flat.vmdk"
    data = flat if flat.exists() else path
    image = data.read_bytes()
    edges = {result.file_size, 0, 512, 1024, 1536, 2048, 65536, 2 * 65536, 3 * 65536}
    edges |= set(range(0, len(image), len(image) // 8))
    options = {"follow": "pieces", "source_format": variant.format if format_given else None}
    places = cuts(len(image), edges, str(variant))
    refused = harmless = 0
    for at in places:
        data.write_bytes(image[:at])
        found = to_raw(path, tmp_path / "out" / "o", **options)
        refused += found is None
        if found is not None:
            assert found == guest, f"cut at {at} of {len(image)}: other bytes"
            harmless += 1
    assert refused > 0.7 * len(places)


@pytest.mark.parametrize("variant", [v for v in PLAIN if v.subformat == "monolithicFlat"], ids=str)
def test_descriptor_cut_anywhere_is_refused(tmp_path, variant: Variant):
    guest = mbr_disk(1 << 19)
    (tmp_path / "in").write_bytes(guest)
    (tmp_path / "out").mkdir()
    path = tmp_path / "d.vmdk"
    variant.convert(tmp_path / "in", path)
    text = path.read_bytes()
    end_of_extents = text.index(b"\n", text.index(b".vmdk"))  # where a line end would be all that is lost
    for at in range(1, len(text)):
        path.write_bytes(text[:at])
        found = to_raw(path, tmp_path / "out" / "o", follow="pieces")
        assert found is None or (found == guest and at >= end_of_extents), at


def test_raw_disk_shorter_than_its_partition_table_is_told(tmp_path):
    image = mbr_disk(1 << 20)
    (tmp_path / "d").write_bytes(image[: 1 << 19])
    result = diskfmt.convert(tmp_path / "d", tmp_path / "o", format="qcow2", sync=False)
    assert [finding.reason for finding in result.findings] == [diskfmt.Reason.TRUNCATED]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_command_survives_every_short_file(tmp_path, name):
    """The first 3 KiB, byte by byte where headers are: only documented errors."""
    sample = SAMPLES[name]
    path = tmp_path / "i"
    for at in [*range(0, 140, 3), *range(500, 3000, 97)]:
        path.write_bytes(sample.data[:at])
        for job in (diskfmt.inspect, diskfmt.check, diskfmt.digest, lambda p: list(diskfmt.map_rows(p))):
            with guard():
                try:
                    job(path)
                except diskfmt.DiskfmtError as error:
                    assert error.remedy, str(error)


@pytest.mark.parametrize("name", ["qcow2-v3-deflate", "vhd-dynamic", "vmdk-sparse", "vmdk-stream", "vhd-fixed"])
def test_image_cut_in_the_middle_is_corrupt_for_all_that_read_it(tmp_path, name):
    sample = SAMPLES[name]
    path = tmp_path / "i"
    path.write_bytes(sample.data[: len(sample.data) // 2])
    for job in (diskfmt.digest, lambda p: diskfmt.measure(p, format="raw"), lambda p: diskfmt.compare(p, p)):
        with pytest.raises((CorruptError, diskfmt.RefusedError)), guard():
            job(path)


def write_with_hole_behind(path, data, size):
    """A file of `size` bytes that starts with `data`."""
    path.write_bytes(data)
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("the file system has no files of this size")


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_hole_behind_an_image_costs_no_time(tmp_path, bits):
    """A sparse file is a few kilobytes in an archive, whatever its length: the work must not follow the length."""
    size = 8 << 40
    built = qcow2.image({0: ("data", b"x" * 512), 5: ("data", b"y" * 512)}, size=1 << 20, bits=bits)
    write_with_hole_behind(tmp_path / "i", built.data, size)
    with guard():
        assert diskfmt.check(tmp_path / "i").ok
        assert diskfmt.digest(tmp_path / "i")


def test_clusters_spread_over_a_huge_file_are_not_counted_for_ever(tmp_path):
    size, count = 8 << 40, 3000
    built = qcow2.image(dict.fromkeys(range(count), ("data", b"x")), size=4 << 20, bits=9)
    step = size // count // 512 * 512
    for number in range(1, count):
        built.poke(built.entry(number), number * step | qcow2.COPIED)
    write_with_hole_behind(tmp_path / "i", built.data, size)
    with guard():
        reasons = {finding.reason for finding in diskfmt.check(tmp_path / "i").findings}
    assert diskfmt.Reason.LIMIT_METADATA in reasons
