"""A report as JUnit XML, one test case a rule: what most CI systems show."""

from xml.etree.ElementTree import Element, SubElement, tostring

from diskfmt.escape import printable
from diskfmt.readiness.model import ReadinessReport, RuleFinding, Verdict, ordered


def document(report: ReadinessReport) -> str:
    """The XML text. A rule fails if what it found is open; unknown ones are errors, waived and lesser ones pass."""
    suite = Element("testsuite", name=f"diskfmt ready --for {report.profile}")
    failures = errors = skipped = 0
    for found in ordered(report.findings):
        case = SubElement(suite, "testcase", classname=f"{report.profile}.{found.area}", name=found.rule)
        text = _text(found)
        if found in report.open:
            unknown = found.verdict is Verdict.UNKNOWN
            SubElement(case, "error" if unknown else "failure", message=printable(found.message)).text = text
            errors += unknown
            failures += not unknown
        elif found.rule in report.waived:
            SubElement(case, "skipped", message="waived")
            skipped += 1
        elif found.verdict is not Verdict.PASS:
            SubElement(case, "system-out").text = text
    suite.attrib |= {
        "tests": str(len(report.findings)),
        "failures": str(failures),
        "errors": str(errors),
        "skipped": str(skipped),
        "time": f"{report.seconds:.3f}",
    }
    return tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _text(found: RuleFinding) -> str:
    parts = [found.message, *found.evidence, *([f"remedy: {found.remedy}"] if found.remedy else [])]
    return "\n".join(printable(part) for part in parts)
