"""The world around a conversion misbehaves: sources that change, full disks, directories that vanish, odd names."""

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import diskfmt
from diskfmt import DiskfmtError, InUseError, IOFailedError, Reason, RefusedError
from hostile.kit import guard, mbr_disk, text

MIB = 1 << 20
TARGETS = ("raw", "qcow2", "vhd:dynamic", "vhd:fixed", "vmdk", "vmdk:streamOptimized", "vmdk:monolithicFlat")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "disk.raw"
    path.parent.mkdir()
    path.write_bytes(mbr_disk(4 * MIB))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def at_phase(phase: str, action):
    """A watcher that acts once, when a phase is first heard of."""
    done = []

    def watch(progress: diskfmt.Progress) -> None:
        if progress.phase == phase and not done:
            done.append(True)
            action()

    return watch


# ---- sources that change ---------------------------------------------------------------------------------------------


def shrink(path: Path) -> None:
    os.truncate(path, MIB)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 128)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xeb\xfe")


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(mbr_disk(4 * MIB)[::-1])
    os.replace(other, path)


@pytest.mark.parametrize("target", ["raw", "qcow2", "vmdk:monolithicFlat"])
@pytest.mark.parametrize("change", [shrink, grow, rewrite])
@pytest.mark.parametrize("phase", ["check", "copy", "sync", "verify"])
def test_source_that_changes_leaves_no_output(source, out, target, change, phase):
    watch = at_phase(phase, lambda: change(source))
    with pytest.raises(DiskfmtError) as caught, guard():
        diskfmt.convert(source, out / "disk.x", format=target, progress=watch, verify=phase == "verify")
    assert caught.value.reason in {Reason.SOURCE_CHANGED, Reason.TRUNCATED, Reason.VERIFY_FAILED}, str(caught.value)
    if change is not shrink and phase != "verify":
        assert type(caught.value) is InUseError
    assert os.listdir(out) == []


@pytest.mark.parametrize("phase", ["check", "copy", "sync"])
def test_name_that_leads_to_another_file_meanwhile_does_not_matter(source, out, phase):
    """The file that was opened is converted, or nothing: unlinking it changes its ctime, which counts as a change."""
    before = source.read_bytes()
    try:
        diskfmt.convert(source, out / "o", format="raw", progress=at_phase(phase, lambda: replace(source)))
    except InUseError as error:
        assert error.reason is Reason.SOURCE_CHANGED
        assert os.listdir(out) == []
    else:
        assert (out / "o").read_bytes() == before


def test_file_that_shrinks_under_random_access_is_an_error_not_zeroes(source):
    with diskfmt.open_disk(source) as disk:
        assert disk.read_at(2 * MIB, 8)
        os.truncate(source, MIB)
        with pytest.raises(DiskfmtError):
            disk.read_at(2 * MIB, 8)


# ---- the directory ---------------------------------------------------------------------------------------------------


def remove_tree(out: Path) -> None:
    for name in os.listdir(out):
        os.unlink(out / name)
    out.rmdir()


@pytest.mark.parametrize("phase", ["check", "copy", "sync"])
def test_directory_removed_meanwhile_is_a_write_error(source, out, phase):
    with pytest.raises(IOFailedError) as caught:
        diskfmt.convert(source, out / "o", format="qcow2", progress=at_phase(phase, lambda: remove_tree(out)))
    assert caught.value.reason is Reason.WRITE_ERROR
    assert not out.exists()


def test_directory_renamed_meanwhile_gets_the_file(source, out, tmp_path):
    moved = tmp_path / "moved"
    diskfmt.convert(source, out / "o", format="raw", progress=at_phase("sync", lambda: out.rename(moved)))
    assert (moved / "o").read_bytes() == source.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_directory_without_permission_is_a_write_error(source, out):
    out.chmod(0o500)
    with pytest.raises(IOFailedError) as caught:
        diskfmt.convert(source, out / "o", format="raw")
    assert caught.value.reason is Reason.WRITE_ERROR


