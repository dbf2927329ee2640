"""A report as SARIF 2.1.0, which code hosts and CI systems show as annotations.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
"""

from typing import Final

from diskfmt._version import __version__
from diskfmt.readiness.model import ReadinessReport, RuleFinding, Verdict, ordered

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_KINDS: Final = {Verdict.PASS: "pass", Verdict.WARN: "fail", Verdict.FAIL: "fail", Verdict.UNKNOWN: "open"}


def document(report: ReadinessReport) -> dict[str, object]:
    """The log with one run."""
    findings = ordered(report.findings)
    rules = {found.rule: {"id": found.rule, "properties": {"area": found.area}} for found in findings}
    index = {rule: number for number, rule in enumerate(rules)}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "diskfmt", "version": __version__, "rules": list(rules.values())}},
                "results": [_result(report, found, index[found.rule]) for found in findings],
                "properties": {"profile": report.profile, "status": report.status.value},
            }
        ],
    }


def _result(report: ReadinessReport, found: RuleFinding, index: int) -> dict[str, object]:
    text = found.message if found.remedy is None else f"{found.message}. Remedy: {found.remedy}"
    result: dict[str, object] = {
        "ruleId": found.rule,
        "ruleIndex": index,
        "kind": _KINDS[found.verdict],
        "level": _level(found),
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(report.path)}},
                "logicalLocations": [{"fullyQualifiedName": place} for place in found.evidence],
            }
        ],
    }
    if found.rule in report.waived:
        result["suppressions"] = [{"kind": "external", "justification": "waived by the caller"}]
    return result


def _level(found: RuleFinding) -> str:
    """SARIF wants "none" for everything that is no failure (3.27.10)."""
    if found.verdict in (Verdict.PASS, Verdict.UNKNOWN):
        return "none"
    return "error" if found.grave else "warning"


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
