"""A guest disk: the images of a chain, resolved to one map.

    open_disk(path) ─► open_chain ─► Disk
    Disk.extents()  ─► each format's windows, audited, holes filled from below ─► gate, converter, reader: the same rows

The audit is what holds for every format: stored ranges inside their files (TM-805), never more plain data than a
file has bytes (the pigeonhole rule, TM-802), never more decoded bytes than a codec can make of it (TM-803).
"""

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from diskfmt import engine
from diskfmt.chain import Layer, not_opened, open_chain, permission, without_below
from diskfmt.errors import (
    CorruptError,
    Finding,
    InternalError,
    LimitError,
    Reason,
    UsageError,
    error_from,
    first_error,
)
from diskfmt.formats import by_name
from diskfmt.kinds import Codec, Kind
from diskfmt.stores.source import Identity, SourceFile
from diskfmt.units import MIB

if TYPE_CHECKING:
    from diskfmt.extents import Rows

# Bytes that one stored byte can decode to: 258 for 2 bits in deflate; blocks of 128 KiB for a few bytes in zstd.
MAX_EXPANSION: Final = {Codec.DEFLATE: 1032, Codec.ZLIB: 1032, Codec.ZSTD: 4096}

_REGION: Final = 16 * MIB  # what a random read keeps the rows of
_REGIONS: Final = 16


