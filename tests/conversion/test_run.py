"""A conversion leaves the right file or none, whatever goes wrong on the way."""

import os
import random

import pytest

import diskfmt
from diskfmt import (
    Clearance,
    DiskfmtError,
    InUseError,
    IOFailedError,
    NotReadyError,
    Reason,
    RefusedError,
    Severity,
    UsageError,
    engine,
)
from diskfmt.engine import Fault, Op, SystemCalls

MIB = 1 << 20
TARGETS = [
    ("raw", None),
    ("qcow2", None),
    ("qcow2", "zlib"),
    ("qcow2", "zstd"),
    ("vhd:dynamic", None),
    ("vhd:fixed", None),
    ("vmdk:monolithicSparse", None),
    ("vmdk:streamOptimized", None),
    ("vmdk:monolithicFlat", None),
]
IDS = [f"{name}-{codec}" if codec else name for name, codec in TARGETS]


def disk_bytes(size=5 * MIB + 512 * 7, seed=1):
    """A small disk with text, noise, zero runs and lonely sectors, and an MBR so that it is credible."""
    rng = random.Random(seed)
    data = bytearray(size)
    data[MIB : 2 * MIB] = rng.randbytes(MIB)
    text = b"the quick brown fox jumps over the lazy dog\n" * 6000
    data[2 * MIB + 5000 : 2 * MIB + 5000 + len(text)] = text
    for _ in range(40):
        at = rng.randrange(size // 512 - 1) * 512
        data[at : at + 512] = rng.randbytes(512)
    data[446:462] = bytes.fromhex("80010100 830f3f3f 3f000000 c11f0000")
    data[510:512] = b"\x55\xaa"
    return bytes(data)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "disk.raw"
    path.write_bytes(disk_bytes())
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def suffix(format):
    return format.partition(":")[0]


@pytest.mark.parametrize(("format", "codec"), TARGETS, ids=IDS)
def test_every_target_reads_back_equal_and_verified(source, out, format, codec):
    path = out / f"disk.{suffix(format)}"
    result = diskfmt.convert(source, path, format=format, compress=codec, verify=True)
    assert result.virtual_size == source.stat().st_size
    assert result.digest == diskfmt.digest(source)
    assert result.file_size == (out / "disk-flat.vmdk" if "Flat" in format else path).stat().st_size
    with diskfmt.open_disk(path, follow="pieces") as disk:
        assert disk.size == source.stat().st_size
        assert disk.read_at(0, disk.size) == source.read_bytes()
    findings = diskfmt.check(path, deep=True, follow="pieces").findings
    assert [finding for finding in findings if finding.severity > Severity.NOTE] == []


@pytest.mark.parametrize(("format", "codec"), TARGETS, ids=IDS)
def test_same_bytes_for_any_thread_count(source, tmp_path, format, codec):
    files = []
    for threads in (1, 2, 5, 2):
        folder = tmp_path / f"run{len(files)}"
        folder.mkdir()
        diskfmt.convert(source, folder / f"disk.{suffix(format)}", format=format, compress=codec, threads=threads)
        files.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert files[0] == files[1] == files[2] == files[3]


@pytest.mark.parametrize(("format", "codec"), TARGETS, ids=IDS)
def test_measure_tells_the_size_exactly(source, out, format, codec):
    measured = diskfmt.measure(source, format=format, compress=codec)
    result = diskfmt.convert(source, out / "disk", format=format, compress=codec)
    assert measured.required == result.file_size
    if codec is None and "stream" not in format:
        assert measured.required <= measured.fully_allocated


def convert_with(monkeypatch, calls, source, path, **options):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "system", lambda: calls)
        return diskfmt.convert(source, path, threads=2, **options)


