"""Whether the log was closed: the last record is the one that an unmount writes (chapter "Journaling Log")."""

import struct
from typing import Final

from diskfmt.guest.base import Device
from diskfmt.guest.xfs.superblock import Superblock

_BASIC: Final = 512
_MAGIC: Final = 0xFEEDBABE
_RECORD: Final = struct.Struct(">IIIIQQIII")
_OPERATION: Final = struct.Struct(">IIBBH")
_UNMOUNT: Final = 0x20
_CYCLES_PER_HEADER: Final = 32768
_MAX_BACK: Final = 1024  # a record has at most 256 KiB, its headers some more


def is_clean(device: Device, superblock: Superblock) -> bool | None:
    """False where the log has to be replayed; None where it is on another device.

    As the kernel decides it (xlog_find_head, xlog_check_unmount_rec), but without its repair of torn writes: those are
    not clean either.
    """
    if not superblock.log_start:
        return None
    log = _Log(
        device, superblock.block_offset(superblock.log_start), superblock.log_blocks * superblock.block // _BASIC
    )
    head = log.head()
    for back in range(1, min(_MAX_BACK, log.blocks) + 1):
        at = (head - back) % log.blocks
        raw = log.read(at)
        if int.from_bytes(raw[:4], "big") == _MAGIC:
            return log.is_unmount(at, raw, head)
    return False


class _Log:
    """A ring of 512-byte blocks; each begins with the number of the round in which it was written."""

    def __init__(self, device: Device, offset: int, blocks: int) -> None:
        self._device = device
        self._offset = offset
        self.blocks = blocks

    def read(self, block: int) -> bytes:
        return self._device.read_at(self._offset + block * _BASIC, _BASIC)

    def _cycle(self, block: int) -> int:
        first, second = struct.unpack_from(">II", self.read(block))
        return int(second if first == _MAGIC else first)

    def head(self) -> int:
        """The block that would be written next: the first that is not of the newest round."""
        newest, low, high = self._cycle(0), 0, self.blocks
        while high - low > 1:
            middle = (low + high) // 2
            if self._cycle(middle) == newest:
                low = middle
            else:
                high = middle
        return high % self.blocks

    def is_unmount(self, at: int, raw: bytes, head: int) -> bool:
        """Whether the record at a block is that of an unmount, and the last."""
        _, _, version, length, _, _, _, _, operations = _RECORD.unpack_from(raw)
        size = int.from_bytes(raw[320:324], "big")
        headers = max(1, -(-size // _CYCLES_PER_HEADER)) if version & 2 else 1
        if operations != 1 or (at + headers - (-length // _BASIC)) % self.blocks != head:
            return False
        _, _, _, flags, _ = _OPERATION.unpack_from(self.read((at + headers) % self.blocks))
        return bool(flags & _UNMOUNT)
