"""A bootable Linux disk, made on the spot: boot sector, partition table, boot loader, ext4, kernel, init."""

import glob
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECTOR = 512
DISK_SIZE = 1 << 30
PARTITION_START = 1 << 20
SUITE = "bookworm"

_BOOT_CODE = "/usr/lib/EXTLINUX/mbr.bin"
_BOOT_CODE_SIZE = 440
_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources")
_PROGRAMS = ("debootstrap", "extlinux", "mke2fs", "mount", "qemu-img", "qemu-system-x86_64", "unshare")
_COVERED = ("dev", "proc", "run", "sys")  # other file systems are mounted over these
# What debootstrap mounts and starts ends with it, even if it is killed.
_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_TIMEOUT = 1200.0

_LOADER = """\
SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
  LINUX {kernel}
  INITRD {initrd}
  APPEND root=UUID={uuid} ro console=ttyS0 quiet panic=1
"""

# The guest reads all of its files before it says that it is well: a disk can be damaged and boot all the same.
_INIT = """\
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
cd /
if sha256sum --quiet --check /manifest; then
  echo "{booted} $(wc -l </manifest)"
else
  echo "{damaged}"
fi
echo o >/proc/sysrq-trigger
sleep 60
"""


class BuildError(Exception):
    """A tool failed; the text is the end of what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDisk:
    """A raw disk, and the lines that its guest ends with on the serial console."""

    path: str
    booted: str
    damaged: str
    files: int


def why_not() -> str | None:
    """Why no disk can be built or booted here; None if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "builds an x86-64 system by running its programs"
    if os.geteuid() != 0:
        return "needs root, for debootstrap and mount"
    for program in _PROGRAMS:
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
            return f"{program} is not installed"
    return None if os.path.exists(_BOOT_CODE) else f"{_BOOT_CODE} is not installed"


