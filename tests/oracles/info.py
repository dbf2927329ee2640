"""qemu-img's `info` beside ours: scripts written for the one must read the other."""

from typing import Any


def disagreements(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """Keys of qemu-img's info that ours lacks or answers differently; format names and file names aside."""
    theirs = {key: value for key, value in theirs.items() if key not in ("filename", "children", "actual-size")}
    wanted = _flat(theirs)
    got = _flat(ours)
    wrong = {key: (got.get(key, "absent"), value) for key, value in wanted.items() if got.get(key, "absent") != value}
    return {key: pair for key, pair in wrong.items() if pair != ("vhd", "vpc") and not key.endswith("filename")}


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, entry in value.items() for k, v in _flat(entry, f"{at}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, entry in enumerate(value) for k, v in _flat(entry, f"{at}/{i}").items()}
    return {at: value}