class Disk:
    """The guest disk of an image; a context manager that owns the open files.

    `layers` are the image and those below it, the top first; `image`, `format`: those of the top. `files` are those of
    all layers in order, as rows count them. `size` is in bytes. `findings`: those of identification and headers,
    `claims` the names of all that the detectors saw, `missing` the files that were not opened. Reads may come from
    several threads at once.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        findings: tuple[Finding, ...] = (),
        evidence: tuple[str, ...] = (),
        claims: tuple[str, ...] = (),
    ) -> None:
        self.layers = tuple(layers)
        self.image = layers[0].image
        self.format = layers[0].format
        self.files = tuple(file for layer in layers for file in layer.files)
        self.findings = findings
        self.evidence = evidence
        self.claims = claims
        self.size = self.image.virtual_size
        self.missing = tuple(reference for layer in layers for reference in layer.missing)
        self._regions: OrderedDict[int, Rows] = OrderedDict()

    @property
    def path(self) -> str:
        """The name that the caller gave."""
        return self.files[0].path

    @property
    def fds(self) -> list[int]:
        """The descriptors, in the order in which rows count the files."""
        return [file.fd for file in self.files]

    @property
    def paths(self) -> list[str]:
        """The names of the files, for messages, in the same order."""
        return [file.path for file in self.files]

    @property
    def identities(self) -> tuple[Identity, ...]:
        """What tells whether the files are still the same."""
        return tuple(file.identity for file in self.files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While inside, qemu refuses to open the files for writing."""
        with ExitStack() as stack:
            for file in self.files:
                stack.enter_context(file.hold())
            yield

    def alone(self) -> "Disk":
        """The same disk with holes where images below it were not opened: to judge the container, not to read it."""
        layers = [replace(layer, missing=without_below(layer.missing)) for layer in self.layers]
        return Disk(layers, findings=self.findings, evidence=self.evidence)

    def extents(self, start: int = 0, stop: int | None = None) -> "Iterator[Rows]":
        """Windows of rows in normal form that cover guest range [start, stop), `stop` None for the end.

        Raises:
            CorruptError: what the format's map says, OUT_OF_FILE, SHARED_CLUSTERS.
            LimitError: LIMIT_EXPANSION.
            RefusedError: EXTERNAL_REFERENCE, a piece was not opened; or a finding of severity ERROR: of a header, or
                that an image below is not the one that the image above was made for.
            InternalError: the format's map has a gap or an unknown kind.

        """
        for layer in self.layers:
            blocker = first_error(layer.image.findings)
            if blocker is not None:
                raise error_from(blocker, path=layer.files[0].path)
        if self.missing:
            raise error_from(not_opened(self.missing[0]), path=self.path)
        blocker = first_error(self.findings)
        if blocker is not None:
            raise error_from(blocker, path=self.path)
        if start < 0:
            raise UsageError("an offset cannot be negative", path=self.path)
        end = self.size if stop is None else min(stop, self.size)
        return self._resolved(0, start, end)

    def _resolved(self, depth: int, start: int, stop: int) -> "Iterator[Rows]":
        """The rows of a layer, its holes filled from those below it."""
        if depth + 1 == len(self.layers):
            return self._own_rows(depth, start, stop)
        from diskfmt.extents import overlay

        # An image below that is shorter reads as zero behind its end (qcow2 specification, "Backing file").
        end = min(stop, self.layers[depth + 1].image.virtual_size)
        below = chain(self._resolved(depth + 1, start, end), _zeroes(max(start, end), stop, depth))
        return overlay(self._own_rows(depth, start, stop), below)

    def _own_rows(self, depth: int, start: int, stop: int) -> "Iterator[Rows]":
        """What a layer says for itself, audited, with `file_id` and `depth` as the chain counts them."""
        import numpy as np

        if start >= stop:
            return
        layer = self.layers[depth]
        before = sum(len(upper.files) for upper in self.layers[:depth])
        audit = _Audit(layer.files, start)
        try:
            for rows in layer.format.extents(layer.image, layer.files, start, stop):
                audit.see(rows)
                if depth:
                    rows["depth"] = depth
                    rows["file_id"] += np.where(rows["kind"] <= Kind.ENCODED, before, 0).astype(np.uint16)
                yield rows
            audit.finish(stop)
        except CorruptError as error:
            raise error.about(layer.files[0].path) from None

    def read_into(self, offset: int, out: bytearray | memoryview) -> None:
        """Fill `out` with guest bytes from `offset` on. The range must lie inside the disk.

        Raises:
            CorruptError: TRUNCATED, CORRUPT_DATA with guest offset.
            IOFailedError: READ_ERROR.

        """
        stop = offset + len(out)
        if offset < 0 or stop > self.size:
            raise UsageError(f"[{offset}, {stop}) is not inside the disk of {self.size} bytes", path=self.path)
        view = memoryview(out)
        fds, paths = self.fds, self.paths
        for rows in self.extents(offset, stop):
            first = max(offset, int(rows[0]["guest_off"]))
            last = min(stop, int(rows[-1]["guest_off"]) + int(rows[-1]["length"]))
            engine.read_rows(fds, paths, rows, first, view[first - offset : last - offset])

    def read_at(self, offset: int, length: int) -> bytes:
        """Guest bytes [offset, offset + length), fewer where the disk ends. Keeps the rows of recent regions.

        Raises:
            CorruptError: TRUNCATED, CORRUPT_DATA with guest offset.
            IOFailedError: READ_ERROR.

        """
        if offset < 0 or length < 0:
            raise UsageError("offset and length cannot be negative", path=self.path)
        stop = min(offset + length, self.size)
        out = bytearray(max(0, stop - offset))
        if len(out) > _REGION:
            self.read_into(offset, out)
            return bytes(out)
        fds, paths = self.fds, self.paths
        view = memoryview(out)
        at = offset
        while at < stop:
            region = at // _REGION
            until = min(stop, (region + 1) * _REGION)
            engine.read_rows(fds, paths, self._region(region), at, view[at - offset : until - offset])
            at = until
        return bytes(out)

    def _region(self, region: int) -> "Rows":
        import numpy as np

        rows = self._regions.get(region)
        if rows is None:
            rows = np.concatenate(list(self.extents(region * _REGION, (region + 1) * _REGION)))
            self._regions[region] = rows
            while len(self._regions) > _REGIONS:
                self._regions.popitem(last=False)
        return rows

    def open(self) -> io.RawIOBase:
        """A file object over the guest disk: readable, seekable; it does not own the disk."""
        return _GuestFile(self)


def _zeroes(start: int, stop: int, depth: int) -> "Iterator[Rows]":
    """One row that says zero, if there is anything."""
    if start < stop:
        import numpy as np

        from diskfmt.extents import ROW

        rows = np.zeros(1, ROW)
        rows["guest_off"], rows["length"], rows["kind"], rows["depth"] = start, stop - start, Kind.ZERO, depth
        yield rows


