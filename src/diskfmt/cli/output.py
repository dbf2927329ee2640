"""Results as lines for people. Pure: records in, text in printable ASCII out, whatever an image says."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from diskfmt.cli.failure import places, safe, shown_path
from diskfmt.errors import Finding, Severity
from diskfmt.escape import escape, mask_credentials
from diskfmt.formats.base import Reference, Statistics
from diskfmt.results import CheckReport, Comparison, ConversionResult, ImageInfo, MapRow, Region
from diskfmt.units import format_size

Paint = Callable[[Severity], str]
"""The word for a severity, with or without colour."""

_MAP_LINE: Final = "{:<15} {:<15} {:<15} {}"
_DEPTH: Final = 8  # of nested values


def size_text(size: int) -> str:
    """`2 GiB (2147483648 bytes)`."""
    short = format_size(size)
    return short if short.endswith("bytes") else f"{short} ({size} bytes)"


# ---- info ------------------------------------------------------------------------------------------------------------


def info_lines(info: ImageInfo, paint: Paint) -> Iterator[str]:
    """The description of an image, with qemu-img's labels."""
    rows = [
        ("image", shown_path(info.filename)),
        ("file format", info.format),
        ("subformat", info.subformat),
        ("virtual size", size_text(info.virtual_size)),
        ("disk size", format_size(info.actual_size)),
        ("file length", size_text(info.file_size)),
    ]
    if info.cluster_size is not None:
        rows.append(("cluster size", size_text(info.cluster_size)))
    rows += [(_label(key), value_text(value)) for key, value in info.extra.items() if not isinstance(value, Mapping)]
    rows += [("" if index else "evidence", escape(text)) for index, text in enumerate(info.evidence)]
    width = max(len(label) for label, _ in rows) + 2
    yield from (f"{label + ':' if label else '':<{width}}{value}".rstrip() for label, value in rows)
    for key, value in info.extra.items():
        if isinstance(value, Mapping):
            yield f"{_label(key)}:"
            yield from nested_lines(value)
    if info.specific:
        yield "format specific information:"
        yield from nested_lines(info.specific)
    if info.references:
        yield "names other files (not opened):"
        yield from (f"    {reference_text(reference)}" for reference in info.references)
    yield from finding_lines(info.findings, paint)


def _label(key: object) -> str:
    return escape(str(key)).replace("-", " ")


def value_text(value: object) -> str:
    """A plain JSON value for people."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return escape(mask_credentials(value))
    return escape(str(value))


def nested_lines(value: Mapping[str, object], depth: int = 1) -> Iterator[str]:
    """Values inside values, each level indented."""
    indent = "    " * depth
    for key, item in value.items():
        label = _label(key)
        parts = _parts(item)
        if parts is None or depth == _DEPTH:
            yield f"{indent}{label}: {value_text(item)}".rstrip()
            continue
        if not parts:
            continue
        yield f"{indent}{label}:"
        yield from nested_lines(parts, depth + 1)


def _parts(item: object) -> Mapping[str, object] | None:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, list | tuple):
        return {f"[{index}]": part for index, part in enumerate(item)}
    return None


def reference_text(reference: Reference) -> str:
    """A file that an image names, in one line."""
    known = [text for text in (reference.format,) if text is not None]
    name = escape(mask_credentials(reference.name))
    suffix = f" ({escape(known[0])})" if known else ""
    where = f" at offset {reference.offset:#x}" if reference.offset is not None else ""
    return f'{reference.kind}: "{name}"{suffix}{where}'


# ---- findings --------------------------------------------------------------------------------------------------------


def finding_lines(findings: Sequence[Finding], paint: Paint) -> Iterator[str]:
    """The findings, the gravest first, each with what to do about it."""
    for finding in sorted(findings, key=lambda finding: -finding.severity):
        where = "".join(f", {place}" for place in places(finding))
        yield f"{paint(finding.severity)}: {safe(finding.message)} [{finding.reason.value}{where}]"
        if finding.remedy:
            yield f"    remedy: {safe(finding.remedy)}"


# ---- map -------------------------------------------------------------------------------------------------------------


def map_lines(rows: Iterable[MapRow]) -> Iterator[str]:
    """qemu-img's table; where it has a place in the file, rows without one say what they are instead."""
    yield _MAP_LINE.format("Offset", "Length", "Mapped to", "File")
    for row in rows:
        file = shown_path(row.filename) if row.filename is not None else ""
        yield _MAP_LINE.format(f"{row.start:#x}", f"{row.length:#x}", mapped_text(row), file).rstrip()


def region_lines(regions: Iterable[Region]) -> Iterator[str]:
    """A table of what the bytes of files are for."""
    yield _MAP_LINE.format("Offset", "Length", "Kind", "File")
    for region in regions:
        row = (f"{region.start:#x}", f"{region.length:#x}", region.kind, shown_path(region.filename))
        yield _MAP_LINE.format(*row)


def mapped_text(row: MapRow) -> str:
    """Where a row is in the file, or `compressed`, `zero`, `unallocated`."""
    if row.compressed:
        return "compressed"
    if row.offset is not None:
        return f"{row.offset:#x}"
    return "zero" if row.present else "unallocated"


# ---- check -----------------------------------------------------------------------------------------------------------


def check_lines(report: CheckReport, paint: Paint) -> Iterator[str]:
    """Findings, numbers, and the verdict as the last line."""
    yield f"{shown_path(report.filename)}: {report.format} {report.subformat}"
    yield from finding_lines(report.findings, paint)
    if report.statistics is not None:
        yield statistics_text(report.statistics)
    yield verdict_text(report)


def statistics_text(statistics: Statistics) -> str:
    """What a check counted, in one line."""
    share = 100 * statistics.stored_units / statistics.total_units if statistics.total_units else 0.0
    return (
        f"{statistics.stored_units}/{statistics.total_units} units = {share:.2f}% allocated, "
        f"{statistics.encoded_units} compressed; the image ends at offset {statistics.end:#x}"
    )


def verdict_text(report: CheckReport) -> str:
    """The last line of a check."""
    counts = dict.fromkeys(reversed(Severity), 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    others = [plural(count, severity.name.lower()) for severity, count in counts.items() if count]
    if report.ok:
        tail = f" ({', '.join(others)})" if others else ""
        depth = "" if report.deep or not _is_compressed(report) else " Compressed data was not decoded: --deep does."
        return f"No errors were found on the image{tail}.{depth}"
    return f"The image is not fit to be converted: {', '.join(others)}."


def _is_compressed(report: CheckReport) -> bool:
    return report.statistics is not None and report.statistics.encoded_units > 0


def plural(count: int, noun: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# ---- convert, compare ------------------------------------------------------------------------------------------------


def conversion_lines(result: ConversionResult) -> Iterator[str]:
    """What a conversion did."""
    seconds = sum(result.seconds.values())
    yield (
        f"{shown_path(result.source)} ({result.source_format}) -> "
        f"{shown_path(result.target)} ({result.format} {result.subformat})"
    )
    yield (
        f"disk {size_text(result.virtual_size)}, file {format_size(result.file_size)}, "
        f"{format_size(result.actual_size)} on disk, {seconds:.2f} s, {plural(result.threads, 'thread')}"
    )
    if result.digest is not None:
        yield f"verified, digest {result.digest}"


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """qemu-img's words."""
    if comparison.equal:
        yield "Images are identical."
    elif comparison.first_difference is None:
        one, other = comparison.sizes
        yield f"Strict mode: Image size mismatch! ({one} and {other} bytes)"
    else:
        yield f"Content mismatch at offset {comparison.first_difference}!"
