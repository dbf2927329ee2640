"""What is imported, and what -h and --version say."""

import subprocess
import sys

import pytest

from diskfmt import __version__, engine
from diskfmt.cli.arguments import COMMANDS

HEAVY = {"numpy", "construct", "json", "traceback", "diskfmt.api", "diskfmt.formats"}

SCRIPT = """
import sys
from diskfmt.cli import main
before = set(sys.modules)
code = main(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def modules_after(*words: object) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    code, *names = done.stderr.split()
    assert code == "0"
    return set(names)


@pytest.mark.parametrize("words", [("--version",), ("-h",), *((name, "-h") for name in COMMANDS)], ids=" ".join)
def test_version_and_help_import_nothing_heavy(words):
    assert not HEAVY & modules_after(*words)


def test_info_does_not_import_numpy(raw, made):
    for path in (raw, made("qcow2"), made("vpc"), made("vmdk")):
        assert "numpy" not in modules_after("info", path)


def test_version_says_version_and_codecs(cli):
    assert cli("--version").out == f"diskfmt {__version__}\n{engine.codecs()}\n"


def test_help_names_every_command(cli):
    text = cli("-h").out
    assert all(f"    {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_that_parses(cli, name):
    from diskfmt.cli.arguments import parse

    ran = cli(name, "-h")
    assert ran.code == 0
    (example,) = [line for line in ran.out.splitlines() if line.startswith("example: ")]
    assert parse(example.split()[2:]).command == name