class _GuestFile(io.RawIOBase):
    """The guest disk as a Python file."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._disk.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = self._disk.read_at(self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Audit:
    """The laws that hold for the rows of every format, over one pass."""

    def __init__(self, files: tuple[SourceFile, ...], start: int) -> None:
        import numpy as np

        self._at = start
        self._sizes = np.array([file.size for file in files], np.uint64)
        self._plain = [0] * len(files)
        self._decoded = dict.fromkeys(MAX_EXPANSION, 0)
        self._capacity = sum(file.size for file in files)

    def see(self, rows: "Rows") -> None:
        """Take the next window."""
        import numpy as np

        self._see_order(rows)
        kind = rows["kind"]
        data = rows[kind == Kind.DATA]
        encoded = rows[kind == Kind.ENCODED]
        for part in (data, encoded):
            if len(part):
                outside = part["host_off"] + part["host_len"] > self._sizes.take(part["file_id"])
                if outside.any():
                    self._complain(
                        part[int(np.argmax(outside))],
                        Reason.OUT_OF_FILE,
                        "stored bytes lie behind the end of the file",
                    )
        if len(data):
            for file_id in range(len(self._plain)):
                self._plain[file_id] += int(data["length"][data["file_id"] == file_id].sum())
                if self._plain[file_id] > int(self._sizes[file_id]):
                    self._complain(
                        data[-1], Reason.SHARED_CLUSTERS, "the tables name more data than the file has bytes"
                    )
        if len(encoded):
            self._see_frames(encoded)

    def _see_order(self, rows: "Rows") -> None:
        """What is in no row would be read as zeroes, silently: a map that leaves something out must not pass."""
        if not len(rows):
            return
        starts, ends = rows["guest_off"], rows["guest_off"] + rows["length"]
        follows = int(starts[0]) == self._at and (starts[1:] == ends[:-1]).all() and (rows["length"] > 0).all()
        if not follows or rows["kind"].min() < Kind.DATA or rows["kind"].max() > Kind.HOLE:
            raise InternalError(f"the map has a gap or an unknown kind behind {self._at}", remedy="please report this")
        self._at = int(ends[-1])

    def finish(self, stop: int) -> None:
        """After the last window."""
        if self._at != stop:
            raise InternalError(f"the map ends at {self._at}, not at {stop}", remedy="please report this")

    def _see_frames(self, encoded: "Rows") -> None:
        import numpy as np

        order = np.lexsort((encoded["frame_skip"], encoded["host_off"], encoded["file_id"]))
        left, right = encoded.take(order[:-1]), encoded.take(order[1:])
        twice = (left["file_id"] == right["file_id"]) & (left["host_off"] == right["host_off"])
        twice &= left["frame_skip"] == right["frame_skip"]
        if twice.any():
            self._complain(
                right[int(np.argmax(twice))],
                Reason.SHARED_CLUSTERS,
                "two places of the disk name the same compressed data",
            )
        for codec, factor in MAX_EXPANSION.items():
            self._decoded[codec] += int(encoded["length"][encoded["codec"] == codec].sum())
            if self._decoded[codec] > factor * self._capacity:
                raise LimitError(
                    f"the tables name more data than {factor} times the file",
                    reason=Reason.LIMIT_EXPANSION,
                    remedy="the image is made to exhaust its reader: do not use it",
                )

    @staticmethod
    def _complain(row: Any, reason: Reason, message: str) -> NoReturn:
        raise CorruptError(
            message,
            reason=reason,
            offset=int(row["host_off"]),
            guest_offset=int(row["guest_off"]),
            remedy="copy the image again, or repair it with its own tool",
        )


def open_disk(
    path: str,
    *,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
) -> Disk:
    """The guest disk of the image at `path`.

    `format` is binding where given (a name or alias), otherwise the content decides. `follow`: None opens nothing
    that the image names; `"pieces"` opens the pieces of a multi-file image that lie beside it and carry its stem;
    `"same-directory"` also the images below it and its data file, where they lie beside it; any other text is the
    directory in which these are looked for. `below_format`: the format of an image below, where the image above does
    not record it. `snapshot`: the id or name of an internal snapshot to show in place of the present.

    Raises:
        RefusedError: not an image that this program reads, by name where it is recognised; EXTERNAL_REFERENCE.
        CorruptError: damaged so that its header makes no sense.
        LimitError: larger than a limit.
        IOFailedError: cannot be read.

    """
    wanted = by_name(format).name if format is not None else None
    allowed = permission(follow, by_name(below_format).name if below_format is not None else None)
    with ExitStack() as stack:
        opened = open_chain(stack, path, wanted=wanted, snapshot=snapshot, allowed=allowed)
        disk = Disk(opened.layers, findings=opened.findings, evidence=opened.evidence, claims=opened.claims)
        stack.pop_all()
        return disk
