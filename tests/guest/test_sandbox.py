"""The child that reads guests: what it cannot do, what comes back, and what its death costs."""

import json
import os
import sys
from pathlib import Path

import pytest

from diskfmt.guest import probe, sandbox, worker
from diskfmt.guest.base import BudgetError, DamagedError, GuestError, UnsupportedError
from diskfmt.guest.sandbox import OFF, Limits
from guest.trees import run, tool

ALLOWED = {"thread", "read"}

# Functions that behave badly, in a worker of the tests' own.
BAD = """
import json, os, sys, time, types
from diskfmt.errors import CorruptError, Reason
from diskfmt.guest import base, sandbox, worker

bad = types.ModuleType("bad")
sys.modules["bad"] = bad

def raises(fds, arguments):
    raise getattr(base, arguments["kind"])(arguments["message"], offset=arguments["offset"])

def corrupt(fds, arguments):
    raise CorruptError("no such cluster", reason=Reason.CORRUPT_DATA, offset=5, remedy="-")

def memory(fds, arguments):
    return len(bytearray(arguments["bytes"]))

def garbage(fds, arguments):
    os.write(1, b"{nonsense")
    os._exit(0)

def long(fds, arguments):
    return "x" * arguments["bytes"]

class Device:
    sector_size = 512

    def __init__(self, fd):
        self.fd, self.size = fd, os.fstat(fd).st_size

    def read_at(self, offset, length):
        data = os.pread(self.fd, length, offset)
        if len(data) != length:
            raise base.DamagedError("behind the end")
        return data

def reader(fds, arguments):
    fs = getattr(sys.modules[arguments["module"]], arguments["open"])(Device(fds[0]))
    return [fs.info.kind, fs.info.label, sorted(fs.names("/")), fs.read("/DIR/FILE.TXT").decode()]

for module in ("fat", "ntfs", "xfs", "btrfs"):
    __import__("diskfmt.guest." + module)

def late(fds, arguments):
    import wave
    return wave.__name__

for function in (raises, corrupt, memory, garbage, long, late, reader):
    setattr(bad, function.__name__, function)
bad.spin = lambda fds, arguments: [None for _ in iter(int, 1)]
bad.sleep = lambda fds, arguments: time.sleep(60)
bad.abort = lambda fds, arguments: os.abort()
bad.segfault = lambda fds, arguments: __import__("ctypes").string_at(8)
bad.leave = lambda fds, arguments: os._exit(3)
bad.bug = lambda fds, arguments: {}["missing"]
bad.nan = lambda fds, arguments: object()
bad.echo = lambda fds, arguments: arguments
for name in [name for name in vars(bad) if not name.startswith("_")]:
    worker.TABLE[name] = f"bad:{name}"
for name in json.loads(sys.argv[1]):
    def fails(*_):
        raise OSError("switched off")
    setattr(sandbox, name, fails)
sys.exit(worker.main())
"""


def bad(name: str, arguments: object = None, *, without: tuple[str, ...] = (), **options) -> worker.Answer:
    return worker.run(name, arguments, command=[sys.executable, "-E", "-c", BAD, json.dumps(without)], **options)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("0123456789abcdef")
    return path


def test_nothing_gets_out(victim: Path) -> None:
    fd = os.open(victim, os.O_RDWR)
    try:
        answer = worker.run("probe", {"path": str(victim)}, [fd])
    finally:
        os.close(fd)
    if not answer.sandbox.complete:
        pytest.skip(f"this system has no complete sandbox: {answer.sandbox}")
    assert {name for name, outcome in answer.value.items() if outcome == "allowed"} == ALLOWED
    assert set(answer.value) > {"open", "socket", "exec", "fork", "kill", "unlink", "reopen"}
    assert victim.read_text() == "0123456789abcdef"
    assert os.listdir(victim.parent) == ["victim"]