@pytest.mark.parametrize(("format", "codec"), TARGETS, ids=IDS)
def test_any_failing_call_leaves_nothing(source, out, monkeypatch, format, codec):
    path = out / f"disk.{suffix(format)}"
    census = SystemCalls.faulty(Op.PREAD, 10**9)
    convert_with(monkeypatch, census, source, path, format=format, compress=codec)
    for name in os.listdir(out):
        os.unlink(out / name)
    rng = random.Random(7)
    for op in (Op.PREAD, Op.PWRITE, Op.FSYNC, Op.FTRUNCATE, Op.RENAME, Op.CLOSE, Op.MALLOC):
        count = census.count(op)
        assert count > 0, op
        for nth in sorted({1, count, *(rng.randint(1, count) for _ in range(3))}):
            code = 28 if op in (Op.PWRITE, Op.FTRUNCATE) and nth % 2 else 5
            calls = SystemCalls.faulty(op, nth, code=code, sticky=op is Op.PREAD)
            with pytest.raises((DiskfmtError, MemoryError)) as caught:
                convert_with(monkeypatch, calls, source, path, format=format, compress=codec)
            if op is not Op.MALLOC:
                assert caught.value.exit_code == (5 if code == 28 else 4), (op, nth)
            assert os.listdir(out) == [], (op, nth)


@pytest.mark.parametrize("op", [Op.PREAD, Op.PWRITE])
def test_short_transfers_change_nothing(source, out, monkeypatch, op):
    diskfmt.convert(source, out / "good", format="qcow2")
    calls = SystemCalls.faulty(op, 1, how=Fault.SHORT, sticky=True)
    convert_with(monkeypatch, calls, source, out / "short", format="qcow2")
    assert (out / "good").read_bytes() == (out / "short").read_bytes()


def test_file_system_without_preallocation_is_written_without(source, out, monkeypatch):
    calls = SystemCalls.faulty(Op.FALLOCATE, 1, code=95, sticky=True)
    convert_with(monkeypatch, calls, source, out / "disk", format="qcow2", verify=True)


@pytest.mark.parametrize(("format", "codec"), TARGETS, ids=IDS)
def test_verify_catches_a_write_that_was_only_promised(source, out, monkeypatch, format, codec):
    path = out / f"disk.{suffix(format)}"
    for nth in (1, 2):
        calls = SystemCalls.faulty(Op.PWRITE, nth, how=Fault.LIE)
        with pytest.raises(IOFailedError) as caught:
            convert_with(monkeypatch, calls, source, path, format=format, compress=codec, verify=True)
        assert caught.value.reason is Reason.VERIFY_FAILED
        assert os.listdir(out) == []


def test_exception_from_the_progress_callback_stops_and_leaves_nothing(source, out):
    def stop(progress):
        if progress.phase == "copy":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diskfmt.convert(source, out / "disk", format="raw", progress=stop)
    assert os.listdir(out) == []


def test_progress_ends_complete_in_each_phase(source, out):
    seen = []
    diskfmt.convert(source, out / "disk", format="qcow2", progress=seen.append, verify=True)
    phases = list(dict.fromkeys(step.phase for step in seen))
    assert phases == ["check", "copy", "sync", "verify"]
    for phase in ("check", "copy"):
        last = [step for step in seen if step.phase == phase][-1]
        assert last.done == last.total > 0


def test_source_that_changes_meanwhile_is_noticed(source, out):
    def touch(progress):
        if progress.phase == "sync":
            with open(source, "r+b") as file:
                file.write(b"\x01")

    with pytest.raises(InUseError) as caught:
        diskfmt.convert(source, out / "disk", format="qcow2", progress=touch)
    assert caught.value.reason is Reason.SOURCE_CHANGED
    assert caught.value.exit_code == 6
    assert os.listdir(out) == []


def test_output_that_is_the_source_is_refused_even_with_force(source):
    before = source.read_bytes()
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, source, format="qcow2", force=True)
    assert caught.value.reason is Reason.OUTPUT_BUSY
    assert source.read_bytes() == before


