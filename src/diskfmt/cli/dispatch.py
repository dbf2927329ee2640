"""From the words of a command line to an exit code, whatever happens on the way."""

import os
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Final

from diskfmt.cli.console import Console
from diskfmt.cli.signals import Interrupted, Interrupts
from diskfmt.errors import DiskfmtError

_SIGPIPE: Final = 13
_SIGINT: Final = 2


def dispatch(words: Sequence[str], interrupts: Interrupts) -> int:
    """Run the command that `words` ask for and return the exit code. Raises Interrupted: while telling of a failure."""
    _occupy_standard_descriptors()
    console = Console(json="json" in _values(words, "--output"))
    try:
        code = _run(words, console, interrupts)
        console.flush()
    except BrokenPipeError:
        console.abandon()
        return 128 + _SIGPIPE
    except BaseException as error:  # noqa: BLE001  # the last line of defence: never a traceback
        return _failed(error, console, interrupts)
    return code


def _run(words: Sequence[str], console: Console, interrupts: Interrupts) -> int:
    if list(words) == ["--version"]:
        return _version(console)
    from diskfmt.cli import arguments
    from diskfmt.cli.session import Session

    if arguments.wants_option_help(words):
        return arguments.print_option_help(words, console)
    options = arguments.parse(words)
    if options.version:
        return _version(console)
    console.json = options.output == "json"
    session = Session(console=console, interrupts=interrupts)
    command = import_module(f"diskfmt.cli.commands.{options.command}")
    code: int = command.run(options, session)
    return code


def _version(console: Console) -> int:
    from diskfmt._version import __version__

    console.write(f"diskfmt {__version__}\n")
    from diskfmt import engine

    console.write(f"{engine.codecs()}\n")
    return 0


def _failed(error: BaseException, console: Console, interrupts: Interrupts) -> int:
    """Say what went wrong, in one line; returns the exit code."""
    from diskfmt.cli import failure

    if isinstance(error, SystemExit):  # argparse, after -h
        return _finish(console, error.code if isinstance(error.code, int) else 0)
    if os.environ.get("DISKFMT_DEBUG") == "1":
        console.traceback(error)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        console.tell(interrupts.farewell)
        return _finish(console, 128 + (error.number if isinstance(error, Interrupted) else _SIGINT))
    told = error if isinstance(error, DiskfmtError) else failure.translate(error)
    console.tell(failure.line(told))
    if console.json and not console.started:
        console.write_json(failure.document(told))
    return _finish(console, told.exit_code)


def _finish(console: Console, code: int) -> int:
    """Flush what is written; where that fails too, only the code is left to tell."""
    try:
        console.flush()
    except BrokenPipeError:
        console.abandon()
        return 128 + _SIGPIPE
    except DiskfmtError as error:
        return error.exit_code
    return code


def _values(words: Sequence[str], option: str) -> list[str]:
    """What an option is given in arguments that may not parse."""
    apart = [value for name, value in pairwise(words) if name == option]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]


def _occupy_standard_descriptors() -> None:
    """Open what the caller closed of 0, 1 and 2: otherwise an image would get the number that messages go to."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
