"""Journals that were not replayed: what the kernel left, read as e2fsck replays it."""

import os
import shutil
import struct
from pathlib import Path

import pytest

from diskfmt.guest.base import DamagedError, UnsupportedError
from diskfmt.guest.ext import ExtFileSystem
from guest.ext.trees import MIB
from guest.kit import compare, device, memory, mounted, need, run, sparse

JOURNALS = {
    "csum-v3": ("-t", "ext4"),
    "csum-v3-1k": ("-t", "ext4", "-b", "1024", "-J", "size=1"),
    "no-checksum": ("-t", "ext4", "-O", "^metadata_csum"),
    "32-bit": ("-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum,^extent"),
    "orphan-file": ("-t", "ext4", "-O", "orphan_file,metadata_csum_seed,inline_data"),
    "ext3": ("-t", "ext3", "-b", "1024"),
}


def work(point: Path) -> None:
    """Transactions that change, revoke and reuse metadata blocks."""
    for turn in range(6):
        base = point / f"turn{turn}"
        base.mkdir()
        for number in range(60):
            (base / f"file-{number:04}-{'n' * 60}").write_bytes(b"%d" % number * (turn + 1))
        sync(base)
        if turn >= 2:
            shutil.rmtree(point / f"turn{turn - 2}")
            # Blocks of the directories that went become blocks of a file whose contents look like the journal's.
            (point / f"data{turn}").write_bytes((b"\xc0\x3b\x39\x98" + b"x" * 1020) * 400)
            sync(base)
    os.symlink("turn5", point / "last")
    (point / "fstab").write_bytes(b"the newest")


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def unclean(tmp: Path, options: tuple[str, ...], *mount: str) -> tuple[Path, Path]:
    """A copy of a file system that is in use, and the files that were in it."""
    need("mke2fs", "e2fsck")
    path = sparse(tmp / "fs", 32 * MIB)
    run("mke2fs", "-q", "-F", *options, path)
    with mounted(path, tmp / "point", *mount) as point:
        work(point)
        # File by file: syncing the whole file system would also write the metadata to its own place.
        for directory, _, names in os.walk(point):
            for name in names:
                if not os.path.islink(os.path.join(directory, name)):
                    sync(Path(directory, name))
        sync(point)
        shutil.copyfile(path, tmp / "copy")
        run("cp", "-a", point, tmp / "twin")
    return tmp / "copy", tmp / "twin"


@pytest.mark.root
@pytest.mark.parametrize("mount", [(), ("-o", "data=journal")], ids=["ordered", "data-journal"])
@pytest.mark.parametrize("options", JOURNALS.values(), ids=JOURNALS)
def test_files_are_those_after_replay(tmp_path: Path, options: tuple[str, ...], mount: tuple[str, ...]) -> None:
    copy, twin = unclean(tmp_path, options, *mount)
    system = ExtFileSystem(device(copy))
    assert system.info.clean is False
    assert system.replayed > 0  # how many depends on what the kernel had written to its own place by then
    assert compare(system, twin) > 100
    assert system.read("/fstab") == b"the newest"
    # e2fsck replays the same journal: afterwards the file system says the same without it.
    shutil.copyfile(copy, tmp_path / "mended")
    os.system(f"PATH=$PATH:/sbin:/usr/sbin e2fsck -fy {tmp_path / 'mended'} >/dev/null 2>&1")
    mended = ExtFileSystem(device(tmp_path / "mended"))
    assert (mended.replayed, mended.info.clean) == (0, True)
    assert compare(mended, twin) > 100


def journal_place(path: Path) -> int:
    return int(run("debugfs", "-R", "blocks <8>", path).split()[0])


@pytest.fixture
def empty(tmp_path: Path) -> bytearray:
    """A file system whose journal is empty, and said to need recovery."""
    need("mke2fs", "debugfs")
    path = sparse(tmp_path / "fs", 16 * MIB)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum", path)
    raw = bytearray(path.read_bytes())
    raw[1024 + 0x60] |= 4
    return raw


def test_an_empty_journal_changes_nothing(empty: bytearray) -> None:
    system = ExtFileSystem(memory(empty))
    assert (system.replayed, system.info.clean, list(system.names("/"))) == (0, False, ["lost+found"])


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, 0, DamagedError),
        (4, 9, DamagedError),
        (12, 4096, DamagedError),
        (16, 1 << 31, DamagedError),
        (20, 0, DamagedError),
        (20, 1 << 30, DamagedError),
        (28, 1 << 30, DamagedError),
        (40, 0x40, UnsupportedError),
    ],
)
def test_journals_that_make_no_sense(empty: bytearray, tmp_path: Path, at: int, value: int, error: type) -> None:
    place = journal_place(tmp_path / "fs") * 1024
    empty[place + at : place + at + 4] = struct.pack(">I", value)
    with pytest.raises(error):
        ExtFileSystem(memory(empty))


