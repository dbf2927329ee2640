"""The superblock and its feature words. Source: ext4 doc, "Super Block"; names as e2fsprogs prints them (lib/e2p)."""

import uuid
from dataclasses import dataclass
from typing import Final, Self

from diskfmt.guest.base import DamagedError, FsInfo, UnsupportedError
from diskfmt.guest.ext.crc import crc32c

OFFSET: Final = 1024
SIZE: Final = 1024

FILETYPE: Final = 0x2
NEEDS_RECOVERY: Final = 0x4
JOURNAL_DEV: Final = 0x8
META_BG: Final = 0x10
EXTENTS: Final = 0x40
BITS64: Final = 0x80
FLEX_BG: Final = 0x200
EA_INODE: Final = 0x400
CSUM_SEED: Final = 0x2000
LARGE_DIR: Final = 0x4000
INLINE_DATA: Final = 0x8000

HAS_JOURNAL: Final = 0x4
SPARSE_SUPER2: Final = 0x200

SPARSE_SUPER: Final = 0x1
BIGALLOC: Final = 0x200
METADATA_CSUM: Final = 0x400

_COMPAT: Final = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x40: "lazy_bg",
    0x100: "snapshot_bitmap",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
_INCOMPAT: Final = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
_RO_COMPAT: Final = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x4: "btree_dir",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x80: "has_snapshot",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x800: "replica",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}
_WORDS: Final = (("C", _COMPAT), ("I", _INCOMPAT), ("R", _RO_COMPAT))  # the letter stands for a bit without a name
_READABLE: Final = frozenset(_INCOMPAT) - {0x1, JOURNAL_DEV, 0x1000}

# What keeps libblkid from calling a file system ext2 or ext3 (superblocks/ext.c).
_EXT3_INCOMPAT: Final = FILETYPE | NEEDS_RECOVERY | META_BG
_EXT3_RO_COMPAT: Final = 0x7


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the reader needs of a superblock, in blocks where nothing else is said. `state`: 1 clean, 2 errors."""

    inodes: int
    blocks: int
    free_blocks: int
    free_inodes: int
    first_data_block: int
    block_size: int
    cluster_size: int
    blocks_per_group: int
    inodes_per_group: int
    state: int
    revision: int
    minor_revision: int
    inode_size: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: str
    label: str
    desc_size: int
    first_meta_bg: int
    backup_groups: tuple[int, int]
    journal: int
    checksum_seed: int
    error_count: int

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The superblock in 1024 bytes, not judged. The magic number is for the caller to look at."""

        def number(at: int, size: int) -> int:
            return int.from_bytes(raw[at : at + size], "little")

        incompat = number(0x60, 4)
        wide = bool(incompat & BITS64)
        revision = number(0x4C, 4)
        identity = raw[0x68:0x78]
        seed = number(0x270, 4) if incompat & CSUM_SEED else crc32c(identity)
        return cls(
            inodes=number(0, 4),
            blocks=number(4, 4) | (number(0x150, 4) << 32 if wide else 0),
            free_blocks=number(0xC, 4) | (number(0x158, 4) << 32 if wide else 0),
            free_inodes=number(0x10, 4),
            first_data_block=number(0x14, 4),
            block_size=1024 << min(number(0x18, 4), 20),
            cluster_size=1024 << min(number(0x1C, 4), 20),
            blocks_per_group=number(0x20, 4),
            inodes_per_group=number(0x28, 4),
            state=number(0x3A, 2),
            revision=revision,
            minor_revision=number(0x3E, 2),
            inode_size=number(0x58, 2) if revision else 128,
            compat=number(0x5C, 4) if revision else 0,
            incompat=incompat if revision else 0,
            ro_compat=number(0x64, 4) if revision else 0,
            uuid=str(uuid.UUID(bytes=identity)) if any(identity) else "",
            label=raw[0x78:0x88].split(b"\0")[0].decode("utf-8", "replace"),
            desc_size=number(0xFE, 2) if wide else 32,
            first_meta_bg=number(0x104, 4),
            backup_groups=(number(0x24C, 4), number(0x250, 4)),
            journal=number(0xE0, 4),
            checksum_seed=seed,
            error_count=number(0x194, 4),
        )

    @property
    def kind(self) -> str:
        """`ext2`, `ext3`, `ext4`, or `jbd` for an external journal, as libblkid decides it."""
        if self.incompat & JOURNAL_DEV:
            return "jbd"
        if self.incompat & ~_EXT3_INCOMPAT or self.ro_compat & ~_EXT3_RO_COMPAT:
            return "ext4"
        return "ext3" if self.compat & HAS_JOURNAL else "ext2"

    @property
    def features(self) -> tuple[str, ...]:
        """The names that dumpe2fs prints, in its order; bits without a name as it writes them, `FEATURE_I20`."""
        names = []
        for (letter, known), word in zip(_WORDS, (self.compat, self.incompat, self.ro_compat), strict=True):
            names += [known.get(1 << bit, f"FEATURE_{letter}{bit}") for bit in range(32) if word >> bit & 1]
        return tuple(names)

    @property
    def groups(self) -> int:
        """How many block groups there are."""
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def checked(self) -> bool:
        """Whether metadata has checksums."""
        return bool(self.ro_compat & METADATA_CSUM)

    def info(self) -> FsInfo:
        """What it says, as all file systems tell it. `errors`: the state that fsck clears, or recorded errors."""
        return FsInfo(
            kind=self.kind,
            uuid=self.uuid,
            label=self.label,
            size=self.blocks * self.block_size,
            block_size=self.block_size,
            clean=not self.incompat & NEEDS_RECOVERY and bool(self.state & 1),
            errors=bool(self.state & 2),
            error_count=self.error_count,
            free_bytes=self.free_blocks * self.block_size,
            free_inodes=self.free_inodes,
            features=self.features,
        )


