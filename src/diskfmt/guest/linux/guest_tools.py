"""Software that belongs to the hypervisor or cloud that the guest came from, and the agents that clouds want.

Found by package, by file or by service: an installation from a vendor's archive is in no package database.
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.linux.packages import Packages
from diskfmt.guest.linux.root import Root, first_existing
from diskfmt.guest.linux.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What to look for. `kind`: `hypervisor` (drivers and tools of another one), `agent` (of a cloud), `qemu-ga`."""

    name: str
    kind: str
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Software that is there. `version`: empty where no package says it. `where`: package, file or service."""

    name: str
    kind: str
    version: str
    where: str


KNOWN: Final = (
    Software(
        name="VMware Tools",
        kind="hypervisor",
        files=("/usr/bin/vmware-uninstall-tools.pl", "/etc/vmware-tools/locations", "/usr/lib/vmware-tools"),
        services=("vmware-tools", "vmware-tools-thinprint"),
    ),
    Software(
        name="open-vm-tools",
        kind="hypervisor",
        packages=("open-vm-tools",),
        files=("/usr/bin/vmtoolsd",),
        services=("vmtoolsd", "open-vm-tools"),
    ),
    Software(
        name="VirtualBox Guest Additions",
        kind="hypervisor",
        packages=(
            "virtualbox-guest-utils",
            "virtualbox-guest-additions",
            "virtualbox-guest-x11",
            "virtualbox-guest-dkms",
        ),
        files=("/usr/sbin/VBoxService", "/usr/bin/VBoxService", "/sbin/mount.vboxsf"),
        services=("vboxadd", "vboxadd-service", "vboxservice", "virtualbox-guest-utils"),
    ),
    Software(
        name="Xen guest tools",
        kind="hypervisor",
        packages=("xe-guest-utilities", "xe-guest-utilities-latest", "xenserver-guest-utilities"),
        files=("/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"),
        services=("xe-linux-distribution", "xe-daemon"),
    ),
    Software(
        name="Parallels Tools",
        kind="hypervisor",
        files=("/usr/bin/prltoolsd", "/usr/lib/parallels-tools"),
        services=("prltoolsd",),
    ),
    Software(
        name="Hyper-V daemons",
        kind="hyperv",
        packages=("hyperv-daemons", "linux-cloud-tools-common"),
        services=("hypervkvpd", "hv-kvp-daemon"),
    ),
    Software(
        name="qemu-guest-agent",
        kind="qemu-ga",
        packages=("qemu-guest-agent",),
        files=("/usr/bin/qemu-ga", "/usr/sbin/qemu-ga"),
        services=("qemu-guest-agent", "qemu-ga"),
    ),
    Software(
        name="Azure Linux agent",
        kind="agent",
        packages=("walinuxagent", "WALinuxAgent", "python-azure-agent"),
        files=("/usr/sbin/waagent", "/usr/bin/waagent"),
        services=("walinuxagent", "waagent"),
    ),
    Software(
        name="Google guest agent",
        kind="agent",
        packages=("google-guest-agent", "google-compute-engine", "gce-compute-image-packages"),
        files=("/usr/bin/google_guest_agent",),
        services=("google-guest-agent",),
    ),
    Software(
        name="Amazon SSM agent",
        kind="agent",
        packages=("amazon-ssm-agent",),
        files=("/usr/bin/amazon-ssm-agent", "/snap/bin/amazon-ssm-agent.ssm-cli"),
        services=("amazon-ssm-agent",),
    ),
    Software(
        name="Alibaba Cloud assistant",
        kind="agent",
        files=("/usr/local/share/aliyun-assist", "/usr/local/aegis", "/usr/sbin/aliyun-service"),
        services=("aliyun", "aegis"),
    ),
    Software(
        name="Tencent Cloud agents",
        kind="agent",
        files=(
            "/usr/local/qcloud/stargate",
            "/usr/local/qcloud/monitor/barad",
            "/usr/local/qcloud/YunJing",
            "/usr/local/qcloud/tat_agent",
        ),
        services=("tat_agent", "YDService"),
    ),
    Software(
        name="Huawei Cloud agents",
        kind="agent",
        files=("/usr/local/hostguard", "/usr/local/uniagent", "/usr/local/telescope"),
        services=("hostguard", "telescoped"),
    ),
    Software(
        name="growpart",
        kind="growpart",
        packages=("cloud-guest-utils", "cloud-utils-growpart"),
        files=("/usr/bin/growpart",),
    ),
)


def look(root: Root, packages: Packages | None, services: Services) -> tuple[Found, ...]:
    """Which of KNOWN is there."""
    found = []
    for software in KNOWN:
        package = packages.get(*software.packages) if packages else None
        path = first_existing(root, *software.files)
        service = services.starts(*software.services)
        if package is not None:
            where = f"package {package.name} {package.version}"
            found.append(Found(name=software.name, kind=software.kind, version=package.version, where=where))
        elif path is not None or service is not None:
            found.append(Found(name=software.name, kind=software.kind, version="", where=path or service or ""))
    return tuple(found)
