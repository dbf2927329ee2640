"""Python's side of the C engine: the only importer of `diskfmt._native`.

Each function checks lengths, calls, and turns a status into an exception. Untyped values end here.
numpy is imported only where arrays are made, so that inspecting a file stays quick.
"""

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from diskfmt._native import ffi, lib
from diskfmt.errors import CorruptError, DiskfmtError, InternalError, IOFailedError, Reason, RefusedError
from diskfmt.kinds import Codec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from diskfmt.extents import U64, Rows

_ABI: Final = 3
if lib.DFMT_ABI != _ABI:  # a stale build would misread every structure
    raise ImportError(f"diskfmt._native has ABI {lib.DFMT_ABI}, this code needs {_ABI}: build it again")

MAX_THREADS: Final = 64
_WRITE_BEHIND: Final = 8 << 20  # larger than what a disk takes at once, small beside a copy
# What a full disk says: no block, no quota, or a file larger than the file system has.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Op(IntEnum):
    """System calls of the engine, as a faulty table counts them."""

    PREAD = 0
    PWRITE = 1
    FSYNC = 2
    FTRUNCATE = 3
    FALLOCATE = 4
    SEEK = 5
    RENAME = 6
    CLOSE = 7
    MALLOC = 8
    WRITE_BEHIND = 9


class Fault(IntEnum):
    """How a faulty call misbehaves."""

    ERRNO = 0
    SHORT = 1
    LIE = 2


ZERO_PLACE: Final = 1
"""The place of a unit that is not stored and reads as zero whatever an image below says; see `Zeroes.TELL`."""


class Zeroes(IntEnum):
    """What becomes of an appended unit that is zero and that some row says something of other than HOLE."""

    SKIP = 0  # not stored, place 0, as a unit of holes
    TELL = 1  # not stored, place ZERO_PLACE
    STORE = 2  # stored like any other


class SystemCalls:
    """A table of system calls: the real one, or one with a fault in it (for tests)."""

    def __init__(self, table: Any) -> None:
        self.table = table

    @classmethod
    def faulty(cls, op: Op, nth: int, *, how: Fault = Fault.ERRNO, code: int = errno.EIO, sticky: bool = False) -> Self:
        """The real system, except that call number `nth` (from 1) of `op` fails with errno `code`, or as `how` says.

        `sticky`: each later one does too.
        """
        table = lib.dfmt_io_faulty_new(op, nth, how, code, sticky)
        if table == ffi.NULL:
            raise MemoryError
        return cls(ffi.gc(table, lib.dfmt_io_faulty_free))

    def count(self, op: Op) -> int:
        """How many calls of `op` a faulty table has seen."""
        return int(lib.dfmt_io_faulty_count(self.table, op))


_SYSTEM: Final = SystemCalls(lib.dfmt_io_posix())


def system() -> SystemCalls:
    """The table that everything uses; tests put a faulty one in its place."""
    return _SYSTEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The numbers that describe a target; see `struct dfmt_placement` of `native/include/dfmt.h`.

    `unit`: guest bytes per unit. `fixed`: a guest byte's place is `base` + its offset, otherwise units are
    appended in guest order. `align`: alignment of appended plain data (bytes); `frame_align`: of an encoded
    frame, or of its marker. `allow_plain`: a frame that is not smaller than its unit is stored plain.
    `prefix_len`, `prefix_byte`: bytes directly before plain data. `marker`: a grain marker before each frame.
    `group_units`, `group_room`: bytes left free behind the last stored unit of each group. `first`: where the
    first unit may go. `fingerprint`: whether `Layout.finish` needs a fingerprint of the content (costs a CRC).
    `zeroes`: what becomes of zero units; with anything but SKIP, the tables of `Copier.run` must cover them. `adopt`: a
    frame of the source that is a whole unit in the same codec (deflate and zlib are one here), and that every reader
    of the target reads, is not made anew.
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
    zeroes: Zeroes = Zeroes.SKIP
    adopt: bool = False


def codecs() -> str:
    """One line: the codec libraries of this build and their versions."""
    return _text(lib.dfmt_codecs())


def can_decode(codec: Codec) -> bool:
    """Whether this build decodes frames of `codec`."""
    return bool(lib.dfmt_can_decode(codec))


def can_encode(codec: Codec, level: int = 0, window_bits: int = 15) -> bool:
    """Whether this build encodes with this codec, level (0: its fast default) and deflate window."""
    return bool(lib.dfmt_can_encode(codec, level, window_bits))


