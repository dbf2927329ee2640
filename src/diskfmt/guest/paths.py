"""Paths as the guest resolves them, over its file systems. No path ever leaves them: there is nothing else to open.

    Root({"/": root, "/boot": boot}).read("/etc/fstab")

Absolute links begin at the guest's root, `..` stops there (path_resolution(7)); links at most 40, parts at most 64.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from diskfmt.guest.base import (
    MAX_DEPTH,
    MAX_FILE,
    MAX_LINKS,
    BudgetError,
    DamagedError,
    Entry,
    FileKind,
    FileSystem,
    GuestError,
    UnsupportedError,
)

_KEPT: Final = 20_000  # answers that are remembered
_MAX_PATH: Final = 4096  # Linux's PATH_MAX
_DRIVE: Final = re.compile(r"(?:[/\\]\?\?[/\\]|[/\\]{2}\?[/\\])?([A-Za-z]):(?=[/\\]|$)")
_DEVICES: Final = ("\\??\\", "\\\\?\\")
_PIECES: Final = re.compile(r"[0-9]+|[^0-9]+")

Parts = tuple[str, ...]


class MissingError(GuestError):
    """The guest has no such file."""


class Root:
    """The guest's tree of files.

    `mounts`: file systems by where the guest mounts them; `/` is needed. With `ignore_case` names are found whatever
    their case, the backslash separates too, and a drive letter of C is this root: for Windows.
    """

    def __init__(self, mounts: Mapping[str, FileSystem], *, ignore_case: bool = False) -> None:
        self._mounts = {_split(point, ignore_case): system for point, system in mounts.items()}
        if () not in self._mounts:
            raise ValueError("a root needs a file system for /")
        self._ignore_case = ignore_case
        self._stats: dict[Parts, Entry | None] = {}
        self._folds: dict[Parts, dict[str, str]] = {}

    def mounted(self, more: Mapping[str, FileSystem]) -> "Root":
        """The same tree with more file systems: what fstab says, once it was read from this one."""
        known = {"/" + "/".join(point): system for point, system in self._mounts.items()}
        return Root({**known, **more}, ignore_case=self._ignore_case)

    def resolve(self, path: str) -> str:
        """The path without links and `..`; only its last part may be missing. Raises MissingError; GuestError."""
        return "/" + "/".join(self._walk(path, follow=True))

    def stat(self, path: str) -> Entry | None:
        """What `path` leads to, links followed; None: nothing. Raises GuestError, also where links never end."""
        try:
            return self._lstat(self._walk(path, follow=True))
        except MissingError:
            return None

    def exists(self, path: str) -> bool:
        """Whether `path` leads to something. Raises GuestError where it cannot be known."""
        return self.stat(path) is not None

    def is_directory(self, path: str) -> bool:
        """Whether `path` leads to a directory. Raises GuestError."""
        entry = self.stat(path)
        return entry is not None and entry.kind is FileKind.DIRECTORY

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """The whole file. Raises MissingError; BudgetError: it is longer than `limit`; GuestError."""
        parts, entry = self._file(path)
        if entry.size > limit:
            raise BudgetError(f"{path} has {entry.size} bytes, more than {limit}")
        system, inner = self._place(parts)
        return system.read(inner, 0, entry.size)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """A part of a file, less where it ends. Raises MissingError; GuestError."""
        parts, _ = self._file(path)
        system, inner = self._place(parts)
        return system.read(inner, offset, length)

    def read_text(self, path: str, limit: int = MAX_FILE) -> str:
        """The whole file as UTF-8; what is none is replaced. Raises as `read`."""
        return self.read(path, limit).decode("utf-8", "replace")

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none where there is no such directory. Raises GuestError."""
        entry = self.stat(path)
        if entry is None or entry.kind is not FileKind.DIRECTORY:
            return []
        parts = self._walk(path, follow=True)
        system, inner = self._place(parts)
        return sorted(system.names(inner))

    def link(self, path: str) -> str | None:
        """The text of the link at `path`, itself not followed; None: it is no link. Raises GuestError."""
        try:
            parts = self._walk(path, follow=False)
        except MissingError:
            return None
        entry = self._lstat(parts)
        return self._link(parts) if entry is not None and entry.kind is FileKind.LINK else None

    def find(self, directory: str, accept: Callable[[str], bool] = lambda _: True) -> list[str]:
        """The paths of the accepted names in a directory, by version: the newest kernel is the last."""
        base = directory.rstrip("/")
        return [f"{base}/{name}" for name in sorted(filter(accept, self.names(directory)), key=version_key)]

    def newest(self, directory: str, prefix: str) -> str | None:
        """The path of the name with that beginning and the highest version; None: there is none. Raises GuestError."""
        found = self.find(directory, lambda name: name.startswith(prefix))
        return found[-1] if found else None

    def _file(self, path: str) -> tuple[Parts, Entry]:
        parts = self._walk(path, follow=True)
        entry = self._lstat(parts)
        if entry is None:
            raise MissingError(f"there is no {path}")
        if entry.kind is not FileKind.FILE:
            raise GuestError(f"{path} is no regular file")
        return parts, entry

    def _walk(self, path: str, *, follow: bool) -> Parts:
        """The parts of the real path, of which only the last may be missing. Raises MissingError."""
        todo = list(reversed(self._split(path)))
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            if len(done) >= MAX_DEPTH:
                raise BudgetError(f"{path} is more than {MAX_DEPTH} directories deep")
            done.append(self._spelled(tuple(done), part))
            entry = self._lstat(tuple(done))
            if todo and (entry is None or entry.kind not in {FileKind.DIRECTORY, FileKind.LINK}):
                raise MissingError(f"there is no directory /{'/'.join(done)}")
            if entry is None or entry.kind is not FileKind.LINK or not (todo or follow):
                continue
            links += 1
            if links > MAX_LINKS:
                raise DamagedError(f"{path} leads through more than {MAX_LINKS} links")
            text = self._link(tuple(done))
            if self._absolute(text):
                done.clear()
            else:
                done.pop()
            todo += reversed(self._split(text))
        return tuple(done)

    def _split(self, path: str) -> Parts:
        if self._ignore_case:
            drive = _DRIVE.match(path)
            if (drive is not None and drive[1] not in "Cc") or (drive is None and path.startswith(_DEVICES)):
                raise UnsupportedError(f"another volume: {path}")
            path = path[drive.end() :] if drive is not None else path
        return _split(path, self._ignore_case)

    def _absolute(self, text: str) -> bool:
        return text.startswith("/") or (self._ignore_case and (text.startswith("\\") or bool(_DRIVE.match(text))))

    def _spelled(self, directory: Parts, part: str) -> str:
        """The name as the directory has it."""
        if not self._ignore_case or self._lstat((*directory, part)) is not None:
            return part
        entry = self._lstat(directory)
        if entry is None or entry.kind is not FileKind.DIRECTORY:
            return part
        if directory not in self._folds:
            if sum(map(len, self._folds.values())) > _KEPT:
                self._folds.clear()
            system, inner = self._place(directory)
            self._folds[directory] = {_upper(name): name for name in system.names(inner)}
        return self._folds[directory].get(_upper(part), part)

    def _link(self, parts: Parts) -> str:
        system, inner = self._place(parts)
        text = system.link(inner)
        if not text or len(text) > _MAX_PATH:
            raise DamagedError(f"a link of {len(text)} characters")
        return text

    def _lstat(self, parts: Parts) -> Entry | None:
        if parts not in self._stats:
            if len(self._stats) >= _KEPT:
                self._stats.clear()
            system, inner = self._place(parts)
            self._stats[parts] = system.stat(inner)
        return self._stats[parts]

    def _place(self, parts: Parts) -> tuple[FileSystem, str]:
        """The file system that has a path, and the path in it."""
        for length in range(len(parts), -1, -1):
            system = self._mounts.get(parts[:length])
            if system is not None:
                return system, "/" + "/".join(parts[length:])
        raise AssertionError("there is always a file system for /")


