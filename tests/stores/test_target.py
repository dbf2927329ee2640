"""The output's discipline: complete and durable under its name, or not there."""

import os
import stat

import pytest

from diskfmt import engine
from diskfmt.engine import Fault, Op, SystemCalls
from diskfmt.errors import IOFailedError, Reason, RefusedError
from diskfmt.stores.target import TargetFile


def names(folder):
    return sorted(os.listdir(folder))


def test_commit_gives_the_file_its_name_and_the_umasks_mode(tmp_path):
    path = tmp_path / "out.raw"
    old = os.umask(0o027)
    try:
        with TargetFile(str(path)) as out:
            out.write(b"data", 0)
            assert stat.S_IMODE(os.stat(out.temp_path).st_mode) == 0o600
            assert not path.exists()
            out.sync()
            out.commit()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["out.raw"]


def test_leaving_without_commit_leaves_nothing(tmp_path):
    with TargetFile(str(tmp_path / "out.raw")) as out:
        out.write(b"data", 0)
    assert names(tmp_path) == []


def test_existing_output_without_force_is_refused_and_untouched(tmp_path):
    path = tmp_path / "out.raw"
    path.write_bytes(b"old")
    with pytest.raises(RefusedError) as caught:
        TargetFile(str(path))
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.raw"]


def test_existing_output_with_force_is_replaced_at_commit_only(tmp_path):
    path = tmp_path / "out.raw"
    path.write_bytes(b"old")
    with TargetFile(str(path), force=True) as out:
        out.write(b"new", 0)
        assert path.read_bytes() == b"old"
        out.commit()
    assert path.read_bytes() == b"new"


def test_output_that_appears_meanwhile_is_refused_at_commit(tmp_path):
    path = tmp_path / "out.raw"
    with pytest.raises(RefusedError) as caught, TargetFile(str(path)) as out:
        out.write(b"new", 0)
        path.write_bytes(b"somebody else's")
        out.commit()
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["out.raw"]


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_output_that_is_no_regular_file_is_refused_even_with_force(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(RefusedError) as caught:
        TargetFile("/dev/null" if kind == "device" else str(path), force=True)
    assert caught.value.reason is Reason.NOT_REGULAR


def test_directory_that_does_not_exist_is_a_write_error(tmp_path):
    with pytest.raises(IOFailedError) as caught:
        TargetFile(str(tmp_path / "missing" / "out.raw"))
    assert caught.value.reason is Reason.WRITE_ERROR
    assert caught.value.exit_code == 4


def test_name_as_long_as_the_file_system_allows_works(tmp_path):
    path = tmp_path / ("n" * 255)
    with TargetFile(str(path)) as out:
        out.commit()
    assert path.exists()


def test_symbolic_link_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "out.raw"
    link.symlink_to(victim)
    with TargetFile(str(link), force=True) as out:
        out.write(b"new", 0)
        out.commit()
    assert victim.read_bytes() == b"precious"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("op", "code", "reason"),
    [
        (Op.PWRITE, 28, Reason.NO_SPACE),
        (Op.PWRITE, 5, Reason.WRITE_ERROR),
        (Op.PWRITE, 122, Reason.NO_SPACE),
        (Op.FTRUNCATE, 27, Reason.NO_SPACE),
        (Op.FSYNC, 5, Reason.WRITE_ERROR),
        (Op.FSYNC, 28, Reason.NO_SPACE),
        (Op.CLOSE, 122, Reason.NO_SPACE),
        (Op.RENAME, 13, Reason.WRITE_ERROR),
    ],
)
def test_failing_call_leaves_nothing_and_names_its_reason(tmp_path, monkeypatch, op, code, reason):
    calls = SystemCalls.faulty(op, 1, code=code)
    monkeypatch.setattr(engine, "system", lambda: calls)
    with pytest.raises(IOFailedError) as caught, TargetFile(str(tmp_path / "out.raw")) as out:
        out.write(b"data", 0)
        out.truncate(8)
        out.sync()
        out.commit()
    assert caught.value.reason is reason
    assert caught.value.errno == code
    assert names(tmp_path) == []


def test_short_write_is_continued(tmp_path, monkeypatch):
    calls = SystemCalls.faulty(Op.PWRITE, 1, how=Fault.SHORT)
    monkeypatch.setattr(engine, "system", lambda: calls)
    with TargetFile(str(tmp_path / "out.raw")) as out:
        out.write(b"0123456789", 0)
        out.commit()
    assert (tmp_path / "out.raw").read_bytes() == b"0123456789"
    assert calls.count(Op.PWRITE) == 2


def test_failed_sync_is_not_tried_again(tmp_path, monkeypatch):
    calls = SystemCalls.faulty(Op.FSYNC, 1)
    monkeypatch.setattr(engine, "system", lambda: calls)
    with pytest.raises(IOFailedError), TargetFile(str(tmp_path / "out.raw")) as out:
        out.sync()
    assert calls.count(Op.FSYNC) == 1
