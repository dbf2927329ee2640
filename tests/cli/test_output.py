"""Formatting, with records made up for it."""

import json

import pytest

from diskfmt.cli import failure, output
from diskfmt.cli.commands.map import json_lines
from diskfmt.cli.progress import Bar, Lines, Meter, bar_line, eta_text
from diskfmt.conversion.progress import Progress
from diskfmt.errors import Finding, Reason, Severity
from diskfmt.formats.base import Reference, Statistics
from diskfmt.results import CheckReport, ImageInfo, MapRow

EVIL = "a\n\x1b[31m\u202eb\\"
SAFE = r"a\x0a\x1b[31m\u202eb"


def word(severity: Severity) -> str:
    return severity.name.lower()


def row(start: int, length: int, *, offset: int | None = None, compressed: bool = False, name: str | None = "f"):
    data = compressed or offset is not None
    return MapRow(
        start=start,
        length=length,
        present=data,
        zero=not data,
        data=data,
        compressed=compressed,
        offset=offset,
        filename=name if data else None,
    )


def test_info_escapes_everything_that_an_image_says():
    finding = Finding(reason=Reason.BAD_VALUE, severity=Severity.ERROR, message=EVIL, offset=1, remedy=EVIL)
    info = ImageInfo(
        filename=EVIL,
        format="qcow2",
        subformat="v3",
        virtual_size=1000,
        actual_size=4096,
        file_size=4097,
        cluster_size=65536,
        references=(Reference(kind="backing", name=f"http://u:secret@h/{EVIL}", format=EVIL, offset=7),),
        findings=(finding,),
        evidence=("one", EVIL),
        specific={EVIL: {"deep": [EVIL, {"x": EVIL}]}, "flag": True, "none": "", "empty": []},
        extra={"backing-filename": f"http://u:secret@h/{EVIL}", "list": {"a": 1}},
    )
    text = "\n".join(output.info_lines(info, word))
    assert text.isascii()
    assert "\x1b" not in text
    assert "secret" not in text
    assert text.count(SAFE) >= 10
    assert "flag: true" in text
    assert "virtual size:     1000 bytes" in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_nested_lines_stop_at_a_depth():
    value: dict[str, object] = {}
    for _ in range(100):
        value = {"x": value}
    assert len(list(output.nested_lines(value))) < 20


def test_message_keeps_names_that_are_escaped_already():
    assert failure.safe(r"the piece a\x1b.vmdk") == r"the piece a\x1b.vmdk"
    assert failure.safe("raw \x1b") == r"raw \x1b"
    assert len(failure.safe("\\" * 10**6)) < 10_000


def test_findings_are_sorted_by_weight():
    findings = [Finding(reason=Reason.LEAKED, severity=severity, message=severity.name) for severity in Severity]
    lines = list(output.finding_lines(findings, word))
    assert [line.split(":")[0] for line in lines] == ["error", "damage", "warning", "note"]


@pytest.mark.parametrize(
    "severities, verdict",
    [
        ((), "No errors were found on the image. Compressed data was not decoded: --deep does."),
        ((Severity.NOTE, Severity.NOTE), "No errors were found on the image (2 notes). Compressed"),
        ((Severity.ERROR, Severity.WARNING), "The image is not fit to be converted: 1 error, 1 warning."),
    ],
)
def test_verdict_counts_findings(severities, verdict):
    report = CheckReport(
        filename="f",
        format="qcow2",
        subformat="v3",
        findings=tuple(Finding(reason=Reason.LEAKED, severity=s, message="m") for s in severities),
        statistics=Statistics(total_units=4, stored_units=3, encoded_units=1, end=4096),
        deep=False,
    )
    lines = list(output.check_lines(report, word))
    assert lines[-1].startswith(verdict)
    assert "3/4 units = 75.00% allocated, 1 compressed; the image ends at offset 0x1000" in lines


