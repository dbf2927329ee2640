"""The findings of a check, one defect each."""

from contextlib import ExitStack

import pytest
from builders import vmdk

from diskfmt.errors import Reason, Severity
from diskfmt.formats.base import Statistics
from diskfmt.formats.vmdk import FORMAT
from diskfmt.formats.vmdk import check as vmdk_check
from diskfmt.stores.source import SourceFile

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


# ---- the redundant copy in place of what is lost


GD = vmdk.field(SPARSE, "gdOffset") * 512
TABLE = vmdk.get_u32(SPARSE, GD + 4) * 512
END = len(SPARSE) // 512
MENDED = {
    "no-table": vmdk.set_u32(SPARSE, GD + 4, 0),
    "table-behind-end": vmdk.set_u32(SPARSE, GD + 4, END - 3),
    "table-far": vmdk.set_u32(SPARSE, GD + 4, 0xFFFFFFFF),
    "directory-empty": vmdk.put(SPARSE, GD, bytes(8)),
    "table-empty": vmdk.put(SPARSE, TABLE, bytes(2048)),
    "grain-behind-end": vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, 513), END),
    "grain-far": vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, 513), 0xFFFFFFFF),
}


@pytest.mark.parametrize("data", MENDED.values(), ids=MENDED.keys())
def test_copy_stands_in_for_what_is_lost_and_it_is_told(open_bytes, read_guest, data):
    image, files = open_bytes(SPARSE)
    want = read_guest(image, files)
    image, files = open_bytes(data)
    assert read_guest(image, files) == want
    found, _ = run((image, files))
    assert [(one.reason, one.severity) for one in found] == [(Reason.CORRUPT_DATA, Severity.DAMAGE)]
    assert GD <= found[0].offset < TABLE + 2048


NOT_MENDED = {
    "no-copy-flag": vmdk.patch(MENDED["table-far"], "flags", 1),
    "copy-lost-too": vmdk.set_u32(MENDED["table-far"], vmdk.field(SPARSE, "rgdOffset") * 512 + 4, 0xFFFFFFFF),
    "table-in-header": vmdk.set_u32(SPARSE, GD + 4, 1),
    "grain-in-header": vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, 513), 2),
    "copy-says-nothing": vmdk.set_u32(SPARSE, vmdk.entry_at(SPARSE, 514), 0xFFFFFFFF),
}


@pytest.mark.parametrize("data", NOT_MENDED.values(), ids=NOT_MENDED.keys())
def test_what_the_copy_cannot_mend_is_an_error(open_bytes, data):
    found, _ = run(open_bytes(data))
    assert [one.severity for one in found] == [Severity.ERROR]


def test_entry_that_is_empty_beside_others_is_told_and_counts(open_bytes, read_guest):
    """Both copies could be: the primary one counts."""
    data = vmdk.sparse({0: A, 1: B}, capacity=8 * 512, grain=8)
    image, files = open_bytes(vmdk.set_u32(data, vmdk.entry_at(data, 1), 0))
    assert read_guest(image, files)[:8192] == A + bytes(SMALL)
    found, _ = run((image, files))
    assert (Reason.DIFFERENTIAL, Severity.WARNING) in [(one.reason, one.severity) for one in found]


# ---- what the bytes are for


def covered(image, files, read_rows):
    """Each file as bytes: 0 nothing, 1 header, 2 table, 3 data; nothing has two purposes."""
    out = [bytearray(file.size) for file in files]
    places = [
        (one.file_id, int(start), int(length), {"header": 1, "table": 2}[one.kind])
        for one in FORMAT.regions(image, files)
        for start, length in zip(one.offsets, one.lengths, strict=True)
    ]
    places += [(int(row["file_id"]), int(row["host_off"]), int(row["host_len"]), 3) for row in read_rows]
    for file_id, start, length, kind in places:
        assert start + length <= files[file_id].size
        assert not any(out[file_id][start : start + length]), (file_id, start, kind)
        out[file_id][start : start + length] = bytes([kind]) * length
    return out


def stored_rows(image, files):
    return [row for rows in FORMAT.extents(image, files, 0, image.virtual_size) for row in rows if row["host_len"]]


def test_every_byte_of_a_sparse_disk_has_one_purpose(open_bytes):
    image, files = open_bytes(SPARSE)
    (out,) = covered(image, files, stored_rows(image, files))
    overhead = vmdk.field(SPARSE, "overHead") * 512
    tables = 512 * (vmdk.field(SPARSE, "gdOffset") + 1 + 8)
    assert out[: 21 * 512] == b"\1" * (21 * 512)
    assert out[21 * 512 : tables] == b"\2" * (tables - 21 * 512)
    assert out[tables:overhead] == bytes(overhead - tables)
    assert out[overhead:] == b"\3" * (len(out) - overhead)


def test_unused_bytes_of_a_stream_are_alignment(open_bytes):
    image, files = open_bytes(STREAM)
    (out,) = covered(image, files, stored_rows(image, files))
    assert out[-1024:] == b"\1" * 1024
    at = vmdk.field(STREAM, "overHead") * 512
    runs = [run for run in bytes(out[at:]).replace(b"\1", b"\2").replace(b"\3", b"\2").split(b"\2") if run]
    assert runs
    assert max(map(len, runs)) < 512


def test_regions_of_a_set_count_its_files(tmp_path):
    pieces = {
        "d-a.vmdk": bytes(4096), "d-b.vmdk": vmdk.sparse({0: A}, capacity=16, grain=8, descriptor=b""),
        "d-c.vmdk": vmdk.cowd({3: b"\1" * 512}, capacity=16), "d-d.vmdk": vmdk.sesparse({1: B}, capacity=16),
    }  # fmt: skip
    lines = ('RW 8 FLAT "d-a.vmdk" 0', 'RW 16 SPARSE "d-b.vmdk"', 'RW 16 VMFSSPARSE "d-c.vmdk"',
             'RW 16 SESPARSE "d-d.vmdk"')  # fmt: skip
    for name, data in {"d.vmdk": vmdk.text("custom", lines), **pieces}.items():
        (tmp_path / name).write_bytes(data)
    with ExitStack() as stack:
        files = [stack.enter_context(SourceFile(str(tmp_path / name))) for name in ("d.vmdk", *pieces)]
        image = FORMAT.open(files[0])
        out = covered(image, files, stored_rows(image, files))
        assert [{*part} for part in out] == [{1}, {3}, {0, 1, 2, 3}, {1, 2, 3}, {1, 2, 3}]
