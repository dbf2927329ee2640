"""A conversion that is killed at any moment: under the final name is the whole disk, the old file, or nothing (P4)."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import diskfmt

MIB = 1 << 20
SIZE = 300 * MIB
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGKILL: -9}
TARGETS = ("qcow2", "vhd", "vmdk:monolithicFlat", "raw", "vmdk:streamOptimized")


@pytest.fixture(scope="module")
def large(memory):
    """A disk of 300 MiB, and its digest."""
    path = memory / "disk.raw"
    block = random.Random(1).randbytes(1 << 19) + bytes(range(256)) * 2048
    with path.open("wb") as file:
        for number in range(SIZE // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])
    yield path, diskfmt.digest(path, format="raw")
    path.unlink()


def start(source, target, form: str, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "diskfmt", "convert", "-f", "raw", "-O", form, *words, source, target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def require_whole_or_nothing(folder, name: str, code: int, number: int, digest: str, form: str) -> None:
    kind = form.partition(":")[0]
    names = [one for one in os.listdir(folder) if not one.endswith(".part")]
    if name in names:
        assert diskfmt.digest(folder / name, format=kind, follow="pieces") == digest
    else:
        assert code == CODES[number]
    if number != signal.SIGKILL:
        assert [one for one in os.listdir(folder) if one.endswith(".part")] == []
        assert code in (0, CODES[number])
        assert names == [] or name in names


def run_rounds(large, tmp_path, rounds: int, seed: int) -> None:
    source, digest = large
    rng = random.Random(seed)
    began = time.monotonic()
    start(source, tmp_path / "probe", "qcow2").communicate(timeout=120)
    usual = time.monotonic() - began
    (tmp_path / "probe").unlink()
    for turn in range(rounds):
        number = list(CODES)[turn % len(CODES)]
        form = TARGETS[turn % len(TARGETS)]
        folder = tmp_path / str(turn)
        folder.mkdir()
        process = start(source, folder / "o.x", form)
        time.sleep(rng.uniform(0.1, 1.1) * usual)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err.decode()
        # Before Python's main function runs, and after it returned, a signal has its usual meaning.
        code = process.returncode if process.returncode != -number else CODES[number]
        require_whole_or_nothing(folder, "o.x", code, number, digest, form)
        for name in os.listdir(folder):
            (folder / name).unlink()


def test_signal_at_a_random_moment_leaves_all_or_nothing(large, tmp_path):
    run_rounds(large, tmp_path, 5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_signals_at_many_moments_leave_all_or_nothing(large, tmp_path, seed):
    run_rounds(large, tmp_path, 100, 100 + seed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_old_file_stays_or_is_replaced_whole(large, tmp_path, number):
    source, digest = large
    for delay in (0.4, 0.8):
        target = tmp_path / "o.qcow2"
        target.write_bytes(b"precious")
        process = start(source, target, "qcow2", "--force")
        time.sleep(delay)
        process.send_signal(number)
        process.communicate(timeout=60)
        if target.read_bytes()[:8] != b"precious":
            assert diskfmt.digest(target) == digest
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