def test_landlock_alone_keeps_paths_away(victim: Path) -> None:
    answer = bad("probe", {"path": str(victim)}, without=("_seccomp",))
    if answer.sandbox.landlock.startswith("off"):
        pytest.skip(f"no Landlock: {answer.sandbox.landlock}")
    assert answer.sandbox.seccomp == "off: switched off"
    assert not answer.sandbox.complete
    denied = {name for name, outcome in answer.value.items() if outcome.startswith("denied")}
    assert denied >= {"open", "create", "list", "exec", "unlink", "rename"}


def test_seccomp_alone_keeps_all_away(victim: Path) -> None:
    answer = bad("probe", {"path": str(victim)}, without=("_landlock",))
    if answer.sandbox.seccomp != "on":
        pytest.skip(f"no seccomp: {answer.sandbox.seccomp}")
    assert answer.sandbox.landlock == "off: switched off"
    assert {name for name, outcome in answer.value.items() if outcome == "allowed"} == {"thread"}


def test_the_probe_sees_what_is_open(victim: Path) -> None:
    """Without a sandbox the attempts succeed, so that the tests above mean something."""
    arguments = {"path": str(victim), "exec": False}
    answer = bad("probe", arguments, without=("_landlock", "_seccomp", "_set_limits"))
    allowed = {name for name, outcome in answer.value.items() if outcome == "allowed"}
    assert allowed >= {"open", "create", "list", "socket", "unix-socket", "fork", "kill", "unlink", "thread"}
    with pytest.raises(GuestError, match=r"without an answer \(status 0\)"):  # the shell has taken its place
        bad("probe", {**arguments, "exec": True}, without=("_landlock", "_seccomp", "_set_limits"))


def test_require_fails_closed() -> None:
    with pytest.raises(UnsupportedError, match="complete sandbox"):
        bad("echo", 1, without=("_landlock",), mode="require")


def test_off_says_so() -> None:
    assert bad("echo", [1, {"a": None}], mode="off") == worker.Answer([1, {"a": None}], OFF)


def test_the_same_function_here(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probe", lambda fds, arguments: {"fds": tuple(fds), 1: arguments})
    answer = worker.run("probe", "x", [3], isolate=False)
    assert answer == worker.Answer({"fds": [3], "1": "x"}, OFF)


@pytest.mark.parametrize("kind", [GuestError, UnsupportedError, DamagedError, BudgetError])
@pytest.mark.parametrize("offset", [None, 4096])
def test_errors_of_the_guest_come_back_as_they_are(kind: type[GuestError], offset: int | None) -> None:
    with pytest.raises(GuestError, match="ünreadable") as caught:
        bad("raises", {"kind": kind.__name__, "message": "ünreadable", "offset": offset})
    assert type(caught.value) is kind
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "message"),
    [
        ("corrupt", None, GuestError, "no such cluster"),
        ("bug", None, GuestError, "the reader failed: KeyError"),
        ("late", None, GuestError, "the reader failed: .*Error"),
        ("nan", None, GuestError, "without an answer"),
        ("garbage", None, GuestError, "without an answer"),
        ("leave", None, GuestError, r"without an answer \(status 3\)"),
        ("abort", None, GuestError, "crashed"),
        ("segfault", None, GuestError, r"crashed \(SIGSEGV\)"),
        ("memory", {"bytes": 4 << 30}, BudgetError, "out of memory"),
        ("long", {"bytes": 1 << 20}, BudgetError, "answered more than"),
        ("sleep", None, BudgetError, "took longer than 2 seconds"),
    ],
)
def test_its_death_is_an_error_of_that_guest(
    name: str, arguments: object, kind: type[GuestError], message: str
) -> None:
    limits = Limits(wall=2.0 if name == "sleep" else 60.0, answer=1 << 16)
    with pytest.raises(GuestError, match=message) as caught:
        bad(name, arguments, limits=limits)
    assert type(caught.value) is kind


MADE = {
    "fat": ("open_fat", "vfat", 40 << 20, ["mkfs.fat", "-n", "LABEL"]),
    "ntfs": ("open_ntfs", "ntfs", 40 << 20, ["mkntfs", "-Q", "-F", "-q", "-L", "LABEL"]),
    "xfs": ("open_xfs", "xfs", 320 << 20, ["mkfs.xfs", "-q", "-L", "LABEL"]),
    "btrfs": ("open_btrfs", "btrfs", 160 << 20, ["mkfs.btrfs", "-q", "-L", "LABEL"]),
}


