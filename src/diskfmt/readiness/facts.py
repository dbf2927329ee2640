"""Everything that rules may ask about an image: one frozen record, each value known or unknown with a reason."""

from collections.abc import Callable
from dataclasses import dataclass, field

from diskfmt.errors import Finding
from diskfmt.formats.base import Image
from diskfmt.guest.fact import Fact, Known
from diskfmt.guest.linux.facts import LinuxFacts
from diskfmt.guest.partitions import PartitionTable
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One image, looked at. What has no operating system has neither `linux` nor `windows`.

    `table`: the partition table; `volumes`: what lies on the disk; both unknown where the disk could not be read.
    `qcow2_size` scans the disk for zeroes when it is called, and remembers: bytes of the qcow2 that the image becomes.
    """

    container: ContainerFacts
    table: Fact[PartitionTable]
    volumes: Fact[VolumeTree]
    linux: Fact[LinuxFacts | None]
    windows: Fact[WindowsFacts | None]
    qcow2_size: Callable[[], Fact[int]] = field(repr=False)
    bytes_read: Callable[[], int] = field(repr=False)

    @property
    def is_windows(self) -> bool:
        """Whether a Windows is known to be on the disk."""
        return isinstance(self.windows, Known) and self.windows.value is not None