def build(folder: str, say: Callable[[str], None]) -> BootDisk:
    """A disk in `folder` that boots to a line nobody else prints.

    Raises:
        BuildError: a tool failed, or did not end in time.

    """
    token = uuid.uuid4().hex
    root = os.path.join(folder, "root")
    say(f"debootstrap: {SUITE}, minbase, with a kernel")
    # The cloud kernel has the drivers of virtio and an initramfs of a third of the size.
    included = "--include=linux-image-cloud-amd64"
    _run(*_ISOLATED, "debootstrap", "--variant=minbase", included, SUITE, root, *_mirror())
    say("file system, boot loader, partition table")
    disk = BootDisk(
        path=os.path.join(folder, "boot.raw"),
        booted=f"DISKFMT-BOOTED {token}",
        damaged=f"DISKFMT-DAMAGED {token}",
        files=_furnish(root, token),
    )
    _write_file_system(disk.path, root, _write_loader(root))
    _install_loader(disk.path, os.path.join(folder, "mnt"))
    _write_boot_sector(disk.path)
    shutil.rmtree(root)
    return disk


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not end in {_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise BuildError(f"{command[0]}: exit {done.returncode}: {done.stdout[-2000:].decode(errors='replace')}")


def _mirror() -> list[str]:
    """The mirror this machine gets the suite from, as an argument; without one debootstrap knows its own."""
    if "MIRROR" in os.environ:
        return [os.environ["MIRROR"]]
    return next(([uri] for uri, suites in _sources() if SUITE in suites and uri.startswith("http")), [])


def _sources() -> Iterator[tuple[str, list[str]]]:
    """Pairs of URI and suites from the lists of apt, in both of their forms."""
    for pattern in _SOURCES:
        for name in sorted(glob.glob(pattern)):
            with open(name, encoding="utf-8") as file:
                lines = [line for line in file.read().splitlines() if not line.startswith("#")]
            if name.endswith(".sources"):
                yield from _stanzas(lines)
            else:
                yield from _one_liners(lines)


def _stanzas(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for stanza in "\n".join(lines).split("\n\n"):
        fields = {key.strip().lower(): value.split() for key, _, value in map(_field, stanza.splitlines())}
        if "deb" in fields.get("types", []):
            yield from ((uri, fields.get("suites", [])) for uri in fields.get("uris", []))


def _field(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _one_liners(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        words = line.split("]")[-1].split() if "[" in line else line.split()[1:]
        if line.startswith("deb ") and len(words) > 1:
            yield words[0], [words[1]]


def _furnish(root: str, token: str) -> int:
    """Put init and the list of all files with their digests there; how many files there are."""
    for name in glob.glob(f"{root}/var/cache/apt/archives/*.deb") + glob.glob(f"{root}/var/lib/apt/lists/*_*"):
        os.unlink(name)
    init = os.path.join(root, "sbin", "init")
    if os.path.lexists(init):
        os.unlink(init)
    with open(init, "w", encoding="ascii") as file:
        file.write(_INIT.format(booted=f"DISKFMT-BOOTED {token}", damaged=f"DISKFMT-DAMAGED {token}"))
    os.chmod(init, 0o755)
    lines = []
    for folder, folders, names in os.walk(root):
        if folder == root:
            folders[:] = [name for name in folders if name not in _COVERED]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                lines.append(f"{digest}  {os.path.relpath(path, root)}\n")
    with open(os.path.join(root, "manifest"), "w", encoding="utf-8") as file:
        file.writelines(lines)
    return len(lines)


def _write_loader(root: str) -> str:
    """Write the configuration of the boot loader; the UUID that it looks for."""
    identity = str(uuid.uuid4())
    [kernel] = glob.glob(f"{root}/boot/vmlinuz-*")
    [initrd] = glob.glob(f"{root}/boot/initrd.img-*")
    os.mkdir(f"{root}/boot/extlinux")
    with open(f"{root}/boot/extlinux/extlinux.conf", "w", encoding="ascii") as file:
        paths = {"kernel": kernel[len(root) :], "initrd": initrd[len(root) :]}
        file.write(_LOADER.format(uuid=identity, **paths))
    return identity


def _write_file_system(path: str, root: str, identity: str) -> None:
    with open(path, "wb") as file:
        file.truncate(DISK_SIZE)
    # extlinux reads 32-bit block numbers and unsummed metadata whatever its version.
    features = "^64bit,^metadata_csum"
    options = ("-E", f"offset={PARTITION_START},nodiscard", "-O", features, "-U", identity, "-d", root)
    _run("mke2fs", "-q", "-F", "-t", "ext4", *options, path, f"{(DISK_SIZE - PARTITION_START) >> 10}k")


def _install_loader(path: str, mountpoint: str) -> None:
    """Put the boot loader into the file system: its files, and the boot sector of the partition."""
    os.mkdir(mountpoint)
    window = f"loop,offset={PARTITION_START},sizelimit={DISK_SIZE - PARTITION_START}"
    _run("mount", "-t", "ext4", "-o", window, path, mountpoint)
    try:
        _run("extlinux", "--install", f"{mountpoint}/boot/extlinux")
    finally:
        _run("umount", mountpoint)
    os.rmdir(mountpoint)


def _write_boot_sector(path: str) -> None:
    """Write the master boot record: code that starts the active partition, and a table of that one."""
    with open(_BOOT_CODE, "rb") as file:
        code = file.read(_BOOT_CODE_SIZE)
    unreachable = b"\xfe\xff\xff"  # cylinder, head and sector of what is found by its block number
    first, count = PARTITION_START // SECTOR, (DISK_SIZE - PARTITION_START) // SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, unreachable, 0x83, unreachable, first, count)
    table = struct.pack("<I2x", 0x44464D54) + entry + bytes(3 * len(entry)) + b"\x55\xaa"
    with open(path, "r+b") as file:
        file.write(code.ljust(_BOOT_CODE_SIZE, b"\0") + table)
