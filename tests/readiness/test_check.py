"""The check of whole images: what the container says, what the guest shows, and that nothing unknown passes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diskfmt
from diskfmt.readiness.model import Status, Verdict
from diskfmt.readiness.profiles import load
from diskfmt.readiness.rules import RULES

MIB = 1 << 20


def verdicts(report):
    return {found.rule: found.verdict for found in report.findings}


@pytest.fixture
def disk(tmp_path: Path, qemu_img: str) -> Path:
    """An empty disk with an MBR."""
    path = tmp_path / "vm.qcow2"
    raw = tmp_path / "vm.raw"
    sector = bytearray(512)
    sector[446:462] = bytes.fromhex("80202100 83feffff 00080000 00080000")
    sector[510:] = b"\x55\xaa"
    raw.write_bytes(bytes(sector) + bytes(4 * MIB - 512))
    subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    return path


def test_rule_that_nobody_wrote_is_unknown_and_not_ready(disk):
    report = diskfmt.check_readiness(disk, profile="tencent-cvm")
    profile = load("tencent-cvm")
    missing = {rule for rule in profile.rules if profile.severity(rule) in ("B", "X")} - set(RULES)
    missing = {rule for rule in missing if not rule.startswith("win-")}
    told = verdicts(report)
    assert all(told[rule] is Verdict.UNKNOWN for rule in missing)
    assert report.ready is not bool(missing)
    assert (report.status is Status.UNKNOWN) == bool(missing)


def test_format_that_the_cloud_does_not_take_is_cured_by_a_conversion(disk):
    found = {one.rule: one for one in diskfmt.check_readiness(disk, profile="azure").findings}
    assert found["container-format-allowed"].verdict is Verdict.FAIL
    assert found["container-format-allowed"].cured
    assert found["container-format-allowed"].remedy == "diskfmt convert -O vhd:fixed IMAGE TARGET"


def test_size_limits_are_those_of_the_profile(tmp_path, qemu_img):
    path = tmp_path / "big.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", path, "501G"], check=True)
    told = {one.rule: one for one in diskfmt.check_readiness(path, profile="tencent-cvm").findings}
    assert told["size-virtual-max"].verdict is Verdict.FAIL
    assert told["size-virtual-max"].error_code == "InvalidFormatSize"


def test_backing_file_fails_and_nothing_is_opened(tmp_path, qemu_img):
    path = tmp_path / "top.qcow2"
    words = [qemu_img, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path, "1M"]
    subprocess.run(words, check=True)
    report = diskfmt.check_readiness(path, profile="generic-kvm")
    assert verdicts(report)["safety-backing-file"] is Verdict.FAIL
    assert report.status is Status.REFUSED


def test_waived_rule_must_exist(disk):
    with pytest.raises(diskfmt.UsageError, match="no rule"):
        diskfmt.check_readiness(disk, profile="aws", waive=["container-formt-allowed"])


def test_command_gives_every_form(disk, tmp_path):
    base = [sys.executable, "-m", "diskfmt", "ready", "--for", "aws", str(disk)]
    page = tmp_path / "page.html"
    human = subprocess.run([*base, "--html", str(page)], capture_output=True, text=True, check=False)
    assert (human.returncode, human.stderr) == (1, "")
    assert human.stdout.startswith(f"{disk} for aws: the cloud will refuse it")
    assert page.read_text().startswith("<!doctype html>")
    document = json.loads(subprocess.run([*base, "--output", "json"], capture_output=True, check=False).stdout)
    assert document["status"] == "refused"
    sarif = json.loads(subprocess.run([*base, "--output", "sarif"], capture_output=True, check=False).stdout)
    assert sarif["runs"][0]["properties"]["status"] == "refused"
    junit = subprocess.run([*base, "--output", "junit"], capture_output=True, text=True, check=False).stdout
    assert "<testsuite" in junit


def test_profiles_and_rules_are_explained():
    def shown(*words):
        done = subprocess.run([sys.executable, "-m", "diskfmt", *words], capture_output=True, text=True, check=True)
        return done.stdout

    assert "tencent-cvm" in shown("profiles")
    assert "size.max-virtual: 536870912000" in shown("profiles", "tencent-cvm")
    assert "container-format-allowed" in shown("rules")
    assert "tencent-cvm: B, the import is refused" in shown("rules", "container-format-allowed")


@pytest.mark.parametrize(
    "case_id",
    [
        "guest-debian12-mbr-ext4-qcow2c",
        "guest-centos7-boot-xfs-lvm-vmdkso",
        "guest-fedora39-btrfs-qcow2",
        "guest-win2019-gpt-uefi",
        "guest-ubuntu2204-gpt-hybridboot-vhddyn",
        "guest-debian12-extended-part",
    ],
)
def test_system_of_a_corpus_guest_is_seen(corpus, case_id):
    report = diskfmt.check_readiness(corpus.path(case_id), profile="generic-kvm", follow="pieces")
    name = {"debian12": "Debian", "centos7": "CentOS", "fedora39": "Fedora", "win2019": "2019", "ubuntu2204": "Ubuntu"}
    assert name[case_id.split("-")[1]] in str(report.summary["system"])
    assert report.bytes_read <= 64 * MIB
    assert not [found for found in report.findings if "the rule failed" in found.message]
