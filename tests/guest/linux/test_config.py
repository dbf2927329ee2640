"""Configuration of network, storage, log-ins, services, drivers: texts as the distributions write them."""

from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diskfmt.guest.base import BudgetError, DamagedError, Entry, FileKind, GuestError, UnsupportedError
from diskfmt.guest.fact import Known
from diskfmt.guest.linux import fstab, modules, network, network_files, security, services, storage, text, yaml_safe
from diskfmt.guest.linux.facts import gather
from diskfmt.guest.linux.interface import Interface
from guest.linux.trees import Tree

# ---- text ------------------------------------------------------------------------------------------------------------


def test_assignments() -> None:
    said = text.assignments(b'# no\nA=1\nexport B=\'two words\' # c\nC="x\\"y"\nD=a\\\n b\nA=2\n9 x=1\nE=\n=3\nF-G=1\n')
    assert {name: value.value for name, value in said.items()} == {
        "A": "2",
        "B": "two words",
        "C": 'x"y',
        "D": "a",
        "E": "",
    }
    assert (said["A"].line, said["D"].line) == (7, 5)


def test_text_without_measure() -> None:
    with pytest.raises(BudgetError):
        list(text.lines(b"\n" * (text.MAX_LINES + 1)))
    with pytest.raises(BudgetError):
        list(text.lines(b"x" * (text.MAX_LINE + 1)))
    with pytest.raises(BudgetError):
        list(text.joined(b"xxxxxxxxxxxxxxxxxxxxxxxx\\\n" * 5000))
    with pytest.raises(BudgetError):
        text.words(b"a " * (text.MAX_WORDS + 2))


@pytest.mark.parametrize(
    "name, pattern, fits",
    [
        ("sshd.service", "ssh*", True),
        ("sshd.service", "*.socket", False),
        ("abc", "a?c", True),
        ("abc", "a?", False),
        ("", "*", True),
        ("aXbXc", "a*b*c", True),
        ("a*c", "a*c", True),
        ("abc", "abc*", True),
        ("abc", "", False),
    ],
)
def test_patterns(name: str, pattern: str, *, fits: bool) -> None:
    assert text.matches(name, pattern) is fits


def test_patterns_without_end() -> None:
    assert not text.matches("a" * 2000, "*a" * 500 + "b")


@example(b"\x1c")
@given(st.binary(max_size=300))
def test_any_bytes_are_text(data: bytes) -> None:
    list(text.lines(data))
    list(text.joined(data))
    text.words(data)
    text.assignments(data)
    text.ini(data)
    fstab.parse_fstab(data)
    fstab.parse_crypttab(data)
    fstab.parse_mdadm(data)
    storage.parse_lvm(data)
    storage.parse_devices(data)
    modules.parse_dep(data)
    modules.parse_modprobe([("x", data)])
    network_files.interfaces(data, "x")
    network_files.ifcfg(data, "ifcfg-x")
    network_files.keyfile(data, "x")
    network_files.networkd(data, "x")
    list(network_files.udev_rules(data, "x"))
    security.parse_accounts(data, data)
    security.parse_sshd([("x", data)])


# ---- YAML ------------------------------------------------------------------------------------------------------------


def test_yaml_is_text_lists_and_mappings() -> None:
    said = yaml_safe.load(b"a: true\nb: [1, 2010-99-99, 0x10]\nc: !!python/object:os.system ls\nd: {e: ~}\n", "x")
    assert said == {"a": "true", "b": ["1", "2010-99-99", "0x10"], "c": "ls", "d": {"e": "~"}}
    assert yaml_safe.load(b"# nothing\n", "x") is None
    assert yaml_safe.load(b"a: &x [1]\nb: *x\n", "x") == {"a": ["1"], "b": ["1"]}


