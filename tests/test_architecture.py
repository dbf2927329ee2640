"""Rules of the house that the import linter cannot say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diskfmt

SRC = Path(__file__).parent.parent / "src" / "diskfmt"
MODULES = sorted(SRC.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""


def test_only_the_engine_imports_the_c_module():
    importers = {path.name for path in MODULES if any(name.startswith("diskfmt._native") for name in imports(path))}
    assert importers == {"engine.py"}


def test_construct_stays_in_headers_and_records():
    importers = {path.stem for path in MODULES if any(name.startswith("construct") for name in imports(path))}
    assert importers.isdisjoint({"map", "layout", "check"})
    assert not any(".compile()" in path.read_text() for path in MODULES)


def test_public_names_are_these():
    assert set(diskfmt.__all__) == {name for name in dir(diskfmt) if not name.startswith("_")} | {"__version__"}
    for name in diskfmt.__all__:
        assert getattr(diskfmt, name) is not None


def test_functions_stay_reachable_whatever_was_imported():
    code = (
        "import diskfmt.conversion.run, diskfmt.treehash, diskfmt.readiness.gate, diskfmt.api, diskfmt;"
        "assert all(callable(getattr(diskfmt, name)) for name in ('convert', 'digest', 'check', 'inspect', 'measure'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import diskfmt", ("numpy", "construct", "diskfmt.engine")),
        ("import diskfmt.api", ("numpy",)),
        ("import diskfmt.cli", ("numpy", "construct")),
    ],
)
def test_what_is_not_needed_is_not_loaded(code, absent):
    probe = f"{code}; import sys; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_no_module_has_outgrown_its_job():
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 600} == {}
