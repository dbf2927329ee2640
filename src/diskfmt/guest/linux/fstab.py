"""What the guest mounts, unlocks and swaps on: fstab(5), crypttab(5), mdadm.conf(5)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.linux.text import decode, joined, significant, words

_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "fuse.sshfs", "afs", "ncpfs"})
_SHARES: Final = frozenset({"vboxsf", "vmhgfs", "fuse.vmhgfs-fuse", "prl_fs", "9p", "virtiofs"})
_PSEUDO: Final = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "overlay"}
    | {
        "bpf",
        "efivarfs",
        "configfs",
        "hugetlbfs",
        "mqueue",
        "ramfs",
        "usbfs",
        "none",
        "binfmt_misc",
        "pstore",
        "fusectl",
    }
)
# Names that another machine gives other disks: they depend on the driver, the slot and the order.
_UNSTABLE: Final = ("/dev/sd", "/dev/hd", "/dev/xvd", "/dev/nvme", "/dev/cciss/", "/dev/mmcblk", "/dev/disk/by-path/")
_BY: Final = {"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"}


@dataclass(frozen=True, slots=True)
class Spec:
    """How a device is named.

    `kind`: `UUID`, `LABEL`, `PARTUUID`, `PARTLABEL`, `mapper`, `unstable`, `virtio`, `device`, `file`
    or `other`; `value`: the id, or the path.
    """

    kind: str
    value: str


def device_spec(text: str) -> Spec:
    """What fstab's first field, or root= of a kernel, names."""
    tag, equals, value = text.partition("=")
    if equals and tag.upper() in ("UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"):
        return Spec(tag.upper(), value.strip("\"'"))
    if text.startswith("/dev/disk/by-"):
        kind, _, name = text.removeprefix("/dev/disk/").partition("/")
        if kind in _BY:
            return Spec(_BY[kind], _udev_unescape(name))
    if text.startswith(_UNSTABLE):
        return Spec("unstable", text)
    if text.startswith("/dev/vd"):
        return Spec("virtio", text)
    if text.startswith("/dev/mapper/"):
        return Spec("mapper", text)
    if text.startswith("/dev/"):  # /dev/VG/LV, /dev/md0
        return Spec("mapper" if text.count("/") == 3 and not text.startswith("/dev/disk") else "device", text)
    return Spec("file" if text.startswith("/") else "other", text)


def _udev_unescape(name: str) -> str:
    r"""Names below /dev/disk write `\x20` for a space."""
    out, at = [], 0
    while at < len(name):
        if name.startswith("\\x", at) and len(name) >= at + 4:
            try:
                out.append(chr(int(name[at + 2 : at + 4], 16)))
                at += 4
                continue
            except ValueError:
                pass
        out.append(name[at])
        at += 1
    return "".join(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of fstab."""

    device: str
    mount_point: str
    fs_type: str
    options: tuple[str, ...]
    check: int
    line: int

    @property
    def spec(self) -> Spec:
        """How the device is named."""
        return device_spec(self.device)

    @property
    def optional(self) -> bool:
        """Whether the machine starts without it: nofail, noauto, or mounted on access."""
        return any(option in ("nofail", "noauto", "x-systemd.automount") for option in self.options)

    @property
    def is_swap(self) -> bool:
        """Whether it is swap space."""
        return self.fs_type == "swap"

    @property
    def is_pseudo(self) -> bool:
        """Whether no device is behind it."""
        return self.fs_type in _PSEUDO or "bind" in self.options or "rbind" in self.options

    @property
    def is_network(self) -> bool:
        """Whether another machine is behind it."""
        return self.fs_type in _NETWORK

    @property
    def is_share(self) -> bool:
        """Whether a hypervisor's folder is behind it."""
        return self.fs_type in _SHARES

    @property
    def needs_device(self) -> bool:
        """Whether it names a disk of this machine, or a part of one."""
        return not (self.is_pseudo or self.is_network or self.is_share or self.spec.kind in ("file", "other"))


@dataclass(frozen=True, slots=True)
class Fstab:
    """All mounts, and the lines that are none: (line number, text)."""

    mounts: tuple[Mount, ...]
    bad: tuple[tuple[int, str], ...]

    def at(self, mount_point: str) -> Mount | None:
        """What is mounted there, the last line counts."""
        return next((mount for mount in reversed(self.mounts) if mount.mount_point == mount_point), None)


def _field(data: bytes) -> str:
    r"""Fstab writes a space as `\040`."""
    text = decode(data)
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def parse_fstab(data: bytes) -> Fstab:
    """The lines of fstab, in order."""
    mounts, bad = [], []
    for number, line in significant(data):
        fields = [_field(field) for field in line.split()]
        if len(fields) < 3 or not (fields[1].startswith("/") or fields[1] in ("none", "swap", "-")):
            bad.append((number, decode(line)))
            continue
        point = fields[1].rstrip("/") or "/"
        options = tuple(fields[3].split(",")) if len(fields) > 3 else ("defaults",)
        check = int(fields[5][:6]) if len(fields) > 5 and fields[5].isascii() and fields[5].isdigit() else 0
        mounts.append(
            Mount(
                device=fields[0],
                mount_point=point,
                fs_type=fields[2].lower(),
                options=options,
                check=check,
                line=number,
            )
        )
    return Fstab(tuple(mounts), tuple(bad))


@dataclass(frozen=True, slots=True, kw_only=True)
class Crypt:
    """A line of crypttab."""

    name: str
    device: str
    key: str
    options: tuple[str, ...]
    line: int

    @property
    def spec(self) -> Spec:
        """How the device is named."""
        return device_spec(self.device)

    @property
    def optional(self) -> bool:
        """Whether the machine starts without it."""
        return "nofail" in self.options or "noauto" in self.options


def parse_crypttab(data: bytes) -> tuple[Crypt, ...]:
    """The lines of crypttab, in order."""
    found = []
    for number, line in significant(data):
        fields = [decode(field) for field in line.split()]
        if len(fields) >= 2:
            key = fields[2] if len(fields) > 2 else "none"
            options = tuple(fields[3].split(",")) if len(fields) > 3 else ()
            found.append(Crypt(name=fields[0], device=fields[1], key=key, options=options, line=number))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Array:
    """An ARRAY of mdadm.conf: its device and the UUID of its members, empty where it has none."""

    device: str
    uuid: str
    line: int


def parse_mdadm(data: bytes) -> tuple[Array, ...]:
    """The arrays of mdadm.conf. A line that begins with a space continues the one before."""
    return tuple(_arrays(data))


def _arrays(data: bytes) -> Iterator[Array]:
    for number, line in joined(data.replace(b"\n ", b"  ").replace(b"\n\t", b"  ")):
        said = [decode(word) for word in words(line)]
        if len(said) > 1 and said[0].upper() == "ARRAY":
            uuid = next((word.partition("=")[2] for word in said if word.lower().startswith("uuid=")), "")
            yield Array(said[1], uuid, number)