@pytest.mark.parametrize(
    "data, error",
    [
        (b"a: [", DamagedError),
        (b"\xff\x00: x", DamagedError),
        (b"a: {[b]: c}", DamagedError),
        (b"a: &x [*x]", GuestError),
        (b"x" * (yaml_safe.MAX_BYTES + 1), BudgetError),
        (b"[" * 5000, GuestError),
        (b"[" * 100 + b"]" * 100, BudgetError),
        (b"- a\n" * 30_000, BudgetError),
        (b"a: &a [x,x]\n" + b"".join(b"b%d: &b%d [*a,*a]\n" % (n, n) for n in range(20)), BudgetError),
        (b"a: &a {b: c}\nd:\n  <<: *a\n", UnsupportedError),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [*%c,*%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(8))
            + b"z: ["
            + b"1," * 17_000
            + b"]",
            BudgetError,
        ),
    ],
)
def test_hostile_yaml(data: bytes, error: type[GuestError]) -> None:
    with pytest.raises(error):
        yaml_safe.load(data, "x")


# ---- storage ---------------------------------------------------------------------------------------------------------

FSTAB = rb"""# /etc/fstab
UUID=11-22 /               ext4    errors=remount-ro 0       1
LABEL="my\040data" /data\040x ext4 defaults,nofail 0 2
/dev/sda2 none swap sw 0 0
/dev/disk/by-uuid/33 /boot xfs defaults 0 0
/dev/mapper/vg-home /home xfs
/dev/vg/var /var/ xfs x-systemd.automount
/dev/vdb1 /vdb ext4 noauto
nas:/export /nas nfs _netdev 0 0
share /mnt/hgfs fuse.vmhgfs-fuse allow_other 0 0
tmpfs /tmp tmpfs defaults
/data /srv none bind
/swapfile swap swap defaults 0 0
PARTUUID=ab-01 /efi vfat umask=0077 0 1
nonsense
"""


def test_fstab() -> None:
    found = fstab.parse_fstab(FSTAB)
    assert [mount.spec.kind for mount in found.mounts] == [
        *(
            "UUID",
            "LABEL",
            "unstable",
            "UUID",
            "mapper",
            "mapper",
            "virtio",
            "other",
            "other",
            "other",
            "file",
            "file",
            "PARTUUID",
        )
    ]
    assert found.bad == ((15, "nonsense"),)
    root, data = found.at("/"), found.at("/data x")
    assert root is not None
    assert data is not None
    assert (root.spec.value, root.check, root.line, root.optional) == ("11-22", 1, 2, False)
    assert (data.spec.value, data.optional) == ("my data", True)
    assert [mount.mount_point for mount in found.mounts if mount.needs_device] == [
        *("/", "/data x", "none", "/boot", "/home", "/var", "/vdb", "/efi")
    ]
    assert [mount.mount_point for mount in found.mounts if mount.is_network] == ["/nas"]
    assert [mount.mount_point for mount in found.mounts if mount.is_share] == ["/mnt/hgfs"]
    assert [mount.device for mount in found.mounts if mount.is_swap] == ["/dev/sda2", "/swapfile"]
    assert [mount.mount_point for mount in found.mounts if mount.optional] == ["/data x", "/var", "/vdb"]


@pytest.mark.parametrize(
    "device, kind, value",
    [
        ("/dev/nvme0n1p1", "unstable", "/dev/nvme0n1p1"),
        ("/dev/disk/by-path/pci-0", "unstable", "/dev/disk/by-path/pci-0"),
        ("/dev/xvda1", "unstable", "/dev/xvda1"),
        (r"/dev/disk/by-label/my\x20disk", "LABEL", "my disk"),
        ("/dev/disk/by-id/ata-X", "device", "/dev/disk/by-id/ata-X"),
        ("/dev/md0", "device", "/dev/md0"),
        ("PARTLABEL=root", "PARTLABEL", "root"),
        ("/dev/disk/by-label/a\\xzz", "LABEL", "a\\xzz"),
    ],
)
def test_devices(device: str, kind: str, value: str) -> None:
    assert fstab.device_spec(device) == fstab.Spec(kind, value)


def test_crypttab_and_arrays() -> None:
    (crypt,) = fstab.parse_crypttab(b"# x\nroot UUID=7 none luks,discard,nofail\nbad\n")
    assert (crypt.name, crypt.spec.value, crypt.optional, crypt.line) == ("root", "7", True, 2)
    arrays = fstab.parse_mdadm(
        b"DEVICE partitions\nARRAY /dev/md0 metadata=1.2\n   UUID=aa:bb name=x\nARRAY /dev/md1 uuid=cc\n"
    )
    assert [(array.device, array.uuid) for array in arrays] == [("/dev/md0", "aa:bb"), ("/dev/md1", "cc")]