def test_map_says_what_has_no_place():
    rows = [row(0, 512, offset=0), row(512, 512, compressed=True), row(1024, 512)]
    lines = list(output.map_lines(rows))
    assert [line.split()[2] for line in lines[1:]] == ["0x0", "compressed", "unallocated"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_map_json_is_a_list_of_any_length(count):
    rows = [row(index, 1, offset=2 * index) for index in range(count)]
    text = "\n".join(json_lines(rows))
    assert [entry["start"] for entry in json.loads(text)] == list(range(count))
    assert text.count("\n") == max(0, count - 1)


def test_map_json_is_streamed():
    seen = []

    def rows():
        for index in range(10**9):
            seen.append(index)
            yield row(index, 1, offset=2 * index)

    lines = json_lines(rows())
    next(lines)
    assert len(seen) < 5


# ---- progress --------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def copy(done: int, total: int = 1000) -> Progress:
    return Progress(phase="copy", done=done, total=total)


def test_meter_gives_rate_and_eta():
    meter = Meter()
    meter.read(copy(0), 0)
    reading = meter.read(copy(250), 2)
    assert (reading.percent, reading.rate, reading.eta, reading.elapsed) == (25.0, 125.0, 6.0, 2.0)
    reading = meter.read(Progress(phase="verify", done=0, total=0), 3)
    assert (reading.percent, reading.rate, reading.eta, reading.elapsed) == (100.0, None, 0.0, 0.0)


def test_meter_forgets_what_is_long_ago():
    meter = Meter()
    for second in range(100):
        reading = meter.read(copy(min(90, second), 1000), second)
    assert reading.rate == 0
    assert reading.eta is None


@pytest.mark.parametrize("width", [1, 10, 40, 60, 80, 200])
def test_bar_fits_the_terminal(width):
    meter = Meter()
    meter.read(copy(0, 1 << 40), 0)
    for progress in (copy(1 << 39, 1 << 40), Progress(phase="sync", done=1, total=1)):
        assert len(bar_line(meter.read(progress, 7), width)) < max(width, 2)


@pytest.mark.parametrize("seconds, text", [(7, "ETA 0:07"), (3723, "ETA 1:02:03"), (None, "ETA -"), (1e12, "ETA -")])
def test_eta_is_readable(seconds, text):
    assert eta_text(seconds) == text


class Stream:
    def __init__(self, *, broken: bool = False) -> None:
        self.text = ""
        self.broken = broken
        self.calls = 0

    def write(self, text: str) -> int:
        self.calls += 1
        if self.broken:
            raise BrokenPipeError
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_lines_are_limited_to_five_a_second_and_end_with_the_last_word():
    stream, clock = Stream(), Clock()
    with Lines(stream, clock=clock) as display:
        for done in range(1001):
            display.update(copy(done))
            clock.now += 0.001
        display.finish()
    lines = [json.loads(line) for line in stream.text.splitlines()]
    assert len(lines) <= 8
    assert lines[-2]["done"] == 1000
    assert lines[-1] == {"phase": "done"}


def test_lines_of_a_failed_job_do_not_say_done():
    stream = Stream()
    with pytest.raises(RuntimeError), Lines(stream, clock=Clock()) as display:
        display.update(copy(1))
        raise RuntimeError
    assert 'done"}' not in stream.text


def test_bar_is_cleared_when_the_job_fails():
    stream = Stream()
    with pytest.raises(RuntimeError), Bar(stream, clock=Clock()) as display:
        display.update(copy(1))
        raise RuntimeError
    assert stream.text.endswith("\r\x1b[K")


@pytest.mark.parametrize("kind", [Lines, Bar])
def test_broken_stderr_does_not_stop_the_job(kind):
    stream = Stream(broken=True)
    with kind(stream, clock=Clock()) as display:
        display.update(copy(1))
        display.update(Progress(phase="sync", done=1, total=1))
        display.finish()
    assert stream.calls == 1