def test_external_journal_is_refused(empty: bytearray) -> None:
    empty[1024 + 0xE0 : 1024 + 0xE4] = bytes(4)
    with pytest.raises(UnsupportedError, match="external journal"):
        ExtFileSystem(memory(empty))


def transaction(raw: bytearray, base: int, at: int, sequence: int, target: int, data: bytes) -> int:
    """Write a descriptor, one block and a commit, from the specification; where the next may go."""
    escaped = data[:4] == b"\xc0\x3b\x39\x98"
    stored = bytes(4) + data[4:] if escaped else data
    head = struct.pack(">4sII", b"\xc0\x3b\x39\x98", 1, sequence)
    tag = struct.pack(">IHH", target, 0, 8 | int(escaped)) + bytes(16)
    for number, block in enumerate((head + tag, stored, struct.pack(">4sII", b"\xc0\x3b\x39\x98", 2, sequence))):
        place = base + (at + number) * 1024
        raw[place : place + 1024] = block.ljust(1024, b"\0")
    return at + 3


def revoke(raw: bytearray, base: int, at: int, sequence: int, target: int) -> int:
    head = struct.pack(">4sII", b"\xc0\x3b\x39\x98", 5, sequence) + struct.pack(">II", 20, target)
    raw[base + at * 1024 : base + (at + 1) * 1024] = head.ljust(1024, b"\0")
    return at + 1


def test_order_revokes_and_unfinished_transactions(empty: bytearray, tmp_path: Path) -> None:
    base = journal_place(tmp_path / "fs") * 1024
    empty[base + 24 : base + 32] = struct.pack(">II", 7, 1)
    root = int(run("debugfs", "-R", "blocks /", tmp_path / "fs").split()[0])
    good = bytes(empty[root * 1024 : (root + 1) * 1024])

    def named(name: bytes) -> bytes:
        return good.replace(b"lost+found", name)

    def names(raw: bytearray) -> list[str]:
        return list(ExtFileSystem(memory(raw)).names("/"))

    at = transaction(empty, base, 1, 7, root, named(b"lost+FIRST"))
    assert names(empty) == ["lost+FIRST"]
    at = transaction(empty, base, at, 8, root, named(b"lost+AGAIN"))
    assert names(empty) == ["lost+AGAIN"]
    unfinished = bytearray(empty)
    transaction(unfinished, base, at, 9, root, named(b"lost+NEVER"))
    unfinished[base + (at + 2) * 1024] ^= 1
    assert names(unfinished) == ["lost+AGAIN"]
    wrong = bytearray(empty)
    transaction(wrong, base, at, 10, root, named(b"lost+NEVER"))
    assert names(wrong) == ["lost+AGAIN"]
    after = revoke(empty, base, at, 9, root)
    assert names(empty) == ["lost+AGAIN"]  # not committed
    empty[base + after * 1024 : base + after * 1024 + 12] = struct.pack(">4sII", b"\xc0\x3b\x39\x98", 2, 9)
    assert names(empty) == ["lost+found"]
    transaction(empty, base, after + 1, 10, root, named(b"lost+LATER"))
    assert names(empty) == ["lost+LATER"]


def test_blocks_that_look_like_the_journals_are_put_back(empty: bytearray, tmp_path: Path) -> None:
    base = journal_place(tmp_path / "fs") * 1024
    empty[base + 24 : base + 32] = struct.pack(">II", 1, 1)
    run("debugfs", "-w", "-R", f"write {Path(__file__)} file", tmp_path / "fs")
    raw = bytearray((tmp_path / "fs").read_bytes())
    raw[1024 + 0x60] |= 4
    raw[base + 24 : base + 32] = struct.pack(">II", 1, 1)
    first = int(run("debugfs", "-R", "blocks file", tmp_path / "fs").split()[0])
    data = b"\xc0\x3b\x39\x98" + b"data" * 255
    transaction(raw, base, 1, 1, first, data)
    assert ExtFileSystem(memory(raw)).read("/file")[:1024] == data


def test_copies_that_point_outside(empty: bytearray, tmp_path: Path) -> None:
    base = journal_place(tmp_path / "fs") * 1024
    empty[base + 24 : base + 32] = struct.pack(">II", 1, 1)
    transaction(empty, base, 1, 1, 0xFFFFFFFF, b"x" * 1024)
    assert list(ExtFileSystem(memory(empty)).names("/")) == ["lost+found"]


def test_a_full_ring_ends(empty: bytearray, tmp_path: Path) -> None:
    base = journal_place(tmp_path / "fs") * 1024
    empty[base + 24 : base + 32] = struct.pack(">II", 1, 1)
    # Descriptors whose sequence never moves on, through all of the journal.
    head = struct.pack(">4sII", b"\xc0\x3b\x39\x98", 5, 1) + struct.pack(">I", 16)
    for number in range(1, 1024):
        empty[base + number * 1024 : base + number * 1024 + 16] = head
    maximum = struct.unpack(">I", empty[base + 16 : base + 20])[0]
    assert maximum >= 1024
    assert ExtFileSystem(memory(empty)).replayed == 0
