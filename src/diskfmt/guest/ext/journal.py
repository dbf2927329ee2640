"""What an unclean file system's journal holds and its blocks do not yet: read as the kernel would replay it.

The guest replays its journal before it reads a single file, so what counts is what it finds then. Nothing is written:
blocks that have a newer copy in the journal are read from there. Source: ext4 doc, "Journal (jbd2)", and
fs/jbd2/recovery.c.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from diskfmt.guest.base import BudgetError, DamagedError, UnsupportedError
from diskfmt.guest.ext.crc import crc32c
from diskfmt.guest.ext.inodes import Blocks, Inode
from diskfmt.guest.ext.mapping import runs

MAGIC: Final = b"\xc0\x3b\x39\x98"
_HEADER: Final = Struct(">4sII")
_DESCRIPTOR: Final = 1
_COMMIT: Final = 2
_REVOKE: Final = 5
_BITS64: Final = 0x2
_CSUM_V2: Final = 0x8
_CSUM_V3: Final = 0x10
_FAST_COMMIT: Final = 0x20
_KNOWN: Final = 0x1 | _BITS64 | 0x4 | _CSUM_V2 | _CSUM_V3 | _FAST_COMMIT
_ESCAPED: Final = 1
_SAME_UUID: Final = 2
_LAST: Final = 8
_MAX_COPIES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A newer copy of a block: its number in the file system, and what it must be. `checksum` None: not checked."""

    place: int
    escaped: bool
    sequence: int
    checksum: int | None


