"""Reasons, exit codes, findings and the tree of exceptions."""

import pytest

from diskfmt import errors
from diskfmt.errors import (
    EXIT_CODES,
    CorruptError,
    DiskfmtError,
    Finding,
    InternalError,
    InUseError,
    IOFailedError,
    LimitError,
    NotReadyError,
    Reason,
    RefusedError,
    Severity,
    UsageError,
    error_from,
    first_error,
)

CLASSES = [
    DiskfmtError,
    UsageError,
    RefusedError,
    NotReadyError,
    CorruptError,
    LimitError,
    IOFailedError,
    InUseError,
    InternalError,
]


def test_every_reason_is_its_own_name_and_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Reason)
    for reason in Reason:
        assert reason.value == reason.name
        assert 1 <= EXIT_CODES[reason] <= 8


@pytest.mark.parametrize("reason", list(Reason))
def test_error_from_finding_says_the_same(reason: Reason) -> None:
    finding = Finding(
        reason=reason, severity=Severity.ERROR, message="bad", offset=0, guest_offset=512, remedy="do better"
    )
    error = error_from(finding, path="a.vhd")
    assert error.exit_code == EXIT_CODES[reason]
    assert type(error) in CLASSES
    assert (error.reason, error.message, error.path) == (reason, "bad", "a.vhd")
    assert (error.offset, error.guest_offset, error.remedy) == (0, 512, "do better")
    assert str(error) == f"a.vhd: bad [{reason.value}, offset 0x0, guest offset 0x200]; do better"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (UsageError, ValueError),
        (RefusedError, ValueError),
        (NotReadyError, RefusedError),
        (CorruptError, ValueError),
        (LimitError, ValueError),
        (IOFailedError, OSError),
        (InUseError, OSError),
        (InternalError, RuntimeError),
    ],
)
def test_exceptions_are_also_those_of_python(kind: type[DiskfmtError], builtin: type[Exception]) -> None:
    error = kind("what")
    assert isinstance(error, DiskfmtError)
    assert isinstance(error, builtin)
    assert error.reason is kind.default_reason
    assert str(error) == f"what [{kind.default_reason.value}]"
    assert error.args == ("what",)


def test_default_exit_code_of_each_class_is_that_of_its_findings() -> None:
    for kind in CLASSES[1:]:
        made = error_from(Finding(reason=kind.default_reason, severity=Severity.ERROR, message="x"))
        assert isinstance(kind("x"), type(made))


def test_io_failed_error_keeps_the_errno() -> None:
    error = IOFailedError("cannot write", errno=28, reason=Reason.NO_SPACE, path="out")
    assert (error.errno, error.exit_code) == (28, 5)
    assert str(error) == "out: cannot write [NO_SPACE]"
    assert IOFailedError("x").errno is None


def test_about_names_the_file_once() -> None:
    error = CorruptError("bad")
    assert error.about("first") is error
    assert error.about("second").path == "first"


def test_first_error_skips_what_weighs_less() -> None:
    notes = [Finding(reason=Reason.LEAKED, severity=severity, message="x") for severity in Severity]
    assert first_error(notes) is notes[-1]
    assert first_error(notes[:-1]) is None
    assert first_error([]) is None


def test_module_says_which_exit_codes_exist() -> None:
    assert errors.__doc__ is not None
    for code in set(EXIT_CODES.values()):
        assert str(code) in errors.__doc__
