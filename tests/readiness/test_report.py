"""What the report says of its findings, and the forms that it takes."""

import json
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from diskfmt.errors import NotReadyError, Reason
from diskfmt.readiness.model import Bar, Impact, ReadinessReport, RuleFinding, Span, Status, Verdict
from diskfmt.readiness.render import html, junit, sarif, text


def found(verdict="fail", impact="B", area="container", rule="some-rule", **more):
    return RuleFinding(
        rule=rule, area=area, impact=Impact(impact), verdict=Verdict(verdict), message=f"message of {rule}", **more
    )


def report(*findings, **more):
    return ReadinessReport(path="vm.qcow2", profile="tencent-cvm", findings=findings, **more)


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([], Status.READY),
        ([found("pass")], Status.READY),
        ([found("warn")], Status.READY),
        ([found(impact="W")], Status.READY),
        ([found("unknown", "A")], Status.READY),
        ([found("unknown", "X")], Status.UNKNOWN),
        ([found("unknown", "B"), found("fail", "X", "network", "b")], Status.REACHABLE_NOT),
        ([found("fail", "X", "agent"), found("fail", "X", "kernel", "b")], Status.BOOTS_NOT),
        ([found("fail", "X", "kernel"), found("fail", "B", "agent", "b")], Status.REFUSED),
    ],
)
def test_status_is_the_worst_of_what_is_open(findings, status):
    told = report(*findings)
    assert told.status is status
    assert told.ready == (status is Status.READY)


def test_waived_and_cured_findings_do_not_count():
    assert report(found(), waived=("some-rule",)).ready
    cured = found(cured=True)
    assert not report(cured).ready
    assert report(cured).converts
    assert report(cured, planned=True).ready
    assert not report(cured, found(rule="other")).converts


def test_open_finding_raises_what_it_says():
    report(found("warn")).raise_if_blocked()
    with pytest.raises(NotReadyError, match="message of some-rule") as caught:
        report(found(remedy="mend it")).raise_if_blocked()
    assert (caught.value.reason, caught.value.exit_code, caught.value.remedy) == (Reason.NOT_READY, 1, "mend it")


FULL = report(
    found("pass", rule="fine"),
    found("warn", "W", "fs", "so-so", remedy="tune2fs"),
    found(rule="bad", evidence=("/etc/fstab:3",), remedy="printf '%s\\n' x", error_code="InvalidFormatSize"),
    found("unknown", "X", "boot", "dark"),
    found(rule="left", impact="X"),
    waived=("left",),
    summary={"system": "Debian <b>12</b> \x1b[31m"},
    bars=(Bar(title="partitions", size=100, spans=(Span(start=0, length=50, kind="fs", label="p1 ext4"),)),),
    conversion="diskfmt convert -O qcow2 vm.qcow2 TARGET",
    bytes_read=5 << 20,
)


def test_text_tells_the_gravest_first_and_is_quiet_about_what_passed():
    lines = list(text.lines(FULL, lambda verdict: verdict.value))
    assert lines[0] == "vm.qcow2 for tencent-cvm: the cloud will refuse it"
    order = [next(i for i, line in enumerate(lines) if f"[{rule}" in line) for rule in ("bad", "dark", "so-so")]
    assert order == sorted(order)
    assert not any("fine" in line for line in lines)
    assert any("fine" in line for line in text.lines(FULL, lambda verdict: verdict.value, verbose=True))
    assert "    remedy: printf '%s\\n' x" in lines
    assert any("(/etc/fstab:3) [bad, InvalidFormatSize]" in line for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[-1] == "5 rules: 1 pass, 1 warn, 2 fail, 1 unknown; 5 MiB read in 0.0 s"


def test_json_holds_every_finding():
    document = json.loads(json.dumps(FULL.to_json()))
    assert document["status"] == "refused"
    assert [one["rule"] for one in document["findings"]] == ["bad", "left", "dark", "so-so", "fine"]
    assert document["findings"][0]["error-code"] == "InvalidFormatSize"


def test_sarif_has_a_result_for_each_rule():
    document = json.loads(json.dumps(sarif.document(FULL)))
    run = document["runs"][0]
    assert document["version"] == "2.1.0"
    levels = {result["ruleId"]: (result["kind"], result["level"]) for result in run["results"]}
    assert levels == {
        "bad": ("fail", "error"),
        "left": ("fail", "error"),
        "dark": ("open", "none"),
        "so-so": ("fail", "warning"),
        "fine": ("pass", "none"),
    }
    assert [one["id"] for one in run["tool"]["driver"]["rules"]] == [one["ruleId"] for one in run["results"]]
    assert all(run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"] for one in run["results"])
    assert [one["ruleId"] for one in run["results"] if "suppressions" in one] == ["left"]


def test_junit_counts_what_is_open():
    suite = ET.fromstring(junit.document(FULL))
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["bad"]


class _Page(HTMLParser):
    """Checks nesting, and collects what a page loads or runs."""

    void = frozenset({"meta", "rect"})

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.loaded = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void or tag == "rect":
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_page_stands_alone_and_shows_no_foreign_markup():
    page = html.page(FULL)
    parsed = _Page()
    parsed.feed(page)
    assert parsed.stack == []
    assert parsed.loaded == []
    assert "script" not in parsed.tags
    assert "b" not in parsed.tags
    assert "Debian &lt;b&gt;12" in page
    assert "\x1b" not in page
    assert page.index("message of bad") < page.index("message of dark") < page.index("message of so-so")