def test_existing_output_is_refused_without_force(source, out):
    (out / "disk").write_bytes(b"old")
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, out / "disk", format="qcow2")
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    diskfmt.convert(source, out / "disk", format="qcow2", force=True)
    assert diskfmt.compare(source, out / "disk").equal


def test_replaced_output_stays_when_only_its_name_was_not_made_durable(source, out, monkeypatch):
    (out / "disk").write_bytes(b"old")
    census = SystemCalls.faulty(Op.PREAD, 10**9)
    convert_with(monkeypatch, census, source, out / "disk", format="raw", force=True)
    calls = SystemCalls.faulty(Op.FSYNC, census.count(Op.FSYNC))
    with pytest.raises(IOFailedError):
        convert_with(monkeypatch, calls, source, out / "disk", format="raw", force=True)
    assert (out / "disk").read_bytes() == source.read_bytes()


def test_flat_output_needs_both_names(source, out):
    (out / "disk-flat.vmdk").write_bytes(b"old")
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, out / "disk.vmdk", format="vmdk:monolithicFlat")
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert os.listdir(out) == ["disk-flat.vmdk"]


def test_odd_size_is_kept_by_raw_and_filled_up_elsewhere_with_a_note(tmp_path, out):
    path = tmp_path / "odd.raw"
    path.write_bytes(disk_bytes()[: 3 * MIB + 77])
    assert diskfmt.convert(path, out / "a.raw", format="raw", verify=True).virtual_size == 3 * MIB + 77
    result = diskfmt.convert(path, out / "a.qcow2", format="qcow2", verify=True)
    assert result.virtual_size == 3 * MIB + 512
    assert any("appended" in finding.message for finding in result.findings)
    assert diskfmt.compare(path, out / "a.qcow2").equal


def test_clearance_of_another_file_is_refused(source, out, tmp_path):
    with diskfmt.open_disk(source) as disk:
        clearance = Clearance.ungated(disk.identities, reason="test")
    result = diskfmt.convert(source, out / "a", format="raw", clearance=clearance)
    assert result.ungated == "test"
    other = tmp_path / "other.raw"
    other.write_bytes(disk_bytes(seed=2))
    with pytest.raises(InUseError) as caught:
        diskfmt.convert(other, out / "b", format="raw", clearance=clearance)
    assert caught.value.reason is Reason.SOURCE_CHANGED


def test_image_inside_an_image_is_refused_unless_waived(source, tmp_path, out):
    inner = tmp_path / "inner.qcow2"
    diskfmt.convert(source, inner, format="qcow2")
    outer = tmp_path / "outer.vhd"
    diskfmt.convert(inner, outer, format="vhd", source_format="raw")
    with pytest.raises(NotReadyError) as caught:
        diskfmt.convert(outer, out / "a", format="raw")
    assert caught.value.reason is Reason.NESTED_FORMAT
    result = diskfmt.convert(outer, out / "a", format="raw", waive=["nested_format"])
    assert [finding.reason for finding in result.waived] == [Reason.NESTED_FORMAT]
    assert (out / "a").read_bytes()[: inner.stat().st_size] == inner.read_bytes()


@pytest.mark.parametrize("name", ["truncated", "no_such_reason"])
def test_what_cannot_be_waived_is_a_usage_error(source, out, name):
    with pytest.raises(UsageError):
        diskfmt.convert(source, out / "a", format="raw", waive=[name])


def test_source_in_use_by_a_writer_is_refused_unless_waived(source, out):
    with open(source, "r+b"):
        with pytest.raises(InUseError) as caught:
            diskfmt.convert(source, out / "a", format="raw")
        assert caught.value.reason is Reason.IN_USE
        diskfmt.convert(source, out / "a", format="raw", waive=["IN_USE"])


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_impossible_thread_count_is_a_usage_error(source, out, threads):
    with pytest.raises(UsageError):
        diskfmt.convert(source, out / "a", format="raw", threads=threads)