def test_directory_without_permission_is_a_write_error_for_a_user(source, out, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    out.chmod(0o500)
    for folder in (tmp_path, source.parent, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            os.chmod(folder, folder.stat().st_mode | 0o055)
        if folder == Path("/tmp"):
            break
    code = (
        "import os, sys, diskfmt, diskfmt.conversion.run, diskfmt.readiness.gate\n"
        "diskfmt.inspect(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: diskfmt.convert(sys.argv[1], sys.argv[2], format='raw')\n"
        "except diskfmt.DiskfmtError as error: print(error.reason)\n"
    )
    words = [sys.executable, "-c", code, source, out / "o"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("nobody may not read this installation")
    assert done.stdout == "WRITE_ERROR\n", done.stderr
    assert os.listdir(out) == []


# ---- no space --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path):
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=16", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
@pytest.mark.parametrize("target", TARGETS)
def test_full_file_system_is_no_space_and_leaves_nothing(source, small, target):
    with pytest.raises(IOFailedError) as caught:
        diskfmt.convert(source, small / "disk.x", format=target)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.NO_SPACE, 5)
    assert os.listdir(small) == []


@pytest.mark.root
def test_file_system_without_inodes_is_no_space(source, small):
    try:
        for number in range(100):
            (small / str(number)).touch()
    except OSError:
        pass
    with pytest.raises(IOFailedError) as caught:
        diskfmt.convert(source, small / "o", format="raw")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("target", TARGETS)
def test_limit_on_file_size_is_no_space_and_leaves_nothing(source, out, target):
    words = [sys.executable, "-m", "diskfmt", "convert", "-O", target, source, out / "disk.x"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10)),
    )
    assert done.returncode == 5, done.stderr
    assert "[NO_SPACE" in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(out) == []


@pytest.mark.parametrize("limit", [8, 12])
def test_few_descriptors_are_enough_or_an_error(source, out, limit):
    words = [sys.executable, "-m", "diskfmt", "convert", "-O", "vmdk:monolithicFlat", source, out / "disk.vmdk"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DISKFMT_NO_REBUILD": "1"},  # an editable install would start a build, which needs more
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    assert done.returncode in (0, 4), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(out)) == ([] if done.returncode else ["disk-flat.vmdk", "disk.vmdk"])


# ---- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    "newline": "a\nb.img",
    "escape": "\x1b[2J.img",
    "not-utf-8": "\udcff\udcfe.img",
    "dash": "-O.img",
    "two-dashes": "--force",
    "space": "  ",
    "dots": "...",
    "longest": "x" * 255,
    "longest-in-three-bytes": "日" * 85,
    "comma": "a,b=c.img",
    "protocol": "json:{}",
    "percent": "%s%n",
    "quote": "\"'.img",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["raw", "qcow2", "vhd"])
def test_odd_name_is_kept_to_the_byte(source, out, name, target):
    diskfmt.convert(source, out / NAMES[name], format=target, sync=False)
    assert os.listdir(out) == [NAMES[name]]
    assert diskfmt.digest(out / NAMES[name]) == diskfmt.digest(source)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["vmdk", "vmdk:streamOptimized", "vmdk:monolithicFlat"])
def test_odd_name_in_a_descriptor_is_refused_or_read_again(source, out, name, target):
    try:
        diskfmt.convert(source, out / NAMES[name], format=target, sync=False)
    except (diskfmt.UsageError, IOFailedError):
        assert os.listdir(out) == []
        return
    assert diskfmt.digest(out / NAMES[name], follow="pieces") == diskfmt.digest(source)


@pytest.mark.parametrize("name", ["x" * 256, "日" * 86, "", "a\0b", "\ud800", "no/such/directory", "x" * 5000])
@pytest.mark.parametrize("target", ["raw", "vmdk:monolithicFlat"])
def test_impossible_name_is_an_error_of_the_library(source, tmp_path, name, target, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((IOFailedError, diskfmt.UsageError)) as caught:
        diskfmt.convert(source, name, format=target)
    assert caught.value.remedy
    assert sorted(os.listdir(tmp_path)) == before


# ---- the same file, other names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["same", "dot", "hard", "soft", "flat-piece"])
def test_source_is_never_its_own_target(source, way, monkeypatch):
    before = source.read_bytes()
    folder = source.parent
    name, target = source, "qcow2"
    if way == "dot":
        name = Path(f"{folder}/./../in/disk.raw")
    elif way == "hard":
        name = folder / "hard"
        os.link(source, name)
    elif way == "soft":
        name = folder / "soft"
        name.symlink_to("disk.raw")
    elif way == "flat-piece":
        os.link(source, folder / "vm-flat.vmdk")
        name, target = folder / "vm.vmdk", "vmdk:monolithicFlat"
    names = sorted(os.listdir(folder))
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, name, format=target, force=True)
    assert caught.value.reason is Reason.OUTPUT_BUSY
    assert source.read_bytes() == before
    assert sorted(os.listdir(folder)) == names


