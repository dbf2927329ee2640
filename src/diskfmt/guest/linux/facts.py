"""All that is known of a Linux guest, each fact looked up when it is asked for the first time.

    root ─► LinuxFacts.release, .boot, .initramfs, .fstab, .cloud_init …: each Known(value, evidence) or Unknown(reason)

A file that cannot be read, is damaged or of an unknown kind makes the facts Unknown that depend on it, and no others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

from diskfmt.guest.base import MAX_READ, FsInfo, GuestError
from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.linux import boot as boot_files
from diskfmt.guest.linux import cloud_init as cloud_files
from diskfmt.guest.linux import elf, guest_tools, os_release
from diskfmt.guest.linux import fstab as fstab_file
from diskfmt.guest.linux import initramfs as initramfs_file
from diskfmt.guest.linux import modules as module_files
from diskfmt.guest.linux import network as network_files
from diskfmt.guest.linux import packages as package_files
from diskfmt.guest.linux import security as security_files
from diskfmt.guest.linux import services as service_files
from diskfmt.guest.linux import storage as storage_files
from diskfmt.guest.linux.boot_entry import version_of
from diskfmt.guest.linux.root import Root, content, drop_in_files, first_existing, is_directory, is_file, sorted_names
from diskfmt.guest.linux.text import assignments

T = TypeVar("T")
_MODPROBE: Final = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
_MDADM: Final = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
# Trees of live systems and installers.
_LIVE: Final = (
    "/casper",
    "/live",
    "/LiveOS",
    "/cdrom/casper",
    "/run/live",
    "/isolinux",
    "/.treeinfo",
    "/images/pxeboot",
)
_LINUX: Final = (
    "/etc/os-release",
    "/usr/lib/os-release",
    "/etc/debian_version",
    "/etc/redhat-release",
    "/etc/fstab",
    "/etc/passwd",
)


def _fact(look: Callable[["LinuxFacts"], Known[T]]) -> "cached_property[Fact[T]]":
    """A fact that is looked up once; what cannot be read makes it unknown."""

    def get(facts: "LinuxFacts") -> Fact[T]:
        try:
            return look(facts)
        except GuestError as error:
            return Unknown(error.message)

    get.__doc__ = look.__doc__
    return cached_property(get)


def _need(fact: Fact[T]) -> Known[T]:
    """A fact that another one stands on. Raises GuestError where it is unknown."""
    if isinstance(fact, Unknown):
        raise GuestError(fact.reason)
    return fact


def _text(root: Root, path: str, limit: int) -> bytes:
    data = content(root, path, limit)
    if data is None:
        raise GuestError(f"{path} is missing")
    return data


def is_linux(root: Root) -> bool:
    """Whether the tree is a Linux system's: it has /etc with a release or account file, and programs."""
    return first_existing(root, *_LINUX) is not None and first_existing(root, "/usr", "/bin", "/sbin") is not None


