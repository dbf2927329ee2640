"""What the tests of this format share: files from bytes, and a reader through rows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from diskfmt import engine
from diskfmt.extents import require_normal
from diskfmt.formats.base import Image
from diskfmt.formats.vmdk import FORMAT
from diskfmt.stores.source import SourceFile

Opened = tuple[Image, list[SourceFile]]
Open = Callable[..., Opened]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Iterator[Open]:
    """Open an image made of bytes, and its piece."""
    with ExitStack() as stack:

        def opened(data: bytes, piece: bytes | None = None) -> Opened:
            files = []
            for name, content in (("d.vmdk", data), ("d-flat.vmdk", piece)):
                if content is not None:
                    (tmp_path / name).write_bytes(content)
                    files.append(stack.enter_context(SourceFile(str(tmp_path / name))))
            return FORMAT.open(files[0]), files

        yield opened


@pytest.fixture(scope="session")
def read_guest() -> Callable[[Image, list[SourceFile]], bytes]:
    """All guest bytes, through rows that are proven normal."""

    def read(image: Image, files: list[SourceFile], start: int = 0, stop: int | None = None) -> bytes:
        stop = image.virtual_size if stop is None else stop
        out = bytearray(stop - start)
        at = start
        for rows in FORMAT.extents(image, files, start, stop):
            end = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
            require_normal(rows, at, end, [file.size for file in files])
            view = memoryview(out)[at - start : end - start]
            engine.read_rows([file.fd for file in files], [file.path for file in files], rows, at, view)
            at = end
        assert at == stop
        return bytes(out)

    return read
