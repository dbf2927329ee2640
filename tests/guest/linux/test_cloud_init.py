"""cloud-init's set-up, agents and tools."""

from pathlib import PurePosixPath

import pytest

from diskfmt.guest.fact import Known
from diskfmt.guest.linux.cloud_init import CloudInit, merge
from diskfmt.guest.linux.facts import gather
from guest.linux.trees import Tree

WANTS = "/etc/systemd/system/cloud-init.target.wants"
BASE: dict[str, bytes | str | PurePosixPath] = {
    "/usr/bin/cloud-init": b"#!",
    "/usr/lib/python3/dist-packages/cloudinit/version.py": (
        '__VERSION__ = "22.4.2"\n_PACKAGED_VERSION = "@@PACKAGED_VERSION@@"\n\nFEATURES = [\n    "X",\n]\n'
    ),
    "/etc/cloud/cloud.cfg": (
        "# top\nusers: [default]\ndisable_root: true\nsystem_info:\n  distro: debian\n  paths: {a: 1}\n"
        "cloud_final_modules:\n - scripts_vendor\n - [phone-home, always]\n"
    ),
    **{
        f"{WANTS}/{name}.service": PurePosixPath(f"/lib/systemd/system/{name}.service")
        for name in ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
    },
}


def look(**changes: object) -> CloudInit:
    files = {**BASE, **{path: value for path, value in changes.items() if value is not None}}
    for path, value in changes.items():
        if value is None:
            files.pop(path, None)
    found = gather(Tree(files)).cloud_init  # type: ignore[arg-type]
    assert isinstance(found, Known)
    return found.value


def test_a_distributions_set_up() -> None:
    found = look()
    assert (found.installed, found.version, found.starts) == (True, "22.4.2", True)
    assert found.datasources is None  # its own list
    assert set(found.enabled) >= {"cloud-init-local", "cloud-init", "cloud-config", "cloud-final"}
    assert found.modules("cloud_final_modules") == ("scripts-vendor", "phone-home")
    assert found.ssh_delete_keys
    assert not found.instance


def test_pieces_in_order_the_last_wins() -> None:
    found = look(
        **{
            "/etc/cloud/cloud.cfg.d/90_dpkg.cfg": "# to update\n\ndatasource_list: [ NoCloud, ConfigDrive, None ]\n",
            "/etc/cloud/cloud.cfg.d/10_x.cfg": "datasource_list: [Ec2]\nsystem_info: {paths: {b: 2}}\n"
            "ssh_deletekeys: false\n",
            "/etc/cloud/cloud.cfg.d/99.txt": "datasource_list: [Azure]\n",
        }
    )
    assert found.datasources == ("NoCloud", "ConfigDrive", "None")
    assert found.datasources_at == "/etc/cloud/cloud.cfg.d/90_dpkg.cfg:3"
    assert found.config["system_info"] == {"distro": "debian", "paths": {"a": "1", "b": "2"}}
    assert not found.ssh_delete_keys


def test_ds_identify_decides() -> None:
    found = look(**{"/etc/cloud/ds-identify.cfg": "# x\ndatasource: ConfigDrive\npolicy: search,found=first\n"})
    assert (found.datasources, found.datasources_at) == (("ConfigDrive",), "/etc/cloud/ds-identify.cfg")


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"/etc/cloud/cloud-init.disabled": ""}, "/etc/cloud/cloud-init.disabled"),
        ({"/etc/cloud/ds-identify.cfg": "policy: disabled\n"}, "/etc/cloud/ds-identify.cfg"),
        (
            {"/boot/grub/menu.lst": "title a\nkernel /k root=/dev/vda1 cloud-init=disabled\n"},
            "kernel argument cloud-init=disabled",
        ),
    ],
)
def test_what_disables_it(changes: dict[str, object], why: str) -> None:
    found = look(**changes)
    assert found.disabled == (why,)
    assert not found.starts


def test_masked_or_never_enabled() -> None:
    masked = look(**{"/etc/systemd/system/cloud-init.service": PurePosixPath("/dev/null")})
    assert not masked.starts
    assert masked.masked == {"cloud-init": "/etc/systemd/system/cloud-init.service"}
    assert not look(**{f"{WANTS}/cloud-init.service": None}).starts
    joined = look(**{f"{WANTS}/cloud-init.service": None, f"{WANTS}/cloud-init-main.service": PurePosixPath("/x")})
    assert joined.starts  # since 24.3


def test_other_places_and_states() -> None:
    found = look(
        **{
            "/usr/lib/python3/dist-packages/cloudinit/version.py": None,
            "/usr/lib/python3.9/site-packages/cloudinit/version.py": "__VERSION__ = '23.1.1'\n"
            "_PACKAGED_VERSION = '23.1.1-11.el9'\n",
            "/var/lib/cloud/instance/": b"",
            "/etc/cloud/cloud.cfg.d/99-net.cfg": "network: {config: disabled}\n",
            "/etc/cloud/cloud.cfg.d/98-bad.cfg": "a: [\n",
        }
    )
    assert (found.version, found.instance) == ("23.1.1-11.el9", True)
    assert found.network_disabled == "/etc/cloud/cloud.cfg.d/99-net.cfg:1"
    assert [path for path, _ in found.unread] == ["/etc/cloud/cloud.cfg.d/98-bad.cfg"]


def test_not_there() -> None:
    found = gather(Tree({"/etc/passwd": ""})).cloud_init
    assert isinstance(found, Known)
    assert (found.value.installed, found.value.starts, found.value.version, found.value.files) == (False, False, "", ())


def test_merge_is_bounded() -> None:
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"a": deep}
    assert merge(deep, deep)["a"] is not None  # type: ignore[arg-type]


def test_tools_and_agents() -> None:
    status = (
        "Package: open-vm-tools\nStatus: install ok installed\nVersion: 2:12.2.0-1\n"
        "Architecture: amd64\n\nPackage: cloud-guest-utils\nStatus: install ok installed\n"
        "Version: 0.33\n"
    )
    tree = Tree(
        {
            "/var/lib/dpkg/status": status,
            "/usr/sbin/waagent": b"#!",
            "/etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service": PurePosixPath("/lib/x"),
            "/usr/local/aegis/x": b"",
        }
    )
    found = gather(tree).software
    assert isinstance(found, Known)
    assert {(software.name, software.kind, software.where) for software in found.value} == {
        ("open-vm-tools", "hypervisor", "package open-vm-tools 2:12.2.0-1"),
        ("Azure Linux agent", "agent", "/usr/sbin/waagent"),
        ("qemu-guest-agent", "qemu-ga", "/etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service"),
        ("Alibaba Cloud assistant", "agent", "/usr/local/aegis"),
        ("growpart", "growpart", "package cloud-guest-utils 0.33"),
    }
