"""What a process can still do: the proof that the sandbox holds, run inside it."""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any


def probe(fds: Sequence[int], arguments: Any) -> dict[str, str]:
    """Each attempt by name with what came of it: `denied: …` or `allowed`.

    `arguments`: {"path": a file that exists}, which is opened, and removed if that is possible; {"exec": false} leaves
    that attempt out, which ends the process where it succeeds. The first descriptor is read and opened for writing.
    """
    path = str(arguments["path"])
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: os.open(path, os.O_RDONLY),
        "create": lambda: os.open(path + ".new", os.O_WRONLY | os.O_CREAT),
        "list": lambda: os.listdir("/"),
        "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix-socket": socket.socketpair,
        "fork": _fork,
        "kill": lambda: os.kill(os.getppid(), 0),
        "unlink": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, path + ".new"),
        "chmod": lambda: os.chmod(path, 0o600),
        "thread": _thread,
    }
    if arguments.get("exec", True):
        attempts["exec"] = lambda: os.execv("/bin/sh", ["sh", "-c", "echo allowed"])  # noqa: S606 # it must not start
    if fds:
        attempts["reopen"] = lambda: os.open(f"/proc/self/fd/{fds[0]}", os.O_WRONLY)
        attempts["truncate"] = lambda: os.ftruncate(fds[0], 0)
        attempts["read"] = lambda: os.pread(fds[0], 16, 0)
    return {name: _outcome(attempt) for name, attempt in attempts.items()}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, RuntimeError) as error:
        return f"denied: {error}"
    return "allowed"


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
