"""What the kernel's first root contains: which drivers, which tools.

    early cpio, uncompressed (microcode) │ zeroes │ cpio, compressed or not │ zeroes …

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux; a kernel unpacks all parts over each other.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_READ, BudgetError, DamagedError
from diskfmt.guest.linux.cpio import MAGICS, Archive, Source
from diskfmt.guest.linux.decompress import LONGEST_MAGIC, Stream, compression
from diskfmt.guest.linux.modules import ModprobeRules, module_name, parse_modprobe
from diskfmt.guest.linux.text import decode

_MAX_PARTS: Final = 64
_KEPT: Final = 64 << 10  # bytes of a file that is kept
_MAX_LINK: Final = 4096
_NO_TOOLS: Final = ("usr/share/", "etc/", "var/", "conf/")
_KEPT_ALL: Final = 1 << 20
_KEEP: Final = ("etc/modprobe.d/", "lib/modprobe.d/", "usr/lib/modprobe.d/", "conf/", "etc/cmdline.d/", "etc/fstab")
# File systems inside the archive, whose content is not looked at.
_IMAGES: Final = (".squashfs", ".erofs", "squash-root.img", "squashfs-root.img", "erofs-root.img", "squash/root.img")
TOOLS: Final = frozenset(
    {
        "lvm",
        "mdadm",
        "cryptsetup",
        "systemd-cryptsetup",
        "multipathd",
        "dmsetup",
        "btrfs",
        "kpartx",
        "busybox",
        "systemd",
        "dracut-lib.sh",
        "e2fsck",
        "fsck.ext4",
        "fsck.xfs",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the file: where it begins, its compression (`none` where it is plain cpio), its number of files."""

    offset: int
    compression: str
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Initramfs:
    """The content of an initramfs.

    `modules`: kernel version → names of the modules below lib/modules/VERSION. `tools`: those of TOOLS that are inside.
    `kept`: small files that say how it works, by path. `hidden`: file systems inside that were not looked into: what
    is not found may be there. `size`: bytes of content looked at. `problem`: the last part makes no sense; what
    stands before it is known.
    """

    path: str
    parts: tuple[Part, ...]
    modules: Mapping[str, frozenset[str]]
    tools: frozenset[str]
    kept: Mapping[str, bytes]
    hidden: tuple[str, ...]
    size: int
    problem: str = ""

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(part.files for part in self.parts)

    @property
    def modprobe(self) -> ModprobeRules:
        """What the modprobe.d files inside forbid."""
        rules = sorted((path, data) for path, data in self.kept.items() if "modprobe.d/" in path)
        return parse_modprobe((f"{self.path}({path})", data) for path, data in rules if path.endswith(".conf"))


class _Collector:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._module_files: set[str] = set()
        self._module_links: dict[str, str] = {}
        self.tools: set[str] = set()
        self.kept: dict[str, bytes] = {}
        self.hidden: list[str] = []
        self.size = 0
        self._kept_bytes = 0

    def part(self, source: Source, offset: int, name: str) -> None:
        """One archive of a source."""
        count = 0
        archive = Archive(source)
        try:
            for member in archive:
                count += 1
                path = decode(member.name)
                if member.is_file:
                    self._file(path, posixpath.basename(path))
                elif member.is_link and member.size <= _MAX_LINK:
                    self._link(path, decode(archive.content(member)))
                if member.is_file and path.startswith(_KEEP) and member.size <= _KEPT:
                    self._kept_bytes += member.size
                    if self._kept_bytes <= _KEPT_ALL:
                        self.kept[path] = archive.content(member)
        finally:
            self.parts.append(Part(offset=offset, compression=name, files=count))

    def _file(self, path: str, name: str) -> None:
        if module_name(name) is not None:
            self._module_files.add(path.removeprefix("usr/"))
        elif path.endswith(_IMAGES):
            self.hidden.append(path)
        else:
            self._tool(path, name)

    def _link(self, path: str, target: str) -> None:
        if module_name(path) is not None:
            there = posixpath.join("/", posixpath.dirname(path), target)
            self._module_links[path.removeprefix("usr/")] = posixpath.normpath(there).lstrip("/").removeprefix("usr/")
        else:
            self._tool(path, posixpath.basename(path))

    def _tool(self, path: str, name: str) -> None:
        if name in TOOLS and not path.startswith(_NO_TOOLS):
            self.tools.add(name)

    def _modules(self) -> dict[str, frozenset[str]]:
        """Module files, and links that lead to one: a link that leads out of the archive is no module."""
        found: dict[str, set[str]] = {}
        links = {path for path, target in self._module_links.items() if target in self._module_files}
        for path in self._module_files | links:
            top, modules, version = path.split("/", 3)[:3] if path.count("/") >= 3 else ("", "", "")
            name = module_name(path)
            if (top, modules) == ("lib", "modules") and name is not None:
                found.setdefault(version, set()).add(name)
        return {version: frozenset(names) for version, names in found.items()}

    def result(self, path: str, problem: str = "") -> Initramfs:
        return Initramfs(
            path=path,
            parts=tuple(self.parts),
            modules=self._modules(),
            tools=frozenset(self.tools),
            kept=self.kept,
            hidden=tuple(self.hidden),
            size=self.size,
            problem=problem,
        )


def parse(data: bytes, path: str) -> Initramfs:
    """What an initramfs file contains.

    Raises DamagedError for one that does not begin with an archive, or whose archives end too early or make no sense;
    UnsupportedError for a compression that is not read, BudgetError for content above 256 MiB or too many files.
    """
    found = _Collector()
    at = 0
    while len(found.parts) < _MAX_PARTS:
        source = Source([memoryview(data)[at:]], MAX_READ)
        source.skip_zeroes()
        at += source.position
        head = source.peek(max(LONGEST_MAGIC, 6))
        if not head:
            break
        if head.startswith(MAGICS):
            begin = source.position
            found.part(source, at, "none")
            found.size += source.position - begin
            at += source.position - begin
        elif (name := compression(head)) is not None:
            stream = Stream(data, at)
            inner = Source(stream, MAX_READ - found.size)
            _inside(found, inner, at, name)
            found.size += inner.position
            if stream.end <= at:
                raise DamagedError(f"{name} data that end nowhere", offset=at)
            at = stream.end
        elif found.parts:
            return found.result(path, problem=f"what follows at offset {at} is no archive")
        else:
            raise DamagedError(f"{path} begins with {head[:6].hex()}: no initramfs", offset=at)
    else:
        raise BudgetError(f"more than {_MAX_PARTS} parts", offset=at)
    if not found.parts:
        raise DamagedError(f"{path} holds nothing but zeroes")
    return found.result(path)


def _inside(found: _Collector, inner: Source, at: int, name: str) -> None:
    """The archives of one compressed stream, and then to its end."""
    while len(found.parts) < _MAX_PARTS:
        inner.skip_zeroes()
        head = inner.peek(6)
        if not head:
            return
        if not head.startswith(MAGICS):
            raise DamagedError(f"the {name} data hold no archive", offset=at)
        found.part(inner, at, name)


def embedded_version(kernel: bytes) -> str | None:
    """The version string inside a bzImage: `HdrS` at 0x202, its offset at 0x20e. None for another kind of kernel.

    Source: Documentation/arch/x86/boot.rst.
    """
    if len(kernel) < 0x210 or kernel[0x202:0x206] != b"HdrS":
        return None
    at = 0x200 + int.from_bytes(kernel[0x20E:0x210], "little")
    text = kernel[at : at + 256].partition(b"\0")[0]
    return decode(text.split(b" ")[0]) if at > 0x200 and text else None
