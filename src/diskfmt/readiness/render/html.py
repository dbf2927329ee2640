"""A report as one self-contained page: no script, no other file; readable in light and dark, and on paper.

Everything that an image or a user chose goes through `html.escape` (and `diskfmt.escape`) before it is put in.
"""

from collections.abc import Iterable, Iterator, Mapping
from html import escape as quote
from typing import Final

from diskfmt._version import __version__
from diskfmt.escape import escape, printable
from diskfmt.readiness.model import STATUS_TEXT, Bar, ReadinessReport, RuleFinding, Span, Verdict, ordered
from diskfmt.units import format_size

_WIDTH: Final = 1000  # units of the drawings
_BAR: Final = 44

_STYLE: Final = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --quiet: #57606a; --paper: #ffffff; --line: #d0d7de; --card: #f6f8fa;
  --fail: #b3261e; --warn: #7a4f00; --pass: #1a6334; --unknown: #5a3e9b;
  --table: #6e7781; --fs: #2f6fb5; --swap: #8a6d00; --data: #2f6fb5; --zero: #c8d1da; --free: #e4e9ee; --other: #9a6700; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6edf3; --quiet: #9da7b3; --paper: #0d1117; --line: #30363d; --card: #161b22;
  --fail: #ff8b83; --warn: #e3b341; --pass: #6fd08c; --unknown: #c5b0ff;
  --table: #8b949e; --fs: #58a6ff; --swap: #d4b106; --data: #58a6ff; --zero: #3b434c; --free: #21262d; --other: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
p { margin: .25rem 0; }
.quiet { color: var(--quiet); }
.status { display: inline-block; margin: .75rem 0; padding: .35rem .8rem; border: 2px solid currentColor; border-radius: .5rem;
  font-weight: 700; }
.fail { color: var(--fail); } .warn { color: var(--warn); } .pass { color: var(--pass); } .unknown { color: var(--unknown); }
ul.findings { list-style: none; margin: 0; padding: 0; }
ul.findings > li { margin: 0 0 .75rem; padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line);
  border-left: .3rem solid currentColor; border-radius: .4rem; }
ul.findings p, ul.findings code { color: var(--ink); }
ul.findings .tag { font-weight: 700; text-transform: uppercase; font-size: .8rem; letter-spacing: .04em; }
pre { margin: .4rem 0 0; padding: .5rem .7rem; background: var(--paper); border: 1px solid var(--line); border-radius: .3rem;
  color: var(--ink); white-space: pre-wrap; font: .85rem/1.45 ui-monospace, monospace; }
