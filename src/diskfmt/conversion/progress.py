"""Long jobs: how far they are, and how they are stopped."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

Result = TypeVar("Result")

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is: `phase` is `check`, `copy`, `sync` or `verify`; `done` and `total` are guest bytes.

    In `check` they count the disk, otherwise what is stored of it; `sync` cannot say how far it is.
    """

    phase: str
    done: int
    total: int


Watcher = Callable[[Progress], None]


def supervised(
    work: Callable[[], Result],
    *,
    poll: Callable[[], None] | None = None,
    cancel: Callable[[], None] | None = None,
) -> Result:
    """The result of `work`, which runs in a thread of its own so that signals reach the caller meanwhile.

    `poll` is called by the caller's thread, about 20 times a second. Whatever it or a signal handler raises stops the
    job: `cancel` is called, the thread is waited for (not without `cancel`: a flush cannot be stopped), and the
    exception goes on.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread below
            failure.append(error)

    thread = threading.Thread(target=body, name="diskfmt", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if poll is not None:
                poll()
    except BaseException:
        if cancel is not None:
            cancel()
            thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
