"""Kernel modules: what there is, what is built in, what needs what, and what is forbidden.

Sources: modules.dep(5), modprobe.d(5), modules.builtin of Documentation/kbuild/kbuild.rst, the kernel's .config. `-`
and `_` are the same in a module's name (modprobe(8)).
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from diskfmt.guest.linux.text import decode, joined, lines, words

SUFFIXES: Final = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")
MAX_INDEX: Final = 8 << 20  # bytes of modules.dep; a full distribution kernel has 0.7 MiB


def module_name(path: str) -> str | None:
    """The module that a file holds (`kernel/drivers/block/virtio-blk.ko.xz` → `virtio_blk`), None for another file."""
    name = posixpath.basename(path)
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return canonical(name.removesuffix(suffix))
    return None


def canonical(name: str) -> str:
    """A module's name as the kernel writes it."""
    return name.replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The modules of one kernel on disk.

    `files`: name → path below the module directory. `needs`: name → names of all modules it needs, directly or not
    (modules.dep lists them all). `builtin`: names of what the kernel itself contains.
    """

    version: str
    files: Mapping[str, str]
    needs: Mapping[str, tuple[str, ...]]
    builtin: frozenset[str]

    def has(self, name: str) -> bool:
        """Whether the driver is there, as a file or built in."""
        return canonical(name) in self.files or canonical(name) in self.builtin

    def closure(self, names: Iterable[str]) -> frozenset[str]:
        """The modules that must be loaded for these drivers to work: they and what they need, minus what is built in.

        A name that is neither a file nor built in stays in the answer: it is missing.
        """
        found: set[str] = set()
        todo = [canonical(name) for name in names]
        while todo:
            name = todo.pop()
            if name not in found and name not in self.builtin:
                found.add(name)
                todo.extend(self.needs.get(name, ()))
        return frozenset(found)


def parse_dep(data: bytes) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The files and the needs of modules.dep: `path: path path …` lines."""
    files: dict[str, str] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for _, line in lines(data):
        path, colon, rest = line.partition(b":")
        name = module_name(decode(path.strip()))
        if colon and name is not None:
            files[name] = decode(path.strip())
            wanted = (module_name(decode(word)) for word in rest.split())
            needs[name] = tuple(word for word in wanted if word is not None)
    return files, needs


def parse_builtin(data: bytes) -> frozenset[str]:
    """The names in modules.builtin: one path a line."""
    names = (module_name(decode(line.strip())) for _, line in lines(data))
    return frozenset(name for name in names if name is not None)


class Option(StrEnum):
    """What a kernel's configuration says of an option."""

    BUILTIN = "y"
    MODULE = "m"
    OFF = "n"


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """The configuration a kernel was built with. `source`: the file."""

    source: str
    options: Mapping[str, str]

    def option(self, name: str) -> Option:
        """CONFIG_`name`: y, m, or n where it is neither."""
        said = self.options.get(f"CONFIG_{name}", "n")
        return Option(said) if said in ("y", "m") else Option.OFF


def parse_config(data: bytes, source: str) -> KernelConfig:
    """`CONFIG_X=value` lines; `# CONFIG_X is not set` lines say nothing more than their absence."""
    options: dict[str, str] = {}
    for _, line in lines(data):
        name, equals, value = line.partition(b"=")
        if equals and name.startswith(b"CONFIG_"):
            options[decode(name)] = decode(value.strip().strip(b'"'))
    return KernelConfig(source, options)


# Drivers as kernel options, for a kernel whose module directory has no index.
CONFIG_OF: Final = {
    "virtio_blk": "VIRTIO_BLK",
    "virtio_net": "VIRTIO_NET",
    "virtio_pci": "VIRTIO_PCI",
    "virtio_scsi": "SCSI_VIRTIO",
    "nvme": "BLK_DEV_NVME",
    "ena": "ENA_ETHERNET",
    "gve": "GVE",
    "hv_vmbus": "HYPERV",
    "hv_storvsc": "HYPERV_STORAGE",
    "hv_netvsc": "HYPERV_NET",
    "xen_blkfront": "XEN_BLKDEV_FRONTEND",
    "ext4": "EXT4_FS",
    "xfs": "XFS_FS",
    "btrfs": "BTRFS_FS",
    "vfat": "VFAT_FS",
    "udf": "UDF_FS",
    "iso9660": "ISO9660_FS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModprobeRules:
    """What modprobe.d forbids and does. Each value is where it stands (`file:line`).

    `blacklist`: not loaded by a device's alias. `disabled`: `install NAME /bin/true` or the like, never loaded at all.
    """

    blacklist: Mapping[str, str] = field(default_factory=dict)
    disabled: Mapping[str, str] = field(default_factory=dict)

    def where(self, name: str) -> str | None:
        """Where the driver is forbidden, None where it is not."""
        return self.disabled.get(canonical(name)) or self.blacklist.get(canonical(name))


_NOTHING: Final = frozenset({"true", "false", ":", "echo", "exit"})


def parse_modprobe(files: Iterable[tuple[str, bytes]]) -> ModprobeRules:
    """The rules of modprobe.d files (path, content), in the order in which modprobe reads them."""
    blacklist: dict[str, str] = {}
    disabled: dict[str, str] = {}
    for path, data in files:
        for number, line in joined(data):
            said = [decode(word) for word in words(line)]
            if len(said) >= 2 and said[0] == "blacklist":
                blacklist.setdefault(canonical(said[1]), f"{path}:{number}")
            elif len(said) >= 3 and said[0] == "install" and posixpath.basename(said[2]) in _NOTHING:
                disabled.setdefault(canonical(said[1]), f"{path}:{number}")
    return ModprobeRules(blacklist=blacklist, disabled=disabled)


def blacklisted_by_args(args: Iterable[str]) -> Iterator[str]:
    """The modules that kernel arguments forbid: modprobe.blacklist=, module_blacklist=, rd.driver.blacklist=."""
    for arg in args:
        name, _, value = arg.partition("=")
        if name in ("modprobe.blacklist", "module_blacklist", "rd.driver.blacklist", "rdblacklist"):
            yield from (canonical(word) for word in value.split(",") if word)
