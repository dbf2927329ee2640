"""Each reason code: something that gives exactly it, with the exception and exit code that the table promises."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from images import PROJECT

import diskfmt
from diskfmt import Reason
from diskfmt.errors import EXIT_CODES
from hostile.kit import guard
from hostile.situations import RESERVED, SITUATIONS

# Written again, not taken from the program: scripts depend on these numbers.
EXIT = {
    1: "EXTERNAL_REFERENCE AMBIGUOUS_FORMAT NESTED_FORMAT FORMAT_MISMATCH UNKNOWN_FORMAT UNSUPPORTED_SUBFORMAT "
    "UNKNOWN_FEATURE CODEC_MISSING ENCRYPTED DIFFERENTIAL NOT_REGULAR OUTPUT_EXISTS NOT_READY",
    2: "USAGE",
    3: "BAD_CHECKSUM BAD_VALUE OUT_OF_FILE OVERLAP SHARED_CLUSTERS TRUNCATED CORRUPT_FLAG CORRUPT_DATA NEEDS_REPLAY "
    "UNCLEAN LEAKED",
    4: "READ_ERROR WRITE_ERROR VERIFY_FAILED",
    5: "NO_SPACE",
    6: "IN_USE SOURCE_CHANGED OUTPUT_BUSY",
    7: "LIMIT_SIZE LIMIT_METADATA LIMIT_EXPANSION LIMIT_TIME",
    8: "INTERNAL",
}
CODES = {Reason[name]: code for code, names in EXIT.items() for name in names.split()}


def test_every_reason_has_a_situation_or_is_reserved():
    assert set(SITUATIONS) | set(RESERVED) == set(Reason)
    assert not set(SITUATIONS) & set(RESERVED)


@pytest.mark.parametrize("reason", RESERVED)
def test_reserved_reason_is_not_used_by_the_program(reason):
    used = [
        str(path)
        for path in (PROJECT / "src").rglob("*.py")
        if path.name != "errors.py" and re.search(rf"\b{reason.name}\b", path.read_text())
    ]
    assert used == []


def test_exit_codes_are_those_that_scripts_know():
    assert EXIT_CODES == CODES


@pytest.mark.parametrize("reason", SITUATIONS)
def test_situation_gives_exactly_its_reason(tmp_path, reason):
    situation = SITUATIONS[reason]
    with ExitStack() as stack, guard():
        job = situation.make(tmp_path, stack)
        if situation.error is None:
            found = [finding for finding in job() if finding.reason is reason]
            assert found
            assert all("\n" not in finding.message for finding in found)
            return
        with pytest.raises(diskfmt.DiskfmtError) as caught:
            job()
    error = caught.value
    assert (error.reason, type(error)) == (reason, situation.error), str(error)
    assert error.exit_code == CODES[reason]
    assert error.remedy, str(error)
    assert "\n" not in str(error)
    assert reason.value in str(error)
    out = tmp_path / "out"
    assert not out.exists() or os.listdir(out) == []
    if (tmp_path / "there").exists():
        assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize("reason", [reason for reason in SITUATIONS if CODES[reason] in (1, 3, 7)])
def test_command_line_says_the_same(tmp_path, capsys, reason):
    from diskfmt.cli import main

    with ExitStack() as stack:
        SITUATIONS[reason].make(tmp_path, stack)
        if not (tmp_path / "image").exists() or SITUATIONS[reason].error is None:
            return
        named = ["-f", "vhd"] if reason is Reason.FORMAT_MISMATCH else []
        target = tmp_path / ("there" if reason is Reason.OUTPUT_EXISTS else "o")
        code = main(["convert", *named, "-O", "raw", str(tmp_path / "image"), str(target)])
    captured = capsys.readouterr()
    assert code == CODES[reason], captured.err
    assert captured.err.count("\n") == 1
    assert f"[{reason.value}" in captured.err
    assert reason is Reason.OUTPUT_EXISTS or not target.exists()


@pytest.mark.parametrize("reason", [Reason.UNCLEAN, Reason.LEAKED])
def test_mere_doubt_does_not_stop_a_conversion(tmp_path, reason):
    SITUATIONS[reason].make(tmp_path, ExitStack())
    result = diskfmt.convert(tmp_path / "image", tmp_path / "o", format="raw", sync=False)
    assert reason in {finding.reason for finding in result.findings}


# ---- the page --------------------------------------------------------------------------------------------------------


def page() -> dict[str, str]:
    """The sections of docs/reasons.md by reason code."""
    text = Path(PROJECT / "docs" / "reasons.md").read_text()
    parts = re.split(r"^### `([A-Z_]+)`", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_reason_is_on_the_page_once_with_its_exit_code():
    sections = page()
    assert set(sections) == {reason.value for reason in Reason}
    for reason in Reason:
        section = sections[reason.value]
        assert f"exit {CODES[reason]}" in section.splitlines()[0], reason
        assert "**Typical:**" in section, reason
        assert "**Do:**" in section, reason


def test_page_has_no_long_lines():
    assert max(map(len, (PROJECT / "docs" / "reasons.md").read_text().splitlines())) <= 120


def test_exit_code_of_the_process_is_that_of_the_reason(tmp_path):
    SITUATIONS[Reason.TRUNCATED].make(tmp_path, ExitStack())
    words = [sys.executable, "-m", "diskfmt", "digest", tmp_path / "image"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "[TRUNCATED" in done.stderr