LVM = b"""# This is lvm.conf
config { checks = 1 }
devices {
    dir = "/dev"   # comment "not this"
    filter = [ "a|^/dev/sd.*|", "r|.*|" ]
    # use_devicesfile = 1
    use_devicesfile = 0
    scan = [ "/dev" ]
}
global { use_lvmetad = 0 }
"""


def test_lvm() -> None:
    found = storage.parse_lvm(LVM)
    assert found.filter == ("a|^/dev/sd.*|", "r|.*|")
    assert (found.global_filter, found.use_devices_file) == (None, False)
    assert found.accepts("/dev/sda2") is True
    assert found.accepts("/dev/vda2") is False
    assert storage.LvmConf().accepts("/dev/vda2") is True
    assert storage.LvmConf(filter=("r|/dev/(loop|ram).*|",)).accepts("/dev/vda") is None
    assert storage.LvmConf(global_filter=("r|/dev/vda$|",)).accepts("/dev/vda") is False
    (device,) = storage.parse_devices(
        b"VERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=naa.6 DEVNAME=/dev/sda2 PVID=abc PART=2\n"
    )
    assert (device.id_type, device.id_name, device.pv, device.line) == ("sys_wwid", "naa.6", "abc", 2)


# ---- modules ---------------------------------------------------------------------------------------------------------


def test_modules() -> None:
    files, needs = modules.parse_dep(
        b"kernel/block/virtio_blk.ko.xz: kernel/virtio/virtio_ring.ko.xz kernel/virtio/virtio.ko.xz\n"
        b"kernel/virtio/virtio-pci.ko: kernel/virtio/virtio_pci_modern_dev.ko\n"
        b"kernel/a/loop.ko: kernel/a/loop.ko\nREADME: x\n"
    )
    builtin = modules.parse_builtin(b"kernel/drivers/virtio/virtio.ko\n\n")
    found = modules.Modules(version="1", files=files, needs=needs, builtin=builtin)
    assert found.closure(["virtio-blk", "virtio_pci"]) == {
        "virtio_blk",
        "virtio_ring",
        "virtio_pci",
        "virtio_pci_modern_dev",
    }
    assert found.closure(["virtio", "nvme", "loop"]) == {"nvme", "loop"}
    assert found.has("virtio-pci")
    assert found.has("virtio")
    assert not found.has("nvme")


def test_kernel_config() -> None:
    found = modules.parse_config(
        b"# Linux\nCONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_PCI=y\n# CONFIG_BLK_DEV_NVME is not set\n", "/boot/config-1"
    )
    assert [found.option(name) for name in ("VIRTIO_BLK", "VIRTIO_PCI", "BLK_DEV_NVME")] == ["m", "y", "n"]


def test_modprobe_and_kernel_arguments() -> None:
    tree = Tree(
        {
            "/etc/modprobe.d/a.conf": "# x\nblacklist virtio-net\noptions x y\ninstall udf /bin/true\n",
            "/etc/modprobe.d/not-read.txt": "blacklist nvme\n",
            "/lib/modprobe.d/a.conf": "blacklist ena\n",
            "/lib/modprobe.d/b.conf": "install vfat /sbin/modprobe -i vfat\ninstall cramfs /usr/bin/false\n",
            "/boot/grub/menu.lst": "title x\n kernel /k root=UUID=1 modprobe.blacklist=floppy,hv-vmbus\n",
        }
    )
    found = gather(tree).modprobe
    assert isinstance(found, Known)
    rules = found.value
    assert rules.where("virtio_net") == "/etc/modprobe.d/a.conf:2"
    assert rules.where("udf") == "/etc/modprobe.d/a.conf:4"
    assert rules.where("cramfs") == "/lib/modprobe.d/b.conf:2"
    assert rules.where("hv_vmbus") == "kernel argument (/boot/grub/menu.lst:1)"
    assert [rules.where(name) for name in ("nvme", "ena", "vfat")] == [None, None, None]


# ---- services --------------------------------------------------------------------------------------------------------