class Journal:
    """The copies that count, by the number of the block that they replace."""

    def __init__(self, blocks: Blocks, inode: Inode, *, checked: bool) -> None:
        self._blocks = blocks
        size = blocks.size
        self._runs = list(runs(blocks, inode, 0, inode.size // size, checked=checked))
        self._starts = [run.first for run in self._runs]
        head = blocks.read(self._place(0))
        magic, kind, _ = _HEADER.unpack_from(head)
        if magic != MAGIC or kind not in {3, 4} or _u32(head, 12) != size:
            raise DamagedError("the journal has no superblock")
        self._first, self._end = _u32(head, 20), _u32(head, 16)
        self._incompat = _u32(head, 40) if kind == 4 else 0
        if self._incompat & ~_KNOWN:
            raise UnsupportedError(f"journal feature {self._incompat & ~_KNOWN:#x}")
        self._seed = crc32c(head[48:64])
        self._summed = bool(self._incompat & (_CSUM_V2 | _CSUM_V3))
        if self._summed and crc32c(head[:252] + bytes(4) + head[256:1024]) != _u32(head, 252):
            raise DamagedError("checksum of the journal's superblock is wrong")
        fast = (_u32(head, 84) or 256) if self._incompat & _FAST_COMMIT else 0
        self._end -= fast
        if not 1 <= self._first < self._end <= inode.size // size:
            raise DamagedError("the journal makes no sense")
        start, sequence = _u32(head, 28), _u32(head, 24)
        self.copies: dict[int, Copy] = {}
        if start:
            if not self._first <= start < self._end:
                raise DamagedError("the journal begins outside itself")
            sequence = self._collect(start, sequence)
        if fast and self._is_fast(sequence):
            raise UnsupportedError("fast_commit")

    def read(self, copy: Copy) -> bytes:
        """The contents of a copy. Raises DamagedError."""
        data = self._blocks.read(copy.place)
        if copy.checksum is not None:
            crc = crc32c(data, crc32c(copy.sequence.to_bytes(4, "big"), self._seed))
            mask = 0xFFFFFFFF if self._incompat & _CSUM_V3 else 0xFFFF
            if crc & mask != copy.checksum:
                raise DamagedError("checksum of a block in the journal is wrong", offset=copy.place * self._blocks.size)
        return MAGIC + data[4:] if copy.escaped else data

    def _place(self, number: int) -> int:
        """The file system's block that holds a block of the journal."""
        index = bisect_right(self._starts, number) - 1
        run = self._runs[index] if index >= 0 else None
        if run is None or run.place is None or number >= run.first + run.count:
            raise DamagedError("the journal has a hole")
        return run.place + number - run.first

    def _collect(self, at: int, sequence: int) -> int:
        """Take the copies of all transactions that were finished; the number of the first that was not."""
        finished: list[tuple[int, dict[int, Copy]]] = []
        revoked: dict[int, int] = {}
        copies: dict[int, Copy] = {}
        revokes: list[int] = []
        count = total = 0
        while count <= self._end - self._first:  # each block is looked at once: a full ring ends
            block = self._blocks.read(self._place(at))
            magic, kind, number = _HEADER.unpack_from(block)
            if magic != MAGIC or number != sequence or not self._is_whole(block, kind):
                break
            at, count = self._after(at, 1), count + 1
            if kind == _DESCRIPTOR:
                for target, escaped, checksum in self._tags(block):
                    copies[target] = Copy(self._place(at), escaped, sequence, checksum)
                    at, count, total = self._after(at, 1), count + 1, total + 1
                if total > _MAX_COPIES:
                    raise BudgetError("the journal has too many blocks")
            elif kind == _REVOKE:
                revokes += self._revokes(block)
            elif kind == _COMMIT:
                finished.append((sequence, copies))
                revoked.update(dict.fromkeys(revokes, sequence))
                copies, revokes = {}, []
                sequence = sequence + 1 & 0xFFFFFFFF
            else:
                break
        for number, made in finished:
            for target, copy in made.items():
                # A revoke counts for its own transaction too, and for all before it.
                if target not in revoked or (number - revoked[target] & 0xFFFFFFFF) - 1 < 0x7FFFFFFF:
                    self.copies[target] = copy
        return sequence

    def _after(self, at: int, count: int) -> int:
        at += count
        return at if at < self._end else at - self._end + self._first

    def _is_whole(self, block: bytes, kind: int) -> bool:
        """Whether a block's own checksum is right; what was being written when the machine stopped is not."""
        if not self._summed:
            return True
        place = 16 if kind == _COMMIT else len(block) - 4
        blank = block[:place] + bytes(4) + block[place + 4 :]
        return crc32c(blank, self._seed) == _u32(block, place)

    def _tags(self, block: bytes) -> Iterator[tuple[int, bool, int | None]]:
        """Number, whether escaped, and checksum of each block that follows a descriptor."""
        v3, v2, wide = (bool(self._incompat & bit) for bit in (_CSUM_V3, _CSUM_V2, _BITS64))
        size = 16 if v3 else 8 + 4 * wide + 2 * v2
        at, end = 12, len(block) - (4 if self._summed else 0)
        while at + size <= end:
            number = _u32(block, at)
            flags = _u32(block, at + 4) if v3 else int.from_bytes(block[at + 6 : at + 8], "big")
            if wide:
                number |= _u32(block, at + 8) << 32
            checksum = None
            if v3:
                checksum = _u32(block, at + 12)
            elif v2:
                checksum = int.from_bytes(block[at + 4 : at + 6], "big")
            yield number, bool(flags & _ESCAPED), checksum
            at += size + (0 if flags & _SAME_UUID else 16)
            if flags & _LAST:
                return

    def _revokes(self, block: bytes) -> Iterator[int]:
        size = 8 if self._incompat & _BITS64 else 4
        end = min(_u32(block, 12), len(block) - (4 if self._summed else 0))
        for at in range(16, end - size + 1, size):
            yield int.from_bytes(block[at : at + size], "big")

    def _is_fast(self, sequence: int) -> bool:
        """Whether a fast commit follows: it describes changes, not blocks (ext4 doc, "Fast commits")."""
        block = self._blocks.read(self._place(self._end))
        return block[:2] == b"\x09\0" and int.from_bytes(block[8:12], "little") == sequence


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "big")
