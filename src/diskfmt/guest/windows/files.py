r"""The files of a Windows volume, and what the paths in its registry mean there.

Source: Microsoft, ImagePath of a service (relative to SystemRoot, `\SystemRoot\…`, `\??\C:\…`, `%SystemRoot%\…`).
"""

from typing import Final, Protocol

from diskfmt.guest.base import MAX_FILE, UnsupportedError

WINDOWS: Final = "/Windows"


class Files(Protocol):
    """A volume by paths with `/`, in any case. Every method raises GuestError for what cannot be read."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        ...

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """A whole file of at most `limit` bytes."""
        ...

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """A part of a file, less where it ends."""
        ...


def file_of(image_path: str | None, service: str, drive: str = "C") -> str:
    """The path on the system volume that an ImagePath means; None: the driver of that name.

    `drive`: the letter of the system volume. Raises UnsupportedError for a path on another volume, or of a kind that is
    not known.
    """
    if not image_path or not image_path.strip():
        return f"{WINDOWS}/System32/drivers/{service}.sys"
    text = _program(image_path.strip()).replace("/", "\\")
    lower = text.lower()
    for prefix in ("\\??\\", "\\\\?\\"):
        if lower.startswith(prefix):
            text, lower = text[len(prefix) :], lower[len(prefix) :]
    for prefix in ("\\systemroot\\", "%systemroot%\\", "%windir%\\"):
        if lower.startswith(prefix):
            return _joined(WINDOWS, text[len(prefix) :], image_path)
    for prefix in ("%systemdrive%\\", f"{drive.lower()}:\\"):
        if lower.startswith(prefix):
            return _joined("", text[len(prefix) :], image_path)
    if lower.startswith(("\\", "%")) or text[1:2] == ":":
        raise UnsupportedError(f"the path {image_path!r} is not on the system volume")
    return _joined(WINDOWS, text, image_path)


def _program(text: str) -> str:
    """A command line without quotes and arguments."""
    if text.startswith('"'):
        return text[1:].partition('"')[0]
    lower = text.lower()
    for suffix in (".exe", ".sys", ".dll"):
        end = lower.find(suffix + " ")
        if end >= 0:
            return text[: end + len(suffix)]
    return text


def _joined(base: str, rest: str, whole: str) -> str:
    parts = [part for part in rest.split("\\") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise UnsupportedError(f"the path {whole!r} does not name a file")
    return "/".join((base, *parts))
