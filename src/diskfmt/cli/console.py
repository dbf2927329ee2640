"""The two streams: the result goes to stdout, everything else to stderr."""

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, TextIO

from diskfmt.errors import IOFailedError, Reason, Severity

_COLOURS: Final = {Severity.ERROR: "31;1", Severity.DAMAGE: "31", Severity.WARNING: "33", Severity.NOTE: "36"}
_VERDICTS: Final = {"fail": "31;1", "warn": "33", "unknown": "35", "pass": "32"}
_BATCH: Final = 1 << 16  # characters per write of a long result


class Console:
    """Writes to the process's streams. `json` is the wanted form of the result, `started` whether some is written."""

    def __init__(self, *, json: bool = False, environ: Mapping[str, str] = os.environ) -> None:
        self.json = json
        self.started = False
        self._environ = environ
        self._out = sys.stdout
        self._err = sys.stderr

    def write(self, text: str) -> None:
        """Write a part of the result.

        Raises:
            IOFailedError: WRITE_ERROR, NO_SPACE.
            BrokenPipeError: the reader went away.

        """
        self.started = True
        if self._out is None:
            raise _unwritable(None)
        try:
            self._out.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(error) from error

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write many lines (given without line feeds) in few calls. Raises as `write`."""
        batch: list[str] = []
        size = 0
        for line in lines:
            batch.append(line)
            size += len(line)
            if size > _BATCH:
                self.write("\n".join(batch) + "\n")
                batch, size = [], 0
        if batch:
            self.write("\n".join(batch) + "\n")

    def write_json(self, value: object) -> None:
        """Write one JSON document in ASCII, indented as qemu-img does."""
        import json

        self.write(json.dumps(value, indent=4) + "\n")

    def flush(self) -> None:
        """Raise now what a write that is still buffered would raise later. Raises as `write`."""
        if self._out is None:
            return
        try:
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self.abandon()
            raise _unwritable(error) from error

    def abandon(self) -> None:
        """Let whatever is still buffered for stdout go nowhere, so that the interpreter's exit stays quiet."""
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._out.fileno())
            os.close(null)

    def tell(self, text: str, severity: Severity | None = None) -> None:
        """Write one message line to stderr; a stderr that is gone is nobody's problem."""
        word = "" if severity is None else f"{self.paint_message(severity)}: "
        self._tell(f"diskfmt: {word}{text}\n")

    def traceback(self, error: BaseException) -> None:
        """Write where an exception came from to stderr."""
        import traceback

        self._tell("".join(traceback.format_exception(error)))

    def _tell(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._err.write(text)
            self._err.flush()

    def paint(self, severity: Severity) -> str:
        """The word for a severity, in its colour where stdout is a terminal that has any."""
        return _paint(severity, colourful=has_colours(self._out, self._environ))

    def paint_verdict(self, verdict: str) -> str:
        """The word for a verdict, in its colour where stdout is a terminal that has any."""
        word = str(verdict)
        return f"\x1b[{_VERDICTS[word]}m{word}\x1b[0m" if has_colours(self._out, self._environ) else word

    def paint_message(self, severity: Severity) -> str:
        """The word for a severity, in its colour where stderr is a terminal that has any."""
        return _paint(severity, colourful=has_colours(self._err, self._environ))


def is_terminal(stream: TextIO | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal on which the cursor can be moved."""
    try:
        return stream is not None and stream.isatty() and environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False


def has_colours(stream: TextIO | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are welcome: on a terminal, unless NO_COLOR says otherwise (no-color.org)."""
    return is_terminal(stream, environ) and not environ.get("NO_COLOR")


def _paint(severity: Severity, *, colourful: bool) -> str:
    word = severity.name.lower()
    return f"\x1b[{_COLOURS[severity]}m{word}\x1b[0m" if colourful else word


def _unwritable(error: OSError | None) -> IOFailedError:
    from diskfmt import engine

    number = error.errno if error is not None else None
    text = os.strerror(number).lower() if number else "it is closed"
    return IOFailedError(
        f"cannot write the result to stdout: {text}",
        errno=number,
        reason=Reason.NO_SPACE if number in engine.NO_SPACE else Reason.WRITE_ERROR,
        remedy="send the result elsewhere",
    )
