"""Running a command and seeing what it took."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. Seconds; peak memory in MiB; the output's length and what it occupies in bytes."""

    wall: float
    cpu: float
    memory: float
    size: int
    occupied: int


# A process inherits the peak memory of the one that it was forked from, so a small one stands between.
_LAUNCHER = """
import json, os, sys, time
flush, outputs, command = json.loads(sys.argv[1])
start = time.monotonic()
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
child = os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
for name in outputs if flush else ():
    fd = os.open(name, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
wall = time.monotonic() - start
print(json.dumps([os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def run(command: Sequence[str], outputs: Sequence[str], *, flush: bool) -> Run:
    """Remove the outputs, run the command, and with `flush` make its outputs durable inside the measured time."""
    for name in outputs:
        if os.path.exists(name):
            os.unlink(name)
    words = json.dumps([flush, list(outputs), list(command)])
    launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, words]
    done = subprocess.run(launched, check=True, capture_output=True, text=True)
    code, wall, cpu, memory = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}: {done.stderr}")
    found = [os.stat(name) for name in outputs if os.path.exists(name)]
    return Run(
        wall=wall,
        cpu=cpu,
        memory=memory,
        size=sum(one.st_size for one in found),
        occupied=sum(one.st_blocks * 512 for one in found),
    )


def median(runs: Sequence[Run]) -> Run:
    """The medians of each figure."""
    rows = [asdict(one) for one in runs]
    return Run(**{key: statistics.median(row[key] for row in rows) for key in rows[0]})


def fastest(runs: Sequence[Run]) -> float:
    """The shortest wall time in seconds."""
    return min(one.wall for one in runs)