def require_readable(raw: bytes) -> Superblock:
    """The superblock in 1024 bytes, judged.

    Raises:
        UnsupportedError: an incompatible feature that this reader does not know, by its name.
        DamagedError: no superblock, wrong checksum, or numbers that make no sense.

    """
    if raw[0x38:0x3A] != b"\x53\xef":
        raise DamagedError("no ext superblock", offset=OFFSET)
    superblock = Superblock.parse(raw)
    for bit in range(32):
        if superblock.incompat >> bit & 1 and 1 << bit not in _READABLE:
            raise UnsupportedError(_INCOMPAT.get(1 << bit, f"FEATURE_I{bit}"))
    if superblock.checked:
        if raw[0x175] != 1:
            raise UnsupportedError(f"checksum type {raw[0x175]}")
        if crc32c(raw[:0x3FC]) != int.from_bytes(raw[0x3FC:], "little"):
            raise DamagedError("checksum of the superblock is wrong", offset=OFFSET)
    _require_sense(superblock)
    return superblock


def _require_sense(sb: Superblock) -> None:
    size = sb.block_size
    wrong = (
        size > 65536 or sb.cluster_size < size or (not sb.ro_compat & BIGALLOC and sb.cluster_size != size),
        not 128 <= sb.inode_size <= size or sb.inode_size & (sb.inode_size - 1),
        not 1 <= sb.blocks_per_group <= 8 * sb.cluster_size,
        not 1 <= sb.inodes_per_group <= 8 * size,
        sb.blocks <= sb.first_data_block or sb.first_data_block > 1,
        sb.desc_size not in {32, 64, 128, 256, 512, 1024} or sb.desc_size > size,
        bool(sb.incompat & BITS64) and sb.desc_size < 64,
    )
    if any(wrong):
        raise DamagedError(
            f"the superblock makes no sense (check {[*map(bool, wrong)].index(True) + 1})", offset=OFFSET
        )
    if sb.inodes > sb.groups * sb.inodes_per_group:
        raise DamagedError("more inodes than the groups have", offset=OFFSET)
