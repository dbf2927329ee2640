"""Btrfs, read-only, on one device: superblock, chunks, trees, subvolumes, files.

    superblock ─► chunks (logical → physical, copies) ─► trees (verified nodes) ─► filesystem (paths, extents, codecs)

Source: the Btrfs documentation, "On-disk format", and `btrfs_tree.h` of the kernel's user API.
"""

from diskfmt.guest.btrfs.filesystem import Btrfs, open_btrfs
from diskfmt.guest.btrfs.subvolumes import Subvolume

__all__ = ["Btrfs", "Subvolume", "open_btrfs"]
