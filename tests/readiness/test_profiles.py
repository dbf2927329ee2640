"""Profiles: the numbers and weights of the reference, and what a wrong file is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.conversion.target import parse_target
from diskfmt.errors import UsageError
from diskfmt.formats.known import KNOWN
from diskfmt.readiness.profile import FORMATS
from diskfmt.readiness.profiles import load, names

GIB = 1 << 30
CLOUDS = (
    *("tencent-cvm", "aws", "azure", "gcp", "alibaba", "huawei", "openstack", "oci", "digitalocean", "ibm", "scaleway"),
)

# One row a rule, one column a cloud, as the reference has it. ".": nothing, what the base says holds. "-": not asked.
MATRIX = """
container-format-allowed    B B B B B B B B B B B
container-subformat         B B B - . . B B . . -
safety-backing-file         B B B - B B B B B B B
container-single-file       B B - - B B B B B - -
container-format-match      W W W W W W B W W W W
container-not-iso           B B B B B A - B B B B
container-encrypted         X B X B X B W B X A X
size-virtual-max            B B B . B B . B B B .
size-actual-max             B . . . . B . . B . .
size-alignment              . . B B . . . . . . .
partition-table-present     B B X X B X W B B X X
partition-root-found        B B X X X X X X X X X
boot-uefi-esp               W B X X X X X X . X X
boot-bios-loader            B B X X X X X B X X -
boot-root-arg               X W W W X X X X X X X
fstab-device-names          X W W W X X X X X X X
fstab-missing-device        X W W W X X X X X X X
fs-lvm-root                 W - W - W W - - W W W
initramfs-virtio-blk        X - - W X X X X X X X
initramfs-virtio-scsi       A - - X A X A X A A X
initramfs-nvme              A X W W X A . A . . .
initramfs-hyperv            - - X - - - - - - - -
rootfs-net-driver           B X X X X X X X X X X
agent-cloud-init-installed  B A W A W W W W B B W
agent-datasource            X W W W W W X W X X W
net-dhcp                    W X X W X X X X X X X
net-mac-bound               X X X X X X X X X X X
net-ssh-server              A W W W W W A W B W W
win-rdp                     A W W W W W A W B W W
sec-selinux                 A . . . W . . . . . .
guest-tools-left            W W W W W W W W W W W
swap-on-os-disk             . . W . . . . . . . .
win-virtio-blk-driver       B - - - X X X X - X -
win-virtio-scsi-driver      - - - X - - - X - - X
win-virtio-net-driver       B - - X X X X X - X X
win-pending-reboot          A W X W X W . W - X W
win-hibernation             X X X X X X X X - X X
"""
CELLS = [
    (cloud, row.split()[0], cell)
    for row in MATRIX.strip().splitlines()
    for cloud, cell in zip(CLOUDS, row.split()[1:], strict=True)
]


def test_names_are_the_clouds_without_the_base():
    assert names() == tuple(sorted((*CLOUDS, "azure-marketplace", "generic-kvm", "vultr")))


@pytest.mark.parametrize("rule", sorted({rule for _, rule, _ in CELLS}))
def test_severity_is_that_of_the_matrix(rule):
    base = load("base")
    for cloud, name, cell in CELLS:
        if name == rule:
            wanted = base.severity(rule) if cell == "." else None if cell == "-" else cell
            assert load(cloud).severity(rule) == wanted, cloud


@pytest.mark.parametrize("name", names())
class TestEveryProfile:
    def test_every_value_names_its_source_and_date(self, name):
        profile = load(name)
        for section in ("image", "size", "machine", "guest", "convert"):
            record = getattr(profile, section)
            default = type(record)()
            for field in record.__dataclass_fields__:
                if getattr(record, field) != getattr(default, field):
                    source = profile.source(f"{section}.{field.replace('_', '-')}")
                    assert source is not None, f"{section}.{field}"
                    assert source.date >= "2026-11"
        assert all(profile.source(f"rules.{rule}.severity") for rule in profile.rules)
        assert all(profile.source(f"limits.{key}") for key in profile.limits)

    def test_what_to_convert_to_exists_and_is_accepted(self, name):
        profile = load(name)
        target = parse_target(profile.convert.to)
        accepted = profile.image.formats
        assert (profile.convert.package or target.format.name) in accepted
        allowed = profile.image.subformats.get(target.format.name)
        assert allowed is None or target.subformat in allowed or target.format.name == "qcow2"
        if profile.size.align:
            assert profile.convert.align % profile.size.align == 0

    def test_every_switch_loads_and_changes_something(self, name):
        plain = load(name)
        for switch, about in plain.switches.items():
            switched = load(name, [switch])
            assert about
            assert switched.switched == (switch,)
            assert switched != plain
            assert switched == load(f"{name}+{switch}")
            for key in ("image", "size", "machine", "guest", "convert", "limits", "rules"):
                if getattr(switched, key) != getattr(plain, key):
                    break
            else:
                pytest.fail(f"{switch} changes nothing but its name")

    def test_all_know_the_same_rules(self, name):
        assert set(load(name).rules) == set(load("base").rules)


def test_formats_are_called_as_the_detector_calls_them():
    beyond = {"raw", "iso", "ploop", "ami", "aki", "ari", "zvhd", "zvhd2", "oci", "gce-tar"}
    assert set(FORMATS) - beyond <= set(KNOWN)


def test_tencent_is_complete():
    cvm = load("tencent-cvm")
    assert cvm.image.formats == ("raw", "vhd", "qcow2", "vmdk")
    assert (cvm.size.max_virtual, cvm.size.warn_virtual) == (500 * GIB, 500 * 10**9)
    assert (cvm.size.max_qcow2, cvm.size.warn_qcow2) == (50 * GIB, 50 * 10**9)
    assert cvm.machine.architectures == ("x86_64", "i386", "arm64")
    assert cvm.machine.boot == ("bios", "uefi")
    assert cvm.guest.datasources == ("ConfigDrive",)
    assert {cvm.error_code(rule) for rule in ("container-format-allowed", "size-virtual-max", "size-actual-max")} == {
        "InvalidFormatSize"
    }
    assert cvm.error_code("kernel-virtio-config") == cvm.error_code("win-virtio-blk-driver") == "VirtioNotInstall"
    assert cvm.error_code("agent-cloud-init-installed") == "CloudInitNotInstalled"
    assert cvm.error_code("partition-table-present") == "PartitionNotPresent"
    assert cvm.error_code("partition-root-found") == "RootPartitionNotFound"
    assert cvm.error_code("net-dhcp") is None


def test_tencent_gpt_is_a_warning_for_linux_and_refused_for_windows_and_by_the_strict_pages():
    plain, strict = load("tencent-cvm"), load("tencent-cvm+strict-docs")
    assert plain.severity("partition-table-type") == "W"
    assert plain.severity("partition-table-type", windows=True) == "B"
    assert strict.severity("partition-table-type") == "B"
    assert strict.machine.boot == ("bios",)


def test_tencent_forced_import_takes_an_iso_and_no_agent():
    plain, forced = load("tencent-cvm"), load("tencent-cvm", ["force"])
    assert "iso" in forced.image.formats
    assert "iso" not in plain.image.formats
    assert (plain.severity("container-not-iso"), forced.severity("container-not-iso")) == ("B", "W")
    assert forced.severity("agent-cloud-init-installed") == "W"
    assert not plain.asks("agent-force-script")
    assert forced.asks("agent-force-script")


def test_a_rule_that_nobody_has_heard_of_is_asked_without_weight():
    assert load("aws").severity("no-such-rule") is None
    assert load("aws").asks("no-such-rule")


def test_other_numbers():
    assert load("azure").size.align == 1 << 20
    assert load("azure").image.subformats["vhd"] == ("fixed",)
    assert load("azure+gen1").size.max_virtual == 2048 * GIB
    assert load("gcp").size.align == GIB
    assert load("gcp").convert.package == "gce-tar"
    assert load("aws").size.max_virtual == 16 << 40
    assert load("oci").size.max_virtual == 400 * GIB
    assert load("ibm").size.max_virtual == 250 * GIB
    assert load("ibm").image.lower_case_extension
    assert load("digitalocean").size.max_virtual == 100 * GIB
    assert not load("digitalocean").guest.windows
    assert load("scaleway").machine.boot == ("uefi",)
    assert load("alibaba").machine.arm64_boot == ("uefi",)
    assert load("huawei").size.max_file == 128 * GIB


def test_marketplace_extends_azure():
    market = load("azure-marketplace")
    assert market.size.align == 1 << 20
    assert market.virtual_limits(windows=True) == (30 * 10**9, 250 * GIB)
    assert market.virtual_limits(windows=False) == (10**9, 1023 * GIB)
    assert market.virtual_limits() == (20 << 20, 32767 * GIB)
    assert market.severity("swap-on-os-disk") == "B"
    assert market.limits["first-partition-lba-min"] == 2048
    assert market.severity("initramfs-hyperv") == "X"


@pytest.fixture
def own(tmp_path):
    def write(text: str, name: str = "my.toml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_own_file_extends_and_overrides(own):
    profile = load(own('extends = "azure"\n[size]\nmax-virtual = 1048576\n[rules]\nfs-clean = "B"\nnet-dhcp = "-"\n'))
    assert profile.name == "my"
    assert profile.size.max_virtual == 1048576
    assert profile.size.align == 1 << 20
    assert profile.severity("fs-clean") == "B"
    assert profile.severity("net-dhcp") is None
    assert not profile.asks("net-dhcp")
    assert profile.source("size.max-virtual") is None


def test_own_file_without_extends_starts_from_the_base(own):
    assert load(own('title = "mine"')).rules == load("base").rules


def test_own_file_extends_another_beside_it_and_takes_switches(own):
    own('extends = "tencent-cvm"\n[convert]\nto = "raw"\n', "lower.toml")
    path = own('extends = "./lower.toml"\n[switches.big]\nabout = "more"\n[switches.big.size]\nmax-virtual = 5\n')
    profile = load(f"{path}+big+force")
    assert profile.convert.to == "raw"
    assert profile.size.max_virtual == 5
    assert "iso" in profile.image.formats
    assert list(profile.switches) == ["strict-docs", "force", "migration", "big"]


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("[size]\nmax-virtul = 5", "size.max-virtul", "max-virtual"),
        ("[size]\nmax-virtual = -5", "size.max-virtual", "a whole number above zero"),
        ("[size]\nmax-virtual = true", "size.max-virtual", "a whole number above zero"),
        ('[size]\nmax-virtual = "5G"', "size.max-virtual", "a whole number above zero"),
        ("[size]\nmax-virtual = 1e9", "size.max-virtual", "a whole number above zero"),
        ('[image]\nformats = ["vpc"]', "image.formats", "vhd"),
        ('[image]\nformats = "vhd"', "image.formats", "square brackets"),
        ('[image]\nformats = ["vhd", "vhd"]', "image.formats", "without repetitions"),
        ('[image.subformats]\nvhd = ["thick"]', "image.subformats", "fixed"),
        ('[image.subformats]\nvdi = ["x"]', "image.subformats", "vmdk"),
        ('[machine]\nboot = ["efi"]', "machine.boot", "uefi"),
        ('[guest]\nwindows = "no"', "guest.windows", "true or false"),
        ('[guest]\nagents = [""]', "guest.agents", "text in quotes"),
        ('[convert]\nto = "vhdx"', "convert.to", "vhd:fixed"),
        ("[limits]\nclient-alive = 1", "limits.client-alive", "client-alive-max"),
        ('[rules]\nfs-clean = "Z"', "rules.fs-clean.severity", "B, X, W, A, '-'"),
        ('[rules]\nfs-claen = "X"', "rules.fs-claen", "fs-clean"),
        ('[rules]\nfs-clean = { severty = "X" }', "rules.fs-clean.severty", "severity"),
        ('[rules]\nfs-clean = { severity = "X", windows = "-" }', "rules.fs-clean.windows", "B, X, W, A"),
        ('[rules]\nfs-clean = { severity = "X", error = 5 }', "rules.fs-clean.error", "text"),
        ("[rules]\nfs-clean = 5", "rules.fs-clean", "a table"),
        ('[size]\nsource = "nowhere"\nalign = 1', "size.source", "sources"),
        ('[size]\nalign = { value = 1, source = "nowhere" }', "size.align", "sources"),
        ('[sources]\na = "page"', "sources.a", "date"),
        ('[sources]\na = { title = "x", date = 2026 }', "sources.a", "text"),
        ("[sizes]\nalign = 1", "sizes", "size"),
        ("size = 5", "size", "a table"),
        ("title = 5", "title", "text"),
        ("extends = 5", "extends", "azure"),
        ("[switches.a.sice]\nalign = 1", "switches.a.sice", "size"),
        ("[switches.a]\nabout = 1", "switches.a.about", "text"),
    ],
)
def test_wrong_file_names_file_key_and_what_is_allowed(own, text, key, allowed):
    path = own(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert path in caught.value.message
    assert f" {key}: " in caught.value.message
    assert allowed in (caught.value.remedy or "")


def test_wrong_switch_value_is_told_when_the_switch_is_on(own):
    path = own("[switches.a.size]\nalign = 0\n")
    with pytest.raises(UsageError, match=r"size\.align"):
        load(path, ["a"])


@pytest.mark.parametrize("wanted", ["azur", "", "../azure", "base.toml", "azure+gen3", "/nonexistent/x.toml"])
def test_what_does_not_exist_is_a_usage_error(wanted):
    with pytest.raises(UsageError):
        load(wanted)


def test_unknown_names_and_switches_list_those_that_exist():
    with pytest.raises(UsageError) as caught:
        load("azur")
    assert "azure-marketplace" in (caught.value.remedy or "")
    with pytest.raises(UsageError) as caught:
        load("azure+gen3")
    assert "gen1, gen2" in (caught.value.remedy or "")


def test_extends_in_a_circle_or_too_deep_is_refused(own, tmp_path):
    own('extends = "./b.toml"', "a.toml")
    own('extends = "./a.toml"', "b.toml")
    with pytest.raises(UsageError, match="cannot extend itself"):
        load(str(tmp_path / "a.toml"))
    for number in range(20):
        own(f'extends = "./{number + 1}.toml"', f"{number}.toml")
    with pytest.raises(UsageError, match="nor more than"):
        load(str(tmp_path / "0.toml"))


def test_extends_what_does_not_exist_names_the_file(own):
    path = own('extends = "azur"')
    with pytest.raises(UsageError, match="azur") as caught:
        load(path)
    assert path in caught.value.message


def test_what_is_not_toml_or_too_large_is_refused(own, tmp_path):
    with pytest.raises(UsageError, match="not TOML"):
        load(own("a = ["))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not TOML"):
        load(str(tmp_path / "binary.toml"))
    with pytest.raises(UsageError, match="at most"):
        load(own("#" * (2 << 20)))
    with pytest.raises(UsageError, match="not TOML"):
        load(own("a = " + "[" * 100_000))


@given(st.text(alphabet='[]={}",.-x12\n source', max_size=60))
def test_any_text_is_a_profile_or_a_usage_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    Path(path).write_text(text)
    try:
        load(str(path))
    except UsageError as error:
        assert str(path) in error.message