def test_flat_disk_is_never_written_over_its_own_piece(source, out):
    diskfmt.convert(source, out / "vm.vmdk", format="vmdk:monolithicFlat")
    for name, target in (("vm.vmdk", "vmdk:monolithicFlat"), ("vm-flat.vmdk", "raw")):
        with pytest.raises(RefusedError) as caught:
            diskfmt.convert(out / "vm.vmdk", out / name, format=target, force=True, follow="pieces")
        assert caught.value.reason is Reason.OUTPUT_BUSY
    assert diskfmt.digest(out / "vm.vmdk", follow="pieces") == diskfmt.digest(source)


def test_link_to_a_device_is_not_replaced(source, out):
    (out / "link").symlink_to("/dev/null")
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, out / "link", format="raw", force=True)
    assert caught.value.reason is Reason.NOT_REGULAR
    assert (out / "link").is_symlink()


def test_dangling_link_is_an_output_that_exists(source, out):
    (out / "link").symlink_to("nowhere")
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, out / "link", format="raw")
    assert caught.value.reason is Reason.OUTPUT_EXISTS


# ---- several at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["raw", "qcow2", "vmdk:monolithicFlat"])
def test_of_conversions_into_the_same_name_one_wins(source, out, target):
    start = threading.Barrier(6)

    def job(_: int) -> str:
        start.wait()
        try:
            diskfmt.convert(source, out / "o.x", format=target, threads=2)
        except RefusedError as error:
            return error.reason.value
        return "done"

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(job, range(6)))
    assert answers == ["OUTPUT_EXISTS"] * 5 + ["done"]
    form = target.partition(":")[0]
    assert diskfmt.compare(source, out / "o.x", formats=("raw", form), follow="pieces").equal
    assert [name for name in os.listdir(out) if name.endswith(".part")] == []


def test_target_that_appears_meanwhile_is_not_touched(source, out):
    appear = at_phase("sync", lambda: (out / "o").write_text("precious"))
    with pytest.raises(RefusedError) as caught:
        diskfmt.convert(source, out / "o", format="raw", progress=appear)
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert os.listdir(out) == ["o"]
    assert (out / "o").read_text() == "precious"


def test_descriptor_that_appears_meanwhile_takes_the_data_file_back(source, out):
    appear = at_phase("sync", lambda: (out / "o.vmdk").write_text("precious"))
    with pytest.raises(RefusedError):
        diskfmt.convert(source, out / "o.vmdk", format="vmdk:monolithicFlat", progress=appear)
    assert os.listdir(out) == ["o.vmdk"]


@pytest.mark.parametrize("target", TARGETS)
def test_64_threads_write_what_one_writes(source, out, tmp_path, target):
    other = tmp_path / "other"
    other.mkdir()
    diskfmt.convert(source, out / "d.x", format=target, threads=1, sync=False)
    diskfmt.convert(source, other / "d.x", format=target, threads=64, sync=False)
    for name in os.listdir(out):
        assert (out / name).read_bytes() == (other / name).read_bytes()


def test_one_disk_is_read_by_many_threads(source, out):
    diskfmt.convert(source, out / "d.qcow2", format="qcow2", compress="zlib", sync=False)
    whole = source.read_bytes()
    with diskfmt.open_disk(out / "d.qcow2") as disk, ThreadPoolExecutor(16) as pool:
        places = [(at * 7919 * 13) % (4 * MIB - 70000) for at in range(400)]
        parts = pool.map(lambda at: disk.read_at(at, 70000), places)
        assert all(part == whole[at : at + 70000] for at, part in zip(places, parts, strict=True))


def test_watcher_that_raises_in_any_phase_leaves_nothing(source, out):
    for phase in ("check", "copy", "sync", "verify"):

        class OwnError(Exception):
            pass

        def stop(progress: diskfmt.Progress, phase: str = phase, error: type[Exception] = OwnError) -> None:
            if progress.phase == phase:
                raise error

        with pytest.raises(OwnError):
            diskfmt.convert(source, out / "o", format="qcow2", verify=True, progress=stop)
        assert os.listdir(out) == []


def test_holes_that_are_filled_behind_the_map_are_a_change(tmp_path, out):
    """SEEK_HOLE says that nothing is there; a moment later there is."""
    path = tmp_path / "sparse.raw"
    path.write_bytes(mbr_disk(MIB))
    os.truncate(path, 8 * MIB)

    def fill() -> None:
        with path.open("r+b") as file:
            file.seek(6 * MIB)
            file.write(text(MIB))

    with pytest.raises(InUseError):
        diskfmt.convert(path, out / "o", format="qcow2", progress=at_phase("copy", fill))
    assert os.listdir(out) == []
