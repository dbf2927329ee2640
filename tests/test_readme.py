"""The tour of the README works as it stands there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def blocks():
    """Language and text of each fenced block of the README."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return re.findall(r"^```(\w+)\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """What each block printed. One directory for all: later blocks use the files of earlier ones."""
    folder = tmp_path_factory.mktemp("tour")
    env = dict(os.environ)
    env["PATH"] = f"{os.path.dirname(sys.executable)}:{env.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which("mke2fs", path=env["PATH"]) is None:
        pytest.skip("mke2fs is missing")
    printed = []
    for language, text in blocks():
        command = [sys.executable, "-c", text] if language == "python" else ["sh", "-euc", text]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        printed.append((language, text, done))
    return printed


def test_readme_every_block_is_of_a_kind_that_is_run():
    assert {language for language, _ in blocks()} == {"sh", "python"}


def test_readme_tour_every_block_succeeds(tour):
    for _, text, done in tour:
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_readme_tour_shows_what_the_text_says(tour):
    everything = "".join(done.stdout for _, _, done in tour)
    digests = re.findall(r"\b[0-9a-f]{64}\b", everything)
    assert len(digests) >= 2
    assert len(set(digests)) == 1
    assert "refused: exit code 3" in everything
    python = next(done.stdout for language, _, done in tour if language == "python")
    assert python.split() == [str(256 << 20), "True", "53ef"]