def filesystem(fd: int) -> int:
    """The type of the file system that holds an open file (statfs f_type), or 0."""
    return int(lib.dfmt_filesystem(fd))


def is_zero(data: "bytes | memoryview | npt.NDArray[np.uint8]") -> bool:
    """Whether every byte is zero."""
    view = ffi.from_buffer(data)
    return bool(lib.dfmt_is_zero(view, len(view)))


def zero_implementation(force: str | None = None) -> str | None:
    """The name of the zero test in use; with `force` chooses it (tests). None: this machine has no such one."""
    name = lib.dfmt_zero_implementation(ffi.NULL if force is None else force.encode())
    return None if name == ffi.NULL else _text(name)


def decode(codec: Codec, frame: bytes, length: int) -> bytes:
    """`length` bytes that a frame decodes to.

    Raises:
        CorruptError: CORRUPT_DATA, it decodes to more, to less, or to nothing.
        RefusedError: CODEC_MISSING.

    """
    out = bytearray(length)
    err = ffi.new("dfmt_error *")
    if lib.dfmt_decode(codec, ffi.from_buffer(frame), len(frame), ffi.from_buffer(out), length, err):
        _raise(err, ("",), None)
    return bytes(out)


def decode_frames(data: bytes, limit: int) -> tuple[bytes, int]:
    """What the zstd frames at the start of `data` decode to, at most `limit` bytes, and how many bytes they take.

    Raises:
        CorruptError: CORRUPT_DATA, there is no whole frame, or it decodes to more.
        RefusedError: CODEC_MISSING.

    """
    out = bytearray(limit)  # the kernel gives pages only where something is written
    used, made = ffi.new("size_t *", len(data)), ffi.new("size_t *", limit)
    err = ffi.new("dfmt_error *")
    with ffi.from_buffer(out) as view:
        failed = lib.dfmt_decode_frames(ffi.from_buffer(data), used, view, made, err)
    if failed:
        _raise(err, ("",), None)
    return bytes(memoryview(out)[: made[0]]), int(used[0])


def encode(codec: Codec, data: bytes, *, level: int = 0, window_bits: int = 15) -> bytes:
    """One frame that decodes to `data`. Raises RefusedError: CODEC_MISSING."""
    out = bytearray(lib.dfmt_encode_bound(codec, len(data)))
    size = ffi.new("size_t *", len(out))
    err = ffi.new("dfmt_error *")
    if lib.dfmt_encode(codec, level, window_bits, ffi.from_buffer(data), len(data), ffi.from_buffer(out), size, err):
        _raise(err, ("",), None)
    return bytes(out[: size[0]])


def gather(fd: int, offsets: "U64", size: int) -> "npt.NDArray[np.uint8]":
    """`size` bytes at each of `offsets`: shape (n, size).

    Raises:
        CorruptError: TRUNCATED, the file ends before.
        IOFailedError: READ_ERROR.

    """
    import numpy as np

    wanted = np.ascontiguousarray(offsets, np.uint64)
    out = np.empty((len(wanted), size), np.uint8)
    if len(wanted) and size:
        err = ffi.new("dfmt_error *")
        if lib.dfmt_gather(
            system().table,
            fd,
            ffi.from_buffer("uint64_t[]", wanted),
            len(wanted),
            size,
            ffi.from_buffer("uint8_t[]", out),
            out.nbytes,
            err,
        ):
            _raise(err, (None,), None)
    return out


def data_runs(fd: int, start: int, stop: int, limit: int) -> "tuple[U64, int]":
    """The stored runs of a sparse file inside [start, stop), at most `limit`: shape (n, 2), (offset, length).

    The second value is where to go on, `stop` when done.
    """
    import numpy as np

    out = np.empty((limit, 2), np.uint64)
    found = ffi.new("size_t *")
    after = ffi.new("uint64_t *")
    err = ffi.new("dfmt_error *")
    if lib.dfmt_data_runs(
        system().table, fd, start, stop, ffi.from_buffer("uint64_t[]", out), limit, found, after, err
    ):
        _raise(err, (None,), None)
    return out[: found[0]], int(after[0])


