"""Progress on stderr: a bar for people, lines of JSON for programs. Never in the way of the job itself."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TextIO

from diskfmt.cli.console import is_terminal
from diskfmt.conversion.progress import Progress
from diskfmt.units import format_size

_INTERVAL: Final = 0.2  # seconds between two lines
_WINDOW: Final = 5.0  # seconds over which the rate is an average
_SAMPLES: Final = 256
_WIDTH: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Progress and its speed: `rate` in bytes per second, `eta` in seconds (None: unknown)."""

    phase: str
    done: int
    total: int
    percent: float
    rate: float | None
    eta: float | None
    elapsed: float


class Meter:
    """Turns progress and the time into readings; starts anew with each phase."""

    def __init__(self) -> None:
        self._phase = ""
        self._started = 0.0
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def read(self, progress: Progress, now: float) -> Reading:
        """The reading at the time `now`, in seconds of any steady clock."""
        if progress.phase != self._phase:
            self._phase, self._started = progress.phase, now
            self._samples.clear()
        self._samples.append((now, progress.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        rate = (progress.done - before) / (now - then) if now > then else None
        left = max(0, progress.total - progress.done)
        eta = 0.0 if not left else left / rate if rate else None
        percent = 100.0 if not progress.total else min(100.0, 100 * progress.done / progress.total)
        return Reading(
            phase=progress.phase,
            done=progress.done,
            total=progress.total,
            percent=percent,
            rate=rate,
            eta=eta,
            elapsed=now - self._started,
        )


def bar_line(reading: Reading, width: int) -> str:
    """One line for a terminal of `width` columns."""
    if reading.phase == "sync":
        return "sync     waiting until the output is durable"[: width - 1]
    rate = f"{format_size(int(reading.rate))}/s" if reading.rate is not None else "-"
    tail = f"{format_size(reading.done)} of {format_size(reading.total)}  {rate}  {eta_text(reading.eta)}"
    head = f"{reading.phase:<8} {int(reading.percent):3}%"
    room = min(40, width - len(head) - len(tail) - 6)
    if room < 8:
        return f"{head}  {tail}"[: width - 1]
    filled = int(room * reading.percent / 100)
    return f"{head} [{'#' * filled}{'.' * (room - filled)}] {tail}"


def eta_text(seconds: float | None) -> str:
    """How long it takes still: `ETA 0:07`, `ETA 1:02:03`."""
    if seconds is None or seconds > 359999:
        return "ETA -"
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"ETA {hours}:{minutes:02}:{whole % 60:02}" if hours else f"ETA {minutes}:{whole % 60:02}"


def json_line(reading: Reading) -> str:
    """One line of JSON."""
    return json.dumps(
        {
            "phase": reading.phase,
            "done": reading.done,
            "total": reading.total,
            "percent": round(reading.percent, 1),
            "rate": None if reading.rate is None else int(reading.rate),
            "eta": None if reading.eta is None else round(reading.eta, 1),
            "elapsed": round(reading.elapsed, 3),
        }
    )


class Display:
    """Shows nothing; the base of those that do. A context manager."""

    def update(self, progress: Progress) -> None:
        """Take note; may be called as often as one likes."""

    def finish(self) -> None:
        """The job is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Leave no trace of a line that is not complete."""


class _Shown(Display):
    """Limits how often something is shown; a stream that fails is not written to again."""

    def __init__(self, stream: TextIO | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._meter = Meter()
        self._shown_at = float("-inf")
        self._phase = ""
        self._waiting: Reading | None = None

    def update(self, progress: Progress) -> None:
        now = self._clock()
        if progress.phase != self._phase:
            self._show_waiting()  # the last word on the phase before
            self._phase, self._shown_at = progress.phase, float("-inf")
        self._waiting = self._meter.read(progress, now)
        if now - self._shown_at >= _INTERVAL:
            self._shown_at = now
            self._show_waiting()

    def finish(self) -> None:
        self._show_waiting()

    def _show_waiting(self) -> None:
        if self._waiting is not None:
            self._show(self._waiting)
            self._waiting = None

    def _show(self, reading: Reading) -> None:
        raise NotImplementedError

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


class Lines(_Shown):
    """One JSON object a line, about five a second; the last one has the phase `done`."""

    def _show(self, reading: Reading) -> None:
        self._write(f"{json_line(reading)}\n")

    def finish(self) -> None:
        """Say what is left to say, and that it is done."""
        super().finish()
        self._write('{"phase": "done"}\n')


class Bar(_Shown):
    """A line that is drawn over and over, and gone at the end."""

    _drawn = False

    def _show(self, reading: Reading) -> None:
        self._write(f"\r\x1b[K{bar_line(reading, self._width())}")
        self._drawn = True

    def _width(self) -> int:
        with suppress(OSError, ValueError, AttributeError):
            if self._stream is not None:
                return os.get_terminal_size(self._stream.fileno()).columns or _WIDTH
        return _WIDTH

    def clear(self) -> None:
        """Take the bar away, so that the line belongs to the next message."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False


def make_display(mode: str) -> Display:
    """The display for `auto`, `bar`, `json` or `none`; `auto` is a bar on a terminal and nothing elsewhere."""
    if mode == "json":
        return Lines(sys.stderr)
    if mode == "bar" or (mode == "auto" and is_terminal(sys.stderr)):
        return Bar(sys.stderr)
    return Display()