def test_services() -> None:
    unit = PurePosixPath
    tree = Tree(
        {
            "/lib": unit("usr/lib"),
            "/usr/lib/systemd/system/ssh.service": "",
            "/usr/lib/systemd/system/cloud-init.service": "",
            "/usr/lib/systemd/system/vmtoolsd.service": "",
            "/usr/lib/systemd/system/dead.service": unit("/dev/null"),
            "/usr/lib/systemd/system/sysinit.target.wants/always.service": unit("../always.service"),
            "/etc/systemd/system/multi-user.target.wants/ssh.service": unit("/lib/systemd/system/ssh.service"),
            "/etc/systemd/system/sshd.service": unit("/lib/systemd/system/ssh.service"),
            "/etc/systemd/system/cloud-init.target.wants/cloud-init.service": unit(
                "/lib/systemd/system/cloud-init.service"
            ),
            "/etc/systemd/system/cloud-init.service": unit("/dev/null"),
            "/usr/lib/systemd/system-preset/90-default.preset": "# x\nenable sshd.service\ndisable *\n",
            "/etc/rc3.d/S12network": unit("../init.d/network"),
            "/etc/rc3.d/K01nothing": unit("../init.d/nothing"),
            "/etc/init/job.conf": "start on runlevel [2345]\n",
            "/etc/init/manual.conf": "start on startup\n",
            "/etc/init/manual.override": "manual\n",
            "/etc/runlevels/default/chronyd": unit("/etc/init.d/chronyd"),
        }
    )
    found = services.examine(tree)
    assert found.starts("ssh") == "/etc/systemd/system/multi-user.target.wants/ssh.service"
    assert found.starts("sshd.service") == "/etc/systemd/system/sshd.service"
    assert found.starts("cloud-init") is None
    assert found.mask("cloud-init") == "/etc/systemd/system/cloud-init.service"
    assert found.mask("dead")
    assert found.starts("always")
    assert found.starts("vmtoolsd") is None
    assert found.exists("vmtoolsd")
    assert not found.exists("nothing")
    assert [found.starts(name) for name in ("network", "job", "chronyd")] == [
        *("/etc/rc3.d/S12network", "/etc/init/job.conf", "/etc/runlevels/default/chronyd")
    ]
    assert found.starts("manual") is None
    assert (found.preset("sshd"), found.preset("other")) == (True, False)


# ---- network ---------------------------------------------------------------------------------------------------------

NETPLAN = """network:
  version: 2
  ethernets:
    eth0:
      dhcp4: true
      match: {macaddress: '52:54:00:AA:bb:cc'}
      set-name: eth0
    any:
      match: {name: "en*"}
      dhcp4: yes
    ens160:
      addresses: [192.168.0.2/24, {10.0.0.1/8: {label: x}}]
  bridges:
    br0: {dhcp6: true}
"""

INTERFACES = """source /etc/network/interfaces.d/*
auto lo
iface lo inet loopback
allow-hotplug ens192
iface ens192 inet static
    address 10.0.0.5/24
    hwaddress ether 00:11:22:33:44:55
"""


def one(tree: dict[str, str]) -> tuple[network.Network, Interface]:
    found = network.examine(Tree(tree))
    assert len(found.interfaces) == 1
    return found, found.interfaces[0]


def test_netplan() -> None:
    found = {interface.name: interface for interface in network_files.netplan(NETPLAN.encode(), "/etc/netplan/x.yaml")}
    assert set(found) == {"eth0", "en*", "ens160", "br0"}
    assert (found["eth0"].dhcp4, found["eth0"].mac, found["eth0"].line) == (True, "52:54:00:aa:bb:cc", 4)
    assert (found["en*"].any_name, found["en*"].dhcp4) == (True, True)
    assert (found["ens160"].is_static, found["ens160"].addresses) == (True, ("192.168.0.2/24", "10.0.0.1/8"))
    assert (found["br0"].kind, found["br0"].dhcp6) == ("bridge", True)
    told = network.examine(Tree({"/etc/netplan/a.yaml": "a: [", "/etc/netplan/b.yaml": NETPLAN}))
    assert [path for path, _ in told.unread] == ["/etc/netplan/a.yaml"]
    assert len(told.interfaces) == 4


