"""All facts of a guest together: a missing driver, an unreadable file, and when files are read."""

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.guest.base import Entry, FileKind, GuestError
from diskfmt.guest.fact import Known, Unknown
from diskfmt.guest.linux.facts import LinuxFacts, gather, is_linux
from guest.linux.initramfs_tools import compressed, cpio, tree
from guest.linux.trees import Host, Tree

VERSION = "6.1.0-18-amd64"
MODULES = f"/usr/lib/modules/{VERSION}"
DEP = """\
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_legacy_dev.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci_legacy_dev.ko:
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko
kernel/drivers/nvme/host/nvme-core.ko:
"""
INSIDE = [
    "virtio/virtio_pci",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio",
    "virtio/virtio_ring",
    "block/virtio_blk",
]
GRUB = (
    f"menuentry x {{\n search --fs-uuid --set=root 11-22\n"
    f" linux /boot/vmlinuz-{VERSION} root=UUID=11-22 ro\n"
    f" initrd /boot/initrd.img-{VERSION}\n}}\n"
)


def guest(tmp_path: Path, *, without: str = "", initrd: bytes | None = None, builtin: str = "") -> Tree:
    """A Debian root whose initramfs lacks one driver."""
    if initrd is None:
        names = [name for name in INSIDE if not without or not name.endswith(without)]
        files = {f"usr/lib/modules/{VERSION}/kernel/drivers/{name}.ko": b"x" for name in names}
        initrd = compressed(cpio(tree(tmp_path, {**files, "init": b""})), "gzip")
    return Tree(
        {
            "/lib": PurePosixPath("usr/lib"),
            "/etc/os-release": "ID=debian\nVERSION_ID=12\n",
            "/etc/fstab": "UUID=11-22 / ext4 defaults 0 1\n",
            "/boot/grub/grub.cfg": GRUB,
            f"/boot/vmlinuz-{VERSION}": b"",
            f"/boot/initrd.img-{VERSION}": initrd,
            f"/boot/config-{VERSION}": "CONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_PCI=m\n",
            f"{MODULES}/modules.dep": DEP,
            f"{MODULES}/modules.builtin": builtin,
        }
    )


@pytest.mark.parametrize(
    "without, missing",
    [("", set()), ("virtio_blk", {"virtio_blk"}), ("virtio_pci", {"virtio_pci"}), ("virtio_ring", {"virtio_ring"})],
)
def test_a_driver_that_the_initramfs_lacks(without: str, missing: set[str], tmp_path: Path) -> None:
    facts = gather(guest(tmp_path, without=without))
    # The kernel's configuration and the module directory say that all is well.
    assert isinstance(facts.kernel_config, Known)
    assert facts.kernel_config.value.option("VIRTIO_BLK") == "m"
    assert isinstance(facts.modules, Known)
    assert facts.modules.value.has("virtio_blk")
    assert facts.missing_at_boot("virtio_blk", "virtio_pci") == Known(frozenset(missing), f"/boot/initrd.img-{VERSION}")


def test_what_is_built_in_is_not_missing(tmp_path: Path) -> None:
    facts = gather(guest(tmp_path, without="virtio_pci", builtin="kernel/drivers/virtio/virtio_pci.ko\n"))
    assert facts.missing_at_boot("virtio_blk", "virtio_pci") == Known(frozenset(), f"/boot/initrd.img-{VERSION}")
    nvme = facts.missing_at_boot("nvme")
    assert isinstance(nvme, Known)
    assert nvme.value == {"nvme", "nvme_core"}
    nothing = facts.missing_at_boot("no_such_driver")
    assert isinstance(nothing, Known)
    assert nothing.value == {"no_such_driver"}


def test_without_an_index_of_what_is_built_in_the_configuration_tells(tmp_path: Path) -> None:
    config = {
        f"/boot/config-{VERSION}": "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=m\n",
        f"{MODULES}/modules.builtin": None,
    }
    facts = gather(guest(tmp_path, without="virtio_pci").with_(config))
    assert facts.missing_at_boot("virtio_pci", "virtio_blk") == Known(frozenset(), f"/boot/initrd.img-{VERSION}")
    nothing = gather(guest(tmp_path, initrd=b"").with_({**config, f"/boot/config-{VERSION}": None}))
    assert isinstance(nothing.missing_at_boot("virtio_pci"), Unknown)


