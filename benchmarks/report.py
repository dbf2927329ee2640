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


def page(results: dict[str, Any]) -> str:
    """The part of README.md below the mark."""
    where = results["where"]
    lines = [
        MARK,
        "",
        f"{where['date']}, {where['machine']}, load {where['load']}; qemu-img {where['qemu-img']};",
        f"diskfmt {where['diskfmt']} ({where['codecs']}).",
        f"Disk: {results['disk']}. Medians of {results['count']} runs, the tools taking turns.",
        "",
        *table(results["jobs"]),
        "",
    ]
    copies = results.get("cp")
    if copies:
        lines += [f"`cp --sparse=always` of the raw disk, cached: raw → raw takes {copies:.2f} of its wall time.", ""]
    return "\n".join(lines)
