"""Distributions by their release files, and machines by their programs."""

import os
from pathlib import Path

import pytest
import yaml
from images import PROJECT

from diskfmt.guest.fact import Known
from diskfmt.guest.linux import elf
from diskfmt.guest.linux.facts import gather
from diskfmt.guest.linux.os_release import Release, identify
from guest.linux.trees import Host, Tree

TRUTHS = Path(os.environ.get("DISKFMT_OS_RELEASE", PROJECT.parent / "shared" / "os-release"))
if not TRUTHS.is_dir() and "DISKFMT_IMAGES" in os.environ:
    TRUTHS = Path(os.environ["DISKFMT_IMAGES"]).parent / "os-release"


def release(files: dict[str, str], *, sap: bool = False) -> Release | None:
    return identify({path: text.encode() for path, text in files.items()}, sap=sap)


@pytest.mark.skipif(not TRUTHS.is_dir(), reason="no truths of distributions (set DISKFMT_OS_RELEASE)")
def test_the_release_files_of_real_distributions() -> None:
    cases = sorted(TRUTHS.glob("*.yaml"))
    assert len(cases) > 50
    wrong = {}
    for case in cases:
        truth = yaml.safe_load(case.read_text())
        files = {path: (text or "").encode() for path, text in truth["files"].items()}
        found = gather(Tree(files)).release
        assert isinstance(found, Known)
        assert found.value is not None, case.name
        expected = truth["expected"]
        wanted = (str(expected["distro"]), str(expected["major"] or ""), str(expected["minor"] or "").lstrip("0") or "")
        got = (found.value.distro, found.value.major, found.value.minor.lstrip("0"))
        if got != wanted:
            wrong[case.name] = (got, wanted)
    assert not wrong


@pytest.mark.parametrize(
    "files, distro, version, family",
    [
        ({"/etc/os-release": 'ID="rocky"\nVERSION_ID="9.3"\nID_LIKE="rhel centos fedora"\n'}, "rocky", "9.3", "rhel"),
        ({"/etc/os-release": 'ID="almalinux"\nVERSION_ID="8.9"\n'}, "almalinux", "8.9", "rhel"),
        ({"/etc/os-release": "ID=debian\n", "/etc/debian_version": "trixie/sid\n"}, "debian", ".", "debian"),
        (
            {"/usr/lib/os-release": "ID=debian\nVERSION_ID='12'\n", "/etc/debian_version": "12.11\n"},
            "debian",
            "12.11",
            "debian",
        ),
        ({"/etc/os-release": "ID=alpine\nVERSION_ID=3.19.1\n"}, "alpine", "3.19", "alpine"),
        ({"/etc/alpine-release": "3.4.6\n"}, "alpine", "3.4", "alpine"),
        (
            {"/etc/os-release": 'ID="opensuse-tumbleweed"\nVERSION_ID="20240101"\nID_LIKE="opensuse suse"\n'},
            "opensuse-tumbleweed",
            "20240101.",
            "suse",
        ),
        (
            {"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n"},
            "sles",
            "11.4",
            "suse",
        ),
        ({"/etc/redhat-release": "CentOS release 5.11 (Final)\n"}, "centos", "5.11", "rhel"),
        ({"/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=8.04\n"}, "ubuntu", "8.04", "debian"),
        ({"/etc/arch-release": ""}, "arch", ".", "arch"),
        ({"/etc/os-release": 'ID=kylin\nVERSION_ID="V10"\n'}, "kylin", ".", "kylin"),
    ],
)
def test_others(files: dict[str, str], distro: str, version: str, family: str) -> None:
    found = release(files)
    assert found is not None
    assert (found.distro, f"{found.major}.{found.minor}", found.family) == (
        distro,
        version if "." in version else f"{version}.",
        family,
    )


def test_nothing_says_what_it_is() -> None:
    assert release({}) is None
    assert release({"/etc/os-release": "NAME=x\n", "/etc/redhat-release": "My Appliance 3\n"}) is None


def test_hostile_release_files() -> None:
    found = release({"/etc/os-release": 'ID="deb\x00ian\n$(reboot)`x`\nVERSION_ID="' + "9" * 5000 + '"\nID=debian\n'})
    assert found is not None
    assert found.distro == "debian"


def head(machine: int, *, bits: int = 2, order: int = 1) -> bytes:
    number = machine.to_bytes(2, "little" if order == 1 else "big")
    return b"\x7fELF" + bytes([bits, order, 1]) + bytes(9) + bytes(2) + number


@pytest.mark.parametrize(
    "data, name",
    [
        (head(62), "x86_64"),
        (head(3, bits=1), "i386"),
        (head(183), "aarch64"),
        (head(21), "ppc64le"),
        (head(21, order=2), "ppc64"),
        (head(22, order=2), "s390x"),
        (head(9999), "machine-9999"),
        (b"#!/bin/sh\n" + bytes(40), None),
        (b"\x7fELF", None),
        (b"\x7fELF" + bytes(30), None),
    ],
)
def test_machines(data: bytes, name: str | None) -> None:
    assert elf.machine(data) == name


def test_this_machine() -> None:
    found = gather(Host(Path("/")))
    arch = found.arch
    assert isinstance(arch, Known)
    assert arch.value == os.uname().machine