def test_another_kernels_modules_do_not_count(tmp_path: Path) -> None:
    other = GRUB.replace(f"vmlinuz-{VERSION}", "vmlinuz-6.1.0-19-amd64")
    files = {
        "/boot/grub/grub.cfg": other,
        "/usr/lib/modules/6.1.0-19-amd64/modules.dep": DEP,
        "/usr/lib/modules/6.1.0-19-amd64/modules.builtin": "",
    }
    facts = gather(guest(tmp_path).with_(files))
    found = facts.missing_at_boot("virtio_blk")
    assert isinstance(found, Known)
    assert found.value == {"virtio_blk", "virtio", "virtio_ring"}


def test_a_kernel_without_an_initramfs(tmp_path: Path) -> None:
    menu = GRUB.replace(f" initrd /boot/initrd.img-{VERSION}\n", "")
    facts = gather(
        guest(tmp_path, initrd=b"").with_({"/boot/grub/grub.cfg": menu, f"/boot/initrd.img-{VERSION}": None})
    )
    assert facts.initramfs_path == Known(None, "")
    assert isinstance(facts.initramfs, Unknown)
    found = facts.missing_at_boot("virtio_pci")
    assert isinstance(found, Known)
    assert found.value == {"virtio_pci", "virtio_pci_legacy_dev", "virtio"}


@pytest.mark.parametrize("how", ["lzo", "cut", "noise", "squash", "junk"])
def test_what_cannot_be_looked_into_is_unknown_and_never_missing(how: str, tmp_path: Path) -> None:
    plain = cpio(tree(tmp_path, {"init": b"", **({"squash-root.img": b"hsqs"} if how == "squash" else {})}))
    initrd = {
        "lzo": lambda: compressed(plain, "lzo"),
        "cut": lambda: compressed(plain, "xz")[:-30],
        "noise": lambda: os.urandom(8) + plain,
        "squash": lambda: plain,
        "junk": lambda: plain + b"junk",
    }[how]()
    facts = gather(guest(tmp_path, initrd=initrd))
    assert isinstance(facts.missing_at_boot("virtio_blk"), Unknown)
    assert isinstance(facts.fstab, Known)
    assert isinstance(facts.boot, Known)


def every(facts: LinuxFacts) -> dict[str, Known | Unknown]:  # type: ignore[type-arg]
    names = [name for name, value in vars(LinuxFacts).items() if isinstance(value, cached_property)]
    assert len(names) > 25
    return {name: getattr(facts, name) for name in names}


def test_every_fact_of_this_machine_is_known_or_unknown_with_a_reason() -> None:
    facts = gather(Host(Path("/")))
    assert is_linux(facts.root)
    for name, fact in every(facts).items():
        assert isinstance(fact, Known) or fact.reason, name
    for name in ("release", "arch", "services", "network", "security", "software", "cloud_init"):
        assert isinstance(getattr(facts, name), Known), name


class Broken:
    """A root of which nothing can be read."""

    def _fail(self, *_: object) -> None:
        raise GuestError("block 7 cannot be read")

    read = read_at = exists = names = stat = link = _fail


def test_a_root_that_cannot_be_read_makes_every_fact_unknown() -> None:
    for name, fact in every(gather(Broken())).items():  # type: ignore[arg-type]
        assert isinstance(fact, Unknown), name
        assert fact.reason


def test_one_file_that_is_too_large_makes_its_own_fact_unknown() -> None:
    huge = Entry(kind=FileKind.FILE, size=1 << 40)
    facts = gather(Tree({"/etc/fstab": huge, "/etc/crypttab": "a UUID=1\n"}))
    assert isinstance(facts.fstab, Unknown)
    assert "1099511627776" in facts.fstab.reason
    assert isinstance(facts.crypttab, Known)
    devices = gather(Tree({"/etc/fstab": Entry(kind=FileKind.OTHER, size=0)}))
    assert devices.fstab == Known(None, "/etc/fstab")


def test_nothing_is_read_before_it_is_asked_for_and_then_once(tmp_path: Path) -> None:
    asked: list[str] = []

    class Watched(Tree):
        def read(self, path: str, limit: int = 1 << 20) -> bytes:
            asked.append(path)
            return super().read(path, limit)

    facts = gather(Watched({"/etc/fstab": "UUID=1 / ext4\n", "/etc/passwd": ""}))
    assert not asked
    assert facts.fstab is facts.fstab
    assert asked == ["/etc/fstab"]