code { font: .85em ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
svg { display: block; width: 100%; height: auto; margin: .25rem 0; }
figure { margin: 0 0 1.25rem; } figcaption { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .3rem 0 0; padding: 0; list-style: none; font-size: .85rem; }
.legend span { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border: 1px solid var(--line); }
details > summary { cursor: pointer; } summary:focus-visible, a:focus-visible { outline: 3px solid var(--fs); outline-offset: 2px; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } ul.findings > li, figure { break-inside: avoid; } }
"""

_GROUPS: Final = (
    ("What keeps it from being ready", "Nothing."),
    ("Worth mending", "Nothing."),
    ("What passed", "Nothing."),
)


def page(report: ReadinessReport) -> str:
    """The whole document."""
    title = f"{escape(report.path)} for {escape(report.profile)}"
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{quote(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _body(report: ReadinessReport) -> Iterator[str]:
    tone = "pass" if report.ready else "unknown" if report.status.value == "unknown" else "fail"
    yield f"<h1>{quote(escape(report.path))}</h1>"
    yield f'<p class="quiet">Readiness for <strong>{quote(escape(report.profile))}</strong></p>'
    yield f'<p class="status {tone}">{quote(STATUS_TEXT[report.status])}</p>'
    if report.converts:
        yield f"<p>A conversion mends all that is open:</p><pre>{quote(printable(report.conversion))}</pre>"
    findings = ordered(report.findings)
    groups = (
        [found for found in findings if found in report.open],
        [found for found in findings if found not in report.open and found.verdict is not Verdict.PASS],
    )
    for (heading, empty), found in zip(_GROUPS, groups, strict=False):
        yield f"<h2>{heading}</h2>"
        yield from _findings(found, report) if found else (f'<p class="quiet">{empty}</p>',)
    if report.bars:
        yield "<h2>The disk, to scale</h2>"
        yield from (_figure(bar) for bar in report.bars)
    if report.summary:
        yield "<h2>What it is</h2>"
        yield _table(report.summary)
    passed = [found for found in findings if found.verdict is Verdict.PASS]
    yield f"<h2>What passed</h2><details><summary>{len(passed)} rules</summary>"
    yield from _findings(passed, report)
    yield "</details>"
    read = format_size(report.bytes_read)
    yield f'<p class="quiet">diskfmt {__version__}; {read} of the disk read in {report.seconds:.1f} s.</p>'


def _findings(found: Iterable[RuleFinding], report: ReadinessReport) -> Iterator[str]:
    yield '<ul class="findings">'
    yield from (_finding(one, waived=one.rule in report.waived) for one in found)
    yield "</ul>"


def _finding(found: RuleFinding, *, waived: bool) -> str:
    notes = [f"<code>{quote(found.rule)}</code>"]
    if found.error_code:
        notes.append(f"the cloud says <code>{quote(found.error_code)}</code>")
    if found.cured and found.verdict is not Verdict.PASS:
        notes.append("the conversion cures it")
    if waived:
        notes.append("waived")
    where = f'<p class="quiet">{quote(printable("; ".join(found.evidence)))}</p>' if found.evidence else ""
    remedy = ""
    if found.remedy and found.verdict is not Verdict.PASS:
        remedy = f"<pre>{quote(printable(found.remedy, 4096))}</pre>"
    return (
        f'<li class="{found.verdict.value}"><p><span class="tag {found.verdict.value}">{found.verdict.value}</span> '
        f"{quote(printable(found.message))}</p>{where}<p>{' · '.join(notes)}</p>{remedy}</li>"
    )


def _figure(bar: Bar) -> str:
    size = max(bar.size, 1)
    shapes = "".join(_shape(span, size) for span in bar.spans)
    kinds = {span.kind: span.kind for span in bar.spans}
    legend = "".join(
        f'<li><span style="background:var(--{_colour(kind)})"></span>{quote(escape(kind))}</li>' for kind in kinds
    )
    parts = "; ".join(f"{span.label} {format_size(span.length)}" for span in bar.spans if span.label)
    return (
        f"<figure><figcaption>{quote(escape(bar.title))} "
        f'<span class="quiet">{format_size(bar.size)}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_BAR}" role="img" aria-label="{quote(escape(parts, 2000))}" '
        f'preserveAspectRatio="none"><rect width="{_WIDTH}" height="{_BAR}" fill="var(--free)"/>{shapes}</svg>'
        f'<ul class="legend">{legend}</ul><p class="quiet">{quote(escape(parts, 2000))}</p></figure>'
    )


def _shape(span: Span, size: int) -> str:
    x = _WIDTH * span.start / size
    width = max(_WIDTH * span.length / size, 0.6)  # what is there stays visible
    title = quote(escape(f"{span.label or span.kind}: {format_size(span.length)} at {span.start:#x}"))
    return (
        f'<rect x="{x:.2f}" width="{width:.2f}" height="{_BAR}" fill="var(--{_colour(span.kind)})" '
        f'stroke="var(--paper)" stroke-width="0.5"><title>{title}</title></rect>'
    )


def _colour(kind: str) -> str:
    return kind if kind in {"table", "fs", "swap", "data", "zero", "free"} else "other"


def _table(summary: Mapping[str, object]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{quote(escape(key))}</th><td>{quote(escape(_value(value), 4096))}</td></tr>'
        for key, value in summary.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)