def version_key(name: str) -> list[tuple[int, int, str]]:
    """What sorts names so that `6.1.0-9` comes before `6.1.0-10`."""
    return [
        (1, int(piece), "") if piece.isascii() and piece.isdigit() else (0, 0, piece) for piece in _PIECES.findall(name)
    ]


def _split(path: str, ignore_case: bool) -> Parts:
    if len(path) > _MAX_PATH:
        raise BudgetError(f"a path of {len(path)} characters")
    if ignore_case:
        path = path.replace("\\", "/")
    return tuple(part for part in path.split("/") if part not in {"", "."})


def _upper(name: str) -> str:
    """A name in upper case as NTFS compares it: one character for one."""
    return "".join(upper if len(upper := char.upper()) == 1 else char for char in name)


def walk(root: Root, directory: str) -> Iterator[str]:
    """All paths of files below a directory, links not followed, at most MAX_DEPTH deep."""
    todo = [(directory.rstrip("/"), 0)]
    while todo:
        here, depth = todo.pop()
        for name in root.names(here or "/"):
            path = f"{here}/{name}"
            if root.link(path) is None and root.is_directory(path):
                if depth >= MAX_DEPTH:
                    raise BudgetError(f"{path} is more than {MAX_DEPTH} directories deep")
                todo.append((path, depth + 1))
            else:
                yield path
