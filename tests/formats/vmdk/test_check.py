"""The findings of a check, one defect each."""

import pytest
from builders import vmdk

from diskfmt.errors import Reason, Severity
from diskfmt.formats.base import Statistics
from diskfmt.formats.vmdk import FORMAT
from diskfmt.formats.vmdk import check as vmdk_check

SMALL = 8 * 512
A, B = (bytes([value]) * SMALL for value in (0xA1, 0xB2))
SPARSE = vmdk.sparse({0: A, 513: B}, capacity=8 * 1024, grain=8)
STREAM = vmdk.stream({0: A, 513: B}, capacity=8 * 1024, grain=8)


def run(opened, deep=False):
    """The findings and the statistics."""
    image, files = opened
    walk = FORMAT.check(image, files, deep)
    found = []
    while True:
        try:
            found.append(next(walk))
        except StopIteration as stop:
            return found, stop.value


@pytest.mark.parametrize("deep", [False, True])
def test_good_sparse_disk_has_no_findings(open_bytes, deep):
    found, statistics = run(open_bytes(SPARSE), deep)
    assert found == []
    assert statistics == Statistics(total_units=1024, stored_units=2, encoded_units=0, end=len(SPARSE))


def test_good_stream_has_no_findings(open_bytes):
    found, statistics = run(open_bytes(STREAM))
    assert found == []
    assert (statistics.total_units, statistics.stored_units, statistics.encoded_units) == (1024, 2, 2)
    assert statistics.end <= vmdk.footer_at(STREAM)


def test_good_flat_disk_has_no_findings(open_bytes):
    found, statistics = run(open_bytes(vmdk.flat_text(2, start=1), bytes(1536)))
    assert found == []
    assert statistics.end == 1536


def test_short_piece_is_a_finding(open_bytes):
    found, _ = run(open_bytes(vmdk.flat_text(4), bytes(512)))
    assert [(finding.reason, finding.severity) for finding in found] == [(Reason.TRUNCATED, Severity.ERROR)]


def test_disk_without_its_piece_ends_with_statistics(open_bytes):
    found, statistics = run(open_bytes(vmdk.text("vmfs", ('RW 128 VMFS "d-flat.vmdk"',))))
    assert [finding.reason for finding in found] == [Reason.EXTERNAL_REFERENCE]
    assert statistics.encoded_units == 0


def test_illegal_entry_is_an_error_with_its_place(open_bytes):
    at = vmdk.entry_at(SPARSE, 5)
    (finding,) = run(open_bytes(vmdk.set_u32(SPARSE, at, 1 << 31)))[0]
    assert (finding.reason, finding.severity, finding.offset) == (Reason.TRUNCATED, Severity.ERROR, at)
    assert finding.guest_offset == 5 * SMALL


def test_redundant_table_that_differs_is_a_warning(open_bytes):
    at = vmdk.entry_at(SPARSE, 5, redundant=True)
    found, _ = run(open_bytes(vmdk.set_u32(SPARSE, at, 7)))
    assert [(f.reason, f.severity, f.offset) for f in found] == [(Reason.DIFFERENTIAL, Severity.WARNING, at)]


def test_redundant_directory_without_a_table_is_a_warning(open_bytes):
    at = vmdk.field(SPARSE, "rgdOffset") * 512 + 4
    found, _ = run(open_bytes(vmdk.set_u32(SPARSE, at, 0)))
    assert (found[0].reason, found[0].severity, found[0].offset) == (Reason.DIFFERENTIAL, Severity.WARNING, at)


def test_redundant_directory_outside_the_file_is_a_warning(open_bytes):
    at = vmdk.field(SPARSE, "rgdOffset") * 512 + 4
    found, _ = run(open_bytes(vmdk.set_u32(SPARSE, at, 1 << 31)))
    assert (found[0].reason, found[0].severity, found[0].offset) == (Reason.DIFFERENTIAL, Severity.WARNING, at)


def test_copy_is_not_looked_at_where_the_header_has_none(open_bytes):
    data = vmdk.set_u32(SPARSE, vmdk.field(SPARSE, "rgdOffset") * 512, 1 << 31)
    found, _ = run(open_bytes(vmdk.patch(data, "flags", 1)))
    assert found == []


def test_both_directories_may_name_the_same_tables(open_bytes):
    directory, copy = (vmdk.field(SPARSE, name) * 512 for name in ("gdOffset", "rgdOffset"))
    found, _ = run(open_bytes(vmdk.put(SPARSE, copy, SPARSE[directory : directory + 8])))
    assert found == []


def test_grain_on_a_redundant_table_is_an_overlap(open_bytes):
    data = vmdk.patch(SPARSE, "overHead", 21)
    place = vmdk.get_u32(data, vmdk.field(data, "rgdOffset") * 512 + 4)
    for redundant in (False, True):
        data = vmdk.set_u32(data, vmdk.entry_at(data, 3, redundant=redundant), place)
    found, _ = run(open_bytes(data))
    assert [(finding.reason, finding.severity) for finding in found] == [(Reason.OVERLAP, Severity.ERROR)]


def test_space_that_no_grain_uses_is_a_note(open_bytes):
    data = vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, 0), 0)
    data = vmdk.set_u32(data, vmdk.entry_at(data, 0, redundant=True), 0)
    found, _ = run(open_bytes(data))
    assert [(finding.reason, finding.severity) for finding in found] == [(Reason.LEAKED, Severity.NOTE)]
    assert found[0].offset == vmdk.field(SPARSE, "overHead") * 512


def test_too_many_runs_are_a_note(open_bytes, monkeypatch):
    monkeypatch.setattr(vmdk_check, "MAX_RUNS", 1)
    found, _ = run(open_bytes(SPARSE))
    assert [(finding.reason, finding.severity) for finding in found] == [(Reason.OVERLAP, Severity.NOTE)]
    assert run(open_bytes(SPARSE), deep=True)[0] == []
