"""Everything that rules may ask about an image: one frozen record, each value known or unknown with a reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diskfmt.errors import Finding
from diskfmt.formats.base import Image
from diskfmt.guest.base import FsInfo
from diskfmt.guest.fact import Fact, Known
from diskfmt.guest.linux.facts import LinuxFacts
from diskfmt.guest.partitions import Table
from diskfmt.guest.volumes import VolumeTree
from diskfmt.guest.windows.facts import WindowsFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """The file itself.

    `suffix`: of the name, lower and upper case kept (`.qcow2`). `claims`: names of everything that the detectors saw.
    `image`: None where the file is no image that is read; `findings` then say why. `findings` are those of
    identification, header, gate and the format's check. `tail_only`: nothing but the last sector says what it is.
    """

    path: str
    suffix: str
    file_size: int
    claims: tuple[str, ...]
    image: Image | None
    findings: tuple[Finding, ...]
    tail_only: bool = False


def _nobody() -> Fact[tuple[str, ...]]:
    return Known(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One image, looked at. What has no operating system has neither `linux` nor `windows`.

    `table`: the partition table; `volumes`: what lies on the disk; both unknown where the disk could not be read.
    `file_systems`: what the superblocks say, by the volume's name. `system_volumes`: names of the volumes that hold an
    operating system. `needed_partitions`: numbers of those that the operating system needs (root, and what fstab
    mounts without nofail). `qcow2_size`: at most so many bytes has the qcow2 that the image becomes; exact, which takes
    a scan of the disk, where a quick answer from the map is above the limit that is asked with.
    """

    container: ContainerFacts
    table: Fact[Table]
    volumes: Fact[VolumeTree]
    file_systems: Mapping[str, Fact[FsInfo]] = field(default_factory=dict)
    linux: Fact[LinuxFacts | None]
    windows: Fact[WindowsFacts | None]
    system_volumes: Fact[tuple[str, ...]] = field(default_factory=_nobody)
    needed_partitions: frozenset[int] = frozenset()
    qcow2_size: Callable[[int], Fact[int]] = field(repr=False, compare=False)

    @property
    def is_windows(self) -> bool:
        """Whether a Windows is known to be on the disk."""
        return isinstance(self.windows, Known) and self.windows.value is not None
