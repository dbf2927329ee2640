"""The ext file systems of the corpus' guests: what the manifest says of their files."""

from pathlib import Path

import pytest
from images import Corpus, corpus_ids

from diskfmt.disk import open_disk
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.ext import ExtFileSystem
from diskfmt.guest.paths import Root
from diskfmt.guest.volumes import scan
from guest.kit import run

UUID = "UUID=5eed0000-0000-4000-8000-0000000000a1"  # the root of all guests that have one on ext4


@pytest.mark.parametrize("case", corpus_ids(set="guests"))
def test_guests(corpus: Corpus, case: str, tmp_path: Path, qemu_img: str) -> None:
    entry = corpus.cases[case]
    path = corpus.path(case)
    if entry.get("subformat") == "twoGbMaxExtentSparse":
        run(qemu_img, "convert", "-O", "raw", path, tmp_path / "raw")
        path = str(tmp_path / "raw")
    with open_disk(path) as disk:
        tree = scan(DiskDevice(disk))
        found = tree.find(UUID)
        if not (entry["facts"].get("root") or "").startswith("ext4"):
            assert found == ()
            return
        (root,) = found
        assert root.device is not None
        files = Root({"/": ExtFileSystem(root.device)})
        boot = tree.find("UUID=5eed0000-0000-4000-8000-0000000000a2")
        if boot and boot[0].device is not None:
            files = files.mounted({"/boot": ExtFileSystem(boot[0].device)})
        facts = entry["facts"]
        assert files.read_text("/etc/fstab") == facts["fstab"]
        newest = files.newest("/boot", "initrd.img-")
        assert newest == f"/boot/{facts['initramfs']}"
        assert files.exists(f"/boot/vmlinuz-{facts['kernel']}")
        assert files.names(f"/usr/lib/modules/{facts['kernel']}")
        assert "debian" in files.read_text("/etc/os-release").lower()
