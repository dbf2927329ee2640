"""The set-up script is honest about what it cannot do."""

import os
import subprocess

import pytest
from install_kit import ROOT

SCRIPT = os.path.join(ROOT, "tools", "sysdeps.sh")


@pytest.fixture
def machine(tmp_path):
    """A machine that has only what is put into `bin`; the function runs the script there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("mktemp", "find", "tail", "rm", "cat"):
        os.symlink(f"/usr/bin/{name}", folder / name)

    def add(name, body="exit 0"):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    def run(purpose):
        # /usr/sbin is searched by the script whatever PATH says; these tests look at the packages of the build only.
        env = {"PATH": str(folder), "PYTHON": "python3"}
        return subprocess.run(["/bin/sh", SCRIPT, purpose], env=env, capture_output=True, text=True, check=False)

    run.add = add
    return run


def with_compiler(machine):
    for name in ("cc", "python3"):
        machine.add(name)


def test_sysdeps_nothing_missing_says_nothing(machine):
    for name in ("cc", "python3", "cmake", "ninja", "pkg-config"):
        machine.add(name)
    done = machine("build")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sysdeps_not_root_names_what_is_missing_and_goes_on(machine):
    with_compiler(machine)
    machine.add("apt-get", "echo called >&2; exit 1")
    machine.add("id", "echo 1000")
    done = machine("build")
    assert done.returncode == 0
    assert "not root, so these packages stay missing: cmake ninja-build pkg-config libdeflate-dev" in done.stderr
    assert "sudo apt-get install" in done.stderr
    assert "built from pinned sources" in done.stderr
    assert "called" not in done.stderr


def test_sysdeps_not_root_without_compiler_fails_with_the_reason(machine):
    machine.add("python3")
    machine.add("apt-get", "exit 1")
    machine.add("id", "echo 1000")
    done = machine("build")
    assert done.returncode == 1
    assert "without gcc nothing can be built" in done.stderr


def test_sysdeps_root_installs_only_what_is_missing(machine, tmp_path):
    with_compiler(machine)
    for name in ("cmake", "ninja"):
        machine.add(name)
    machine.add("id", "echo 0")
    machine.add("apt-get", f'echo "$*" >>{tmp_path}/log')
    done = machine("build")
    assert done.returncode == 0
    assert "installing system packages: pkg-config libdeflate-dev libisal-dev libzstd-dev zlib1g-dev" in done.stdout
    line = (tmp_path / "log").read_text().splitlines()[-1]
    assert line.startswith("install")
    assert "gcc" not in line
    assert "cmake" not in line


def test_sysdeps_apt_failing_is_not_fatal_where_a_fallback_exists(machine):
    with_compiler(machine)
    machine.add("id", "echo 0")
    machine.add("apt-get", "echo 'no network'; exit 100")
    done = machine("build")
    assert done.returncode == 0
    assert "apt-get could not install:" in done.stderr
    assert "no network" in done.stderr
