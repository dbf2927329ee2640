"""YAML of a guest: PyYAML's reader that knows nothing but text, lists and mappings, with bounds.

No tag makes an object and no scalar a number or date: `true` stays the word. Aliases that multiply and documents of too
many or too deeply nested nodes are refused before anything is built.
"""

from typing import Final, TypeAlias

import yaml

from diskfmt.guest.base import BudgetError, DamagedError, UnsupportedError

Node: TypeAlias = "str | list[Node] | dict[str, Node] | None"

MAX_BYTES: Final = 256 << 10
MAX_NODES: Final = 20_000
MAX_NESTING: Final = 32
MAX_ALIASES: Final = 16


def load(data: bytes, path: str) -> Node:
    """The first document: text, list or mapping; None for an empty one.

    Raises DamagedError for what is no YAML, BudgetError for what is too large, UnsupportedError for merge keys.
    """
    if len(data) > MAX_BYTES:
        raise BudgetError(f"{path} has {len(data)} bytes, more than the {MAX_BYTES} that are read as YAML")
    try:
        text = data.decode("utf-8", "backslashreplace")
        _bounded(text, path)
        return _plain(yaml.load(text, Loader=yaml.BaseLoader), path, MAX_NESTING)  # noqa: S506 - it makes text only
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        first = str(error).split("\n", 1)[0]
        raise DamagedError(f"{path} is no YAML: {first}") from None


def _bounded(text: str, path: str) -> None:
    nodes, nesting, aliases = 0, 0, 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
        if isinstance(event, yaml.CollectionStartEvent):
            nesting += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            nesting -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if nodes > MAX_NODES or nesting > MAX_NESTING or aliases > MAX_ALIASES:
            raise BudgetError(f"{path} is more YAML than configuration has")


def _plain(node: object, path: str, depth: int) -> Node:
    """The same, copied with its aliases written out; at most MAX_NODES in all."""
    left = [MAX_NODES]

    def copy(node: object, depth: int) -> Node:
        left[0] -= 1
        if left[0] < 0 or depth < 0:
            raise BudgetError(f"{path} is more YAML than configuration has")
        if isinstance(node, dict):
            if "<<" in node:
                raise UnsupportedError(f"a YAML merge key in {path}")
            return {str(key): copy(value, depth - 1) for key, value in node.items()}
        if isinstance(node, list):
            return [copy(value, depth - 1) for value in node]
        return node if isinstance(node, str) else None

    return copy(node, depth)


def mapping(node: Node) -> dict[str, Node]:
    """The node if it is a mapping, else an empty one."""
    return node if isinstance(node, dict) else {}


def sequence(node: Node) -> list[Node]:
    """The node if it is a list, a text as a list of one, else an empty one."""
    if isinstance(node, list):
        return node
    return [node] if isinstance(node, str) and node else []


def text(node: Node) -> str:
    """The node if it is text, else an empty one."""
    return node if isinstance(node, str) else ""


def truth(node: Node) -> bool | None:
    """What YAML 1.1 calls true and false, None for anything else."""
    said = text(node).lower()
    if said in ("true", "yes", "on", "y", "1"):
        return True
    return False if said in ("false", "no", "off", "n", "0") else None