def read_rows(fds: Sequence[int], paths: Sequence[str], rows: "Rows", start: int, out: bytearray | memoryview) -> None:
    """Fill `out` with guest bytes from `start` on; the rows cover that range.

    Raises:
        CorruptError: CORRUPT_DATA or TRUNCATED, with host and guest offset.
        IOFailedError: READ_ERROR.

    """
    err = ffi.new("dfmt_error *")
    handles = ffi.new("int[]", list(fds))
    # Released before an exception can keep this frame: a memoryview whose buffer is still lent out when the garbage
    # collector clears it crashes the interpreter (CPython 3.11).
    with ffi.from_buffer("uint8_t[]", out, require_writable=True) as view:
        failed = lib.dfmt_read(
            system().table,
            handles,
            len(fds),
            ffi.from_buffer("dfmt_row[]", rows),
            len(rows),
            start,
            len(view),
            view,
            err,
        )
    if failed:
        _raise(err, paths, None)


def pwrite(fd: int, data: bytes, offset: int, path: str) -> None:
    """Write all of `data` at `offset`. Raises IOFailedError: WRITE_ERROR or NO_SPACE."""
    err = ffi.new("dfmt_error *")
    if lib.dfmt_pwrite(system().table, fd, ffi.from_buffer(data), len(data), offset, err):
        _raise(err, (), path)


def fsync(fd: int, path: str) -> None:
    """Make a file (or directory) durable. An error is final. Raises IOFailedError."""
    err = ffi.new("dfmt_error *")
    if lib.dfmt_fsync(system().table, fd, err):
        _raise(err, (), path)


def truncate(fd: int, length: int, path: str) -> None:
    """Set the length of a file. Raises IOFailedError."""
    err = ffi.new("dfmt_error *")
    if lib.dfmt_ftruncate(system().table, fd, length, err):
        _raise(err, (), path)


def close(fd: int, path: str) -> None:
    """Close a descriptor that was written to; a late write error counts. Raises IOFailedError."""
    err = ffi.new("dfmt_error *")
    if lib.dfmt_close(system().table, fd, err):
        _raise(err, (), path)


def rename(dir_fd: int, source: str, target: str, *, replace: bool, path: str) -> None:
    """Rename inside one directory.

    Raises:
        RefusedError: OUTPUT_EXISTS, without `replace`.
        IOFailedError: WRITE_ERROR.

    """
    err = ffi.new("dfmt_error *")
    if lib.dfmt_rename(system().table, dir_fd, os.fsencode(source), os.fsencode(target), replace, err):
        if err.sys_errno == errno.EEXIST and not replace:
            raise RefusedError(
                "the file exists",
                reason=Reason.OUTPUT_EXISTS,
                path=path,
                remedy="choose another name, or give --force to replace it",
            )
        _raise(err, (), path)


