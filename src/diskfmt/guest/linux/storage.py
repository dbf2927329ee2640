"""How LVM finds its disks: lvm.conf(5), lvmdevices(8); and the start of multipath.conf(5)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import BudgetError
from diskfmt.guest.linux.text import decode, significant

_MAX_TOKENS: Final = 100_000
_PUNCTUATION: Final = b"{}[]=,"


def _tokens(data: bytes) -> Iterator[tuple[str, bool]]:
    """(token, whether it was quoted) of LVM's configuration language."""
    at, count = 0, 0
    while at < len(data):
        byte = data[at]
        count += 1
        if count > _MAX_TOKENS * 8:
            raise BudgetError("more of a configuration than LVM's has")
        if byte in b" \t\r\n":
            at += 1
        elif byte == 0x23:
            stop = data.find(b"\n", at)
            at = len(data) if stop < 0 else stop
        elif byte == 0x22:
            stop = at + 1
            while stop < len(data) and data[stop] != 0x22:
                stop += 2 if data[stop] == 0x5C else 1
            yield decode(data[at + 1 : stop]).replace('\\"', '"').replace("\\\\", "\\"), True
            at = stop + 1
        elif byte in _PUNCTUATION:
            yield chr(byte), False
            at += 1
        else:
            stop = at
            while stop < len(data) and data[stop] not in b' \t\r\n#"{}[]=,':
                stop += 1
            yield decode(data[at:stop]), False
            at = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class LvmConf:
    """The settings that decide which disks LVM looks at. None: the default."""

    filter: tuple[str, ...] | None = None
    global_filter: tuple[str, ...] | None = None
    use_devices_file: bool | None = None

    def accepts(self, device: str) -> bool | None:
        """Whether the filters let a device name through; None where a pattern is more than a prefix.

        Patterns are `a|REGEX|` and `r|REGEX|`, the first that fits decides, none means yes.
        """
        verdicts = [
            _filtered(patterns, device) for patterns in (self.global_filter, self.filter) if patterns is not None
        ]
        if False in verdicts:
            return False
        return None if None in verdicts else True


def _filtered(patterns: tuple[str, ...], device: str) -> bool | None:
    for pattern in patterns:
        if len(pattern) < 3 or pattern[0] not in "ar":
            return None
        fits = _fits(pattern[2:].rstrip(pattern[1] if pattern[1] not in "({[" else ")}]"), device)
        if fits is None:
            return None
        if fits:
            return pattern[0] == "a"
    return True


def _fits(expression: str, device: str) -> bool | None:
    """Whether a simple expression occurs in a name: text, `^` in front, `$` and `.*` behind. None: not simple."""
    text = expression.removeprefix("^")
    anchored = text != expression
    ended = text.endswith("$") and not text.endswith(".*$")
    text = text.removesuffix("$")
    while text.endswith((".*", "/*")):
        text = text[:-2] if text.endswith(".*") else text[:-1]
    text = text.removeprefix(".*")
    if any(letter in "*+?[](){}|\\^$" for letter in text):
        return None
    if ended:
        return device == text if anchored else device.endswith(text)
    return device.startswith(text) if anchored else text in device


def parse_lvm(data: bytes) -> LvmConf:
    """The devices section of lvm.conf. Raises BudgetError."""
    section: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    before, name, listing = "", "", False
    for piece, quoted in _tokens(data):
        if not quoted and piece in ("{", "}"):
            if piece == "{":
                section.append(before)
            elif section:
                section.pop()
            name = ""
        elif not quoted and piece == "=":
            name = "/".join([*section, before])
            values[name] = ()
        elif not quoted and piece in ("[", "]"):
            listing = piece == "["
        elif name and (listing or not values[name]) and (quoted or piece != ","):
            values[name] = (*values[name], piece)[:1000]
        if not listing:
            before = piece
    devices_file = values.get("devices/use_devicesfile")
    return LvmConf(
        filter=values.get("devices/filter"),
        global_filter=values.get("devices/global_filter"),
        use_devices_file=None if not devices_file else devices_file[0] == "1",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LvmDevice:
    """A line of system.devices: what identifies a disk (`sys_serial`, `sys_wwid` …) and the UUID of its PV."""

    id_type: str
    id_name: str
    device: str
    pv: str
    line: int


def parse_devices(data: bytes) -> tuple[LvmDevice, ...]:
    """The disks of LVM's devices file."""
    found = []
    for number, line in significant(data):
        pairs = dict(decode(word).split("=", 1) for word in line.split() if b"=" in word)
        if "IDTYPE" in pairs:
            found.append(
                LvmDevice(
                    id_type=pairs["IDTYPE"],
                    id_name=pairs.get("IDNAME", ""),
                    device=pairs.get("DEVNAME", ""),
                    pv=pairs.get("PVID", ""),
                    line=number,
                )
            )
    return tuple(found)
