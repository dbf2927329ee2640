"""The formats, in the order in which they are shown. To add one: its folder and a line here."""

from typing import Final

from diskfmt.formats.base import Format
from diskfmt.formats.qcow2 import FORMAT as QCOW2
from diskfmt.formats.raw import FORMAT as RAW
from diskfmt.formats.vhd import FORMAT as VHD
from diskfmt.formats.vmdk import FORMAT as VMDK

FORMATS: Final[tuple[Format, ...]] = (RAW, QCOW2, VHD, VMDK)
