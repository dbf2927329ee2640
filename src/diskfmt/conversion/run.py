"""Carrying out a plan.

clearance holds? ─► copy ─► tables, header last ─► sync ─► verify ─► source unchanged? ─► commit
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from diskfmt import engine, extents
from diskfmt.clearance import Clearance
from diskfmt.conversion.plan import Plan
from diskfmt.conversion.progress import Progress, Watcher, supervised
from diskfmt.conversion.verify import verify_output
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError, Reason, RefusedError
from diskfmt.formats.base import Finale, Layout, Piece
from diskfmt.stores.target import TargetFile
from diskfmt.treehash import fingerprint_bytes

_WINDOW_UNITS = extents.WINDOW_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left behind. Sizes in bytes; `seconds` per phase; `digest` only where it was verified."""

    file_size: int
    actual_size: int
    digest: str | None
    seconds: dict[str, float]


def run(
    disk: Disk,
    plan: Plan,
    clearance: Clearance,
    path: str,
    *,
    threads: int,
    verify: bool = False,
    sync: bool = True,
    force: bool = False,
    watch: Watcher | None = None,
) -> Outcome:
    """Convert `disk` into the file `path`; when this returns, the right bytes have their final name.

    Raises:
        InUseError: SOURCE_CHANGED, before or while it ran.
        CorruptError, IOFailedError, LimitError: what reading, writing or verifying says. Nothing is left behind.

    """
    seconds: dict[str, float] = {}
    tell = watch or (lambda _: None)
    total = clearance.totals.stored if clearance.totals is not None else disk.size
    layout = plan.new_layout()
    names = _names(path, layout.data_name)
    for name in names:
        _refuse_same_file(disk, name)
    with ExitStack() as stack:
        clearance.require((file.identity_now() for file in disk.files), disk.path)
        outputs = [stack.enter_context(TargetFile(name, force=force)) for name in names]
        data = outputs[0]
        with _phase(seconds, "copy"), _blaming_changes(disk):
            finale = _copy(
                disk,
                layout,
                data,
                threads=threads,
                write_behind=sync,
                tell=lambda done: tell(Progress(phase="copy", done=done, total=total)),
            )
            _finish(outputs, finale)
        if sync:
            syncing = Progress(phase="sync", done=total, total=total)
            tell(syncing)
            with _phase(seconds, "sync"):
                for output in outputs:
                    supervised(output.sync, poll=lambda: tell(syncing))
        digest = None
        if verify:
            with _phase(seconds, "verify"):
                digest = verify_output(
                    disk, plan, [output.temp_path for output in outputs], threads=threads, total=total, tell=tell
                )
        for file in disk.files:
            file.require_unchanged()
        actual = sum(os.fstat(output.fd).st_blocks * 512 for output in outputs)
        with _phase(seconds, "sync"):
            _commit(outputs, sync=sync)
    return Outcome(file_size=finale.size, actual_size=actual, digest=digest, seconds=seconds)


def measure(disk: Disk, plan: Plan, *, threads: int) -> int:
    """The size in bytes that the data file of the output will have: everything is done but the writing."""
    return _copy(disk, plan.new_layout(), None, threads=threads, write_behind=False, tell=lambda _: None).size


@contextmanager
def _phase(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start


@contextmanager
def _blaming_changes(disk: Disk) -> Iterator[None]:
    """Damage that is met while the source changes is told as the change that it comes from."""
    try:
        yield
    except DiskfmtError:
        for file in disk.files:
            file.require_unchanged()
        raise


def _names(path: str, data_name: str | None) -> tuple[str, ...]:
    """The files of an output: the one with the data first."""
    if data_name is None:
        return (path,)
    return (os.path.join(os.path.dirname(path), data_name), path)


def _refuse_same_file(disk: Disk, path: str) -> None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return  # not there; a name that cannot be is the business of TargetFile
    if any((found.st_dev, found.st_ino) == (file.identity.device, file.identity.inode) for file in disk.files):
        raise RefusedError(
            "the output is the source", reason=Reason.OUTPUT_BUSY, path=path, remedy="choose another name"
        )


def _copy(
    disk: Disk,
    layout: Layout,
    output: TargetFile | None,
    *,
    threads: int,
    write_behind: bool,
    tell: Callable[[int], None],
) -> Finale:
    """Move the data and write the tables that are complete on the way; returns what is left to write."""
    placement = layout.placement
    if output is not None and placement.fixed:
        output.truncate(placement.base + placement.guest_size)  # a file system that cannot hold it says so now
    with engine.Copier(
        fds=disk.fds,
        paths=disk.paths,
        target_fd=-1 if output is None else output.fd,
        target_path="" if output is None else output.path,
        placement=placement,
        threads=threads,
        write_behind=write_behind,
    ) as copier:

        def work() -> Finale:
            for rows in extents.chunks(disk.extents(), unit=placement.unit, max_units=_WINDOW_UNITS):
                first, places, stored = copier.run(rows)
                pieces, copier.end = layout.add(first, places, stored, copier.end)
                _write(output, pieces)
            copier.finish()
            return layout.finish(copier.end, fingerprint_bytes(copier.fingerprint, disk.size))

        finale = supervised(work, poll=lambda: tell(copier.done), cancel=copier.cancel)
        tell(copier.done)
        return finale


def _write(output: TargetFile | None, pieces: Sequence[Piece]) -> None:
    if output is not None:
        for piece in pieces:
            output.write(piece.data, piece.offset)


def _finish(outputs: Sequence[TargetFile], finale: Finale) -> None:
    """Write the rest: the piece that makes the file valid is the last."""
    data = outputs[0]
    _write(data, finale.pieces[:-1])
    data.truncate(finale.size)
    _write(data, finale.pieces[-1:])
    if finale.descriptor is not None:
        outputs[1].write(finale.descriptor, 0)


def _commit(outputs: Sequence[TargetFile], *, sync: bool) -> None:
    """Name the data file first: a descriptor never points to nothing."""
    try:
        for output in outputs:
            output.commit()
        if sync:
            outputs[0].sync_name()
    except BaseException:
        for output in outputs:
            output.withdraw()
        raise
