"""The guest's files by path, as the readers of Linux facts want them."""

import posixpath
from typing import Protocol

from diskfmt.guest.base import MAX_FILE, BudgetError, Entry, FileKind, GuestError


class Root(Protocol):
    """The root of a guest, mounts and links resolved inside it. Every method raises GuestError."""

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """A whole file of at most `limit` bytes."""
        ...

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file from `offset` on, fewer where it ends."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the path leads to something."""
        ...

    def names(self, path: str) -> list[str]:
        """The names in a directory, none where it is missing."""
        ...

    def stat(self, path: str) -> Entry | None:
        """What a path leads to, links followed; None where there is nothing."""
        ...

    def link(self, path: str) -> str | None:
        """The text of a symbolic link, None where there is none."""
        ...


def content(root: Root, path: str, limit: int = MAX_FILE) -> bytes | None:
    """A regular file's bytes, None where there is none. Raises GuestError; BudgetError above `limit` bytes."""
    entry = root.stat(path)
    if entry is None or entry.kind is not FileKind.FILE:
        return None
    if entry.size > limit:
        raise BudgetError(f"{path} has {entry.size} bytes, more than the {limit} that are read")
    return root.read(path, limit)


def link_text(root: Root, path: str) -> str | None:
    """The text of a symbolic link, None where the path is none."""
    try:
        return root.link(path)
    except GuestError:
        return None


def is_file(root: Root, path: str) -> bool:
    """Whether the path leads to a regular file."""
    entry = root.stat(path)
    return entry is not None and entry.kind is FileKind.FILE


def is_directory(root: Root, path: str) -> bool:
    """Whether the path leads to a directory."""
    entry = root.stat(path)
    return entry is not None and entry.kind is FileKind.DIRECTORY


def sorted_names(root: Root, path: str, suffix: str = "") -> list[str]:
    """The names in a directory that end so, in byte order; none where it is missing."""
    return sorted(name for name in root.names(path) if name.endswith(suffix) and name not in (".", ".."))


def first_existing(root: Root, *paths: str) -> str | None:
    """The first of the paths that leads to something."""
    return next((path for path in paths if root.exists(path)), None)


def drop_in_files(root: Root, directories: tuple[str, ...], suffix: str) -> list[str]:
    """Pieces of a configuration as systemd and modprobe merge them: by name, an earlier directory hides a later one."""
    found: dict[str, str] = {}
    for directory in directories:
        for name in sorted_names(root, directory, suffix):
            found.setdefault(name, posixpath.join(directory, name))
    return [found[name] for name in sorted(found)]
