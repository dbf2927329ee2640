"""Reading an output back, through the reader and not through the writer's tables (TM-1202)."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from diskfmt.chain import Layer
from diskfmt.conversion.plan import Plan
from diskfmt.conversion.progress import Progress, Watcher, supervised
from diskfmt.disk import Disk
from diskfmt.errors import DiskfmtError, IOFailedError, Reason
from diskfmt.stores.source import SourceFile
from diskfmt.treehash import guest_digest


def verify_output(disk: Disk, plan: Plan, temps: Sequence[str], *, threads: int, total: int, tell: Watcher) -> str:
    """The digest of the output, proven equal to that of the source read anew.

    `temps` are the output's files: those with the data first, then the descriptor, if there is one.

    Raises:
        IOFailedError: VERIFY_FAILED.

    """
    stop = threading.Event()
    done = {"written": 0, "read": 0}

    def count(side: str) -> Callable[[int], None]:
        def step(value: int) -> None:
            done[side] = value
            if stop.is_set():
                raise InterruptedError

        return step

    def work() -> tuple[str, str]:
        written = _digest_of(plan, temps, threads, count("written"))
        return written, guest_digest(disk, threads=threads, size=plan.virtual_size, progress=count("read"))

    def poll() -> None:
        tell(Progress(phase="verify", done=min(sum(done.values()), 2 * total), total=2 * total))

    written, read = supervised(work, poll=poll, cancel=stop.set)
    if written != read:
        raise IOFailedError(
            f"the output reads back differently: digest {written}, source {read}",
            reason=Reason.VERIFY_FAILED,
            remedy="check the disk that it was written to, and try again",
        )
    return written


def _digest_of(plan: Plan, temps: Sequence[str], threads: int, progress: Callable[[int], None]) -> str:
    with ExitStack() as stack:
        files = []
        for name in (temps[-1], *temps[:-1]):  # the descriptor is the image, the others are its pieces
            file = SourceFile(name)
            stack.callback(file.close)
            files.append(file)
        try:
            written = _reopen(plan, files)
            return guest_digest(written, threads=threads, progress=progress)
        except IOFailedError:
            raise
        except DiskfmtError as error:
            raise IOFailedError(
                f"the output does not read back: {error}",
                reason=Reason.VERIFY_FAILED,
                remedy="check the disk that it was written to, and try again",
            ) from error


def _reopen(plan: Plan, files: Sequence[SourceFile]) -> Disk:
    found = plan.target.format
    below = () if plan.shared is None else plan.shared.below.layers
    disk = Disk([Layer(image=found.open(files[0]), format=found, files=tuple(files)), *below])
    if disk.size != plan.virtual_size:
        raise IOFailedError(
            f"the output reads back with {disk.size} bytes, not {plan.virtual_size}",
            reason=Reason.VERIFY_FAILED,
            remedy="please report this",
        )
    return disk