@pytest.mark.parametrize("kind", MADE)
def test_each_reader_works_with_all_doors_closed(tmp_path: Path, kind: str) -> None:
    """What a reader imports or opens late would fail here."""
    opener, name, size, command = MADE[kind]
    path, top = tmp_path / "image", tmp_path / "tree"
    (top / "DIR").mkdir(parents=True)
    (top / "DIR/FILE.TXT").write_text("inside\n")
    path.touch()
    os.truncate(path, size)
    options: list[object] = []
    if kind == "xfs":
        proto = tmp_path / "proto"
        proto.write_text(f"/dev/null\n0 0\nd--755 0 0\nDIR d--755 0 0\nFILE.TXT ---644 0 0 {top}/DIR/FILE.TXT\n$\n$\n")
        options = ["-p", proto]
    elif kind == "btrfs":
        options = ["-r", top]
    run(tool(command[0]), *command[1:], *options, path)
    if kind == "fat":
        run(tool("mcopy"), "-s", "-i", path, top / "DIR", "::")
    elif kind == "ntfs":
        run(tool("wimlib-imagex"), "capture", top, tmp_path / "wim")
        run("wimlib-imagex", "apply", tmp_path / "wim", "1", path)
    fd = os.open(path, os.O_RDONLY)
    try:
        answer = bad("reader", {"module": f"diskfmt.guest.{kind}", "open": opener}, fds=[fd])
    finally:
        os.close(fd)
    assert answer.value == [name, "LABEL", ["DIR"], "inside\n"]


def test_too_much_processor_time() -> None:
    with pytest.raises(BudgetError, match="processor time"):
        bad("spin", limits=Limits(cpu=1, wall=60))


def test_a_long_request_and_a_long_answer() -> None:
    arguments = {"text": "x" * 900_000}
    assert bad("echo", arguments).value == arguments
    with pytest.raises(BudgetError, match="request"):
        bad("echo", {"text": "x" * (1 << 20)})


def test_no_descriptor_but_the_given_ones_and_no_secret_goes_in(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert "SECRET_TOKEN" not in worker._environment()


@pytest.mark.parametrize("machine", sandbox._MACHINES)
def test_the_filter(machine: str) -> None:
    """The program, run by a small interpreter, on calls of all kinds."""
    import struct

    about = sandbox._MACHINES[machine]
    code = list(struct.iter_unpack("=HBBI", sandbox.filter_program(about, 1234)))

    def verdict(number: int, first: int = 0, audit: int = about.audit) -> int:
        data = struct.pack("<IIQ6Q", number, audit, 0, first, 0, 0, 0, 0, 0)
        at = value = 0
        while True:
            operation, true, false, operand = code[at]
            at += 1
            if operation == sandbox._RETURN:
                return operand
            if operation == sandbox._LOAD:
                (value,) = struct.unpack_from("<I", data, operand)
                continue
            holds = {
                sandbox._EQUAL: value == operand,
                sandbox._AT_LEAST: value >= operand,
                sandbox._ANY_BIT: bool(value & operand),
            }[operation]
            at += true if holds else false

    deny, allow = sandbox._ERRNO | 1, sandbox._ALLOW
    assert verdict(0, audit=0x40000003) == sandbox._KILL
    assert verdict(0x40000002) == deny
    assert verdict(435) == sandbox._ERRNO | 38
    assert verdict(about.clone, 17) == deny
    assert verdict(about.clone, 0x3D0F00) == allow
    for number in about.signals:
        assert (verdict(number, 1234), verdict(number, 1)) == (allow, deny)
    assert {verdict(number) for number in about.denied} == {deny}
    others = set(range(460)) - set(about.denied) - set(about.signals) - {about.clone, 435}
    assert {verdict(number) for number in others} == {allow}
