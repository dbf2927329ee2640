"""Long jobs are watched and stopped from the caller's thread."""

import threading
import time

import pytest

from diskfmt.conversion.progress import supervised


def test_supervised_returns_the_result():
    assert supervised(lambda: 42) == 42


def test_supervised_raises_what_the_work_raises():
    def work():
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        supervised(work)


def test_exception_in_poll_cancels_and_waits():
    stop = threading.Event()
    stopped = threading.Event()

    def work():
        stop.wait(30)
        stopped.set()

    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervised(work, poll=poll, cancel=stop.set)
    assert stopped.is_set()


def test_work_without_cancel_is_not_waited_for():
    release = threading.Event()

    def poll():
        raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        supervised(lambda: release.wait(30), poll=poll)
    release.set()
    assert time.monotonic() - before < 25
