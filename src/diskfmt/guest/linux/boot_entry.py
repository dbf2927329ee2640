"""What a boot loader would start: the record that the readers of all loaders' menus share."""

import posixpath
from dataclasses import dataclass

from diskfmt.guest.linux.root import Root, is_file
from diskfmt.guest.linux.text import decode, words


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """An entry of a boot menu.

    `kernel`, `initrds`: paths as the loader writes them, on the loader's own file system. `args`: the kernel's
    arguments.
    `device`: the UUID or label of the file system that the loader looks for, empty where it looks for none. `line`:
    where the entry begins in `source`. `id`: what a default may name it by.
    """

    title: str
    kernel: str
    initrds: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    id: str = ""
    device: str = ""
    source: str = ""
    line: int = 1

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}"

    @property
    def version(self) -> str:
        """The kernel's version, as its file name has it; empty where it has none."""
        return version_of(self.kernel)

    def arg(self, name: str) -> str | None:
        """The last value of a kernel argument, empty for one without `=`, None where it is missing."""
        for word in reversed(self.args):
            key, _, value = word.partition("=")
            if key == name:
                return value
        return None

    def all(self, name: str) -> tuple[str, ...]:
        """All values of a kernel argument, in order (`console=tty0 console=ttyS0`)."""
        pairs = (word.partition("=") for word in self.args)
        return tuple(value for key, _, value in pairs if key == name)


_KERNELS = ("vmlinuz-", "vmlinux-", "bzImage-", "Image-", "kernel-", "linux-", "initrd.img-", "initramfs-", "initrd-")


def version_of(path: str) -> str:
    """The version in the name of a kernel or initramfs file (`vmlinuz-6.1.0-9-amd64`), empty where there is none."""
    name = posixpath.basename(path)
    for begin in _KERNELS:
        if name.startswith(begin):
            return name.removeprefix(begin).removesuffix(".img").removesuffix(".gz").removesuffix(".efi")
    return ""


def kernel_args(line: bytes) -> tuple[str, ...]:
    """The words of a kernel command line. Quotes stay with their word: `a="b c"` is `a=b c`."""
    return tuple(decode(word) for word in words(line, comments=False))


def locate(root: Root, path: str, top: str = "/boot") -> str | None:
    """Where a loader's path is in the guest, None where it is nowhere.

    The loader's file system is that of `top`: `/vmlinuz` of a separate /boot is `/boot/vmlinuz`. A Btrfs subvolume in
    front (`/@/boot/…`) is taken off.
    """
    plain = path[path.index(")") + 1 :] if path.startswith("(") and ")" in path else path
    plain = posixpath.normpath("/" + plain.lstrip("/"))
    candidates = [top.rstrip("/") + plain] if plain.startswith("/boot/") is False else []
    candidates.append(plain)
    if "/boot/" in plain[1:]:
        candidates.append(plain[plain.rindex("/boot/") :])
    elif plain.count("/") > 1:  # a subvolume that is mounted at /boot
        candidates.append(top.rstrip("/") + "/" + plain.split("/", 2)[2])
    return next((candidate for candidate in candidates if is_file(root, candidate)), None)
