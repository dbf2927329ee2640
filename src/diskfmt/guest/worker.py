"""Run what parses a guest in a child that can do nothing else; plain data goes in and comes back.

    run(name, arguments, fds) ─► python -m diskfmt.guest.worker: import, shut in, call ─► JSON ─► Answer

A child that crashes, hangs, takes too much memory or answers nonsense is an error of that guest only. With
`isolate=False` the same function runs here, for tests and debuggers; its result makes the same way through JSON.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from diskfmt.errors import DiskfmtError
from diskfmt.guest.base import BudgetError, DamagedError, GuestError, UnsupportedError
from diskfmt.guest.sandbox import OFF, Limits, State, confine, die_with_parent

Function = Callable[[Sequence[int], Any], Any]
Mode = Literal["auto", "require", "off"]

# What may be called: name → module and function, (descriptors, arguments) → value, all of it plain JSON.
TABLE: Final[dict[str, str]] = {
    "probe": "diskfmt.guest.probe:probe",
    "readiness": "diskfmt.readiness.check:look_inside",
}

# Imported before the doors close: what the readers import late, and codecs of text.
PRELOAD: Final = (
    "numpy",
    "pyfsntfs",
    "diskfmt.disk",
    "diskfmt.engine",
    "diskfmt.extents",
    "encodings.cp437",
    "encodings.latin_1",
    "encodings.utf_8",
    "encodings.utf_16_le",
    "encodings.idna",
)

_ERRORS: Final = {kind.__name__: kind for kind in (GuestError, UnsupportedError, DamagedError, BudgetError)}
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_", "TZ", "DISKFMT_", "SKBUILD_", "LD_", "ASAN_", "UBSAN_", "TSAN_")
_MAX_REQUEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the function returned, and what the sandbox was."""

    value: Any
    sandbox: State


def run(
    name: str,
    arguments: Any,
    fds: Sequence[int] = (),
    *,
    limits: Limits = Limits(),  # noqa: B008 # frozen
    mode: Mode = "auto",
    isolate: bool = True,
    command: Sequence[str] | None = None,
) -> Answer:
    """Call a function of the table with JSON arguments and open descriptors.

    `mode`: "require" refuses to run where the sandbox is not complete, "off" does without. `command` starts another
    worker (tests).

    Raises:
        GuestError: what the function raised, with its kind; or the child crashed, or took too long or too much.

    """
    if not isolate:
        return Answer(json.loads(json.dumps(_call(_load(name), fds, arguments))), OFF)
    request = {
        "function": name,
        "arguments": arguments,
        "fds": list(fds),
        "limits": asdict(limits),
        "mode": mode,
    }
    raw = json.dumps(request).encode()
    if len(raw) > _MAX_REQUEST:
        raise BudgetError("a request that is too long")
    deadline = time.monotonic() + limits.wall
    with _request_file(raw) as stdin:
        child = subprocess.Popen(  # noqa: S603 # our own interpreter and module
            command or _command(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=tuple(fds),
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    try:
        out = _receive(child, deadline, limits)
        status = child.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise BudgetError(f"the reader took longer than {limits.wall:g} seconds") from None
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    return _answer(out, status, limits)


@contextlib.contextmanager
def _request_file(raw: bytes) -> Any:
    """The request as a file in memory: a pipe would block while the child does not read."""
    fd = os.memfd_create("request")
    try:
        os.write(fd, raw)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _command() -> list[str]:
    # As -I, but packages that the user installed for himself are found where this process finds them.
    alone = [] if site.ENABLE_USER_SITE else ["-s"]
    return [sys.executable, "-E", "-P", *alone, "-m", "diskfmt.guest.worker"]


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key.startswith(_ENVIRONMENT)}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _receive(child: "subprocess.Popen[bytes]", deadline: float, limits: Limits) -> bytes:
    assert child.stdout is not None  # noqa: S101 # for the type checker
    fd = child.stdout.fileno()
    out = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise BudgetError(f"the reader took longer than {limits.wall:g} seconds")
        part = os.read(fd, 1 << 16)
        if not part:
            return bytes(out)
        out += part
        if len(out) > limits.answer:
            raise BudgetError(f"the reader answered more than {limits.answer} bytes")


def _answer(out: bytes, status: int, limits: Limits) -> Answer:
    if status == -signal.SIGXCPU or (status == -signal.SIGKILL and not out):
        raise BudgetError(f"the reader was stopped by the system (limit: {limits.cpu} seconds of processor time)")
    if status < 0:
        raise GuestError(f"the reader crashed ({signal.Signals(-status).name})")
    try:
        reply = json.loads(out)
        if "error" in reply:
            raise _error(reply["error"])
        return Answer(reply["value"], State(**reply["sandbox"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise GuestError(f"the reader ended without an answer (status {status})") from None


def _error(told: Mapping[str, Any]) -> GuestError:
    offset = told["offset"]
    return _ERRORS[told["kind"]](str(told["message"])[:1000], offset=offset if isinstance(offset, int) else None)


def _load(name: str) -> Function:
    """A function of the table. KeyError and ImportError are mistakes of this program, not of a guest."""
    module, _, function = TABLE[name].partition(":")
    found: Function = getattr(importlib.import_module(module), function)
    return found


def _call(function: Function, fds: Sequence[int], arguments: Any) -> Any:
    """The value, or a GuestError whatever went wrong: what a hostile guest can provoke stops nobody else."""
    try:
        return function(fds, arguments)
    except GuestError:
        raise
    except DiskfmtError as error:
        raise GuestError(error.message, offset=error.offset) from error
    except MemoryError:
        raise BudgetError("the reader ran out of memory") from None
    except Exception as error:
        raise GuestError(f"the reader failed: {type(error).__name__}: {error}") from error


def main() -> int:
    """The child: a request on stdin, the answer on stdout."""
    die_with_parent()
    request = json.loads(sys.stdin.buffer.read(_MAX_REQUEST + 1))
    function = _load(request["function"])
    for module in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # What else the function needs from the host's files: its module knows.
    prepare = getattr(sys.modules[function.__module__], "prepare", None)
    if prepare is not None:
        prepare(request["arguments"])
    try:
        state = _shut_in(request["mode"], Limits(**request["limits"]))
        value = _call(function, request["fds"], request["arguments"])
        reply = json.dumps({"value": value, "sandbox": asdict(state)})
    except GuestError as error:
        told = {"kind": type(error).__name__, "message": error.message, "offset": error.offset}
        reply = json.dumps({"error": told if told["kind"] in _ERRORS else {**told, "kind": "GuestError"}})
    except MemoryError:
        reply = '{"error": {"kind": "BudgetError", "message": "the reader ran out of memory", "offset": null}}'
    sys.stdout.write(reply)
    sys.stdout.flush()
    return 0


def _shut_in(mode: Mode, limits: Limits) -> State:
    if mode == "off":
        return OFF
    state = confine(limits)
    if mode == "require" and not state.complete:
        raise UnsupportedError(f"a complete sandbox is required here: {asdict(state)}")
    return state


if __name__ == "__main__":
    sys.exit(main())