def test_host_only_initramfs() -> None:
    assert gather(Tree({"/etc/initramfs-tools/initramfs.conf": "MODULES=dep\n"})).host_only == Known(
        "/etc/initramfs-tools/initramfs.conf", "/etc/initramfs-tools/initramfs.conf:1"
    )
    assert gather(Tree({"/etc/dracut.conf.d/x.conf": '# c\nhostonly="yes"\n'})).host_only == Known(
        "/etc/dracut.conf.d/x.conf", "/etc/dracut.conf.d/x.conf:2"
    )
    assert gather(
        Tree({"/etc/dracut.conf.d/x.conf": 'hostonly="no"\n', "/etc/initramfs-tools/initramfs.conf": "MODULES=most"})
    ).host_only == Known(None, "/etc/dracut.conf.d/x.conf:1")
    assert gather(Tree({})).host_only == Known(None)


def test_live_systems_and_other_trees() -> None:
    live = gather(Tree({"/casper/vmlinuz": b"", "/etc/passwd": "", "/usr/x": b""}))
    assert live.live_or_installer == Known("/casper", "/casper")
    assert gather(Tree({"/etc/passwd": ""})).live_or_installer == Known(None, "")
    assert not is_linux(Tree({"/Windows/System32/config/SYSTEM": b""}))
    assert not is_linux(Tree({"/etc/passwd": ""}))


PATHS = [
    *(
        "/etc/os-release",
        "/etc/redhat-release",
        "/etc/SuSE-release",
        "/usr/bin/sh",
        "/etc/passwd",
        "/etc/shadow",
        "/etc/fstab",
    ),
    *(
        "/boot/grub/grub.cfg",
        "/boot/grub/grubenv",
        "/boot/grub/menu.lst",
        "/boot/extlinux.conf",
        "/efi/loader/loader.conf",
    ),
    *(
        "/efi/loader/entries/a.conf",
        "/boot/loader/entries/b.conf",
        f"{MODULES}/modules.dep",
        f"{MODULES}/modules.builtin",
    ),
    *(f"/boot/config-{VERSION}", f"/boot/initrd.img-{VERSION}", f"/boot/vmlinuz-{VERSION}", "/etc/modprobe.d/a.conf"),
    *("/var/lib/dpkg/status", "/lib/apk/db/installed", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages"),
    *("/var/lib/rpm/Packages.db", "/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/a.cfg", "/etc/cloud/ds-identify.cfg"),
    *("/etc/netplan/a.yaml", "/etc/network/interfaces", "/etc/sysconfig/network-scripts/ifcfg-a", "/etc/crypttab"),
    *("/etc/NetworkManager/system-connections/a", "/etc/systemd/network/a.network", "/etc/systemd/network/a.link"),
    *("/etc/udev/rules.d/70-persistent-net.rules", "/etc/mdadm.conf", "/etc/lvm/lvm.conf", "/etc/ssh/sshd_config"),
    *("/etc/lvm/devices/system.devices", "/etc/selinux/config", "/etc/adjtime", "/etc/sudoers", "/etc/machine-id"),
    *("/etc/init/a.conf", "/etc/systemd/system-preset/a.preset", "/etc/dracut.conf", "/etc/kernel/cmdline"),
]
WORDS = [
    *(b"\n", b" ", b"=", b":", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b"#", b"$", b"\0", b"\xff\xfe", b"a", b"1"),
    *(b"9" * 5000, b"menuentry x {\n", b"if [ a ]; then\n", b"fi\n", b"linux /k root=UUID=1\n", b"070701", b"0" * 104),
    *(
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
        b"\x02\x21\x4c\x18",
        b"\xfd7zXZ\x00",
        b"RpmP",
        b"SQLite format 3\0",
        bytes(40),
    ),
    *(
        b"network:\n  ethernets:\n    a: {",
        b"iface a inet dhcp\n",
        b"[Match]\nMACAddress=",
        b"title x\n",
        b"- ",
        b"&a *a\n",
    ),
]


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(PATHS), st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=15), max_size=12
    )
)
def test_whatever_the_files_hold_every_fact_is_known_or_unknown(files: dict[str, list[bytes]]) -> None:
    facts = gather(Tree({path: b"".join(words) for path, words in files.items()}))
    for name, fact in every(facts).items():
        assert isinstance(fact, Known | Unknown), name
    assert isinstance(facts.missing_at_boot("virtio_blk"), Known | Unknown)
