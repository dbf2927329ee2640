"""Python's side of the C engine: the only importer of `diskfmt._native`.

Each function checks lengths, calls, and turns a status into an exception. Untyped values end here.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diskfmt.extents import U64, Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The numbers that describe a target; see `struct dfmt_placement` of `native/include/dfmt.h`.

    `unit`: guest bytes per unit. `fixed`: a guest byte's place is `base` + its offset, otherwise units are
    appended in guest order. `align`: alignment of appended plain data (bytes); `frame_align`: of an encoded
    frame, or of its marker. `allow_plain`: a frame that is not smaller than its unit is stored plain.
    `prefix_len`, `prefix_byte`: bytes directly before plain data. `marker`: a grain marker before each frame.
    `group_units`, `group_room`: bytes left free behind the last stored unit of each group. `first`: where the
    first unit may go. `fingerprint`: whether `Layout.finish` needs a fingerprint of the content (costs a CRC).
    """

    unit: int
    guest_size: int
    first: int = 0
    fixed: bool = False
    base: int = 0
    align: int = 1
    frame_align: int = 1
    codec: Codec = Codec.NONE
    level: int = 0
    window_bits: int = 15
    allow_plain: bool = False
    prefix_len: int = 0
    prefix_byte: int = 0
    marker: bool = False
    group_units: int = 0
    group_room: int = 0
    fingerprint: bool = False


def gather(fd: int, offsets: U64, size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes at each of `offsets`: shape (n, size). Raises IOFailedError or CorruptError(TRUNCATED)."""
    import os

    out = np.empty((len(offsets), size), np.uint8)
    for i, offset in enumerate(offsets.tolist()):
        out[i] = np.frombuffer(os.pread(fd, size, offset), np.uint8)
    return out