def test_ifupdown() -> None:
    files = {
        "/etc/network/interfaces": INTERFACES,
        "/etc/network/interfaces.d/eth0": "auto eth0\niface eth0 inet dhcp\niface eth0 inet6 auto\n",
    }
    found = network.examine(Tree(files))
    assert [(i.name, i.dhcp4, i.dhcp6, i.is_static) for i in found.interfaces] == [
        ("ens192", False, False, True),
        ("eth0", True, False, False),
        ("eth0", False, True, False),
    ]
    assert found.bound == (("/etc/network/interfaces:5", "00:11:22:33:44:55"),)
    assert [interface.name for interface in found.dhcp] == ["eth0", "eth0"]
    loop = network.examine(
        Tree({"/etc/network/interfaces": "source interfaces\nsource /etc/network/*\niface a inet dhcp\n"})
    )
    assert len(loop.interfaces) == 1


def test_ifcfg() -> None:
    base = "/etc/sysconfig/network-scripts/ifcfg-"
    found, interface = one(
        {
            f"{base}lo": "DEVICE=lo\nIPADDR=127.0.0.1\n",
            f"{base}eth0": (
                'TYPE="Ethernet"\nBOOTPROTO=none\nIPADDR=10.1.1.1\nPREFIX=24\n'
                'HWADDR=00:0C:29:AA:BB:CC\nDEVICE="eth0"\nONBOOT=yes\n'
            ),
            f"{base}eth0.bak": "DEVICE=eth9\nBOOTPROTO=dhcp\n",
        }
    )
    assert (interface.is_static, interface.addresses, interface.name) == (True, ("10.1.1.1",), "eth0")
    assert found.bound == ((f"{base}eth0:5", "00:0c:29:aa:bb:cc"),)
    found, interface = one({f"{base}ens3": "BOOTPROTO=dhcp\nONBOOT=no\n"})
    assert interface.dhcp4
    assert interface.any_name
    assert not found.dhcp


def test_wicked() -> None:
    found, interface = one(
        {
            "/etc/sysconfig/network/ifcfg-eth0": "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n",
            "/etc/sysconfig/network/config": "",
        }
    )
    assert (interface.system, interface.name, interface.dhcp4, interface.dhcp6) == ("wicked", "eth0", True, True)
    assert found.dhcp
    _, interface = one(
        {
            "/etc/sysconfig/network/ifcfg-eth1": "BOOTPROTO='static'\nIPADDR='10.0.0.1/8'\n"
            "STARTMODE='off'\nLLADDR=00:11:22:33:44:55\n"
        }
    )
    assert (interface.is_static, interface.automatic, interface.mac) == (True, False, "00:11:22:33:44:55")


def test_network_manager() -> None:
    keyfile = (
        "[connection]\nid=x\ntype=ethernet\ninterface-name=ens3\n\n[ethernet]\n"
        "mac-address=52:54:00:12:34:56\n\n[ipv4]\naddress1=10.0.0.2/24,10.0.0.1\n"
        "method=manual\n[ipv6]\nmethod=disabled\n"
    )
    path = "/etc/NetworkManager/system-connections/x.nmconnection"
    found, interface = one({path: keyfile})
    assert (interface.name, interface.is_static, interface.addresses) == ("ens3", True, ("10.0.0.2/24",))
    assert found.bound == ((f"{path}:7", "52:54:00:12:34:56"),)
    _, interface = one({path: "[connection]\ntype=802-3-ethernet\nautoconnect=false\n[ipv4]\nmethod=auto\n"})
    assert (interface.dhcp4, interface.any_name, interface.automatic) == (True, True, False)


def test_networkd_and_links() -> None:
    found = network.examine(
        Tree(
            {
                "/etc/systemd/network/10-a.network": "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n",
                "/etc/systemd/network/20-b.network": (
                    "[Match]\nMACAddress=AA:bb:cc:dd:ee:ff\n[Network]\nAddress=10.0.0.1/8\n[Address]\n"
                    "Address=10.0.0.2/8\n"
                ),
                "/etc/systemd/network/70-x.link": "[Match]\nMACAddress=00:11:22:33:44:55\n[Link]\nName=lan0\n",
                "/usr/lib/systemd/network/99-default.link": "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep\n",
                "/etc/udev/rules.d/70-persistent-net.rules": (
                    "# PCI device\n"
                    'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="00:50:56:AA:bb:cc", '
                    'ATTR{type}=="1", KERNEL=="eth*", NAME="eth0"\n'
                ),
                "/etc/udev/rules.d/75-persistent-net-generator.rules": 'ENV{MATCHADDR}=="x", ENV{COMMENT}="y"\n',
            }
        )
    )
    first, second = found.interfaces
    assert (first.dhcp4, first.dhcp6, first.any_name) == (True, True, True)
    assert (second.is_static, second.addresses) == (True, ("10.0.0.1/8", "10.0.0.2/8"))
    assert found.bound == (
        ("/etc/systemd/network/20-b.network:2", "aa:bb:cc:dd:ee:ff"),
        ("/etc/udev/rules.d/70-persistent-net.rules:2", "00:50:56:aa:bb:cc"),
        ("/etc/systemd/network/70-x.link:2", "00:11:22:33:44:55"),
    )


