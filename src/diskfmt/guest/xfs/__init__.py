"""XFS, read-only, versions 4 and 5: superblock, log state, inodes, extents, directories, files.

    superblock ─► log (clean or not) · inodes ─► forks (extents) ─► directories, files ─► filesystem (paths)

Source: "XFS Algorithms & Data Structures" (xfs-documentation), cited by chapter.
"""

from diskfmt.guest.xfs.filesystem import Xfs, open_xfs

__all__ = ["Xfs", "open_xfs"]
