"""The boot store."""

import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.base import DamagedError, GuestError, UnsupportedError
from diskfmt.guest.fact import Known, Unknown
from diskfmt.guest.windows import gather
from diskfmt.guest.windows.bcd import BOOTMGR, BootDevice, boot_store, parse_device
from diskfmt.guest.windows.registry import Registry
from guest.windows.kit import DictFiles, RegfHive, hives, known

PARTITION, DISK = UUID("8e0f2c38-e4ea-47ba-b7fc-9d8c74dccf0b"), UUID("0b2394a9-095e-487d-8d48-719ecd4d78ca")
LOADER = "{11111111-2222-3333-4444-555555555555}"


def device(kind: int = 6, partition: bytes = PARTITION.bytes_le, where: int = 0, table: int = 0, disk=DISK.bytes_le):
    return struct.pack("<16s4I16sII16s16s", b"", kind, 0, 0x48, 0, partition, where, table, disk, b"")


def store(path: str = "\\Windows\\system32\\winload.exe", default: str | None = LOADER, **elements) -> dict:
    flat = {
        f"Objects\\{BOOTMGR}\\Elements": {},
        f"Objects\\{LOADER}\\Description": {"Type": 0x10200003},
        f"Objects\\{LOADER}\\Elements\\12000002": {"Element": path},
        f"Objects\\{LOADER}\\Elements\\11000001": {"Element": elements.get("device", device())},
        f"Objects\\{LOADER}\\Elements\\21000001": {"Element": elements.get("os_device", device())},
        f"Objects\\{LOADER}\\Elements\\22000002": {"Element": "\\Windows"},
    }
    if default is not None:
        flat[f"Objects\\{BOOTMGR}\\Elements\\23000003"] = {"Element": default}
    return flat


def read(flat: dict):
    return known(gather(DictFiles({}), hives(bios_store=flat)).bios_store)


def test_real_store_of_a_uefi_machine(corpus):
    hive = RegfHive(Path(corpus.path("regipy-BCD")).read_bytes())
    found = boot_store(Registry("BCD", Known(hive)))
    assert found.value.default == "{733b62e5-f608-11eb-825c-c112f60133ab}"
    assert found.value.path == "\\Windows\\system32\\winload.efi"
    assert found.value.system_root == "\\Windows"
    assert found.value.uefi is True
    expected = BootDevice(kind="partition", table="gpt", partition_guid=str(PARTITION), disk_guid=str(DISK))
    assert found.value.device == Known(expected)
    assert found.value.os_device == Known(expected)
    assert found.evidence.endswith("12000002")


def test_bios_loader_and_mbr_device():
    element = device(partition=(1 << 20).to_bytes(16, "little"), table=1, disk=(0x5EED0001).to_bytes(16, "little"))
    found = read(store(device=element))
    assert found.uefi is False
    assert known(found.device) == BootDevice(kind="partition", table="mbr", offset=1 << 20, signature=0x5EED0001)


def test_short_mbr_device_without_its_padding():
    assert parse_device(device()[:72].ljust(72, b"\0") + b"\0" * 16).table == "gpt"


@pytest.mark.parametrize(("kind", "name"), [(5, "boot"), (8, "locate")])
def test_devices_that_follow_the_firmware(kind, name):
    assert parse_device(device(kind)) == BootDevice(kind=name)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 7, 1 << 31])
def test_other_kinds_of_device_are_unknown(kind):
    with pytest.raises(UnsupportedError, match=f"type {kind}"):
        parse_device(device(kind))
    assert isinstance(read(store(device=device(kind))).device, Unknown)


@pytest.mark.parametrize("change", [{"where": 1}, {"table": 2}])
def test_other_disks_and_tables_are_unknown(change):
    with pytest.raises(UnsupportedError):
        parse_device(device(**change))


@pytest.mark.parametrize("length", [0, 31, 32, 71])
def test_a_device_cut_short_is_damaged(length):
    with pytest.raises(DamagedError):
        parse_device(device()[:length])


@given(st.binary(max_size=120))
def test_any_bytes_are_a_device_or_a_guest_error(content):
    try:
        found = parse_device(content)
    except GuestError:
        return
    assert found.kind in {"boot", "locate", "partition"}


def test_without_a_default_the_only_loader_starts():
    assert read(store(default=None)).default == LOADER


def test_without_a_default_and_with_two_loaders_none_starts():
    other = {"Objects\\{99999999-2222-3333-4444-555555555555}\\Description": {"Type": 0x10200003}}
    found = read({**store(default=None), **other})
    assert (found.default, found.path, found.uefi) == (None, None, None)
    assert isinstance(found.device, Unknown)


def test_a_default_that_does_not_exist_names_no_loader():
    found = read(store(default="{00000000-0000-0000-0000-000000000000}"))
    assert found.path is None


def test_an_empty_store_names_no_loader():
    assert read({"Objects": {}}).path is None


def test_no_store_is_known_to_be_none_and_a_broken_one_is_unknown():
    found = gather(DictFiles({}), hives(bios_store={"Nothing": {}}))
    assert known(found.uefi_store) is None
    assert isinstance(found.bios_store, Unknown)


def test_a_loader_of_another_kind_fits_neither_firmware():
    assert read(store(path="\\Windows\\boot.bin")).uefi is None
    assert read(store(path="\\WINDOWS\\SYSTEM32\\WINLOAD.EFI")).uefi is True
