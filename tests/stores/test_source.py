"""Opening, reading and watching files: TM-301 to TM-305, TM-501a, TM-503, TM-1103, TM-1104."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diskfmt import engine
from diskfmt.errors import CorruptError, DiskfmtError, InUseError, IOFailedError, Reason, RefusedError
from diskfmt.stores.source import SourceFile

CONTENT = bytes(range(256)) * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def source(path: Path) -> Iterator[SourceFile]:
    with SourceFile(path) as source:
        yield source


# opening


def test_file_is_described(source: SourceFile, path: Path) -> None:
    info = path.stat()
    assert (source.size, source.path, source.sector_size, source.is_block_device) == (4096, str(path), 512, False)
    known = source.identity
    assert (known.device, known.inode, known.mode) == (info.st_dev, info.st_ino, info.st_mode)
    assert (known.size, known.mtime_ns, known.ctime_ns) == (4096, info.st_mtime_ns, info.st_ctime_ns)
    assert source.identity_now() == known
    source.require_unchanged()


def test_descriptor_is_for_reading_and_not_inherited(source: SourceFile) -> None:
    assert fcntl.fcntl(source.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert fcntl.fcntl(source.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_close_twice_is_harmless(path: Path) -> None:
    source = SourceFile(path)
    fd = source.fd
    source.close()
    source.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_link_given_by_the_caller_is_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with SourceFile(link) as source:
        assert stat.S_ISREG(source.identity.mode)


def test_colon_names_are_plain_names(tmp_path: Path) -> None:
    """TM-302."""
    for name in ("json:{}", "nbd:localhost:1", "file:x", "fat:rw:x", "x,format=raw"):
        (tmp_path / name).write_bytes(b"x")
        with SourceFile(tmp_path / name) as source:
            assert source.size == 1


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def _link_to_device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_fifo, "a named pipe"),
        (_socket, "a socket"),
        (_link_to_device, "a character device"),
        (_directory, "a directory"),
        (lambda _: Path("/dev/null"), "a character device"),
        (lambda _: Path("/dev/tty"), "device"),
    ],
)
def test_what_is_not_a_file_is_refused(tmp_path: Path, make: Callable[[Path], Path], what: str) -> None:
    path = make(tmp_path / "thing")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(RefusedError, match=what) as error:
        SourceFile(path)
    assert (error.value.reason, error.value.path) == (Reason.NOT_REGULAR, str(path))
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("missing", "no such file", errno.ENOENT),
        ("disk.img/x", "not a directory", errno.ENOTDIR),
        ("x" * 300, "too long", errno.ENAMETOOLONG),
        ("nul\0", "no file can have this name", errno.EINVAL),
        ("", "no such file", errno.ENOENT),
    ],
)
def test_what_cannot_be_opened_is_a_read_error(path: Path, name: str, text: str, code: int) -> None:
    with pytest.raises(IOFailedError, match=text) as error:
        SourceFile(f"{path.parent}/{name}" if name else "")
    assert (error.value.reason, error.value.errno) == (Reason.READ_ERROR, code)
    assert error.value.remedy
    assert error.value.exit_code == 4


def test_no_permission_is_a_read_error(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.chmod(0)
    with pytest.raises(IOFailedError, match="permission denied") as error:
        SourceFile(path)
    assert error.value.remedy == "make the file readable for this user"


# reading


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 4096), (4095, 1), (4096, 0), (17, 1000)])
def test_read_inside_the_file_is_exact(source: SourceFile, offset: int, length: int) -> None:
    assert source.read_at(offset, length) == CONTENT[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 4097), (4096, 1), (4095, 2), (1 << 62, 1), (5000, 0)])
def test_read_across_the_end_is_truncated(source: SourceFile, offset: int, length: int) -> None:
    with pytest.raises(CorruptError) as error:
        source.read_at(offset, length)
    assert (error.value.reason, error.value.offset) == (Reason.TRUNCATED, 4096)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (1 << 63, 1), ((1 << 63) - 1, 1), (1 << 64, 1 << 64)])
def test_read_that_no_file_can_have_is_out_of_file(source: SourceFile, offset: int, length: int) -> None:
    with pytest.raises(CorruptError) as error:
        source.read_at(offset, length)
    assert error.value.reason is Reason.OUT_OF_FILE


def test_short_reads_are_continued(source: SourceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: pread(fd, min(count, 7), offset))
    assert source.read_at(3, 1000) == CONTENT[3:1003]


def test_read_error_names_the_place(source: SourceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(IOFailedError, match="input/output error") as error:
        source.read_at(512, 10)
    assert (error.value.reason, error.value.errno, error.value.offset) == (Reason.READ_ERROR, errno.EIO, 512)


# watching


def test_file_cut_while_reading_is_changed(source: SourceFile, path: Path) -> None:
    os.truncate(path, 100)
    with pytest.raises(InUseError) as error:
        source.read_at(0, 4096)
    assert (error.value.reason, error.value.offset) == (Reason.SOURCE_CHANGED, 100)


@pytest.mark.parametrize("change", ["write", "append", "mode"])
def test_change_is_noticed(source: SourceFile, path: Path, change: str) -> None:
    if change == "mode":
        path.chmod(0o600)
    else:
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_SET if change == "write" else os.SEEK_END)
            file.write(b"changed")
        os.utime(path, ns=(0, source.identity.mtime_ns + 1))  # the clock of the file system may be coarse
    with pytest.raises(InUseError, match="differs") as error:
        source.require_unchanged()
    assert error.value.reason is Reason.SOURCE_CHANGED


def test_swapped_name_leaves_the_open_file(source: SourceFile, path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    other.rename(path)
    assert source.read_at(0, 4) == CONTENT[:4]


@pytest.mark.parametrize(("kind", "trusted"), [(0xEF53, True), (0x01021994, True), (0x6969, False), (0, False)])
def test_holes_are_trusted_by_file_system(
    source: SourceFile, monkeypatch: pytest.MonkeyPatch, kind: int, trusted: bool
) -> None:
    monkeypatch.setattr(engine, "filesystem", lambda _: kind)
    assert source.trusts_holes is trusted


# pieces beside it


def test_piece_beside_is_opened(source: SourceFile, path: Path) -> None:
    path.with_name("disk-flat.vmdk").write_bytes(b"piece")
    with source.open_beside("disk-flat.vmdk") as piece:
        assert (piece.size, piece.path) == (5, str(path.with_name("disk-flat.vmdk")))


def test_piece_is_found_from_a_bare_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    path.with_name("p").write_bytes(b"piece")
    with SourceFile("disk.img") as source, source.open_beside("p") as piece:
        assert (piece.size, piece.path) == (5, "p")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../disk.img",
        "sub/p",
        "sub\\p",
        "C:\\p",
        "a\0b",
        "a\nb",
        "p/",
        "x" * 256,
        "disk.img",
    ],
)
def test_other_names_are_external(source: SourceFile, path: Path, name: str) -> None:
    with pytest.raises(RefusedError) as error:
        source.open_beside(name)
    assert error.value.reason is Reason.EXTERNAL_REFERENCE
    assert "\n" not in str(error.value)


def test_linked_piece_is_external(source: SourceFile, path: Path) -> None:
    path.with_name("p").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="symbolic link") as error:
        source.open_beside("p")
    assert error.value.reason is Reason.EXTERNAL_REFERENCE


def test_piece_that_is_the_image_under_another_name_is_external(source: SourceFile, path: Path) -> None:
    os.link(path, path.with_name("p"))
    with pytest.raises(RefusedError, match="names itself"):
        source.open_beside("p")


@pytest.mark.parametrize("make", [_fifo, _socket, _directory])
def test_piece_that_is_no_file_is_refused(source: SourceFile, path: Path, make: Callable[[Path], Path]) -> None:
    make(path.with_name("p"))
    with pytest.raises(RefusedError) as error:
        source.open_beside("p")
    assert error.value.reason is Reason.NOT_REGULAR


def test_missing_piece_is_a_read_error_that_names_it(source: SourceFile, path: Path) -> None:
    with pytest.raises(IOFailedError, match="no such file") as error:
        source.open_beside("\u202ep")
    assert error.value.path == f"{path.parent}/\\u202ep"


def test_refused_opening_leaves_no_descriptor(source: SourceFile, path: Path) -> None:
    _directory(path.with_name("d"))
    before = set(os.listdir("/proc/self/fd"))
    for name in ("d", "missing", "..", "disk.img"):
        with pytest.raises(DiskfmtError):
            source.open_beside(name)
    assert set(os.listdir("/proc/self/fd")) == before
