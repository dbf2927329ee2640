r"""Services and drivers: how they start, and whether their file is there.

Source: Microsoft, HKLM\SYSTEM\CurrentControlSet\Services (Type, Start, ImagePath). `StartOverride` is what Windows 8
and later write for storage drivers that did not start the machine: its value goes before `Start`.
"""

from dataclasses import dataclass
from typing import Final

from diskfmt.guest.fact import Fact, Known, Unknown
from diskfmt.guest.windows.files import Files, file_of
from diskfmt.guest.windows.registry import CurrentSet, look

BOOT: Final = 0
DISABLED: Final = 4
KERNEL_DRIVER: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service as the registry has it.

    `start`: 0 boot, 1 system, 2 automatic, 3 on demand, 4 disabled, None: not stated (then it never starts). `path`, on
    the system volume, and `file`, whether it is there.
    """

    name: str
    place: str
    type: int | None
    start: int | None
    start_override: int | None
    path: Fact[str]
    file: Fact[bool]

    @property
    def starts(self) -> int | None:
        """The start that counts: the override goes before `start`."""
        return self.start if self.start_override is None else self.start_override

    @property
    def problem(self) -> str | None:
        """Why a boot driver would not run, None: it would. Says nothing about a file that nobody could look for."""
        if self.type != KERNEL_DRIVER:
            return f"{self.name}: Type is {self.type}, not 1 (kernel driver)"
        if self.start is None:
            return f"{self.name}: there is no Start: the driver is only staged"
        if self.start != BOOT:
            return f"{self.name}: Start is {self.start}, not 0 (boot)"
        if self.start_override not in (None, BOOT):
            return f"{self.name}: StartOverride is {self.start_override}, so that Start 0 does not count"
        if isinstance(self.file, Known) and not self.file.value:
            where = self.path.value if isinstance(self.path, Known) else ""
            return f"{self.name}: its file {where} is missing"
        return None

    @property
    def boots(self) -> bool | None:
        """Whether it runs when the machine boots; None: it is not known whether its file is there."""
        if self.problem is not None:
            return False
        return True if isinstance(self.file, Known) else None


def service(current: CurrentSet, files: Files, name: str) -> Service | None:
    """The service with this name, None where there is none. Raises GuestError."""
    found = current.at(f"Services\\{name}")
    if found is None:
        return None
    override = found.below("StartOverride")
    image_path = found.text("ImagePath")
    path = look(lambda: Known(file_of(image_path, name), f"{found.place}: ImagePath"))
    return Service(
        name=name,
        place=found.place,
        type=found.number("Type"),
        start=found.number("Start"),
        start_override=override.number("0") if override is not None else None,
        path=path,
        file=path if isinstance(path, Unknown) else look(lambda: Known(files.exists(path.value), path.value)),
    )
