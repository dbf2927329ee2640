"""Signals: the job ends, nothing is left, and the code says which signal it was."""

import json
import os
import pty
import random
import signal
import subprocess
from pathlib import Path

import pytest

from diskfmt.cli.signals import PATIENCE_SECONDS, Interrupted, Interrupts

from .conftest import program

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A disk that takes long to compress at the highest level."""
    path = tmp_path / "slow.raw"
    rng = random.Random(5)
    words = [rng.randbytes(12) for _ in range(4096)]
    part = b"".join(rng.choices(words, k=1 << 17))
    path.write_bytes(part * 48)
    return path


def start_slow(slow: Path, target: Path, **kwargs) -> subprocess.Popen:
    words = ("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", "-c", "zstd:19", "--threads", "1")
    process = subprocess.Popen(
        program(*words, "--progress", "json", *(("--force",) if target.exists() else ()), slow, target),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )
    for line in process.stderr:
        if json.loads(line)["phase"] == "copy":
            return process
    raise AssertionError("it ended before it copied")


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_signal_while_copying_leaves_nothing(slow, tmp_path, number):
    process = start_slow(slow, tmp_path / "t.qcow2")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number]
    assert out == ""
    assert err.splitlines()[-1] == "diskfmt: interrupted, nothing was written"
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == [slow.name]


def test_signal_while_replacing_keeps_the_old_file(slow, tmp_path):
    target = tmp_path / "t.qcow2"
    target.write_text("precious")
    process = start_slow(slow, target)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (143, 130)
    assert target.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == [slow.name, target.name]


def test_ignored_hangup_stays_ignored(slow, tmp_path):
    process = start_slow(slow, tmp_path / "t.qcow2", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


# ---- the handlers alone ----------------------------------------------------------------------------------------------


def test_signal_outside_deferred_is_raised_at_once():
    with Interrupts(), pytest.raises(Interrupted) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_signal_inside_deferred_waits_for_check():
    with Interrupts() as interrupts:
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(Interrupted):
                interrupts.check()
            signal.raise_signal(signal.SIGINT)  # cleaning up: ignored
        assert interrupts.missed is None


def test_second_signal_after_a_while_does_not_wait():
    now = [0.0]
    with Interrupts(clock=lambda: now[0]) as interrupts, interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        now[0] = PATIENCE_SECONDS + 1
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_signal_that_came_too_late_is_told():
    with Interrupts() as interrupts:
        with interrupts.deferred():
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.missed == signal.SIGHUP
        assert "complete already" in interrupts.farewell


def test_farewell_promises_only_what_is_known():
    now = [0.0]
    with Interrupts(clock=lambda: now[0]) as interrupts:
        assert interrupts.farewell == "interrupted"
        with pytest.raises(Interrupted), interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            assert "nothing was written" in interrupts.farewell
            now[0] = PATIENCE_SECONDS + 1
            signal.raise_signal(signal.SIGINT)  # strikes anywhere: nobody knows what is done
        assert interrupts.farewell == "interrupted"


def test_late_signal_of_a_conversion_gives_its_code_and_the_result(raw, tmp_path, monkeypatch, capsys):
    from diskfmt import api
    from diskfmt.cli import main

    convert = api.convert

    def interrupted_late(*words, **options):
        result = convert(*words, **options)
        signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(api, "convert", interrupted_late)
    target = tmp_path / "o.vhd"
    assert main(["convert", "-O", "vhd", str(raw), str(target)]) == 143
    captured = capsys.readouterr()
    assert captured.err == "diskfmt: interrupted, but the output was complete already\n"
    assert str(target) in captured.out
    assert target.exists()


def test_signal_while_telling_of_a_failure_is_no_traceback(monkeypatch, capsys):
    from diskfmt.cli import failure, main

    def line(_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(failure, "line", line)
    assert main(["info", "/nowhere"]) == 143
    assert capsys.readouterr().err == "diskfmt: interrupted\n"


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in CODES]
    with Interrupts():
        assert [signal.getsignal(number) for number in CODES] != before
    assert [signal.getsignal(number) for number in CODES] == before


# ---- a terminal ------------------------------------------------------------------------------------------------------


def run_on_terminal(words: list[str], **env: str) -> tuple[int, str, str]:
    master, slave = pty.openpty()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, **env})
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    out = process.communicate(timeout=60)[0]
    return process.returncode, out.decode(), shown.decode()


def test_bar_is_drawn_on_a_terminal_and_gone_at_the_end(raw, tmp_path):
    words = program("convert", "-O", "qcow2", raw, tmp_path / "o.qcow2")
    code, out, shown = run_on_terminal(words, TERM="xterm")
    assert code == 0
    assert "\r\x1b[Kcopy" in shown
    assert "100%" in shown
    assert shown.endswith("\r\x1b[K")
    assert "\x1b" not in out


@pytest.mark.parametrize("mode, term", [("auto", "dumb"), ("none", "xterm")])
def test_no_bar_where_none_is_wanted(raw, tmp_path, mode, term):
    words = program("convert", "-O", "qcow2", "--progress", mode, raw, tmp_path / "o.qcow2")
    code, _, shown = run_on_terminal(words, TERM=term)
    assert (code, shown) == (0, "")


@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_only_where_it_is_welcome(tmp_path, env, coloured):
    odd = tmp_path / "odd.raw"
    odd.write_bytes(b"x" * 1000)
    words = program("convert", "-f", "raw", "-O", "qcow2", "--progress", "none", odd, tmp_path / "o.qcow2")
    shown = run_on_terminal(words, **{"TERM": "xterm", "NO_COLOR": "", **env})[2]
    assert "warning" in shown
    assert ("\x1b[" in shown) is coloured
