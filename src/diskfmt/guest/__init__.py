"""Looking inside a guest's disk, read-only and in user space: partitions, volumes, file systems, files.

Everything below `Device` reads through `Disk.read_at`; no file of the host is ever opened by a name from an image.
"""
