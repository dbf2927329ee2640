"""What the oracles are known to get wrong. `docs/oracles.md` gives the smallest reproducer and the specification."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


class Effect(Enum):
    """What a known error looks like from outside."""

    REFUSES = auto()  # the oracle raises; there is no point in asking
    DIFFERS = auto()  # the oracle may give other bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an image uses, as far as oracles stumble over it. Sizes in bytes.

    `version` is that of a qcow2, `codec` None, `zlib` or `zstd`. `seekable` is True for a streamOptimized VMDK with
    its tables in front, as qemu-img writes it. `extended_l2`, `zeroed_grains`: the image may use them.
    """

    format: str
    subformat: str = ""
    size: int
    version: int = 3
    codec: str | None = None
    seekable: bool = False
    extended_l2: bool = False
    zeroed_grains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A known error of an oracle. `key` is its heading in `docs/oracles.md`."""

    key: str
    oracle: str
    effect: Effect
    applies: Callable[[Traits], bool]


KNOWN: tuple[Known, ...] = (
    Known(
        key="libqcow-compressed-bit0",
        oracle="libyal",
        effect=Effect.DIFFERS,
        applies=lambda t: t.format == "qcow2" and t.version == 3 and t.codec == "zlib",
    ),
    Known(
        key="libqcow-zstd",
        oracle="libyal",
        effect=Effect.REFUSES,
        applies=lambda t: t.format == "qcow2" and t.codec == "zstd",
    ),
    Known(
        key="libqcow-extended-l2",
        oracle="libyal",
        effect=Effect.REFUSES,
        applies=lambda t: t.extended_l2,
    ),
    Known(
        key="libvmdk-zeroed-grain",
        oracle="libyal",
        effect=Effect.DIFFERS,
        applies=lambda t: t.zeroed_grains,
    ),
    Known(
        key="dissect-extended-l2",
        oracle="dissect",
        effect=Effect.REFUSES,
        applies=lambda t: t.extended_l2,
    ),
    Known(
        key="dissect-vmdk-odd-capacity",
        oracle="dissect",
        effect=Effect.REFUSES,
        applies=lambda t: t.format == "vmdk" and t.size % 8192 != 0,
    ),
    Known(
        key="7zip-zstd",
        oracle="7zip",
        effect=Effect.REFUSES,
        applies=lambda t: t.format == "qcow2" and t.codec == "zstd",
    ),
    Known(
        key="7zip-extended-l2",
        oracle="7zip",
        effect=Effect.REFUSES,
        applies=lambda t: t.extended_l2,
    ),
    Known(
        key="7zip-stream-seekable",
        oracle="7zip",
        effect=Effect.REFUSES,
        applies=lambda t: t.format == "vmdk" and t.subformat == "streamOptimized" and t.seekable,
    ),
)


def known_error(oracle: str, traits: Traits) -> Known | None:
    """The known error that an oracle has with such an image, or None: then it must be right."""
    return next((known for known in KNOWN if known.oracle == oracle and known.applies(traits)), None)
