"""What a row of the extent table can say, and how frames are compressed. The numbers are those of `dfmt.h`."""

from enum import IntEnum


class Kind(IntEnum):
    """What a row says of its guest bytes. A hole is not zero: it means "not here, ask the parent"."""

    DATA = 1  # stored as they are
    ENCODED = 2  # stored as (a part of) one compressed frame
    ZERO = 3  # read as zero
    HOLE = 4  # not stored in this image


class Codec(IntEnum):
    """How a frame is compressed."""

    NONE = 0
    DEFLATE = 1  # raw deflate (RFC 1951)
    ZLIB = 2  # deflate with zlib header and checksum (RFC 1950)
    ZSTD = 3  # one or more zstd frames (RFC 8878)
