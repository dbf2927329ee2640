"""What this guest starts: the menus of its boot loaders, the entry that starts by itself, its files."""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_FILE, GuestError
from diskfmt.guest.linux import bls
from diskfmt.guest.linux.boot_entry import BootEntry, kernel_args, locate, version_of
from diskfmt.guest.linux.grub import Menu, MenuItem, parse_env, parse_grub, parse_legacy
from diskfmt.guest.linux.root import Root, content, is_directory, is_file, link_text, sorted_names
from diskfmt.guest.linux.text import decode, version_key

_GRUB2: Final = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
_LEGACY: Final = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
_SYSLINUX: Final = (
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux.cfg",
    "/extlinux.conf",
    "/syslinux.cfg",
)
_ESPS: Final = ("/boot/efi", "/efi", "/boot")
_EFI_DEPTH: Final = 32  # directories below EFI that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A boot loader's configuration. `kind`: `grub2`, `grub-legacy`, `syslinux`, `systemd-boot`, `links`.

    `top`: the directory whose file system the menu's paths begin at, if that is not the root.
    """

    kind: str
    menu: Menu
    top: str = "/boot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What starts. `loaders`: all configurations with entries; `unread`: (file, reason) of those that make no sense.

    `entry`: what the first of the loaders starts, None where none has an entry; `kernel`, `initrds`: where its files
    are in the guest, None for one that is missing. `version`: the kernel's.
    """

    loaders: tuple[Loader, ...]
    unread: tuple[tuple[str, str], ...]
    entry: BootEntry | None
    kernel: str | None
    initrds: tuple[tuple[str, str | None], ...]
    version: str

    @property
    def uncertain(self) -> bool:
        """Whether another entry may start, for reasons that only the running machine knows."""
        return bool(self.loaders) and self.loaders[0].menu.uncertain


def _snippets(root: Root, directory: str, variables: Mapping[str, str]) -> tuple[BootEntry, ...]:
    found = []
    for name in sorted_names(root, directory, ".conf"):
        path = posixpath.join(directory, name)
        data = content(root, path, 64 << 10)
        if data is not None:
            found.append(bls.parse_entry(data, path, name.removesuffix(".conf"), variables))
    return bls.in_order(found)


def _grub2(root: Root, path: str) -> Loader | None:
    data = content(root, path, MAX_FILE)
    if data is None:
        return None
    env = None
    for candidate in (posixpath.join(posixpath.dirname(path), "grubenv"), "/boot/grub2/grubenv", "/boot/grub/grubenv"):
        stored = content(root, candidate, 64 << 10)
        if stored is not None:
            env = parse_env(stored)
            break
    menu = parse_grub(
        data, path, env, lambda variables: _snippets(root, "/boot/loader/entries", {**variables, **(env or {})})
    )
    return Loader(kind="grub2", menu=menu)


def _legacy(root: Root, path: str) -> Loader | None:
    data = content(root, path, MAX_FILE)
    if data is None:
        return None
    saved = content(root, posixpath.join(posixpath.dirname(path), "default"), 4096)
    text = decode(saved.split(b"\n", 1)[0].strip()) if saved else None
    return Loader(kind="grub-legacy", menu=parse_legacy(data, path, text))


def _syslinux(root: Root, path: str) -> Loader | None:
    data = content(root, path, MAX_FILE)
    return (
        None
        if data is None
        else Loader(kind="syslinux", menu=bls.parse_syslinux(data, path), top=posixpath.dirname(path))
    )


def _systemd_boot(root: Root, esp: str) -> Loader | None:
    conf_path = f"{esp}/loader/loader.conf"
    conf = content(root, conf_path, 64 << 10)
    if conf is None:
        return None
    entries = _snippets(root, f"{esp}/loader/entries", {})
    menu = bls.systemd_menu(entries, bls.parse_loader_conf(conf, conf_path), conf_path)
    return Loader(kind="systemd-boot", menu=menu, top=esp)


def _efi_grub(root: Root) -> Iterator[str]:
    for esp in _ESPS[:2]:
        for name in sorted_names(root, f"{esp}/EFI")[:_EFI_DEPTH]:
            yield f"{esp}/EFI/{name}/grub.cfg"
            yield f"{esp}/EFI/{name}/grub.conf"


