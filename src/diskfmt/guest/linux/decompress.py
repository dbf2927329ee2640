"""Compressed parts of an initramfs, piece by piece: bounded memory, and no more work than the reader asks for.

Sources: Documentation/driver-api/early-userspace/buffer-format.rst and lib/decompress*.c of Linux for what a kernel
takes. zstd is decoded as a whole by the engine; LZO is not decoded.
"""

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from diskfmt.engine import decode_frames
from diskfmt.errors import DiskfmtError
from diskfmt.guest.base import MAX_READ, DamagedError, GuestError, UnsupportedError
from diskfmt.guest.linux import lz4

_FEED: Final = 256 << 10
_PIECE: Final = 1 << 20
_MEMORY: Final = 128 << 20  # for the dictionary of xz

MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (lz4.MAGIC, "lz4"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzo"),
)
LONGEST_MAGIC: Final = max(len(magic) for magic, _ in MAGICS)


def compression(head: bytes) -> str | None:
    """The name of the compression whose magic this is, None where it is none of them."""
    return next((name for magic, name in MAGICS if head.startswith(magic)), None)


class _Decoder(Protocol):
    """What the decoders of bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Stream:
    """One compressed stream. Iterating gives its content; `end` then says where in the file it ended."""

    def __init__(self, data: bytes, start: int) -> None:
        self.end = start
        self.name = compression(data[start : start + LONGEST_MAGIC])
        self._data = data
        self._start = start

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of the content. Raises GuestError."""
        try:
            yield from self._pieces()
        except (zlib.error, lzma.LZMAError, OSError, EOFError, DiskfmtError) as error:
            raise DamagedError(f"{self.name} data cannot be decoded: {error}", offset=self._start) from None

    def _pieces(self) -> Iterator[bytes]:
        match self.name:
            case "gzip":
                return self._gzip()
            case "xz":
                return self._generic(lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY))
            case "lzma":
                return self._generic(lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MEMORY))
            case "bzip2":
                return self._generic(bz2.BZ2Decompressor())
            case "zstd":
                return self._zstd()
            case "lz4":
                return self._lz4()
            case _:
                raise UnsupportedError(f"{self.name or 'unknown'} compression", offset=self._start)

    def _gzip(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(31)
        at = self._start
        while not decoder.eof:
            fed = decoder.unconsumed_tail or self._data[at : at + _FEED]
            if not decoder.unconsumed_tail:
                at += len(fed)
                if not fed:
                    raise self._short()
            piece = decoder.decompress(fed, _PIECE)
            if piece:
                yield piece
        self.end = at - len(decoder.unused_data)

    def _generic(self, decoder: _Decoder) -> Iterator[bytes]:
        at = self._start
        while not decoder.eof:
            fed = self._data[at : at + _FEED] if decoder.needs_input else b""
            at += len(fed)
            if decoder.needs_input and not fed:
                raise self._short()
            piece = decoder.decompress(fed, _PIECE)
            if piece:
                yield piece
        self.end = at - len(decoder.unused_data)

    def _zstd(self) -> Iterator[bytes]:
        content, used = decode_frames(self._data[self._start :], MAX_READ)
        self.end = self._start + used
        yield content

    def _lz4(self) -> Iterator[bytes]:
        self.end = self._start + len(lz4.MAGIC)
        for decoded, after in lz4.blocks(self._data, self._start):
            self.end = after
            yield decoded

    def _short(self) -> GuestError:
        return DamagedError(f"{self.name} data end too early", offset=self._start)
