"""The largest disk of each format, and one sector more; and little memory whatever the size.

Disks of that size come from `qemu-img create`: the images that say so have a few hundred kilobytes.
"""

import os
import resource
import struct
import subprocess
import sys

import pytest
from builders import qcow2 as build_qcow2

import diskfmt
from diskfmt import LimitError, UsageError

SECTOR = 512
GIB = 1 << 30
TIB = 1 << 40
VHD = 2040 * GIB
VMDK = 2 * TIB
MOST = 64 * TIB
MEMORY = 256 << 20  # TM, "memory": a conversion at any virtual size
ADDRESSES = 2 << 30


@pytest.fixture(scope="module")
def huge(tmp_path_factory, qemu_img, qemu_io):
    """A maker of qcow2 images of a size, with a little data at the start, in the middle and at the very end."""
    folder = tmp_path_factory.mktemp("huge")

    def make(size: int, cluster: str = "64k"):
        path = folder / f"{size}-{cluster}.qcow2"
        if not path.exists():
            command = [qemu_img, "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, str(size)]
            subprocess.run(command, check=True, timeout=60)
            writes = [f"write -P {n} {at} 512" for n, at in ((1, 0), (2, size // 1024 * 512), (3, size - 512))]
            words = [word for write in writes for word in ("-c", write)]
            subprocess.run([qemu_io, "-f", "qcow2", *words, path], check=True, timeout=60, capture_output=True)
        return path

    return make


def require_marks(path, format: str) -> None:
    with diskfmt.open_disk(path, format=format, follow="pieces") as disk:
        size = disk.size
        for byte, at in ((1, 0), (2, size // 1024 * 512), (3, size - 512)):
            assert disk.read_at(at, 512) == bytes([byte]) * 512
            assert at == 0 or disk.read_at(at - 512, 512) == bytes(512)


@pytest.mark.parametrize(
    ("target", "size", "cluster"),
    [
        ("vhd:dynamic", VHD, "64k"),
        ("vmdk:monolithicSparse", VMDK, "64k"),
        ("vmdk:streamOptimized", VMDK, "64k"),
        ("vmdk:monolithicFlat", VMDK, "64k"),
        ("raw", 8 * TIB, "64k"),
        ("vhd:fixed", VHD, "64k"),
        ("qcow2:v3", MOST, "64k"),
        ("qcow2:v2", MOST, "2M"),
    ],
)
def test_largest_disk_is_written_and_read(huge, tmp_path, target, size, cluster):
    form = target.partition(":")[0]
    path = tmp_path / f"out.{form}"
    try:
        result = diskfmt.convert(huge(size, cluster), path, format=target, sync=False)
    except diskfmt.IOFailedError as error:
        if error.exit_code == 5 and target in ("raw", "vhd:fixed", "vmdk:monolithicFlat"):
            pytest.skip("the file system has no files of this size")
        raise
    assert result.virtual_size == size
    require_marks(path, form)
    assert sum(os.stat(tmp_path / name).st_blocks * 512 for name in os.listdir(tmp_path)) < 40 << 20
    report = diskfmt.check(path, format=form, follow="pieces")
    assert report.ok
    if target in ("vhd:fixed", "vmdk:monolithicFlat"):
        return  # their holes are read like data, which takes minutes
    back = tmp_path / "back.qcow2"
    diskfmt.convert(path, back, format="qcow2", source_format=form, follow="pieces", sync=False)
    require_marks(back, "qcow2")


@pytest.mark.parametrize(
    ("target", "size"),
    [
        ("vhd:dynamic", VHD + SECTOR),
        ("vhd:fixed", VHD + SECTOR),
        ("vmdk:monolithicSparse", VMDK + SECTOR),
        ("vmdk:streamOptimized", VMDK + SECTOR),
        ("vmdk:monolithicFlat", VMDK + SECTOR),
    ],
)
def test_one_sector_more_is_refused_with_a_way_out(huge, tmp_path, target, size):
    with pytest.raises((LimitError, UsageError)) as caught:
        diskfmt.convert(huge(size), tmp_path / "out", format=target)
    assert caught.value.remedy
    assert os.listdir(tmp_path) == []
    with pytest.raises(type(caught.value)):
        diskfmt.measure(huge(size), format=target)


def test_source_above_64_tib_is_a_limit(tmp_path, qemu_img):
    path = tmp_path / "large.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", path, str(MOST + 65536)], check=True, timeout=60)
    with pytest.raises(LimitError) as caught:
        diskfmt.convert(path, tmp_path / "o", format="qcow2")
    assert caught.value.exit_code == 7
    assert os.listdir(tmp_path) == ["large.qcow2"]


def test_cluster_size_too_small_for_the_disk_names_one_that_is_not(huge, tmp_path):
    with pytest.raises(LimitError) as caught:
        diskfmt.convert(huge(MOST), tmp_path / "o", format="qcow2", options={"cluster_size": "512"})
    assert "cluster_size=" in caught.value.remedy
    size = caught.value.remedy.rpartition("=")[2]
    diskfmt.convert(huge(MOST), tmp_path / "o", format="qcow2", options={"cluster_size": size}, sync=False)
    require_marks(tmp_path / "o", "qcow2")


def test_file_that_no_file_system_holds_is_no_space(huge, tmp_path):
    with open(tmp_path / "probe", "wb") as probe:
        try:
            probe.truncate(MOST)
        except OSError:
            pass
        else:
            pytest.skip("this file system has files of 64 TiB")
    os.unlink(tmp_path / "probe")
    with pytest.raises(diskfmt.IOFailedError) as caught:
        diskfmt.convert(huge(MOST), tmp_path / "o", format="raw")
    assert caught.value.exit_code == 5
    assert os.listdir(tmp_path) == []


CHILD = """
import sys
import diskfmt, numpy
from diskfmt import engine
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
before = peak()
{}
print(peak() - before)
"""


def memory_of(job: str, *words: object) -> int:
    """Bytes that a job takes above what the libraries take, in a child that may not take everything."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(job), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES)),
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.unsanitized
def test_64_tib_need_little_memory(huge, tmp_path):
    job = "diskfmt.convert(sys.argv[1], sys.argv[2], format='qcow2', threads=2, sync=False, verify=True)"
    assert memory_of(job, huge(MOST), tmp_path / "o.qcow2") < MEMORY
    require_marks(tmp_path / "o.qcow2", "qcow2")


@pytest.mark.slow
def test_64_tib_with_all_its_tables_need_little_memory(tmp_path):
    """Each of 131,072 L2 tables has one cluster. The output, of 16 GiB, is measured, which is all but writing it."""
    path = tmp_path / "in.qcow2"
    _all_tables(path)
    assert memory_of("report = diskfmt.check(sys.argv[1]); assert report.ok, report.findings", path) < MEMORY
    assert memory_of("assert diskfmt.measure(sys.argv[1], format='qcow2').required > 16 << 30", path) < MEMORY


def _all_tables(path) -> None:
    cluster, tables = 65536, 64 * TIB // (512 << 20)
    built = build_qcow2.image({}, size=64 * TIB, bits=16)
    first = -(-len(built.data) // cluster) * cluster
    l1 = b"".join(struct.pack(">Q", first + n * 2 * cluster | build_qcow2.COPIED) for n in range(tables))
    built.data[built.l1 : built.l1 + len(l1)] = l1
    clusters = first // cluster + 2 * tables + 8
    blocks = -(-clusters // 32768)
    for block in range(blocks):
        built.poke(built.table + 8 * block, first + (2 * tables + block) * cluster)
    with open(path, "wb") as file:
        file.write(built.data)
        for n in range(tables):
            at = first + n * 2 * cluster
            file.seek(at)
            file.write(struct.pack(">Q", at + cluster | build_qcow2.COPIED))
            file.seek(at + cluster)
            file.write(struct.pack(">Q", n))
        used = struct.pack(">H", 1) * 32768
        for block in range(blocks):
            file.seek(first + (2 * tables + block) * cluster)
            left = first // cluster + 2 * tables + blocks - block * 32768
            file.write(used[: 2 * max(0, min(32768, left))].ljust(cluster, b"\0"))
