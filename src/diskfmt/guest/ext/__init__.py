"""A read-only reader of ext2, ext3 and ext4.

    superblock ─► inodes (group descriptors, inode table) ─► mapping (block maps, extents) ─► directory ─► filesystem

Source: Linux, Documentation/filesystems/ext4 ("ext4 data structures and algorithms"), here "ext4 doc", and
fs/ext4 where it is silent. Everything that has a checksum is checked before it is believed.
"""

from diskfmt.guest.ext.filesystem import ExtFileSystem

__all__ = ["ExtFileSystem"]
