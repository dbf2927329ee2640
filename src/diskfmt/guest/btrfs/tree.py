"""Trees: nodes that are verified before they are believed, and items by key.

Levels go down by one with each step and keys up with each item, both checked: no pointer can lead in a circle.
"""

import struct
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from diskfmt.guest.base import DamagedError
from diskfmt.guest.btrfs.chunks import ChunkMap
from diskfmt.guest.btrfs.superblock import Superblock
from diskfmt.guest.checksums import ALGORITHMS

Key = tuple[int, int, int]  # object, type, offset

MAX_KEY: Final[Key] = ((1 << 64) - 1, 255, (1 << 64) - 1)
_MAX_LEVEL: Final = 7
_HEADER: Final = struct.Struct("<32s16sQQ16sQQIB")
_ITEM: Final = struct.Struct("<QBQII")
_POINTER: Final = struct.Struct("<QBQQQ")
_CACHED: Final = 256


@dataclass(frozen=True, slots=True)
class Root:
    """Where a tree starts: the logical address of its top node, that node's level and generation."""

    address: int
    level: int
    generation: int


@dataclass(frozen=True, slots=True)
class Node:
    """A verified node. A leaf has items (offset, size) into `raw`, others have pointers (address, generation)."""

    keys: list[Key]
    values: list[tuple[int, int]]
    raw: bytes


class Forest:
    """The nodes of all trees of a file system, the recent ones kept."""

    def __init__(self, superblock: Superblock, chunks: ChunkMap) -> None:
        self._super = superblock
        self._chunks = chunks
        self._kept: OrderedDict[tuple[int, int, int], Node] = OrderedDict()

    def items(self, root: Root, first: Key, last: Key = MAX_KEY) -> Iterator[tuple[Key, bytes]]:
        """The items with first <= key <= last, in order."""
        stack = [(self.node(root.address, root.level, root.generation), root.level, -1)]
        while stack:
            node, level, at = stack.pop()
            if level == 0:
                for index in range(bisect_left(node.keys, first), len(node.keys)):
                    if node.keys[index] > last:
                        return
                    offset, size = node.values[index]
                    yield node.keys[index], node.raw[offset : offset + size]
                continue
            at = max(bisect_right(node.keys, first) - 1, 0) if at < 0 else at
            if at >= len(node.keys) or node.keys[at] > last:
                continue
            stack.append((node, level, at + 1))
            stack.append((self._child(node, level, at), level - 1, -1))

    def find(self, root: Root, key: Key) -> bytes | None:
        """The item with this key, None where there is none."""
        return next((data for _, data in self.items(root, key, key)), None)

    def at_or_before(self, root: Root, key: Key) -> Key | None:
        """The last key that is not above `key`, None where all are."""
        node, level = self.node(root.address, root.level, root.generation), root.level
        while True:
            at = bisect_right(node.keys, key) - 1
            if at < 0:
                return None
            if level == 0:
                return node.keys[at]
            node, level = self._child(node, level, at), level - 1

    def _child(self, parent: Node, level: int, at: int) -> Node:
        address, generation = parent.values[at]
        child = self.node(address, level - 1, generation)
        behind = parent.keys[at + 1] if at + 1 < len(parent.keys) else None
        if child.keys[:1] != [parent.keys[at]] or (behind is not None and child.keys[-1] >= behind):
            raise DamagedError(f"the node at logical address {address} has keys that its parent does not expect")
        return child

    def node(self, address: int, level: int, generation: int) -> Node:
        """The node at a logical address. Raises DamagedError where it is not what its parent says."""
        key = (address, level, generation)
        node = self._kept.get(key)
        if node is not None:
            self._kept.move_to_end(key)
            return node
        if level > _MAX_LEVEL:
            raise DamagedError(f"a tree of {level} levels")
        raw = self._chunks.read(address, self._super.node_size, lambda data: self._is_good(data, address, generation))
        node = self._parse(raw, address, level)
        self._kept[key] = node
        if len(self._kept) > _CACHED:
            self._kept.popitem(last=False)
        return node

    def _is_good(self, raw: bytes, address: int, generation: int) -> bool:
        size, digest = ALGORITHMS[self._super.checksum]
        _, fsid, where, _, _, written, _, _, _ = _HEADER.unpack_from(raw)
        right = fsid == self._super.node_id and where == address and written == generation
        return bool(right and raw[:size] == digest(raw[32:]))

    @staticmethod
    def _parse(raw: bytes, address: int, level: int) -> Node:
        *_, count, own_level = _HEADER.unpack_from(raw)
        form = _POINTER if level else _ITEM
        area = raw[_HEADER.size :]
        if own_level != level or count * form.size > len(area):
            raise DamagedError(f"the node at logical address {address} makes no sense")
        keys: list[Key] = []
        values: list[tuple[int, int]] = []
        for oid, kind, offset, first, second in form.iter_unpack(area[: count * form.size]):
            keys.append((oid, kind, offset))
            values.append((first, second))
        sorted_keys = all(before < after for before, after in pairwise(keys))
        if not sorted_keys or (level and not keys):
            raise DamagedError(f"the node at logical address {address} is not in order")
        if not level:
            if any(offset + size > len(area) or offset < count * form.size for offset, size in values):
                raise DamagedError(f"an item of the node at logical address {address} lies outside")
            return Node(keys, values, area)
        return Node(keys, values, b"")
