"""Results as tables."""

from typing import Any

MARK = "<!-- results: written by `python -m benchmarks` -->"


def table(jobs: list[dict[str, Any]]) -> list[str]:
    """One row a job: our figures as ratios to qemu-img's, below 1 is less than it takes."""
    lines = [
        "| job | wall, durable | wall, cached | cached, best options | CPU | peak memory | size | occupied |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job in jobs:
        runs = job["runs"]

        def ratio(ours: str, theirs: str, key: str, runs: dict[str, Any] = runs) -> str:
            return f"{runs[ours][key] / runs[theirs][key]:.2f}" if theirs in runs else "–"

        cells = [
            ratio("ours durable", "qemu durable", "wall"),
            ratio("ours cached", "qemu cached", "wall"),
            ratio("ours cached", "qemu best", "wall"),
            ratio("ours cached", "qemu cached", "cpu"),
            f"{runs['ours cached']['memory']:.0f} / {runs['qemu cached']['memory']:.0f} MiB",
            ratio("ours cached", "qemu cached", "size"),
            ratio("ours cached", "qemu cached", "occupied"),
        ]
        lines.append(f"| {job['name']} | {' | '.join(cells)} |")
    return lines


def page(results: list[dict[str, Any]]) -> str:
    """The part of README.md below the mark: a table for each disk."""
    return "\n".join([MARK, "", *(line for result in results for line in section(result))])


def section(result: dict[str, Any]) -> list[str]:
    """The lines about one disk."""
    where = result["where"]
    lines = [
        f"## {result['disk']}",
        "",
        f"{where['date']}, {where['machine']}, load {where['load']}; qemu-img {where['qemu-img']};",
        f"diskfmt {where['diskfmt']} ({where['codecs']}).",
        f"Medians of {result['count']} runs, the tools taking turns.",
        "",
        *table(result["jobs"]),
        "",
    ]
    if result["cp"]:
        lines += [f"raw → raw takes {result['cp']:.2f} of the wall time of `cp --sparse=always`, both cached.", ""]
    return lines
