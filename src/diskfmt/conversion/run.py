"""Carrying out a plan.

clearance holds? ─► copy ─► tables, header last ─► sync ─► verify ─► source unchanged? ─► commit
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from diskfmt import engine, extents
from diskfmt.clearance import Clearance
from diskfmt.conversion.inherit import Inheritance, own_rows
from diskfmt.conversion.plan import Plan
from diskfmt.conversion.progress import Progress, Watcher, supervised
from diskfmt.conversion.verify import verify_output
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError, Reason, RefusedError
from diskfmt.formats.base import Finale, Output, Part, Piece
from diskfmt.stores.source import SourceFile
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
        RefusedError: OUTPUT_BUSY, the output would replace what it is made from.
        CorruptError, IOFailedError, LimitError: what reading, writing or verifying says. Nothing is left behind.

    """
    seconds: dict[str, float] = {}
    tell = watch or (lambda _: None)
    total = clearance.totals.stored if clearance.totals is not None else disk.size
    output = plan.new_output()
    names = _names(path, output)
    below = () if plan.shared is None else plan.shared.below.files
    for name in names:
        _refuse_same_file(disk.files, name, "the source")
        _refuse_same_file(below, name, "the image below it")
    with ExitStack() as stack:
        clearance.require((file.identity_now() for file in disk.files), disk.path)
        targets = [stack.enter_context(TargetFile(name, force=force)) for name in names]
        with _phase(seconds, "copy"), _blaming_changes(disk):
            size = _copy(
                disk,
                output,
                targets,
                shared=plan.shared,
                threads=threads,
                write_behind=sync,
                tell=lambda done: tell(Progress(phase="copy", done=done, total=total)),
            )
        if sync:
            syncing = Progress(phase="sync", done=total, total=total)
            tell(syncing)
            with _phase(seconds, "sync"):
                for target in targets:
                    supervised(target.sync, poll=lambda: tell(syncing))
        digest = None
        if verify:
            with _phase(seconds, "verify"):
                digest = verify_output(
                    disk, plan, [target.temp_path for target in targets], threads=threads, total=total, tell=tell
                )
        for file in (*disk.files, *below):
            file.require_unchanged()
        actual = sum(os.fstat(target.fd).st_blocks * 512 for target in targets)
        with _phase(seconds, "sync"):
            _commit(targets, sync=sync)
    return Outcome(file_size=size, actual_size=actual, digest=digest, seconds=seconds)


def measure(disk: Disk, plan: Plan, *, threads: int) -> int:
    """The bytes that the files of the output will have: everything is done but the writing."""
    output = plan.new_output()
    return _copy(disk, output, (), shared=plan.shared, threads=threads, write_behind=False, tell=lambda _: None)


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


def _names(path: str, output: Output) -> tuple[str, ...]:
    """The files of an output: those of the parts in their order, then the descriptor, if there is one."""
    folder = os.path.dirname(path)
    parts = tuple(path if part.name is None else os.path.join(folder, part.name) for part in output.parts)
    return parts if output.describe is None else (*parts, path)


def _refuse_same_file(files: Sequence[SourceFile], path: str, what: str) -> None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return  # not there; a name that cannot be is the business of TargetFile
    if any((found.st_dev, found.st_ino) == (file.identity.device, file.identity.inode) for file in files):
        raise RefusedError(f"the output is {what}", reason=Reason.OUTPUT_BUSY, path=path, remedy="choose another name")


def _copy(
    disk: Disk,
    output: Output,
    targets: Sequence[TargetFile],
    *,
    shared: Inheritance | None,
    threads: int,
    write_behind: bool,
    tell: Callable[[int], None],
) -> int:
    """Write all parts, one after the other, and the descriptor; the sum of their lengths. No targets: measure."""
    done = size = 0
    fingerprints = []
    for index, part in enumerate(output.parts):
        target = targets[index] if targets else None
        copied = _copy_part(
            disk,
            part,
            target,
            shared=shared,
            threads=threads,
            write_behind=write_behind,
            tell=partial(_add, tell, done),
        )
        done += copied.done
        size += copied.size
        fingerprints.append(copied.fingerprint)
    if output.describe is not None and targets:
        whole = fingerprints[0] if len(fingerprints) == 1 else sha256(b"".join(fingerprints)).digest()
        targets[-1].write(output.describe(whole), 0)
    return size


def _add(tell: Callable[[int], None], before: int, more: int) -> None:
    tell(before + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copied:
    """One part, written: its length, the guest bytes that were moved, and the fingerprint of its content."""

    size: int
    done: int
    fingerprint: bytes


def _copy_part(
    disk: Disk,
    part: Part,
    target: TargetFile | None,
    *,
    shared: Inheritance | None,
    threads: int,
    write_behind: bool,
    tell: Callable[[int], None],
) -> _Copied:
    """Move the data of a part and write its tables, the piece that makes the file valid last."""
    layout = part.layout
    placement = layout.placement
    if target is not None and placement.fixed:
        target.truncate(placement.base + placement.guest_size)  # a file system that cannot hold it says so now
    with engine.Copier(
        fds=disk.fds,
        paths=disk.paths,
        target_fd=-1 if target is None else target.fd,
        target_path="" if target is None else target.path,
        placement=placement,
        threads=threads,
        write_behind=write_behind,
    ) as copier:

        def work() -> Finale:
            for rows in _chunks(disk, part, shared):
                first, places, stored = copier.run(extents.shift(rows, part.start))
                pieces, copier.end = layout.add(first, places, stored, copier.end)
                _write(target, pieces)
            copier.finish()
            return layout.finish(copier.end, fingerprint())

        def fingerprint() -> bytes:
            return fingerprint_bytes(copier.fingerprint, min(part.stop, disk.size) - part.start)

        finale = supervised(work, poll=lambda: tell(copier.done), cancel=copier.cancel)
        if target is not None:
            _finish(target, finale)
        tell(copier.done)
        return _Copied(size=finale.size, done=copier.done, fingerprint=fingerprint())


def _chunks(disk: Disk, part: Part, shared: Inheritance | None) -> Iterator[extents.Rows]:
    """The tables that the engine runs over, one after the other."""
    placement = part.layout.placement
    if shared is None:
        windows = disk.extents(part.start, part.stop)
    else:
        windows = own_rows(disk, shared, start=part.start, stop=min(part.stop, disk.size), unit=placement.unit)
    tells = placement.zeroes is not engine.Zeroes.SKIP
    return extents.chunks(windows, unit=placement.unit, max_units=_WINDOW_UNITS, zeroes=tells)


def _write(target: TargetFile | None, pieces: Sequence[Piece]) -> None:
    if target is not None:
        for piece in pieces:
            target.write(piece.data, piece.offset)


def _finish(target: TargetFile, finale: Finale) -> None:
    """Write the rest: the piece that makes the file valid is the last."""
    _write(target, finale.pieces[:-1])
    target.truncate(finale.size)
    _write(target, finale.pieces[-1:])


def _commit(targets: Sequence[TargetFile], *, sync: bool) -> None:
    """Name the data files first: a descriptor never points to nothing."""
    try:
        for target in targets:
            target.commit()
        if sync:
            targets[0].sync_name()
    except BaseException:
        for target in targets:
            target.withdraw()
        raise
