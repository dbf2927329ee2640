"""The formats, in the order in which they are shown. To add one: its folder and a line here."""

from typing import Final

from diskfmt.errors import UsageError
from diskfmt.formats.base import Format
from diskfmt.formats.qcow2 import FORMAT as QCOW2
from diskfmt.formats.raw import FORMAT as RAW
from diskfmt.formats.vhd import FORMAT as VHD
from diskfmt.formats.vmdk import FORMAT as VMDK

FORMATS: Final[tuple[Format, ...]] = (RAW, QCOW2, VHD, VMDK)


def by_name(name: str) -> Format:
    """The format with this name or alias, in any case. Raises UsageError, listing those that exist."""
    for entry in FORMATS:
        if name.lower() in (entry.name, *entry.aliases):
            return entry
    raise UsageError(f"there is no format {name!r}", remedy=f"use one of {', '.join(entry.name for entry in FORMATS)}")
