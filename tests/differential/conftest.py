"""The shelf of disks and sources: each is made once, when a test first asks for it."""

import os
from dataclasses import dataclass

import pytest
from oracles import GuestDigest, digest_file
from oracles.readers import qemu_info

from differential.cases import Source
from differential.disks import DiskSpec, write_disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A source image, and what its guest disk holds."""

    path: str
    format: str
    guest: GuestDigest


class Shelf:
    """Disks and images of this worker."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._images: dict[tuple[DiskSpec, str], Image] = {}

    def raw(self, disk: DiskSpec) -> str:
        """The disk as a raw file."""
        folder = os.path.join(self._root, disk.name)
        path = os.path.join(folder, "disk.raw")
        if not os.path.exists(path):
            os.mkdir(folder)
            write_disk(disk, path)
        return path

    def image(self, disk: DiskSpec, source: Source) -> Image:
        """The disk in the format of a source."""
        key = (disk, source.name)
        if key not in self._images:
            self._images[key] = self._make(disk, source)
        return self._images[key]

    def _make(self, disk: DiskSpec, source: Source) -> Image:
        raw = self.raw(disk)
        guest = digest_file(raw)
        if source.format == "raw":
            return Image(path=raw, format="raw", guest=guest)
        path = os.path.join(os.path.dirname(raw), f"{source.name}.{source.format}")
        source.make(raw, path)
        if source.rounds:
            guest = GuestDigest(size=qemu_info(path, source.format)["virtual-size"], nz64k=guest.nz64k)
        return Image(path=path, format=source.format, guest=guest)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, qemu_img: str) -> Shelf:
    """Disks and images, made on demand."""
    return Shelf(str(tmp_path_factory.mktemp("shelf")))
