"""The whole record: phony guests read by other tools, versions, unfinished work, and hostile hives."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskfmt
from diskfmt.guest.base import DamagedError, GuestError, UnsupportedError
from diskfmt.guest.fact import Known, Unknown
from diskfmt.guest.windows import WindowsFacts, gather, open_hives
from diskfmt.guest.windows.agents import metadata_services
from diskfmt.guest.windows.files import file_of
from diskfmt.guest.windows.hives import BootVolume, Hives
from diskfmt.guest.windows.registry import HiveState, Registry
from diskfmt.guest.windows.state import Hibernation
from diskfmt.guest.windows.storage import Bus
from guest.windows.kit import SELECT, DictFiles, RegfHive, ToolFiles, chain, drivers, hives, known, regf, service

VERSION = "Microsoft\\Windows NT\\CurrentVersion"
EMPTY = DictFiles({})
HIBERFIL = "hiberfil.sys"


def facts(system: dict | None = None, software: dict | None = None, files: DictFiles = EMPTY) -> WindowsFacts:
    return gather(files, hives({**SELECT, **(system or {})}, software if software is not None else {}))


GUESTS = ("guest-win2016-mbr-virtio-qcow2c", "guest-win2019-gpt-uefi", "guest-win2012r2-novirtio-vmdksparse")


@pytest.mark.parametrize("case", GUESTS)
class TestPhonyGuests:
    @pytest.fixture
    def gathered(self, corpus, tmp_path, case):
        """The facts of a guest whose volumes are read by ntfs-3g and mtools, and its hives by python-registry."""
        volumes = []
        with diskfmt.open_disk(corpus.path(case)) as disk:
            for partition in corpus.cases[case]["content"]["partitions"]:
                if "fs" not in partition:
                    continue
                image = tmp_path / f"p{partition['n']}"
                image.write_bytes(disk.read_at(partition["start"] * 512, partition["sectors"] * 512))
                volumes.append(BootVolume(f"p{partition['n']}", ToolFiles(image, partition["fs"]["type"])))
        system = volumes[-1].files
        return corpus.cases[case]["facts"], gather(system, open_hives(system, volumes, RegfHive), volumes)

    def test_says_what_the_manifest_says(self, gathered, case):
        told, found = gathered
        assert known(found.product) == told["product"]
        assert ".".join(map(str, known(found.version))) == told["version"]
        assert str(known(found.build)) == told["build"]
        assert known(found.architecture) == "x86_64"
        assert known(found.installation_type) == "Server"
        assert {known(state) for state in found.hives.values()} == {HiveState.COMPLETE}
        viostor = known(found.buses[Bus.VIRTIO_BLK]).stages[0].named("viostor")
        assert (viostor is not None) == told["virtio_driver"]
        assert (viostor.start if viostor else None) == told["virtio_start"]
        assert viostor is None or viostor.boots is True
        assert (known(found.cloudbase) is not None) == told["cloudbase_init"]
        assert any(interface.dhcp for interface in known(found.dhcp).interfaces) == told["dhcp"]
        assert (not known(found.remote_desktop).denied) == told["rdp"]
        assert known(found.hibernation) is Hibernation.NONE
        assert known(found.setup).image_state == "IMAGE_STATE_COMPLETE"

    def test_finds_the_boot_files_of_its_firmware(self, gathered, case):
        told, found = gathered
        places = {name: known(fact) for name, fact in found.boot_files.items()}
        if told["firmware"] == "uefi":
            assert places == {"bootmgr": None, "bootmgfw": "p1", "fallback-x86_64": "p1", "fallback-arm64": None}
            assert known(found.bios_store) is None
            assert known(found.uefi_store).path is None  # the store of this guest is empty
        else:
            assert places["bootmgr"] == "p1"
            assert places["bootmgfw"] is None
            assert known(found.uefi_store) is None
            assert known(found.bios_store).path is None

    def test_does_not_guess_what_such_a_guest_is_bound_to(self, gathered, case):
        told, found = gathered
        assert known(found.buses[Bus.VIRTIO_BLK]).boots is (None if told["virtio_driver"] else False)


class TestVersion:
    def test_windows_10_and_later_have_numbers_of_their_own(self):
        found = facts(
            software={
                VERSION: {
                    "CurrentVersion": "6.3",
                    "CurrentMajorVersionNumber": 10,
                    "CurrentMinorVersionNumber": 0,
                    "CurrentBuildNumber": "20348",
                    "ProductName": "Windows Server 2022 Datacenter",
                    "EditionID": "ServerDatacenter",
                }
            }
        )
        assert known(found.version) == (10, 0)
        assert known(found.build) == 20348
        assert known(found.edition) == "ServerDatacenter"
        assert isinstance(found.installation_type, Unknown)

    def test_older_ones_have_a_text(self):
        found = facts(software={VERSION: {"CurrentVersion": "6.1", "CurrentBuild": "7601"}})
        assert known(found.version) == (6, 1)
        assert known(found.build) == 7601

    @pytest.mark.parametrize("text", ["6", "6.1.2", "six.one", "", "6.-1", "٦.١", "99999.1"])
    def test_a_version_that_is_none_is_unknown(self, text):
        assert isinstance(facts(software={VERSION: {"CurrentVersion": text}}).version, Unknown)

    @pytest.mark.parametrize("text", ["", "x", "-1", "1" * 20, "٦"])
    def test_a_build_that_is_none_is_unknown(self, text):
        assert isinstance(facts(software={VERSION: {"CurrentBuildNumber": text}}).build, Unknown)

    @pytest.mark.parametrize(
        ("name", "machine"), [("AMD64", "x86_64"), ("x86", "i386"), ("ARM64", "arm64"), ("ALPHA", None)]
    )
    def test_architecture(self, name, machine):
        found = facts({"ControlSet001\\Control\\Session Manager\\Environment": {"PROCESSOR_ARCHITECTURE": name}})
        assert (found.architecture.value if isinstance(found.architecture, Known) else None) == machine


class TestControlSet:
    def test_follows_select_and_not_the_first(self):
        system = {
            "Select": {"Current": 2, "Failed": 1},
            "ControlSet001\\Services\\VMTools": {"Start": 2},
            "ControlSet002\\Services\\VBoxService": {"Start": 2},
        }
        found = gather(EMPTY, hives(system, {}))
        assert (known(found.control_set).name, known(found.control_set).failed) == ("ControlSet002", 1)
        assert [tool.service for tool in known(found.vm_tools)] == ["VBoxService"]

    @pytest.mark.parametrize("current", [0, 1000, -1, None, "1", b"\x01", 7])
    def test_a_select_that_names_none_makes_all_unknown(self, current):
        select = {"Current": current} if current is not None else {}
        sets = {name: {} for name in ("ControlSet000", "ControlSet001", "ControlSet1000", "ControlSet-01")}
        found = gather(EMPTY, hives({"Select": select, **sets}, {}))
        assert isinstance(found.control_set, Unknown)
        assert all(isinstance(fact, Unknown) for fact in found.buses.values())
        assert isinstance(found.dhcp, Unknown)

    def test_missing_and_broken_hives_are_told_apart(self):
        found = gather(EMPTY, hives())
        assert known(found.hives["SYSTEM"]) is HiveState.MISSING
        assert isinstance(found.control_set, Unknown)
        broken = hives()
        broken = Hives(
            system=Registry("SYSTEM", Unknown("bad checksum")),
            software=broken.software,
            drivers=broken.drivers,
            bios_store=broken.bios_store,
            uefi_store=broken.uefi_store,
        )
        found = gather(EMPTY, broken)
        assert found.hives["SYSTEM"] == Unknown("bad checksum")
        assert found.dhcp == Unknown("bad checksum")


class TestUnfinishedWork:
    CBS = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"

    def test_nothing(self):
        pending = known(facts().pending_reboot)
        assert (pending.pending_xml, pending.servicing, pending.update, pending.renames) == (False, (), False, 0)

    def test_all_of_it(self):
        pending = known(
            facts(
                {"ControlSet001\\Control\\Session Manager": {"PendingFileRenameOperations": ["\\??\\C:\\a", "", ""]}},
                {
                    f"{self.CBS}\\RebootPending": {},
                    f"{self.CBS}\\PackagesPending": {},
                    "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired": {},
                },
                DictFiles({"/windows/winsxs/PENDING.XML": b"<x/>"}),
            ).pending_reboot
        )
        assert pending.pending_xml
        assert pending.servicing == ("RebootPending", "PackagesPending")
        assert pending.update
        assert pending.renames == 1

    def test_setup(self):
        found = known(
            facts(
                {
                    "Setup": {
                        "SystemSetupInProgress": 1,
                        "SetupType": 2,
                        "CmdLine": "windeploy.exe",
                        "OOBEInProgress": 1,
                    }
                },
                {
                    "Microsoft\\Windows\\CurrentVersion\\Setup\\State": {
                        "ImageState": "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
                    }
                },
                DictFiles({"/Windows/System32/Sysprep/Sysprep_succeeded.tag": b""}),
            ).setup
        )
        assert (found.in_progress, found.setup_type, found.command, found.oobe) == (True, 2, "windeploy.exe", True)
        assert found.image_state == "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
        assert found.generalized

    @pytest.mark.parametrize(
        ("content", "answer"),
        [
            (b"hibr" + bytes(4096), Hibernation.ACTIVE),
            (b"HIBR", Hibernation.ACTIVE),
            (b"RSTR", Hibernation.ACTIVE),
            (b"wake", Hibernation.RESUMED),
            (bytes(4096), Hibernation.NONE),
            (b"", Hibernation.NONE),
        ],
    )
    def test_hibernation(self, content, answer):
        assert known(facts(files=DictFiles({"/hiberfil.sys": content})).hibernation) is answer

    def test_a_hibernation_file_of_an_unknown_kind_is_unknown(self):
        assert isinstance(facts(files=DictFiles({"/hiberfil.sys": b"what"})).hibernation, Unknown)

    def test_hotfixes(self):
        packages = {
            f"{self.CBS}\\Packages\\{name}": {}
            for name in (
                "Package_for_KB4474419~31bf3856ad364e35~amd64~~6.1.3.2",
                "Package_2_for_KB3033929~31bf3856ad364e35~amd64~~6.1.1.1",
                "Microsoft-Windows-Foundation-Package~31bf3856ad364e35~amd64~~6.1.7601.17514",
                "Package_for_KB~",
                "Package_for_RollupFix~31bf3856ad364e35~amd64~~17763.1",
            )
        }
        assert known(facts(software=packages).hotfixes) == {"KB4474419", "KB3033929"}
        assert isinstance(facts().hotfixes, Unknown)

    @pytest.mark.parametrize(("value", "said"), [("a", "a"), (["a", "b", ""], "a b"), ("", ""), (None, "")])
    def test_devices_that_xen_hides(self, value, said):
        values = {"hide_devices": value} if value is not None else {}
        assert known(facts({"ControlSet001\\Services\\XenPCI\\Parameters": values}).xen_hidden_devices) == said

    def test_other_switches(self):
        on = facts(
            {
                "ControlSet001\\Services\\partmgr\\Parameters": {"SanPolicy": 1},
                "ControlSet001\\Control\\TimeZoneInformation": {"RealTimeIsUniversal": 1},
                "ControlSet001\\Services\\PlugPlay\\Parameters": {"DeviceInstallDisabled": 1},
            }
        )
        off = facts()
        assert [known(found.san_policy) for found in (on, off)] == [1, None]
        assert [known(found.utc_clock) for found in (on, off)] == [True, False]
        assert [known(found.device_install_disabled) for found in (on, off)] == [True, False]

    def test_fast_startup(self):
        power = "ControlSet001\\Control\\Session Manager\\Power"
        assert known(facts({power: {"HiberbootEnabled": 1}}).fast_startup) is True
        assert known(facts({power: {"HiberbootEnabled": 0}}).fast_startup) is False


class TestReach:
    INTERFACES = "ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces"

    def test_one_interface_that_asks_is_enough(self):
        found = known(
            facts(
                {
                    **service("Dhcp", 2),
                    f"{self.INTERFACES}\\{{a}}": {"EnableDHCP": 0, "IPAddress": ["10.0.0.5"]},
                    f"{self.INTERFACES}\\{{b}}": {"EnableDHCP": 1, "IPAddress": ["0.0.0.0"]},
                    f"{self.INTERFACES}\\{{c}}": {},
                }
            ).dhcp
        )
        assert not found.all_static
        assert [(entry.dhcp, entry.addresses) for entry in found.interfaces] == [(False, ("10.0.0.5",)), (True, ())]

    @pytest.mark.parametrize(("start", "disabled"), [(2, False), (3, False), (4, True), (None, True)])
    def test_the_client_has_to_start(self, start, disabled):
        assert known(facts(service("Dhcp", start)).dhcp).disabled is disabled

    def test_no_interface_at_all_is_not_static(self):
        assert not known(facts(service("Dhcp", 2)).dhcp).all_static

    @pytest.mark.parametrize(
        ("server", "tcp", "start", "works"),
        [
            ({"fDenyTSConnections": 0}, {"PortNumber": 3389}, 3, True),
            ({"fDenyTSConnections": 0}, {}, 3, True),
            ({"fDenyTSConnections": 1}, {"PortNumber": 3389}, 3, False),
            ({}, {"PortNumber": 3389}, 3, False),
            ({"fDenyTSConnections": 0}, {"PortNumber": 3390}, 3, False),
            ({"fDenyTSConnections": 0}, {"PortNumber": 3389}, 4, False),
            ({"fDenyTSConnections": 0}, {"PortNumber": 3389}, None, False),
        ],
    )
    def test_remote_desktop(self, server, tcp, start, works):
        here = "ControlSet001\\Control\\Terminal Server"
        system = {here: server, f"{here}\\WinStations\\RDP-Tcp": tcp, **service("TermService", start)}
        assert known(facts(system).remote_desktop).works is works


class TestAgents:
    FOLDER = "/Program Files/Cloudbase Solutions/Cloudbase-Init"

    def cloudbase(self, config: bytes):
        files = DictFiles({f"{self.FOLDER}/conf/cloudbase-init.conf": config})
        found = facts(service("cloudbase-init", 2), files=files).cloudbase
        return known(found), found.evidence

    def test_asks_what_the_file_says(self):
        config = (
            b"[DEFAULT]\r\nusername=Admin\r\n# metadata_services=x\r\n"
            b"metadata_services=cloudbaseinit.metadata.services.httpservice.HttpService,\r\n"
            b"    cloudbaseinit.metadata.services.configdrive.ConfigDriveService\r\n"
            b"logging_serial_port_settings=COM1\r\n"
        )
        found, evidence = self.cloudbase(config)
        assert found.start == 2
        assert found.asks("configdrive")
        assert found.asks("httpservice")
        assert not found.asks("ec2service")
        assert len(found.services) == 2
        assert evidence == f"{self.FOLDER}/conf/cloudbase-init.conf:4"

    def test_asks_all_by_default(self):
        found, _ = self.cloudbase(b"[DEFAULT]\nusername=Admin\n")
        assert found.services is None
        assert found.asks("configdrive")

    def test_another_section_does_not_count_and_the_last_entry_wins(self):
        assert metadata_services(b"[other]\nmetadata_services=a.B\n") == (None, 0)
        assert metadata_services(b"metadata_services=a.B\nmetadata_services=c.D\n") == (("c.D",), 2)
        assert metadata_services(b"metadata_services=\n") == ((), 1)

    def test_a_file_that_is_no_text_is_unknown(self):
        with pytest.raises(DamagedError):
            metadata_services(b"\xff\xfe[")

    @given(st.binary(max_size=200))
    def test_any_file_is_a_list_or_damaged(self, content):
        try:
            services, line = metadata_services(content)
        except DamagedError:
            return
        assert (services is None) == (line == 0)

    def test_a_folder_that_was_left_over_is_no_agent(self):
        assert known(facts(files=DictFiles({f"{self.FOLDER}/conf/x": b""})).cloudbase) is None


class TestFileOf:
    @pytest.mark.parametrize(
        ("image_path", "path"),
        [
            (None, "/Windows/System32/drivers/x.sys"),
            ("  ", "/Windows/System32/drivers/x.sys"),
            ("system32\\drivers\\a.sys", "/Windows/system32/drivers/a.sys"),
            ("\\SystemRoot\\system32\\drivers\\a.sys", "/Windows/system32/drivers/a.sys"),
            ("%SystemRoot%\\System32\\svchost.exe -k netsvcs", "/Windows/System32/svchost.exe"),
            ("\\??\\C:\\Program Files\\V\\memctl.sys", "/Program Files/V/memctl.sys"),
            ('"C:\\Program Files\\V\\s.exe" -service', "/Program Files/V/s.exe"),
            ("C:\\Program Files\\V\\s.exe", "/Program Files/V/s.exe"),
            ("%SystemDrive%\\x\\y.sys", "/x/y.sys"),
            ("System32/drivers\\.\\a.sys", "/Windows/System32/drivers/a.sys"),
        ],
    )
    def test_spellings(self, image_path, path):
        assert file_of(image_path, "x") == path

    @pytest.mark.parametrize(
        "image_path",
        [
            "D:\\x.sys",
            "\\Device\\HarddiskVolume1\\x.sys",
            "%ProgramFiles%\\x.sys",
            "..\\x.sys",
            "\\SystemRoot\\",
            "\\??\\",
        ],
    )
    def test_what_is_not_on_the_volume_is_unsupported(self, image_path):
        with pytest.raises(UnsupportedError):
            file_of(image_path, "x")

    @given(st.text(max_size=60))
    def test_any_text_stays_on_the_volume(self, text):
        try:
            path = file_of(text, "x")
        except UnsupportedError:
            return
        assert path.startswith("/")
        assert ".." not in path.split("/")


class TestOpening:
    def test_takes_the_first_store_that_there_is_and_says_where(self):
        esp = DictFiles({"/EFI/Microsoft/Boot/BCD": b"esp"})
        system = DictFiles({"/Windows/System32/config/SYSTEM": b"s", "/boot/bcd": b"own"})
        opened = []

        def open_hive(content: bytes):
            opened.append(content)
            raise DamagedError("no hive")

        found = open_hives(system, [BootVolume("esp", esp), BootVolume("c", system)], open_hive)
        assert opened == [b"s", b"own", b"esp"]
        assert found.uefi_store.name == "esp:/EFI/Microsoft/Boot/BCD"
        assert found.system.hive == Unknown("/Windows/System32/config/SYSTEM: no hive")
        assert found.software.missing
        assert not found.system.missing


NAMES = ["Current", "Start", "Type", "0", "ImagePath", "LowerFilters", "EnableDHCP", "Element", "Active", "oem1.inf"]
PATHS = [
    "ControlSet001\\Services\\viostor", "ControlSet001\\Services\\viostor\\StartOverride",
    "ControlSet001\\Services\\Dhcp",
    "ControlSet001\\Services\\cloudbase-init", "ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{a}",
    "ControlSet001\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}", "DriverDatabase\\DriverInfFiles\\oem1.inf",
    "DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001", "ControlSet001\\Control\\Terminal Server", "Setup",
    "ControlSet001\\Control\\CriticalDeviceDatabase\\pci#ven_1af4&dev_1001", "ControlSet001\\Control\\Session Manager",
    "Objects\\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\\Elements\\23000003", VERSION,
]  # fmt: skip
VALUES = st.one_of(
    st.integers(-(1 << 63), 1 << 64),
    st.text(max_size=20),
    st.binary(max_size=90),
    st.lists(st.text(max_size=9)),
    st.floats(),
)


@given(st.dictionaries(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(NAMES), VALUES)))
def test_whatever_a_hive_says_gather_raises_nothing(flat):
    whole = {**SELECT, **flat}
    found = gather(EMPTY, hives(whole, flat, drivers=flat, bios_store=flat, uefi_store=flat))
    for fact in (*found.buses.values(), found.dhcp, found.filters, found.bios_store):
        assert isinstance(fact, Known | Unknown)
    for fact in found.buses.values():
        if isinstance(fact, Known):
            assert fact.value.boots in (True, False, None)
            assert not (fact.value.boots and fact.value.problems)


class _Raising:
    """A hive whose every answer is damage."""

    pending_logs = True

    def key(self, path: str):
        raise GuestError("broken")


def test_a_hive_that_always_fails_makes_every_fact_unknown():
    registry = Registry("SYSTEM", Known(_Raising()))
    found = gather(
        EMPTY, Hives(system=registry, software=registry, drivers=registry, bios_store=registry, uefi_store=registry)
    )
    for name in ("product", "build", "dhcp", "filters", "setup", "bios_store", "pending_reboot", "san_policy"):
        assert getattr(found, name) == Unknown("broken"), name
    assert known(found.hives["SYSTEM"]) is HiveState.PENDING


def test_python_registry_and_hivex_agree_on_the_hive_under_test(corpus):
    """The reader that the tests use is checked against another one."""
    path = Path(corpus.path("regipy-SYSTEM"))
    lines = "cd ControlSet001\\Services\\storvsc\nlsval Start\nlsval ImagePath\n"
    try:
        told = subprocess.run(["hivexsh", str(path)], input=lines, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("hivexsh is not installed")
    key = RegfHive(path.read_bytes()).key("ControlSet001\\Services\\storvsc")
    assert told.splitlines() == [str(key.value("Start")), key.value("ImagePath")]


@pytest.fixture
def ntfs(tmp_path):
    """A function that makes an NTFS of files by path, with mkntfs and wimlib."""
    for tool in ("mkntfs", "wimlib-imagex", "ntfscp"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")

    def make(name: str, files: dict[str, bytes]) -> ToolFiles:
        tree, image, wim = tmp_path / f"{name}.tree", tmp_path / f"{name}.img", tmp_path / f"{name}.wim"
        for path, content in files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        with image.open("wb") as stream:
            stream.truncate(16 << 20)
        for command in (
            ["mkntfs", "-Q", "-F", "-q", image],
            ["wimlib-imagex", "capture", tree, wim],
            ["wimlib-imagex", "apply", wim, "1", image],
            # wimlib leaves this file out, as it does for Windows
            *([["ntfscp", "-f", image, tree / HIBERFIL, HIBERFIL]] if (tree / HIBERFIL).exists() else []),
        ):
            subprocess.run(command, check=True, capture_output=True)
        return ToolFiles(image, "ntfs")

    return make


def test_a_windows_on_ntfs_made_by_other_tools(ntfs, tmp_path):
    """Hives by hivex, the volume by mkntfs and wimlib, read back by ntfs-3g and python-registry."""
    disk = "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
    system = {**SELECT, **service("viostor"), **chain(disk, "viostor"), **service("netkvm", 3)}
    system |= {"ControlSet001\\Control\\Session Manager\\Environment": {"PROCESSOR_ARCHITECTURE": "AMD64"}}
    software = {VERSION: {"ProductName": "Windows Server 2022 Datacenter", "CurrentMajorVersionNumber": 10,
        "CurrentMinorVersionNumber": 0, "CurrentBuildNumber": "20348"}}  # fmt: skip
    files = {
        "/Windows/System32/config/SYSTEM": regf(tmp_path, system),
        "/Windows/System32/config/SOFTWARE": regf(tmp_path, software),
        "/bootmgr": b"boot",
        **drivers("viostor", "netkvm"),
    }
    for name, more, boots, hibernates in (
        ("good", {"/hiberfil.sys": bytes(8192)}, True, Hibernation.NONE),
        ("bad", {"/hiberfil.sys": b"HIBR" + bytes(8192)}, False, Hibernation.ACTIVE),
    ):
        held = {**files, **more}
        if name == "bad":
            del held["/Windows/System32/drivers/viostor.sys"]
        volume = ntfs(name, held)
        volumes = [BootVolume("C", volume)]
        found = gather(volume, open_hives(volume, volumes, RegfHive), volumes)
        assert known(found.buses[Bus.VIRTIO_BLK]).boots is boots
        assert known(found.hibernation) is hibernates
        assert known(found.version) == (10, 0)
        assert known(found.architecture) == "x86_64"
        assert known(found.boot_files["bootmgr"]) == "C"
        assert known(found.network).works is True
        assert known(found.bios_store) is None
