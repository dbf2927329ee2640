"""What the program asks of the system, as strace sees it: nothing that an image names, and in the order of TM-1001."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import qcow2, vhd, vmdk

import diskfmt
from hostile.kit import mbr_disk, text

NAMED = "secret-that-an-image-names"


@pytest.fixture(scope="module")
def strace(tmp_path_factory) -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    log = tmp_path_factory.mktemp("strace") / "log"
    if subprocess.run([path, "-f", "--seccomp-bpf", "-o", log, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    return path


def trace(strace: str, folder: Path, *words: object, calls: str) -> tuple[list[str], int]:
    """The system calls of `python -m diskfmt`, one a line, and its exit code."""
    log = folder / "strace.log"
    command = [
        strace,
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-s",
        "300",
        "-e",
        f"trace={calls}",
        "-e",
        "signal=none",
        "-o",
        log,
    ]
    done = subprocess.run(
        [*command, sys.executable, "-m", "diskfmt", *map(str, words)],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "LD_PRELOAD": "", "DISKFMT_NO_REBUILD": "1"},  # an editable install runs CMake
    )
    lines = log.read_text(errors="replace").splitlines()
    log.unlink()
    return [re.sub(r"^\d+ +", "", line) for line in lines], done.returncode


def named_images(secret: str) -> dict[str, tuple[str, bytes]]:
    """Images that name a file: how they are called, and what they are."""
    name = secret.encode()
    size = 1 << 20
    raw_file = 1 << 2
    data_file = qcow2.image({0: ("data", text(4096))}, size=size, bits=12,
                            extensions=[qcow2.extension(qcow2.DATA_FILE, name)])  # fmt: skip
    locator = name.decode().encode("utf-16-le")
    differencing = vhd.dynamic(
        1 << 16, {}, disk_type=4, changed_header={"parent_name": secret.encode("utf-16-be").ljust(512, b"\0")}
    )
    assert locator
    flat = vmdk.flat_text(2048, secret)
    hint = (f'parentFileNameHint="{secret}"',)
    lines = ('RW 128 SPARSE "d.vmdk"',)
    head = ("version=1", "CID=fffffffe", "parentCID=12345678")
    child = vmdk.text("monolithicSparse", lines, head=head, more=hint)
    tracked = vmdk.text("monolithicSparse", lines, more=(f'changeTrackPath="{secret}"',))
    several = vmdk.text("custom", (f'RW 128 FLAT "{secret}" 0', f'RW 128 SPARSE "{secret}.2"'))
    return {
        "backing": ("d.qcow2", bytes(qcow2.image({}, size=size, bits=12, backing=name).data)),
        "backing-with-format": (
            "d.qcow2",
            bytes(
                qcow2.image(
                    {}, size=size, bits=12, backing=name, extensions=[qcow2.extension(qcow2.BACKING_FORMAT, b"raw")]
                ).data
            ),
        ),
        "data-file": ("d.qcow2", bytes(data_file.patch(incompatible=raw_file).data)),
        "vhd-parent": ("d.vhd", bytes(differencing)),
        "flat-extent": ("d.vmdk", flat),
        "parent-hint": ("d.vmdk", vmdk.sparse({}, capacity=128, descriptor=child)),
        "change-track": ("d.vmdk", vmdk.sparse({}, capacity=128, descriptor=tracked)),
        "custom-extents": ("d.vmdk", several),
    }


@pytest.mark.unsanitized
@pytest.mark.parametrize("kind", list(named_images("x")))
def test_file_that_an_image_names_is_never_opened(strace, tmp_path, kind):
    secret = tmp_path / NAMED
    secret.write_bytes(mbr_disk())
    spellings = [str(secret), NAMED] if kind in ("flat-extent", "custom-extents") else [str(secret)]
    for spelling in spellings:
        name, data = named_images(spelling)[kind]
        path = tmp_path / name
        path.write_bytes(data)
        for words in (("info", "--backing-chain"), ("convert", "-O", "raw")):  # whose gate does all that `check` does
            target = [tmp_path / "o"] if words[0] == "convert" else []
            calls, code = trace(strace, tmp_path, *words, path, *target, calls="%file,%network,%process")
            assert code in ({0, 1} if words[0] == "info" else {1}), words
            opened = [line for line in calls if str(path) in line]
            assert opened, "the image itself was not seen"
            assert [line for line in calls if NAMED in line] == []
            assert [line for line in calls if re.match(r"(socket|connect|fork|vfork|execve)\(", line)][1:] == []
            assert sorted(os.listdir(tmp_path)) == sorted([NAMED, name])


@pytest.mark.unsanitized
def test_info_opens_the_image_once_and_writes_nothing(strace, tmp_path):
    path = tmp_path / "d.qcow2"
    path.write_bytes(bytes(qcow2.image({0: ("data", text(4096))}, size=1 << 20, bits=12).data))
    calls, code = trace(strace, tmp_path, "info", path, calls="openat,open,creat,rename,renameat2,unlink,mmap")
    assert code == 0
    opened = [line for line in calls if str(path) in line and line.startswith("open")]
    assert len(opened) == 1
    assert "O_RDONLY" in opened[0]
    for flag in ("O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):
        assert flag in opened[0]
    assert [line for line in calls if line.startswith("mmap") and str(path) in line] == []
    writing = [line for line in calls if re.search(r"O_(WRONLY|RDWR|CREAT)", line) and '"/dev/null"' not in line]
    assert [line for line in writing if "ENOENT" not in line] == []


ORDER = {  # target → the files whose names are given
    "raw": ["o.x"],
    "qcow2": ["o.x"],
    "vhd:dynamic": ["o.x"],
    "vhd:fixed": ["o.x"],
    "vmdk:monolithicSparse": ["o.x"],
    "vmdk:streamOptimized": ["o.x"],
    "vmdk:monolithicFlat": ["o-flat.vmdk", "o.x"],
}


@pytest.mark.parametrize("target", ORDER)
def test_output_is_written_flushed_named_and_its_name_flushed(strace, tmp_path, target):
    source = tmp_path / "in.raw"
    source.write_bytes(mbr_disk(3 << 20))
    out = tmp_path / "out"
    out.mkdir()
    calls, code = trace(
        strace, tmp_path, "convert", "-O", target, source, out / "o.x",
        calls="openat,pwrite64,pwritev,write,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,fchmod,unlinkat",
    )  # fmt: skip
    assert code == 0
    assert sorted(os.listdir(out)) == ORDER[target]
    done = [line for line in calls if str(out) in line and not line.startswith("write(1<")]  # which is the result
    created = [line for line in done if "O_CREAT" in line]
    assert len(created) == len(ORDER[target])
    for line in created:
        assert all(flag in line for flag in ("O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", ".part"))
    steps = [_step(line, out) for line in done]
    writes = [number for number, step in enumerate(steps) if step in ("write", "length")]
    flushes = [number for number, step in enumerate(steps) if step == "fsync file"]
    names = [number for number, step in enumerate(steps) if step == "rename"]
    last = [number for number, step in enumerate(steps) if step == "fsync directory"]
    assert writes
    assert len(flushes) == len(names) == len(ORDER[target])
    assert len(last) == 1
    assert max(writes) < min(flushes) <= max(flushes) < min(names) <= max(names) < last[0]
    assert all("RENAME_NOREPLACE" in done[number] for number in names)
    if len(names) == 2:
        assert "-flat.vmdk" in done[names[0]], "the data file has its name before the descriptor that points to it"
    assert "unlink" not in steps


def _step(line: str, out: Path) -> str:
    name = line.partition("(")[0].removesuffix("64").removesuffix("v")
    if name in ("pwrite", "write"):
        return "write"
    if name in ("ftruncate", "fallocate"):
        return "length"
    if name in ("fsync", "fdatasync"):
        return "fsync file" if ".part>" in line else f"fsync {'directory' if f'<{out}>' in line else 'other'}"
    if name.startswith("rename"):
        return "rename"
    return "unlink" if name.startswith("unlink") else name


MAGIC_LAST = {"qcow2": (0, 8), "vhd:dynamic": (0, 8), "vmdk:monolithicSparse": (0, 4), "vmdk:streamOptimized": (0, 4)}


@pytest.mark.parametrize("target", MAGIC_LAST)
def test_header_is_written_last(strace, tmp_path, target):
    source = tmp_path / "in.raw"
    source.write_bytes(mbr_disk(3 << 20))
    calls, code = trace(
        strace, tmp_path, "convert", "-O", target, source, tmp_path / "o", calls="pwrite64,pwritev,write"
    )
    assert code == 0
    writes = [line for line in calls if ".part>" in line]
    assert re.search(r", 0\) += \d+$", writes[-1]), writes[-1]
    assert not any(re.search(r", 0\) += \d+$", line) for line in writes[:-1])
    assert diskfmt.check(tmp_path / "o").ok


def test_failed_conversion_removes_its_temporary_file_by_descriptor(strace, tmp_path):
    data = bytes(qcow2.image({0: ("data", text(4096)), 1: ("deflate", text(4096))}, size=1 << 20, bits=12).data)
    built = qcow2.image({0: ("data", text(4096)), 1: ("deflate", text(4096))}, size=1 << 20, bits=12)
    at = built.places[1]
    (tmp_path / "in").write_bytes(data[:at] + b"\xff" * 64 + data[at + 64 :])
    calls, code = trace(strace, tmp_path, "convert", "-O", "raw", tmp_path / "in", tmp_path / "o", calls="%file")
    assert code == 3
    assert os.listdir(tmp_path) == ["in"]
    assert [line for line in calls if line.startswith("rename")] == []
