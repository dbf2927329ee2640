"""What the bytes of a VMDK are for: headers, descriptors, directories, tables, markers, footer."""

from collections.abc import Iterator, Sequence

import numpy as np

from diskfmt.extents import U64, Kind
from diskfmt.formats.base import Image, Regions
from diskfmt.formats.vmdk.header import Vmdk
from diskfmt.formats.vmdk.map import piece_of
from diskfmt.formats.vmdk.pieces import open_piece
from diskfmt.formats.vmdk.shape import Shape
from diskfmt.formats.vmdk.sparse import MARKER_GRAIN
from diskfmt.formats.vmdk.walk import DIRECTORY_WINDOW, SparseWalk
from diskfmt.stores.source import SourceFile
from diskfmt.units import SECTOR


def regions(image: Image, files: Sequence[SourceFile]) -> Iterator[Regions]:
    """Headers and tables of each file of the disk; see `Format.regions`. A text descriptor is all header.

    Raises:
        CorruptError, RefusedError, LimitError: what the map says.

    """
    vmdk = image.header
    assert isinstance(vmdk, Vmdk)  # noqa: S101 - narrows the type; a wrong header is a bug of the caller
    if vmdk.shape is not None:
        yield from _of_file(vmdk.shape, files[0], 0, below=vmdk.has_parent)
        return
    if vmdk.sections:
        yield _one("header", 0, files[0].size, 0)
    for section in vmdk.sections:
        if section.file_id is not None and not section.flat:
            file = piece_of(section, files)
            shape, _ = open_piece(section, file)
            yield from _of_file(shape, file, section.file_id, below=vmdk.has_parent)


def _of_file(shape: Shape, file: SourceFile, file_id: int, *, below: bool) -> Iterator[Regions]:
    for area in shape.areas():
        end = min(area.end, file.size)
        if area.start < end:
            yield _one(area.kind, area.start, end - area.start, file_id)
    walk = SparseWalk(shape=shape, file=file, below=below)
    for first in range(0, shape.directory_entries, DIRECTORY_WINDOW):
        tables, copies = walk.directory(first, min(DIRECTORY_WINDOW, shape.directory_entries - first))
        if copies is not None:
            tables = np.union1d(tables, copies[copies + np.uint64(shape.table_size) <= file.size])
        yield from _of_tables(shape, tables[tables > 0], file_id)
    if not shape.compressed:
        return
    for rows in walk.rows(0, shape.size):
        frames = rows["host_off"][rows["kind"] == Kind.ENCODED]
        if len(frames):
            size = np.full(len(frames), MARKER_GRAIN, np.uint64)
            yield Regions(kind="table", offsets=frames - size, lengths=size, file_id=file_id)
    if shape.grains_start < shape.directory:  # behind the grains: with a marker
        yield _one("table", shape.directory - SECTOR, SECTOR, file_id)
    if shape.grains_end < file.size:  # footer and end marker
        yield _one("header", shape.grains_end, file.size - shape.grains_end, file_id)


def _of_tables(shape: Shape, tables: U64, file_id: int) -> Iterator[Regions]:
    """Grain tables, in a file of markers each with the one before it."""
    if not len(tables):
        return
    before = np.uint64(0)
    if shape.compressed and shape.grains_start < shape.directory:  # tables behind their grains have markers
        before = np.uint64(SECTOR)
    lengths = np.full(len(tables), shape.table_size, np.uint64) + before
    yield Regions(kind="table", offsets=tables - before, lengths=lengths, file_id=file_id)


def _one(kind: str, start: int, length: int, file_id: int) -> Regions:
    return Regions(
        kind=kind, offsets=np.array([start], np.uint64), lengths=np.array([length], np.uint64), file_id=file_id
    )
