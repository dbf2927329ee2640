"""What the readers of a guest's disk agree on: bytes by offset below, files by path above.

    Disk ─► Device ─► partitions ─► volumes (LVM …) ─► FileSystem ─► Root: paths as the guest resolves them

All numbers are bytes unless a name says otherwise. What a reader does not understand is `GuestError`, never a guess: a
rule that needed it says "unknown", never "pass".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

MAX_FILE: Final = 1 << 20  # TM-1502
MAX_ENTRIES: Final = 100_000
MAX_DEPTH: Final = 64
MAX_LINKS: Final = 40
MAX_READ: Final = 256 << 20


class GuestError(Exception):
    """Something of the guest cannot be read. `offset`: where on the device, None where there is no one place."""

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


class UnsupportedError(GuestError):
    """A feature that the reader does not know."""


class DamagedError(GuestError):
    """A structure that makes no sense: wrong checksum, pointer, length or loop."""


class BudgetError(GuestError):
    """More reads, entries, links or time than a check may take (TM-1502)."""


class Device(Protocol):
    """Bytes by offset: the disk, a partition or a logical volume. `sector_size` is 512 or 4096."""

    @property
    def size(self) -> int:
        """Bytes of it."""
        ...

    @property
    def sector_size(self) -> int:
        """Bytes of a sector."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises GuestError where the device ends before, or cannot be read."""
        ...


class FileKind(StrEnum):
    """What a path leads to."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file as its inode describes it. `mode`: permission bits, `mtime`: seconds since 1970.

    `flags`: those of ext's inodes (0x10 immutable) or DOS attributes, 0 where there are none; mode, uid, gid are 0
    where the file system has none.
    """

    kind: FileKind
    size: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FsInfo:
    """What a superblock says.

    `kind`: `ext2`, `ext3`, `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`. `uuid` as blkid prints it. `clean`: False where a
    journal has to be replayed or the volume was not unmounted, None where nothing says so; `errors`: the file system
    is in the state of error; `error_count`: how many it recorded, repaired since or not. `features`: names as the tools
    of the file system print them.
    """

    kind: str
    uuid: str = ""
    label: str = ""
    size: int = 0
    block_size: int = 0
    clean: bool | None = None
    errors: bool = False
    error_count: int = 0
    free_bytes: int | None = None
    free_inodes: int | None = None
    features: tuple[str, ...] = ()


class FileSystem(Protocol):
    """Files by path. Paths are absolute inside the file system, `/`-separated, links are not followed here.

    Every method raises GuestError for what cannot be read; None means that there is no such file.
    """

    @property
    def info(self) -> FsInfo:
        """What its superblock says."""
        ...

    def stat(self, path: str) -> Entry | None:
        """What the path leads to, links not followed."""
        ...

    def names(self, path: str) -> Iterator[str]:
        """The names in a directory without `.` and `..`, at most MAX_ENTRIES, in no order."""
        ...

    def read(self, path: str, offset: int = 0, length: int = MAX_FILE) -> bytes:
        """Bytes of a file from `offset` on, fewer where it ends."""
        ...

    def link(self, path: str) -> str:
        """The text of a symbolic link (NTFS: of a reparse point that is one)."""
        ...
