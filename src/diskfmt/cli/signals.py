"""Signals that end the program: turned into an exception where that is safe.

While a command only reads, the exception is raised at once. While a file is being written the handler takes note and
the next progress call raises: an exception between two arbitrary instructions could otherwise strike right after a
temporary file was made and before anybody is responsible for removing it, or right after the final rename.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PATIENCE_SECONDS: Final = 2.0
"""How long after the first signal a second one no longer waits for a safe place."""


class Interrupted(BaseException):
    """A signal asked the program to end. Not an Exception: nothing on the way may mistake it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupts:
    """The handlers, as a context manager; leaving it restores those that were there.

    What the caller ignores (nohup) stays ignored. Outside the main thread nothing is installed.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.farewell = "interrupted"  # the message, as far as one can promise
        self._clock = clock
        self._deferring = False
        self._raised = False
        self._pending: int | None = None
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, a signal waits for `check`. What is inside writes a file, or leaves nothing behind."""
        self._deferring = True
        self.farewell = "interrupted, nothing was written"
        try:
            yield
            self.farewell = "interrupted, but the output was complete already"
        finally:
            self._deferring = False

    def check(self) -> None:
        """Raise Interrupted if a signal is waiting."""
        if self._pending is not None and not self._raised:
            self._raised = True
            raise Interrupted(self._pending)

    @property
    def missed(self) -> int | None:
        """The signal that came too late to stop the job, or None."""
        return None if self._raised else self._pending

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._raised:
            return  # cleaning up already
        if self._deferring:
            if self._pending is None:
                self._pending, self._since = number, self._clock()
                return
            if self._clock() - self._since < PATIENCE_SECONDS:
                return  # a terminal that closes sends several
            self.farewell = "interrupted"
        self._raised = True
        raise Interrupted(number)