# ---- log-ins ---------------------------------------------------------------------------------------------------------


def test_security() -> None:
    tree = Tree(
        {
            "/etc/passwd": (
                "root:x:0:0:root:/root:/bin/bash\nopen::1:1::/home/open:/bin/sh\n"
                "adm:x:2:2::/home/adm:/bin/bash\nnobody:x:9:9::/:/usr/sbin/nologin\n"
                "empty:x:5:5::/e:/bin/sh\nbad:line\n"
            ),
            "/etc/shadow": "root:!*:1:0:::::\nadm:$6$salt$hash:1:0:::::\nnobody:*:1\nempty::1::::::\n",
            "/home/adm/.ssh/authorized_keys": "ssh-ed25519 AAAA\n",
            "/home/adm/.bash_history": "ls\n",
            "/home/stray/.ssh/authorized_keys": "x",
            "/root/.bash_history": "",
            "/usr/sbin/sshd": b"",
            "/etc/ssh/ssh_host_rsa_key": "k",
            "/etc/ssh/ssh_host_rsa_key.pub": "k",
            "/etc/ssh/sshd_config": (
                "Include /etc/ssh/sshd_config.d/*.conf\nClientAliveInterval 10\nPermitRootLogin yes\n"
                "Match User x\n PasswordAuthentication no\n"
            ),
            "/etc/ssh/sshd_config.d/50-x.conf": "ClientAliveInterval=180\n",
            "/etc/machine-id": "0123\n",
            "/etc/selinux/config": "# SELINUX= can take\nSELINUX=permissive\nSELINUXTYPE=targeted\n",
            "/.autorelabel": "",
            "/etc/sudoers": "Defaults env_reset\nDefaults targetpw  # ask\n",
            "/etc/adjtime": "0.0 0 0.0\n0\nLOCAL\n",
        }
    )
    found = security.examine(tree)
    assert {account.name: account.password for account in found.accounts} == {
        "root": "locked",
        "open": "none",
        "adm": "hash",
        "nobody": "locked",
        "empty": "none",
    }
    assert [account.name for account in found.passwordless] == ["open", "empty"]
    assert found.keys == {"adm": "/home/adm/.ssh/authorized_keys", "stray": "/home/stray/.ssh/authorized_keys"}
    assert found.history == {"/home/adm/.bash_history": 3}
    assert found.host_keys == ("/etc/ssh/ssh_host_rsa_key",)
    assert found.sshd.get("ClientAliveInterval") == "180"
    assert found.sshd.program == "/usr/sbin/sshd"
    assert found.sshd.get("PermitRootLogin") == "yes"
    assert found.sshd.get("PasswordAuthentication") is None
    assert (found.machine_id, found.selinux, found.relabel, found.local_clock) == ("0123", "permissive", True, True)
    assert found.target_password == "/etc/sudoers:2"
    assert found.shadow is not None


def test_security_of_an_empty_tree() -> None:
    found = security.examine(Tree({}))
    assert (found.accounts, found.shadow, found.machine_id, found.selinux, found.local_clock) == (
        (),
        None,
        None,
        "",
        False,
    )
    locked = Entry(kind=FileKind.FILE, size=5, mode=0o640, flags=security.IMMUTABLE)
    tree = Tree({"/etc/shadow": locked})
    facts = gather(tree)
    assert "cannot be read" in getattr(facts.security, "reason", "")
    assert isinstance(facts.fstab, Known)  # what does not need the file is known
