"""What is converted into what: the sources that qemu-img makes, and the targets that diskfmt writes."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle

from differential.disks import DISKS, DiskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An image that qemu-img makes of a raw disk. `rounds`: the format cannot hold every size, qemu-img adds to it."""

    name: str
    format: str
    arguments: tuple[str, ...] = ()
    rounds: bool = False

    def make(self, raw: str, path: str) -> None:
        """Convert the raw disk with qemu-img."""
        kind = {"vhd": "vpc"}.get(self.format, self.format)
        command = ["qemu-img", "convert", "-f", "raw", "-O", kind, *self.arguments, raw, path]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What diskfmt is asked for. `unit` in bytes: what is stored or left out as a whole."""

    name: str
    format: str
    subformat: str
    unit: int
    options: Mapping[str, str] = field(default_factory=dict)
    compress: str | None = None

    @property
    def codec(self) -> str | None:
        """`zlib`, `zstd` or None."""
        if self.subformat == "streamOptimized":
            return "zlib"
        return self.compress.partition(":")[0] if self.compress else None


def _qcow2_source(name: str, *arguments: str) -> Source:
    return Source(name=f"qcow2-{name}", format="qcow2", arguments=arguments)


SOURCES: tuple[Source, ...] = (
    Source(name="raw", format="raw"),
    _qcow2_source("v3"),
    Source(name="vhd-dynamic", format="vhd", arguments=("-o", "subformat=dynamic,force_size=on")),
    Source(name="vmdk-sparse", format="vmdk", arguments=("-o", "subformat=monolithicSparse")),
    _qcow2_source("zlib", "-c"),
    Source(name="vhd-fixed", format="vhd", arguments=("-o", "subformat=fixed,force_size=on")),
    Source(name="vmdk-stream", format="vmdk", arguments=("-o", "subformat=streamOptimized")),
    _qcow2_source("zstd", "-c", "-o", "compression_type=zstd"),
    Source(name="vhd-dynamic-chs", format="vhd", arguments=("-o", "subformat=dynamic"), rounds=True),
    Source(name="vmdk-flat", format="vmdk", arguments=("-o", "subformat=monolithicFlat")),
    _qcow2_source("v2-zlib", "-c", "-o", "compat=0.10"),
    Source(name="vhd-fixed-chs", format="vhd", arguments=("-o", "subformat=fixed"), rounds=True),
    Source(name="vmdk-sparse-zeroed", format="vmdk", arguments=("-o", "subformat=monolithicSparse,zeroed_grain=on")),
    _qcow2_source("v2", "-o", "compat=0.10"),
    _qcow2_source("v3-512", "-o", "cluster_size=512"),
    _qcow2_source("v3-4k", "-o", "cluster_size=4k"),
    _qcow2_source("v3-2M", "-o", "cluster_size=2M"),
    _qcow2_source("zlib-4k", "-c", "-o", "cluster_size=4k"),
    _qcow2_source("zlib-2M", "-c", "-o", "cluster_size=2M"),
    _qcow2_source("zstd-2M", "-c", "-o", "cluster_size=2M,compression_type=zstd"),
    _qcow2_source("prealloc", "-o", "preallocation=metadata"),
    _qcow2_source("lazy-64bit", "-o", "lazy_refcounts=on,refcount_bits=64"),
    _qcow2_source("refbits1", "-o", "refcount_bits=1"),
    _qcow2_source("scanned", "-S", "0"),
    Source(name="vmdk-pvscsi", format="vmdk", arguments=("-o", "adapter_type=lsilogic,hwversion=7")),
)

_K = 1 << 10
_M = 1 << 20


def _qcow2_targets() -> list[Target]:
    targets = []
    for version, codecs in (("v3", (None, "zlib", "zlib:9", "zstd", "zstd:9")), ("v2", (None, "zlib", "zlib:3"))):
        for label, unit in (("512", 512), ("4k", 4 * _K), ("64k", 64 * _K), ("2M", 2 * _M)):
            for compress in codecs:
                name = "-".join(filter(None, ("qcow2", version, label, (compress or "plain").replace(":", ""))))
                targets.append(
                    Target(
                        name=name,
                        format="qcow2",
                        subformat=version,
                        unit=unit,
                        compress=compress,
                        options={"cluster_size": label},
                    ),
                )
    return targets


def _vmdk_target(subformat: str, **changes: object) -> Target:
    unit = 512 if subformat == "monolithicFlat" else 64 * _K
    suffix = "".join(f"-{value}" for value in changes.values()).replace(":", "")
    return Target(name=f"vmdk-{subformat}{suffix}", format="vmdk", subformat=subformat, unit=unit, **changes)  # type: ignore[arg-type]


TARGETS: tuple[Target, ...] = (
    Target(name="raw", format="raw", subformat="raw", unit=64 * _K),
    Target(name="vhd-dynamic", format="vhd", subformat="dynamic", unit=2 * _M),
    Target(name="vhd-dynamic-512K", format="vhd", subformat="dynamic", unit=512 * _K, options={"block_size": "512K"}),
    Target(name="vhd-fixed", format="vhd", subformat="fixed", unit=512),
    _vmdk_target("monolithicSparse"),
    _vmdk_target("streamOptimized"),
    _vmdk_target("streamOptimized", compress="zlib:9"),
    _vmdk_target("monolithicFlat"),
    *_qcow2_targets(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One disk into one target, from several sources: the unit of work of the suite."""

    disk: DiskSpec
    target: Target
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.disk.name}-{self.target.name}"


def all_groups() -> list[Group]:
    """The full product."""
    return [Group(disk=disk, target=target, sources=SOURCES) for disk in DISKS for target in TARGETS]


def _slow_to_write(target: Target) -> bool:
    """Tiny clusters and thorough compression: minutes are better spent on more combinations than on these."""
    return (target.unit < 64 * _K and target.format == "qcow2") or (target.compress or "").endswith(":9")


def quick_groups() -> list[Group]:
    """A selection in which every disk, target and source occurs, and every source format meets every target.

    Each target gets one disk and four sources, one of each format, all of them taken in turn.
    """
    by_format = [[s for s in SOURCES if s.format == name] for name in ("raw", "qcow2", "vhd", "vmdk")]
    small = [disk for disk in DISKS if disk.size <= 6 * _M]
    every, few = cycle(DISKS), cycle(small)
    groups = []
    for index, target in enumerate(TARGETS):
        disk = next(few if _slow_to_write(target) else every)
        sources = tuple(kinds[index % len(kinds)] for kinds in by_format)
        groups.append(Group(disk=disk, target=target, sources=sources))
    return groups