def _links(root: Root) -> Loader | None:
    """The links /vmlinuz and /initrd.img, which boot loaders without menus follow."""
    for kernel, initrd in (
        ("/vmlinuz", "/initrd.img"),
        ("/boot/vmlinuz", "/boot/initrd.img"),
        ("/boot/vmlinuz", "/boot/initrd"),
    ):
        target = link_text(root, kernel)
        if target is not None:
            there = posixpath.normpath(posixpath.join(posixpath.dirname(kernel), target))
            behind = link_text(root, initrd)
            other = posixpath.normpath(posixpath.join(posixpath.dirname(initrd), behind)) if behind else None
            entry = BootEntry(title=kernel, kernel=there, initrds=(other,) if other else (), source=kernel)
            items = (MenuItem(title=kernel, id="", entry=entry),)
            return Loader(kind="links", menu=Menu(source=kernel, items=items, default="0"))
    return None


def _candidates(root: Root) -> Iterator[tuple[str, Loader | GuestError | None]]:
    """All configurations, in the order in which they count."""
    readers: list[tuple[str, Callable[[Root, str], Loader | None]]] = [(path, _grub2) for path in _GRUB2]
    readers += [(path, _grub2 if path.endswith(".cfg") else _legacy) for path in _efi_grub(root)]
    readers += [(path, _legacy) for path in _LEGACY]
    readers += [(path, _syslinux) for path in _SYSLINUX]
    readers += [(esp, _systemd_boot) for esp in _ESPS]
    for path, read in readers:
        try:
            yield path, read(root, path)
        except GuestError as error:
            yield path, error


def installed_kernels(root: Root) -> tuple[str, ...]:
    """Paths of the kernels in /boot, the newest first; rescue kernels last."""
    found = [name for name in root.names("/boot") if name.startswith(("vmlinuz-", "vmlinux-", "Image-", "bzImage-"))]
    found = [name for name in found if is_file(root, f"/boot/{name}")]
    found.sort(key=lambda name: ("rescue" not in name, version_key(version_of(name))), reverse=True)
    return tuple(f"/boot/{name}" for name in found)


def initramfs_of(root: Root, version: str) -> str | None:
    """The initramfs of a kernel by its name in /boot, None where there is none."""
    names = [f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}", f"initramfs-{version}"]
    names.append(f"initrd-{version}.img")
    return next((f"/boot/{name}" for name in names if is_file(root, f"/boot/{name}")), None)


def module_directory(root: Root, version: str) -> str | None:
    """The directory of a kernel's modules, None where there is none."""
    if not version or "/" in version or version in (".", ".."):
        return None
    candidates = (f"/usr/lib/modules/{version}", f"/lib/modules/{version}")
    return next((path for path in candidates if is_directory(root, path)), None)


def examine(root: Root) -> Boot:
    """What the guest starts. Raises GuestError only where directories cannot be read."""
    loaders, unread = [], []
    seen: set[str] = set()
    for path, found in _candidates(root):
        if isinstance(found, GuestError):
            unread.append((path, found.message))
        elif found is not None and found.menu.entries and found.menu.source not in seen:
            seen.add(found.menu.source)
            loaders.append(found)
    if not loaders and (links := _links(root)) is not None:
        loaders.append(links)
    entry = loaders[0].menu.chosen if loaders else None
    if entry is None:
        return Boot(loaders=tuple(loaders), unread=tuple(unread), entry=None, kernel=None, initrds=(), version="")
    top = loaders[0].top
    kernel = locate(root, entry.kernel, top) if entry.kernel else None
    initrds = tuple((path, locate(root, path, top)) for path in entry.initrds)
    version = entry.version or _linked_version(root, kernel)
    return Boot(
        loaders=tuple(loaders), unread=tuple(unread), entry=entry, kernel=kernel, initrds=initrds, version=version
    )


def _linked_version(root: Root, kernel: str | None) -> str:
    """`/boot/vmlinuz` is a link to the kernel that has a version in its name."""
    target = link_text(root, kernel) if kernel else None
    return version_of(target) if target else ""


def default_args(root: Root) -> tuple[tuple[str, ...], str] | None:
    """Arguments of a kernel that no menu gives any: /etc/kernel/cmdline, and the file."""
    for path in ("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline"):
        data = content(root, path, 64 << 10)
        if data is not None:
            return kernel_args(data.replace(b"\n", b" ")), path
    return None