class Copier:
    """The copy loop over one target. A context manager; not for two threads at once, except `done` and `cancel`.

    `paths` name the source's files and the target for messages; `target_fd` -1 does everything but write.
    `write_behind`: the output will be flushed, so let the kernel begin with it at once.
    """

    def __init__(
        self,
        *,
        fds: Sequence[int],
        paths: Sequence[str],
        target_fd: int,
        target_path: str,
        placement: Placement,
        threads: int,
        write_behind: bool = False,
    ) -> None:
        self._lock = threading.RLock()  # others may ask for `done`, or cancel, while this thread closes
        self._done = 0
        self._paths = tuple(paths)
        self._target_path = target_path
        self._placement = placement
        self._io = system()
        self._fds = ffi.new("int[]", list(fds))
        numbers = ffi.new("dfmt_placement *")
        for name in Placement.__dataclass_fields__:
            if name != "first":
                setattr(numbers, name, int(getattr(placement, name)))
        self._copy = lib.dfmt_copy_new(
            self._io.table,
            self._fds,
            len(fds),
            target_fd,
            numbers,
            placement.first,
            min(threads, MAX_THREADS),
        )
        if self._copy == ffi.NULL:
            raise MemoryError(f"the engine cannot start with {placement}")
        if write_behind:
            lib.dfmt_copy_write_behind(self._copy, _WRITE_BEHIND)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            lib.dfmt_copy_free(self._copy)
            self._copy = ffi.NULL

    def run(self, rows: "Rows") -> "tuple[int, U64, U64]":
        """Copy the units of a table that starts on a multiple of the unit; returns when all is written.

        Returns (first unit, places, stored), the arrays of shape (n,) as `Layout.add` takes them; empty for a
        fixed placement. A place is 0 or ZERO_PLACE where nothing is stored.

        Raises:
            CorruptError: TRUNCATED or CORRUPT_DATA with both offsets.
            IOFailedError: READ_ERROR, WRITE_ERROR or NO_SPACE.
            InterruptedError: `cancel` was called.

        """
        import numpy as np

        unit = self._placement.unit
        start = int(rows[0]["guest_off"])
        stop = int(rows[-1]["guest_off"]) + int(rows[-1]["length"])
        units = 0 if self._placement.fixed else -(-(stop - start) // unit)
        places = np.zeros(units, np.uint64)
        stored = np.zeros(units, np.uint64)
        err = ffi.new("dfmt_error *")
        if lib.dfmt_copy_run(
            self._copy,
            ffi.from_buffer("dfmt_row[]", rows),
            len(rows),
            ffi.from_buffer("uint64_t[]", places),
            ffi.from_buffer("uint64_t[]", stored),
            units,
            err,
        ):
            _raise(err, self._paths, self._target_path)
        return start // unit, places, stored

    @property
    def end(self) -> int:
        """Where the used part of the target ends."""
        return int(lib.dfmt_copy_end(self._copy))

    @end.setter
    def end(self, value: int) -> None:
        if lib.dfmt_copy_set_end(self._copy, value):
            raise InternalError(f"the end of the target cannot move back to {value}", remedy="please report this")

    def finish(self) -> None:
        """Add the room after a group that is still owed. Call after the last run."""
        lib.dfmt_copy_finish(self._copy)

    @property
    def fingerprint(self) -> int:
        """64 bits that depend on the guest's content only."""
        return int(lib.dfmt_copy_fingerprint(self._copy))

    @property
    def adopted(self) -> int:
        """How many frames of the source were kept as they are."""
        return int(lib.dfmt_copy_adopted(self._copy))

    @property
    def done(self) -> int:
        """Stored guest bytes that are through; from any thread."""
        with self._lock:
            if self._copy != ffi.NULL:
                self._done = int(lib.dfmt_copy_progress(self._copy))
            return self._done

    def cancel(self) -> None:
        """Make `run` return soon; from any thread."""
        with self._lock:
            if self._copy != ffi.NULL:
                lib.dfmt_copy_cancel(self._copy)


def _text(value: Any) -> str:
    text: str = ffi.string(value).decode()
    return text


def _raise(err: Any, paths: Sequence[str | None], target: str | None) -> NoReturn:
    """Turn an error of the engine into the exception that says it."""
    on_target = err.file_id == lib.DFMT_TARGET
    path = target if on_target else paths[err.file_id] if err.file_id < len(paths) else None
    raise _error(err.code, err.sys_errno, err.host_off, err.guest_off, path or None)


def _error(code: int, number: int, host: int, guest: int, path: str | None) -> Exception:
    text = os.strerror(number) if number else ""
    if code == lib.DFMT_E_EOF:
        return CorruptError(
            "the file ends where its tables promise data",
            reason=Reason.TRUNCATED,
            path=path,
            offset=host,
            guest_offset=guest,
            remedy="copy the image again",
        )
    if code == lib.DFMT_E_DATA:
        return CorruptError(
            "compressed data does not decode",
            reason=Reason.CORRUPT_DATA,
            path=path,
            offset=host,
            guest_offset=guest,
            remedy="copy the image again, or export it anew",
        )
    if code == lib.DFMT_E_READ:
        return IOFailedError(
            f"cannot read: {text}",
            errno=number,
            path=path,
            offset=host,
            guest_offset=guest,
            remedy="check the disk and copy the image elsewhere",
        )
    if code == lib.DFMT_E_WRITE and number in NO_SPACE:
        return IOFailedError(
            f"cannot write: {text}",
            errno=number,
            reason=Reason.NO_SPACE,
            path=path,
            offset=host,
            remedy="free some space, or choose another directory",
        )
    if code == lib.DFMT_E_WRITE:
        return IOFailedError(
            f"cannot write: {text}",
            errno=number,
            reason=Reason.WRITE_ERROR,
            path=path,
            offset=host,
            remedy="check the disk, or choose another directory",
        )
    if code == lib.DFMT_E_NOMEM:
        return MemoryError()
    if code == lib.DFMT_E_CANCELLED:
        return InterruptedError("cancelled")
    if code == lib.DFMT_E_CODEC:
        return RefusedError(
            "this build lacks the codec",
            reason=Reason.CODEC_MISSING,
            path=path,
            remedy="install a build that has it; diskfmt --version lists the codecs",
        )
    return _bug(host, guest, path)


def _bug(host: int, guest: int, path: str | None) -> DiskfmtError:
    return InternalError(
        "the engine was given a table that makes no sense",
        path=path,
        offset=host,
        guest_offset=guest,
        remedy="please report this",
    )