@dataclass(frozen=True)
class LinuxFacts:
    """A Linux guest. `volumes`: the file systems of the disk, for what is looked up by UUID."""

    root: Root
    volumes: tuple[FsInfo, ...] = ()

    # ---- identity ------------------------------------------------------------------------------------------------

    @_fact
    def release(self) -> Known[os_release.Release | None]:
        """The distribution; None where no file names one."""
        files = {path: data for path in os_release.FILES if (data := content(self.root, path, 64 << 10)) is not None}
        found = os_release.identify(files, sap=self.root.exists("/etc/products.d/SLES_SAP.prod"))
        return Known(found, found.source if found else "")

    @_fact
    def release_files(self) -> Known[tuple[str, ...]]:
        """The release files that are there, /etc/issue included."""
        paths = (*os_release.FILES, "/etc/issue")
        return Known(tuple(path for path in paths if is_file(self.root, path)))

    @_fact
    def arch(self) -> Known[str | None]:
        """The machine that the programs are for: `x86_64`, `i386`, `aarch64` …; None where there is no program."""
        for path in elf.PROGRAMS:
            entry = self.root.stat(path)
            if entry is not None and is_file(self.root, path):
                machine = elf.machine(self.root.read_at(path, 0, elf.HEADER))
                if machine is not None:
                    return Known(machine, path)
        return Known(None)

    @_fact
    def live_or_installer(self) -> Known[str | None]:
        """What shows that this is a live system or an installer, None where nothing does."""
        found = next((path for path in _LIVE[:3] if is_directory(self.root, path)), None)
        found = found or first_existing(self.root, *_LIVE[3:])
        return Known(found, found or "")

    # ---- boot ----------------------------------------------------------------------------------------------------

    @_fact
    def boot(self) -> Known[boot_files.Boot]:
        """The boot loaders' menus and the entry that starts."""
        found = boot_files.examine(self.root)
        return Known(found, found.entry.where if found.entry else "")

    @_fact
    def kernel_args(self) -> Known[tuple[str, ...]]:
        """The arguments of the kernel that starts."""
        entry = _need(self.boot).value.entry
        if entry is not None and entry.args:
            return Known(entry.args, entry.where)
        stored = boot_files.default_args(self.root)
        if stored is not None:
            return Known(*stored)
        raise GuestError("no boot loader's configuration has a kernel with arguments")

    @_fact
    def kernels(self) -> Known[tuple[str, ...]]:
        """The kernel files in /boot, the newest first."""
        return Known(boot_files.installed_kernels(self.root), "/boot")

    @_fact
    def kernel_version(self) -> Known[str]:
        """The version of the kernel that starts; without a menu that says so, of the newest one."""
        known = _need(self.boot).value
        if known.entry is not None and known.version:
            return Known(known.version, known.entry.where)
        if known.kernel is not None:
            version = initramfs_file.embedded_version(self.root.read_at(known.kernel, 0, 1 << 17))
            if version:
                return Known(version, known.kernel)
        kernels = _need(self.kernels).value
        versions = [version_of(path) for path in kernels]
        if versions and versions[0]:
            return Known(versions[0], kernels[0])
        raise GuestError("no kernel is found")

    @_fact
    def default_grub(self) -> Known[dict[str, str]]:
        """The settings of /etc/default/grub."""
        data = content(self.root, "/etc/default/grub") or b""
        return Known({name: setting.value for name, setting in assignments(data).items()}, "/etc/default/grub")

    # ---- kernel and initramfs --------------------------------------------------------------------------------------

    @_fact
    def module_directory(self) -> Known[str | None]:
        """The module directory of the kernel that starts, None where it is missing."""
        found = boot_files.module_directory(self.root, _need(self.kernel_version).value)
        return Known(found, found or "")

    @_fact
    def modules(self) -> Known[module_files.Modules]:
        """The modules of the kernel that starts."""
        version = _need(self.kernel_version).value
        directory = _need(self.module_directory).value
        if directory is None:
            raise GuestError(f"there is no module directory for kernel {version}")
        files, needs = module_files.parse_dep(_text(self.root, f"{directory}/modules.dep", module_files.MAX_INDEX))
        builtin = content(self.root, f"{directory}/modules.builtin", module_files.MAX_INDEX)
        names = module_files.parse_builtin(builtin) if builtin is not None else self._configured()
        return Known(
            module_files.Modules(version=version, files=files, needs=needs, builtin=names), f"{directory}/modules.dep"
        )

    def _configured(self) -> frozenset[str]:
        """The built-in drivers of a kernel without modules.builtin, as far as its configuration names them."""
        config = _need(self.kernel_config).value
        named = module_files.CONFIG_OF.items()
        return frozenset(name for name, option in named if config.option(option) is module_files.Option.BUILTIN)

    @_fact
    def kernel_config(self) -> Known[module_files.KernelConfig]:
        """The configuration of the kernel that starts."""
        version = _need(self.kernel_version).value
        candidates = (f"/boot/config-{version}", f"/usr/lib/modules/{version}/config", f"/lib/modules/{version}/config")
        for path in candidates:
            data = content(self.root, path)
            if data is not None:
                return Known(module_files.parse_config(data, path), path)
        raise GuestError(f"there is no configuration of kernel {version}")

    @_fact
    def initramfs_path(self) -> Known[str | None]:
        """The initramfs of the entry that starts, else of its kernel by name; None where there is none."""
        known = _need(self.boot).value
        if known.entry is not None and known.initrds:
            paths = [path for _, path in known.initrds if path is not None]
            main = [path for path in paths if "ucode" not in path]
            return Known((main or paths)[-1] if paths else None, known.entry.where)
        found = boot_files.initramfs_of(self.root, _need(self.kernel_version).value)
        return Known(found, found or "")

    @_fact
    def initramfs(self) -> Known[initramfs_file.Initramfs]:
        """What the initramfs of the kernel that starts contains."""
        path = _need(self.initramfs_path).value
        if path is None:
            raise GuestError("there is no initramfs for the kernel that starts")
        return Known(initramfs_file.parse(_text(self.root, path, MAX_READ), path), path)

    @_fact
    def modprobe(self) -> Known[module_files.ModprobeRules]:
        """What modprobe.d and the kernel's arguments forbid."""
        paths = drop_in_files(self.root, _MODPROBE, ".conf")
        rules = module_files.parse_modprobe((path, content(self.root, path) or b"") for path in paths)
        blacklist = dict(rules.blacklist)
        args = self.kernel_args
        if isinstance(args, Known):
            for name in module_files.blacklisted_by_args(args.value):
                blacklist.setdefault(name, f"kernel argument ({args.evidence})")
        return Known(module_files.ModprobeRules(blacklist=blacklist, disabled=rules.disabled))

    def missing_at_boot(self, *drivers: str) -> Fact[frozenset[str]]:
        """What these drivers need before the root is there, and what is neither built in nor in the initramfs.

        A kernel without an initramfs has what is built in, and nothing else.
        """
        try:
            known, path = _need(self.modules), _need(self.initramfs_path)
            wanted = known.value.closure(drivers)
            if path.value is None:
                return Known(wanted, path.evidence or known.evidence)
            inside = _need(self.initramfs)
        except GuestError as error:
            return Unknown(error.message)
        missing = wanted - inside.value.modules.get(known.value.version, frozenset())
        if missing and inside.value.hidden:
            return Unknown(f"{inside.evidence} contains {inside.value.hidden[0]}, which is not looked into")
        if missing and inside.value.problem:
            return Unknown(f"{inside.evidence}: {inside.value.problem}")
        return Known(missing, inside.evidence)

    # ---- software --------------------------------------------------------------------------------------------------

    @_fact
    def packages(self) -> Known[package_files.Packages | None]:
        """What is installed; None where there is no database that is known."""
        found = package_files.installed(self.root)
        return Known(found, found.source if found else "")

    @_fact
    def services(self) -> Known[service_files.Services]:
        """What starts with the machine."""
        return Known(service_files.examine(self.root), "/etc/systemd/system")

    @_fact
    def software(self) -> Known[tuple[guest_tools.Found, ...]]:
        """Tools of hypervisors and agents of clouds."""
        known = self.packages.value if isinstance(self.packages, Known) else None
        return Known(guest_tools.look(self.root, known, _need(self.services).value))

    @_fact
    def cloud_init(self) -> Known[cloud_files.CloudInit]:
        """cloud-init's set-up."""
        args = self.kernel_args.value if isinstance(self.kernel_args, Known) else ()
        found = cloud_files.examine(self.root, _need(self.services).value, args)
        return Known(found, found.datasources_at or cloud_files.CONFIG)

    @_fact
    def network(self) -> Known[network_files.Network]:
        """The network's configuration."""
        return Known(network_files.examine(self.root))

    # ---- storage ---------------------------------------------------------------------------------------------------

    @_fact
    def fstab(self) -> Known[fstab_file.Fstab | None]:
        """What is mounted; None where there is no fstab."""
        data = content(self.root, "/etc/fstab")
        return Known(None if data is None else fstab_file.parse_fstab(data), "/etc/fstab")

    @_fact
    def crypttab(self) -> Known[tuple[fstab_file.Crypt, ...]]:
        """What is unlocked."""
        return Known(fstab_file.parse_crypttab(content(self.root, "/etc/crypttab") or b""), "/etc/crypttab")

    @_fact
    def arrays(self) -> Known[tuple[fstab_file.Array, ...]]:
        """The arrays of mdadm.conf."""
        path = first_existing(self.root, *_MDADM) or _MDADM[0]
        return Known(fstab_file.parse_mdadm(content(self.root, path) or b""), path)

    @_fact
    def lvm_conf(self) -> Known[storage_files.LvmConf]:
        """LVM's filters."""
        path = "/etc/lvm/lvm.conf"
        return Known(storage_files.parse_lvm(content(self.root, path) or b""), path)

    @_fact
    def lvm_devices(self) -> Known[tuple[storage_files.LvmDevice, ...] | None]:
        """The disks that LVM may look at; None where there is no devices file."""
        path = "/etc/lvm/devices/system.devices"
        data = content(self.root, path)
        return Known(None if data is None else storage_files.parse_devices(data), path)

    # ---- security --------------------------------------------------------------------------------------------------

    @_fact
    def security(self) -> Known[security_files.Security]:
        """Log-ins and identities."""
        return Known(security_files.examine(self.root))

    @_fact
    def host_only(self) -> Known[str | None]:
        """Where the initramfs is told to hold this machine's drivers only: dracut's hostonly, MODULES=dep."""
        for path in ("/etc/initramfs-tools/initramfs.conf", *self._pieces("/etc/initramfs-tools/conf.d", "")):
            said = assignments(content(self.root, path) or b"")
            if "MODULES" in said and said["MODULES"].value == "dep":
                return Known(path, f"{path}:{said['MODULES'].line}")
        pieces = (*self._pieces("/etc/dracut.conf.d", ".conf"), *self._pieces("/usr/lib/dracut/dracut.conf.d", ".conf"))
        for path in ("/etc/dracut.conf", *pieces):
            said = assignments(content(self.root, path) or b"")
            if "hostonly" in said:
                return Known(path if said["hostonly"].value == "yes" else None, f"{path}:{said['hostonly'].line}")
        return Known(None)

    def _pieces(self, directory: str, suffix: str) -> tuple[str, ...]:
        return tuple(f"{directory}/{name}" for name in sorted_names(self.root, directory, suffix))


def gather(root: Root, volumes: tuple[FsInfo, ...] = ()) -> LinuxFacts:
    """The facts of the Linux guest with this root. Nothing is read yet."""
    return LinuxFacts(root, volumes)
