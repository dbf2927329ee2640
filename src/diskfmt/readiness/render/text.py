"""A report for a terminal: the verdict first, then what is open, each with its remedy, quiet about what passed."""

from collections.abc import Callable, Iterator

from diskfmt.escape import escape, printable
from diskfmt.readiness.model import STATUS_TEXT, ReadinessReport, RuleFinding, Verdict, ordered

Paint = Callable[[Verdict], str]
"""The word for a verdict, with or without colour."""


def lines(report: ReadinessReport, paint: Paint, *, verbose: bool = False) -> Iterator[str]:
    """The report, line by line, in printable ASCII. `verbose`: also what passed."""
    yield f"{escape(report.path)} for {escape(report.profile)}: {headline(report)}"
    for key, value in report.summary.items():
        if isinstance(value, str):
            yield f"    {key}: {escape(value)}"
    for found in ordered(report.findings):
        if verbose or found.verdict is not Verdict.PASS:
            yield from finding_lines(found, paint, waived=found.rule in report.waived)
    yield counts(report)
    if report.converts:
        yield f"next: {printable(report.conversion)} mends all that is open"


def headline(report: ReadinessReport) -> str:
    """The verdict in words."""
    text = STATUS_TEXT[report.status]
    if report.converts:
        return f"{text} as it is, a conversion mends it"
    return text


def finding_lines(found: RuleFinding, paint: Paint, *, waived: bool = False) -> Iterator[str]:
    """One finding: verdict, message, rule, evidence; the remedy beneath."""
    extra = [found.rule, *([found.error_code] if found.error_code else []), *(["waived"] if waived else [])]
    where = f" ({printable('; '.join(found.evidence))})" if found.evidence else ""
    cured = " - the conversion cures it" if found.cured and found.verdict is not Verdict.PASS else ""
    yield f"{paint(found.verdict)}: {printable(found.message)}{where} [{', '.join(extra)}]{cured}"
    if found.remedy and found.verdict is not Verdict.PASS:
        yield f"    remedy: {printable(found.remedy)}"


def counts(report: ReadinessReport) -> str:
    """How many rules said what, and what it cost."""
    numbers = {verdict: sum(found.verdict is verdict for found in report.findings) for verdict in Verdict}
    told = ", ".join(f"{number} {verdict.value}" for verdict, number in numbers.items() if number)
    return f"{len(report.findings)} rules: {told}; {report.bytes_read >> 20} MiB read in {report.seconds:.1f} s"
