"""From which bus Windows boots: real hives, twins of real hives, and each link of the chain broken."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.fact import Known, Unknown
from diskfmt.guest.windows import WindowsFacts, gather
from diskfmt.guest.windows.hives import Hives
from diskfmt.guest.windows.registry import Registry
from diskfmt.guest.windows.storage import Bus
from guest.windows.kit import (
    SELECT,
    DictFiles,
    DictHive,
    RegfHive,
    chain,
    critical,
    drivers,
    hives,
    known,
    regf,
    service,
)

BLK = "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
BLK_MODERN = "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"
STORVSC = "VMBUS\\{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}"
NAMES = (
    "viostor",
    "vioscsi",
    "stornvme",
    "storahci",
    "vmbus",
    "storvsc",
    "atapi",
    "intelide",
    "pciide",
    "netkvm",
    "disk",
)
FILES = DictFiles({**drivers(*NAMES), "/Windows/System32/config/SYSTEM": b""})


def facts(*parts: dict, files: DictFiles = FILES, **others: dict) -> WindowsFacts:
    flat: dict = dict(SELECT)
    for part in parts:
        flat.update(part)
    return gather(files, hives(flat, {}, **others))


def boots(found: WindowsFacts) -> dict[Bus, bool | None]:
    return {which: known(fact).boots for which, fact in found.buses.items()}


def problems(found: WindowsFacts, which: Bus) -> str:
    return "; ".join(known(found.buses[which]).problems)


def real(content: bytes) -> Hives:
    absent = hives()
    return Hives(
        system=Registry("SYSTEM", Known(RegfHive(content))),
        software=absent.software,
        drivers=absent.drivers,
        bios_store=absent.bios_store,
        uefi_store=absent.uefi_store,
    )


@pytest.fixture(scope="module")
def found(corpus):
    """The facts of SYSTEM of a Windows 7 for x86 with VMware Tools."""
    content = Path(corpus.path("regipy-SYSTEM")).read_bytes()
    names = (*NAMES, "PartMgr", "fvevol", "msahci", "rdyboost")
    return gather(DictFiles(drivers(*names)), real(content))


class TestRealWindows7:
    def test_control_set(self, found):
        selected = known(found.control_set)
        assert (selected.number, selected.last_known_good, selected.failed) == (1, 2, 0)
        assert known(found.architecture) == "i386"

    def test_has_no_virtio_driver(self, found):
        disk = known(found.buses[Bus.VIRTIO_BLK])
        assert disk.boots is False
        assert disk.problems == ("no driver is installed",)
        assert disk.stages[0].bindings == Known(disk.stages[0].bindings.value)
        assert disk.stages[0].bindings.value.bound == ()
        assert known(found.buses[Bus.VIRTIO_SCSI]).boots is False
        assert known(found.network).works is False

    def test_boots_from_ide_only(self, found):
        assert boots(found) == {
            Bus.VIRTIO_BLK: False,
            Bus.VIRTIO_SCSI: False,
            Bus.NVME: False,
            Bus.AHCI: False,  # msahci has Start 3
            Bus.IDE: True,
            Bus.HYPERV: False,  # vmbus starts, storvsc does not
        }
        assert "storvsc: Start is 3" in problems(found, Bus.HYPERV)
        assert "msahci: Start is 3" in problems(found, Bus.AHCI)
        bound = known(found.buses[Bus.IDE]).stages[0].bindings
        assert isinstance(bound, Known)
        assert bound.value.services == ("intelide",)  # the id of the device goes before that of its class

    def test_vmware_tools_start_by_themselves(self, found):
        tools = {tool.service: tool for tool in known(found.vm_tools)}
        assert tools["VMTools"].start == 2
        assert {tool.product for tool in tools.values()} == {"VMware Tools"}

    def test_filters_without_their_empty_ends(self, found):
        listed = known(found.filters)
        assert [(entry.class_name, entry.kind, entry.name) for entry in listed] == [
            ("DiskDrive", "UpperFilters", "PartMgr"),
            ("Volume", "LowerFilters", "fvevol"),
            ("Volume", "LowerFilters", "rdyboost"),
        ]
        assert [entry.loads for entry in listed] == [True, True, True]

    def test_addresses_are_fixed_and_remote_desktop_is_on(self, found):
        net = known(found.dhcp)
        assert net.client_start == 2
        assert not net.disabled
        assert net.all_static
        assert {address for entry in net.interfaces for address in entry.addresses} == {"10.3.58.5", "192.168.1.123"}
        assert known(found.remote_desktop).works

    def test_without_files_nothing_boots(self, corpus):
        content = Path(corpus.path("regipy-SYSTEM")).read_bytes()
        found = gather(DictFiles({}), real(content))
        assert set(boots(found).values()) == {False}
        assert "its file /Windows/system32/drivers/intelide.sys is missing" in problems(found, Bus.IDE)
        assert not any(entry.loads for entry in known(found.filters))

    def test_a_damaged_list_of_services_is_unknown_and_the_rest_is_not(self, corpus):
        content = bytearray(Path(corpus.path("regipy-SYSTEM")).read_bytes())
        at = _subkey_list(bytes(content), "ControlSet001\\Services")
        content[at + 4 : at + 6] = b"??"
        found = gather(FILES, real(bytes(content)))
        assert known(found.control_set).number == 1
        assert known(found.architecture) == "i386"
        assert isinstance(found.vm_tools, Unknown)
        assert isinstance(found.dhcp, Unknown)
        assert all(isinstance(fact, Unknown) for fact in found.buses.values())


def _subkey_list(content: bytes, path: str) -> int:
    """The file offset of the cell with the subkey list of a key."""
    registry = pytest.importorskip("Registry.Registry")
    from io import BytesIO

    record = registry.Registry(BytesIO(content)).open(path)._nkrecord
    return 0x1000 + record.unpack_dword(0x1C)


class TestTwins:
    """What was read from hives of real machines, written down again."""

    def test_windows_8_in_virtualbox_boots_from_ahci_only(self):
        found = facts(
            {"DriverDatabase": {}},
            service("storvsc", 0, 3), service("vmbus", 0, 3), service("stornvme", 0, 3), service("atapi", 0, 3),
            service("pciide", 0, 3), service("storahci"), service("VBoxGuest"),
            chain("PCI\\CC_010601", "storahci", inf="mshdc.inf"), chain("PCI\\CC_010802", "stornvme", inf="nvme.inf"),
            chain("PCI\\CC_0101", "pciide", inf="pciide.inf"), chain("Primary_IDE_Channel", "atapi", inf="atapi.inf"),
            chain("ACPI\\VMBus", "vmbus", inf="wvmbus.inf"), chain(STORVSC, "storvsc", inf="wstorvsc.inf"),
        )  # fmt: skip
        assert [which for which, answer in boots(found).items() if answer] == [Bus.AHCI]
        assert all(answer is not None for answer in boots(found).values())
        assert "StartOverride is 3" in problems(found, Bus.NVME)
        assert [tool.product for tool in known(found.vm_tools)] == ["VirtualBox Guest Additions"]

    def test_every_inbox_driver_overridden_boots_from_nothing_known(self):
        found = facts(
            *(service(name, 0, 3) for name in ("storvsc", "vmbus", "stornvme", "atapi", "pciide", "storahci")),
            service("EhStorClass"), service("stdcfltn"),
            chain("PCI\\CC_010601", "storahci", inf="mshdc.inf"), chain("PCI\\CC_010802", "stornvme", inf="nvme.inf"),
            chain("ACPI\\VMBus", "vmbus", inf="wvmbus.inf"), chain(STORVSC, "storvsc", inf="wstorvsc.inf"),
            {"ControlSet001\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}":
                {"LowerFilters": ["EhStorClass", "stdcfltn", "", ""]}},
            files=DictFiles(drivers(*NAMES, "EhStorClass")),
        )  # fmt: skip
        assert set(boots(found).values()) == {False}
        assert {entry.name: entry.loads for entry in known(found.filters)} == {"EhStorClass": True, "stdcfltn": False}

    def test_a_driver_that_is_only_staged_does_not_boot(self):
        staged = {"DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001": {"oem2.inf": b"\x02\xff\0\0"}}
        found = facts({"DriverDatabase": {}}, staged, service("viostor", None))
        assert boots(found)[Bus.VIRTIO_BLK] is False
        assert "there is no Start: the driver is only staged" in problems(found, Bus.VIRTIO_BLK)
        assert "oem2.inf has no active package" in problems(found, Bus.VIRTIO_BLK)

    def test_a_machine_that_virtio_started_boots_from_it(self):
        found = facts(service("viostor"), chain(BLK, "viostor"), service("netkvm", 3))
        disk = known(found.buses[Bus.VIRTIO_BLK])
        assert disk.boots is True
        assert disk.problems == ()
        assert "SYSTEM\\ControlSet001\\Services\\viostor" in disk.evidence
        assert known(found.network).works is True

    def test_windows_7_with_virtio(self):
        found = facts(critical("PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "viostor"), service("viostor"))
        assert boots(found)[Bus.VIRTIO_BLK] is True

    def test_a_vendor_build_under_another_name(self):
        files = DictFiles(drivers("vrtioblk"))
        assert boots(facts(service("vrtioblk"), chain(BLK, "vrtioblk"), files=files))[Bus.VIRTIO_BLK] is True


class TestEachLinkOfTheChain:
    GOOD = (service("viostor"), chain(BLK, "viostor"))

    @pytest.mark.parametrize("link", ["device", "inf", "descriptor", "configuration"])
    def test_without_it_the_device_is_not_bound(self, link):
        found = facts(service("viostor"), chain(BLK, "viostor", without=link))
        assert boots(found)[Bus.VIRTIO_BLK] is False
        assert problems(found, Bus.VIRTIO_BLK)

    @pytest.mark.parametrize(
        ("broken", "says"),
        [
            (service("viostor", 3), "Start is 3"),
            (service("viostor", 4), "Start is 4"),
            (service("viostor", None), "only staged"),
            (service("viostor", 0, 3), "StartOverride is 3"),
            (service("viostor", 0, Type=16), "Type is 16"),
            (service("viostor", 0, ImagePath="system32\\drivers\\other.sys"), "other.sys is missing"),
        ],
    )
    def test_a_service_that_does_not_start_at_boot(self, broken, says):
        found = facts(*self.GOOD, broken)
        assert boots(found)[Bus.VIRTIO_BLK] is False
        assert says in problems(found, Bus.VIRTIO_BLK)

    def test_an_override_of_0_is_none(self):
        assert boots(facts(*self.GOOD, service("viostor", 0, 0)))[Bus.VIRTIO_BLK] is True

    def test_a_chain_to_a_service_that_does_not_exist(self):
        found = facts(service("viostor"), chain(BLK, "vioold"))
        assert boots(found)[Bus.VIRTIO_BLK] is False
        assert "vioold: the service does not exist" in problems(found, Bus.VIRTIO_BLK)

    def test_another_device_of_the_vendor_is_not_the_disk(self):
        net = "PCI\\VEN_1AF4&DEV_1000&SUBSYS_00011AF4&REV_00"
        assert boots(facts(service("viostor"), chain(net, "viostor")))[Bus.VIRTIO_BLK] is False
        longer = "PCI\\VEN_1AF4&DEV_10012"
        assert boots(facts(service("viostor"), chain(longer, "viostor")))[Bus.VIRTIO_BLK] is False

    def test_the_modern_device_alone_counts_too(self):
        assert boots(facts(service("viostor"), chain(BLK_MODERN, "viostor")))[Bus.VIRTIO_BLK] is True

    def test_two_drivers_of_which_one_does_not_start_are_unknown(self):
        found = facts(*self.GOOD, service("other", 3), chain(BLK_MODERN, "other", inf="oem9.inf"))
        assert boots(found)[Bus.VIRTIO_BLK] is None

    def test_windows_8_does_not_look_at_the_database_of_windows_7(self):
        found = facts({"DriverDatabase": {}}, critical(BLK, "viostor"), service("viostor"))
        assert boots(found)[Bus.VIRTIO_BLK] is False

    def test_neither_database_is_unknown_where_a_driver_is_there(self):
        found = facts(service("viostor"))
        assert boots(found)[Bus.VIRTIO_BLK] is None
        assert boots(found)[Bus.VIRTIO_SCSI] is False

    @pytest.mark.parametrize("broken", [service("viostor", 3), service("viostor", 0, 3)])
    def test_neither_database_does_not_matter_where_the_driver_would_not_start(self, broken):
        assert boots(facts(broken))[Bus.VIRTIO_BLK] is False

    def test_a_chain_in_the_driver_store_alone_comes_too_late_for_a_disk(self):
        found = facts({"DriverDatabase": {}}, service("viostor"), drivers=chain(BLK, "viostor"))
        assert boots(found)[Bus.VIRTIO_BLK] is False

    def test_a_file_on_another_volume_is_unknown(self):
        found = facts(*self.GOOD, service("viostor", 0, ImagePath="\\??\\D:\\viostor.sys"))
        assert boots(found)[Bus.VIRTIO_BLK] is None

    def test_hyper_v_needs_both_of_its_drivers(self):
        both = (
            *(service("vmbus"), service("storvsc")),
            *(chain("ACPI\\VMBus", "vmbus", inf="a.inf"), chain(STORVSC, "storvsc", inf="b.inf")),
        )
        assert boots(facts(*both))[Bus.HYPERV] is True
        for name in ("vmbus", "storvsc"):
            assert boots(facts(*both, service(name, 0, 3)))[Bus.HYPERV] is False


@pytest.mark.parametrize(
    ("start", "override", "loads"),
    [(0, None, True), (3, None, True), (4, None, False), (0, 4, False), (4, 0, True), (None, None, False)],
)
def test_a_filter_loads_unless_it_is_disabled(start, override, loads):
    named = {"ControlSet001\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}": {"UpperFilters": "disk"}}
    (entry,) = known(facts(named, service("disk", start, override)).filters)
    assert entry.loads is loads


class TestNetwork:
    DEVICE = "PCI\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01"

    def test_disabled_does_not_work(self):
        assert known(facts(service("netkvm", 4)).network).works is False

    def test_a_package_in_the_driver_store_is_installed_when_the_card_appears(self):
        found = facts({"DriverDatabase": {}}, drivers=chain(self.DEVICE, "netkvm"))
        assert known(found.network).service is None
        assert known(found.network).works is True

    def test_without_driver_and_package_it_does_not_work(self):
        assert known(facts({"DriverDatabase": {}}, drivers={"DriverDatabase": {}}).network).works is False
        assert known(facts({"DriverDatabase": {}}).network).works is False

    def test_an_unreadable_driver_store_is_unknown(self):
        good = hives({**SELECT, "DriverDatabase": {}})
        broken = Hives(
            system=good.system,
            software=good.software,
            drivers=Registry("DRIVERS", Unknown("damaged")),
            bios_store=good.bios_store,
            uefi_store=good.uefi_store,
        )
        assert known(gather(FILES, broken).network).works is None


def test_the_same_from_a_hive_that_hivex_wrote(tmp_path):
    flat = {**SELECT, **service("viostor", ImagePath="\\SystemRoot\\System32\\drivers\\viostor.sys")}
    flat |= chain(BLK, "viostor")
    flat |= {
        "ControlSet001\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}": {"UpperFilters": ["disk", "gone"]}
    }
    found = gather(FILES, real(regf(tmp_path, flat)))
    assert boots(found)[Bus.VIRTIO_BLK] is True
    assert {entry.name: entry.loads for entry in known(found.filters)} == {"disk": False, "gone": False}
    overridden = regf(tmp_path, {**flat, **service("viostor", 0, 3)})
    assert boots(gather(FILES, real(overridden)))[Bus.VIRTIO_BLK] is False


CHAIN = {"device": "DeviceIds", "inf": "DriverInfFiles", "descriptor": "Descriptors", "configuration": "Configurations"}


@given(st.sets(st.sampled_from((*CHAIN, "start", "type", "file", "no override"))))
def test_it_boots_exactly_if_no_link_is_missing(missing):
    broken = tuple(f"\\{CHAIN[link]}\\" for link in missing if link in CHAIN)
    flat = {key: value for key, value in chain(BLK, "viostor").items() if not any(part in key for part in broken)}
    override = 3 if "no override" in missing else None
    flat |= service("viostor", 3 if "start" in missing else 0, override, Type=2 if "type" in missing else 1)
    found = gather(DictFiles(drivers("other" if "file" in missing else "viostor")), hives({**SELECT, **flat}, {}))
    disk = known(found.buses[Bus.VIRTIO_BLK])
    assert disk.boots is (not missing)
    assert bool(disk.problems) is bool(missing)


def test_dictionary_hives_find_names_in_any_case():
    hive = DictHive({"A\\b": {"Value": 1}})
    assert hive.key("a\\B").value("vALUE") == 1
    assert list(hive.key("a").subkeys()) == ["b"]
    assert hive.key("c") is None
