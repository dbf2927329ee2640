"""Entries of the Boot Loader Specification, and the menus of syslinux: small text files, one key a line.

Sources: uapi-group.org Boot Loader Specification (type #1), with what Fedora's GRUB adds (variables); loader.conf(5);
Syslinux wiki, "Config".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import BudgetError
from diskfmt.guest.linux.boot_entry import BootEntry, kernel_args
from diskfmt.guest.linux.grub import Menu, MenuItem
from diskfmt.guest.linux.text import decode, matches, significant, version_key

_MAX_ENTRIES: Final = 1000


def parse_entry(data: bytes, source: str, name: str, variables: Mapping[str, str]) -> BootEntry:
    """One entry file; `name` without `.conf`. `variables`: what `$name` in options stands for, others are left out."""
    found: dict[str, list[str]] = {}
    for _, line in significant(data):
        parts = line.split(None, 1)
        if len(parts) == 2:
            found.setdefault(decode(parts[0]).lower(), []).append(decode(parts[1].strip()))
    options = _expand(" ".join(found.get("options", ())), variables)
    initrds = [word for text in found.get("initrd", ()) for word in _expand(text, variables).split()]
    return BootEntry(
        title=" ".join(found.get("title", ())[:1]),
        kernel=" ".join(found.get("linux", found.get("efi", found.get("uki", [])))[:1]),
        initrds=tuple(initrds),
        args=kernel_args(options.encode()),
        id=name,
        source=source,
    )


def _expand(text: str, variables: Mapping[str, str]) -> str:
    words = []
    for word in text.split(" "):
        if word.startswith("$"):
            words.append(variables.get(word[1:].strip("{}"), ""))
        else:
            words.append(word)
    return " ".join(word for word in words if word)


def in_order(entries: Iterable[BootEntry]) -> tuple[BootEntry, ...]:
    """The newest first, as a menu shows them: by the version in the file's name."""
    return tuple(sorted(entries, key=lambda entry: version_key(entry.id), reverse=True))


@dataclass(frozen=True, slots=True)
class LoaderConf:
    """loader.conf of systemd-boot."""

    default: str
    source: str


def parse_loader_conf(data: bytes, source: str) -> LoaderConf:
    """Its `default`: a pattern of entry names, empty where there is none."""
    default = ""
    for _, line in significant(data):
        parts = line.split(None, 1)
        if len(parts) == 2 and parts[0] == b"default":
            default = decode(parts[1].strip())
    return LoaderConf(default, source)


def systemd_menu(entries: tuple[BootEntry, ...], conf: LoaderConf | None, source: str) -> Menu:
    """systemd-boot's menu: the default is the first entry whose name fits the pattern, else the newest."""
    pattern = conf.default if conf else ""
    names = [entry.id for entry in entries]
    fits = [
        n for n, name in enumerate(names) if pattern and (matches(name, pattern) or matches(f"{name}.conf", pattern))
    ]
    items = tuple(MenuItem(title=entry.title, id=entry.id, entry=entry) for entry in entries)
    return Menu(source=source, items=items, default=str(fits[0]) if fits else "0", uncertain=pattern.startswith("@"))


def parse_syslinux(data: bytes, source: str) -> Menu:
    """The menu of syslinux or extlinux: LABEL, KERNEL or LINUX, APPEND, INITRD; DEFAULT, ONTIMEOUT, MENU DEFAULT."""
    default = ""
    heads: list[tuple[str, int, dict[str, str]]] = []
    marked = ""
    everywhere: dict[str, str] = {}
    for number, line in significant(data):
        parts = decode(line).split(None, 1)
        key, rest = parts[0].lower(), parts[1].strip() if len(parts) > 1 else ""
        if key == "label":
            heads.append((rest, number, {}))
            if len(heads) > _MAX_ENTRIES:
                raise BudgetError(f"{source}: more than {_MAX_ENTRIES} entries", offset=number)
        elif key in ("default", "ontimeout"):
            default = rest if key == "default" or not default else default
        elif key == "menu" and rest.lower().startswith("default") and heads:
            marked = heads[-1][0]
        elif key == "menu" and rest.lower().startswith("label") and heads:
            heads[-1][2]["title"] = rest[5:].strip().replace("^", "")
        elif key in ("kernel", "linux", "append", "initrd"):
            (heads[-1][2] if heads else everywhere)["kernel" if key == "linux" else key] = rest
    items = [_syslinux_item({**everywhere, **found}, label, source, number) for label, number, found in heads]
    chosen = default.split()[0] if default and not default.lower().endswith(".c32") else ""
    return Menu(source=source, items=tuple(items), default=marked or chosen or "0")


def _syslinux_item(found: Mapping[str, str], label: str, source: str, number: int) -> MenuItem:
    args = kernel_args(found.get("append", "").encode())
    inline = [arg.partition("=")[2] for arg in args if arg.startswith("initrd=")]
    names = [found["initrd"]] if "initrd" in found else inline
    entry = BootEntry(
        title=found.get("title", label),
        kernel=found.get("kernel", ""),
        initrds=tuple(name for text in names for name in text.split(",") if name),
        args=tuple(arg for arg in args if not arg.startswith("initrd=")),
        id=label,
        source=source,
        line=number,
    )
    return MenuItem(title=entry.title, id=label, entry=entry)
