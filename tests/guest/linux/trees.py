"""Guest roots for tests: a directory of this host, or a dictionary. Test code only: nothing here is safe."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from diskfmt.guest.base import MAX_FILE, Entry, FileKind, GuestError


class Host:
    """A directory tree of this host; links are resolved inside it."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def _find(self, path: str, *, follow: bool = True) -> Path | None:
        at = self._top
        todo = [part for part in PurePosixPath(path).parts if part != "/"]
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                at = at.parent if at != self._top else at
                continue
            there = at / part
            if there.is_symlink() and (todo or follow):
                links += 1
                if links > 40:
                    raise GuestError(f"{path}: too many links")
                target = PurePosixPath(os.readlink(there))
                if target.is_absolute():
                    at = self._top
                todo = [part for part in target.parts if part != "/"] + todo
                continue
            if not there.is_symlink() and not there.exists():
                return None
            at = there
        return at

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        found = self._find(path)
        if found is None or not found.is_file():
            raise GuestError(f"{path}: no such file")
        with found.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise GuestError(f"{path}: too large")
        return data

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path, 1 << 30)[offset : offset + length]

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def names(self, path: str) -> list[str]:
        found = self._find(path)
        return os.listdir(found) if found is not None and found.is_dir() else []

    def stat(self, path: str) -> Entry | None:
        found = self._find(path)
        if found is None:
            return None
        status = found.lstat()
        if stat.S_ISREG(status.st_mode):
            kind = FileKind.FILE
        elif stat.S_ISDIR(status.st_mode):
            kind = FileKind.DIRECTORY
        else:
            kind = FileKind.OTHER
        return Entry(
            kind=kind,
            size=status.st_size,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=int(status.st_mtime),
        )

    def link(self, path: str) -> str | None:
        found = self._find(path, follow=False)
        if found is None or not found.is_symlink():
            return None
        return os.readlink(found)


class Tree:
    """Files by path: bytes or str is a file, a PurePosixPath a link, an Entry a file with attributes and no bytes."""

    def __init__(self, files: Mapping[str, bytes | str | PurePosixPath | Entry]) -> None:
        self._files = dict(files)
        self._directories = {"/"}
        for path in files:
            self._directories.update(str(parent) for parent in PurePosixPath(path).parents)
        for path in [path for path in files if path.endswith("/")]:
            self._directories.add(path.rstrip("/"))
            del self._files[path]

    def with_(self, files: Mapping[str, bytes | str | PurePosixPath | Entry | None]) -> "Tree":
        """The same tree with some files changed, None removes."""
        merged = {**self._files, **{f"{name}/": b"" for name in self._directories}, **files}
        return Tree({path: value for path, value in merged.items() if value is not None})

    def _find(self, path: str) -> str | None:
        for _ in range(41):
            path = os.path.normpath(path)
            for parent in [*reversed(PurePosixPath(path).parents), PurePosixPath(path)]:
                value = self._files.get(str(parent))
                if isinstance(value, PurePosixPath):
                    rest = str(PurePosixPath(path).relative_to(parent))
                    path = os.path.join(str(parent.parent / value), rest) if rest != "." else str(parent.parent / value)
                    break
            else:
                return path if path in self._files or path in self._directories else None
        raise GuestError(f"{path}: too many links")

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        found = self._find(path)
        value = self._files.get(found or "")
        if value is None:
            raise GuestError(f"{path}: no such file")
        if isinstance(value, Entry | PurePosixPath):
            raise GuestError(f"{path}: cannot be read")
        return value.encode() if isinstance(value, str) else value

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path, 1 << 30)[offset : offset + length]

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def names(self, path: str) -> list[str]:
        found = self._find(path)
        everything = [*self._files, *self._directories]
        return list(
            {PurePosixPath(name).name for name in everything if str(PurePosixPath(name).parent) == found} - {""}
        )

    def stat(self, path: str) -> Entry | None:
        found = self._find(path)
        if found is None:
            return None
        if found in self._directories:
            return Entry(kind=FileKind.DIRECTORY, size=0, mode=0o755)
        value = self._files[found]
        if isinstance(value, Entry):
            return value
        assert isinstance(value, bytes | str)
        return Entry(kind=FileKind.FILE, size=len(value.encode() if isinstance(value, str) else value), mode=0o644)

    def link(self, path: str) -> str | None:
        parent = self._find(os.path.dirname(path))
        value = self._files.get(os.path.join(parent or "", os.path.basename(path)))
        if not isinstance(value, PurePosixPath):
            return None
        return str(value)
