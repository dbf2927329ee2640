"""What cannot work: one line, one code, nothing left behind, and never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diskfmt import api
from diskfmt.cli import main
from diskfmt.errors import EXIT_CODES, Finding, Reason, Severity, error_from

from .conftest import program, require_decent

COMMANDS = {
    "info": ("info", "@"),
    "map": ("map", "@"),
    "check": ("check", "@"),
    "digest": ("digest", "@"),
    "measure": ("measure", "-O", "qcow2", "@"),
    "convert": ("convert", "-O", "qcow2", "@", "target"),
    "compare": ("compare", "@", "@"),
}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_nasty(kind: str, where: Path) -> tuple[str, set[int]]:
    """A name, and the exit codes that are right for it."""
    path = where / "nasty"
    if kind == "directory":
        path.mkdir()
        return str(path), {1}
    if kind == "fifo":
        os.mkfifo(path)
        return str(path), {1}
    if kind == "missing":
        return str(path), {4}
    if kind == "device":
        return "/dev/null", {1}
    if kind == "nul":
        return "a\0b", {4}
    if kind == "too long":
        return "x" * 5000, {4}
    if kind == "empty name":
        return "", {4}
    if kind == "evil name":
        path = where / "a\n\x1b]0;owned\x07\u202e\udcff.img"
    contents = {
        "empty": b"",
        "one byte": b"x",
        "random": bytes((i * 7919 + (i >> 3)) & 0xFF for i in range(1 << 16)),
        "qcow2 magic": b"QFI\xfb",
        "vmdk magic": b"KDMV" + b"\xff" * 508,
        "vhd magic": b"conectix" + b"\xff" * 504,
        "descriptor": b"# Disk DescriptorFile\nversion=99\n" + b"\x1b[2J" * 9,
        "evil name": b"\x7fELF" + bytes(508),
        "script": b"#!/bin/sh\necho hello\n",
    }
    path.write_bytes(contents[kind])
    return str(path), {1, 3}


NASTY = (
    "directory",
    "fifo",
    "missing",
    "device",
    "nul",
    "too long",
    "empty name",
    "evil name",
    "empty",
    "one byte",
    "random",
    "qcow2 magic",
    "vmdk magic",
    "vhd magic",
    "descriptor",
    "script",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", NASTY)
def test_nasty_input_is_one_line_and_the_right_code(cli, workdir, kind, command):
    name, codes = make_nasty(kind, workdir)
    before = sorted(os.listdir(workdir))
    ran = cli(*(name if word == "@" else word for word in COMMANDS[command]))
    assert ran.code in codes
    assert ran.out == ""
    assert ran.message.count("[") >= 1
    assert sorted(os.listdir(workdir)) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_nasty_input_as_json_is_an_error_object(cli, workdir, command):
    name, _ = make_nasty("missing", workdir)
    ran = cli(*(name if word == "@" else word for word in COMMANDS[command]), "--output", "json")
    error = json.loads(ran.out)["error"]
    assert error["reason"] == "READ_ERROR"
    assert error["exit-code"] == ran.code == 4
    assert error["path"] == name
    assert set(error) <= {"reason", "message", "path", "offset", "guest-offset", "remedy", "exit-code"}
    assert ran.message


def test_evil_name_is_escaped_and_readable(cli, workdir):
    name, _ = make_nasty("evil name", workdir)
    assert r"/a\x0a\x1b]0;owned\x07\u202e\xff.img: " in cli("info", name).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_an_io_error(cli, raw):
    raw.chmod(0)
    assert cli("info", raw).code == 4


def test_forced_raw_takes_what_is_not_recognised(cli, workdir):
    name, _ = make_nasty("random", workdir)
    assert cli("info", "-f", "raw", name).code == 0
    assert cli("info", "-f", "qcow2", name).code in (1, 3)


# ---- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("--frobnicate",),
        ("info",),
        ("info", "a", "b"),
        ("info", "--out", "json", "a"),
        ("info", "--output", "xml", "a"),
        ("info", "-f", "ntfs", "a"),
        ("convert", "a", "b"),
        ("convert", "-O", "raw", "a"),
        ("convert", "-O", "vdi", "a", "b"),
        ("convert", "-O", "vmdk:sparse", "a", "b"),
        ("convert", "-O", "vmdk:", "a", "b"),
        ("convert", "-O", "qcow2", "-o", "cluster_size", "a", "b"),
        ("convert", "-O", "qcow2", "-o", "size=1", "a", "b"),
        ("convert", "-O", "qcow2", "-c", "a", "b"),
        ("convert", "-c", "-O", "qcow2", "a", "b"),
        ("convert", "-O", "qcow2", "-c", "zstd:0", "a", "b"),
        ("convert", "-O", "qcow2", "-c", "zstd:x", "a", "b"),
        ("convert", "-O", "qcow2", "--threads", "many", "a", "b"),
        ("convert", "-O", "qcow2", "--threads", "-1", "a", "b"),
        ("convert", "-O", "qcow2", "--threads", "0", "a", "b"),
        ("convert", "-O", "qcow2", "--progress", "loud", "a", "b"),
        ("measure", "a"),
        ("info", "\x1b[31m\n", "\x1b[31m\n", "x"),
    ],
    ids=" ".join,
)
def test_usage_error_is_two_and_one_line_with_a_hint(cli, workdir, words):
    ran = cli(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "[USAGE]; " in ran.message


def test_usage_error_as_json_is_an_error_object(cli):
    ran = cli("convert", "--output=json", "--nonsense", "a", "b")
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["reason"] == "USAGE"


def test_missing_target_format_lists_the_formats(cli):
    assert "raw, qcow2, vhd, vmdk" in cli("convert", "a", "b").message


# ---- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
def test_exit_code_and_line_follow_from_the_reason(cli, monkeypatch, reason):
    finding = Finding(
        reason=reason, severity=Severity.ERROR, message="it is bad\x1b", offset=512, guest_offset=0, remedy="mend\nit"
    )

    def inspect(*_, **__):
        raise error_from(finding, path="x.img")

    monkeypatch.setattr(api, "inspect", inspect)
    ran = cli("info", "--output", "json", "x.img")
    assert ran.code == EXIT_CODES[reason]
    where = f"[{reason}, offset 0x200, guest offset 0x0]"
    assert ran.message == f"diskfmt: x.img: it is bad\\x1b {where}; mend\\x0ait\n"
    assert json.loads(ran.out)["error"]["offset"] == 512


@pytest.mark.parametrize(
    "error, text",
    [
        (MemoryError(), "not enough memory"),
        (KeyError("oh"), "internal error: KeyError: 'oh'"),
        (RecursionError(), "internal error: RecursionError"),
        (AssertionError("a\nb"), r"internal error: AssertionError: a\x0ab"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_unexpected_exception_is_eight_and_one_line(cli, monkeypatch, error, text):
    def inspect(*_, **__):
        raise error

    monkeypatch.setattr(api, "inspect", inspect)
    ran = cli("info", "x.img")
    assert ran.code == 8
    assert ran.message.startswith(f"diskfmt: {text} [INTERNAL]; ")


def test_debug_variable_shows_the_traceback(monkeypatch, capsys):
    def inspect(*_, **__):
        raise KeyError("oh")

    monkeypatch.setattr(api, "inspect", inspect)
    monkeypatch.setenv("DISKFMT_DEBUG", "1")
    assert main(["info", "x"]) == 8
    assert "Traceback" in capsys.readouterr().err


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_reader_that_goes_away_is_quiet(raw):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(program("info", raw), stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_full_stdout_is_no_space(raw):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            program("info", raw), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 5
    assert done.stderr.startswith("diskfmt: cannot write the result to stdout: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptor_never_becomes_the_output(raw, tmp_path, closed):
    target = tmp_path / "o.raw"
    words = " ".join(program("convert", "-O", "raw", "--progress", "json", "--verify", raw, target))
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (4 if ">&-" in closed.replace("2>&-", "") else 0)
    assert target.read_bytes() == raw.read_bytes()
    assert "Traceback" not in done.stderr


def test_ascii_locale_and_odd_bytes_are_fine(spawn, tmp_path):
    ran = spawn("info", os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe4"), LC_ALL="C", PYTHONIOENCODING="ascii")
    assert ran.code == 4
    assert r"/\xff\xe4: " in ran.message
    require_decent(ran)


def test_main_in_another_thread_works(raw, capsys):
    import threading

    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["info", str(raw)])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "virtual size" in capsys.readouterr().out


def test_python_dash_m_is_the_same_program(spawn, raw):
    assert spawn("info", raw).out.startswith("image:")
    assert sys.executable
