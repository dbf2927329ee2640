"""The corpus' guests, their trees taken out by the file systems' own tools: what the manifest says must come out."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from images import Corpus

from diskfmt.guest.fact import Known
from diskfmt.guest.linux.facts import LinuxFacts, gather, is_linux
from guest.linux.trees import Host

SECTOR = 512


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def partitions(raw: Path) -> list[int]:
    """Where the partitions begin, in bytes; 0 for a disk without a table."""
    done = subprocess.run(["sfdisk", "--json", str(raw)], capture_output=True, text=True, check=False)
    if done.returncode:
        return [0]
    return [entry["start"] * SECTOR for entry in json.loads(done.stdout)["partitiontable"]["partitions"]]


def ext_tree(raw: Path, offset: int, target: Path) -> bool:
    """All files of an ext file system; False where there is none."""
    target.mkdir()
    done = subprocess.run(
        ["debugfs", "-R", f"rdump / {target}", f"{raw}?offset={offset}"], capture_output=True, text=True, check=False
    )
    return "Bad magic" not in done.stderr and any(target.iterdir())


def btrfs_tree(raw: Path, offset: int, target: Path) -> bool:
    """All files of a Btrfs file system."""
    part = target.with_suffix(".part")
    with raw.open("rb") as source, part.open("wb") as sink:
        source.seek(offset)
        shutil.copyfileobj(source, sink)
    target.mkdir()
    done = subprocess.run(
        ["btrfs", "restore", "-s", "-m", "-S", str(part), str(target)], capture_output=True, text=True, check=False
    )
    part.unlink()
    return done.returncode == 0 and any(target.iterdir())


def facts_of(corpus: Corpus, case: str, tmp_path: Path) -> LinuxFacts:
    need("qemu-img", "sfdisk", "debugfs")
    raw = tmp_path / "disk.raw"
    source = Path(corpus.path(case))
    names = {"qcow2": "qcow2", "vhd": "vpc", "vmdk": "vmdk", "raw": "raw"}
    form = names[corpus.cases[case]["format"]]
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", str(source), str(raw)], check=True)
    trees = []
    for number, offset in enumerate(partitions(raw)):
        target = tmp_path / f"p{number}"
        found = ext_tree(raw, offset, target)
        if not found and "btrfs" in case:
            need("btrfs")
            shutil.rmtree(target)
            found = btrfs_tree(raw, offset, target)
        if found:
            trees.append(target)
    raw.unlink()
    # Fedora's root is a subvolume.
    tops = [top for tree in trees for top in (tree, tree / "root") if (top / "etc").is_dir()]
    assert len(tops) == 1
    for tree in trees:
        boot = tops[0] / "boot"
        if (tree / "grub").is_dir() or (tree / "grub2").is_dir() or list(tree.glob("vmlinuz*")):
            shutil.copytree(tree, boot, dirs_exist_ok=True, symlinks=True)
    return gather(Host(tops[0]))


CASES = [
    "guest-debian12-badfstab",
    "guest-debian12-extended-part",
    "guest-debian12-mbr-ext4-qcow2c",
    "guest-debian12-wholedisk-ext4",
    "guest-ubuntu2204-gpt-hybridboot-vhddyn",
    "guest-fedora39-btrfs-qcow2",
]


def known(fact: Any) -> Any:
    assert isinstance(fact, Known), fact
    return fact.value


@pytest.mark.parametrize("case", CASES)
def test_what_the_manifest_says(case: str, corpus: Corpus, tmp_path: Path) -> None:
    truth = corpus.cases[case]["facts"]
    facts = facts_of(corpus, case, tmp_path)
    assert is_linux(facts.root)
    release = known(facts.release)
    assert release is not None
    assert release.distro + release.major + (release.minor if release.distro == "ubuntu" else "") == truth["os"]
    assert known(facts.kernel_version) == truth["kernel"]
    entry = known(facts.boot).entry
    assert entry is not None
    assert entry.arg("root") == truth["root_arg"]
    assert known(facts.boot).kernel is not None
    path = known(facts.initramfs_path)
    assert path is not None
    assert path.endswith(truth["initramfs"])
    inside = known(facts.initramfs)
    assert inside.parts[-1].compression.startswith(
        {"gz": "gzip"}.get(truth["initramfs_compression"], truth["initramfs_compression"])
    )
    modules = inside.modules.get(truth["kernel"], frozenset())
    assert ("virtio_blk" in modules) is truth["virtio_in_initramfs"]
    disk = known(facts.modules)
    assert ("virtio_blk" in disk.builtin) is truth["virtio_builtin"]
    assert ("virtio_blk" in disk.files) is truth["virtio_modules_on_disk"]
    fstab = facts.root.read("/etc/fstab").decode()
    assert fstab == truth["fstab"]
    assert len(known(facts.fstab).mounts) == len([line for line in fstab.splitlines() if line.strip()])
    network = known(facts.network)
    assert bool(network.dhcp) is (truth["network"] == "dhcp")
    assert bool(network.static) is (truth["network"] == "static")
    assert any("persistent" in rule.source for rule in network.names) is truth["persistent_net_rules"]
    cloud = known(facts.cloud_init)
    packages = facts.packages
    by_package = (
        isinstance(packages, Known) and packages.value is not None and packages.value.get("cloud-init") is not None
    )
    assert (cloud.installed or by_package or bool(cloud.files)) is truth["cloud_init"]
    assert (known(facts.security).sshd.program is not None) is truth["sshd"]
