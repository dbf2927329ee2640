"""Every pair of formats against qemu-img and cp, in one run, as ratios.

    python -m benchmarks [--data MIB] [--size MIB] [--runs N] [--only REGEX] [--tree DIR] [--dir DIR] [--dry]

Makes a seeded disk (or one with a copy of --tree), lets qemu-img write it in every source format, then runs each
conversion with both tools in turns. Each output of diskfmt is read back and its digest compared with the source's.
Writes benchmarks/results.json and the tables of benchmarks/README.md (not with --dry); results for other disks stay.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import diskfmt
from benchmarks import images, jobs, measure, report
from diskfmt import engine

HERE = Path(__file__).parent
PROGRAM = os.path.join(os.path.dirname(sys.executable), "diskfmt")


def make_sources(folder: str, args: argparse.Namespace, wanted: set[str]) -> dict[str, str]:
    """Paths of the same disk in the wanted formats, all but raw written by qemu-img."""
    raw = os.path.join(folder, "disk.raw")
    if args.tree:
        images.make_tree_disk(raw, args.tree, size_mib=args.size)
    else:
        images.make_disk(raw, data_mib=args.data, size_mib=args.size)
    found = {"raw": raw}
    for name in jobs.TARGETS:
        if name in wanted - {"raw"}:
            job = jobs.Job(source="raw", target=name)
            stem = os.path.join(folder, "source-" + name.replace(" ", "-"))
            subprocess.run(job.theirs(raw, stem), check=True)
            found[name] = job.outputs(stem)[0]
    return found


def commands(job: jobs.Job, source: str, stem: str) -> dict[str, tuple[list[str], bool]]:
    """What takes turns: name → (command, flush afterwards)."""
    ours = job.ours(PROGRAM, source, stem)
    found = {
        "ours durable": (ours, False),  # it flushes itself
        "qemu durable": (job.theirs(source, stem), True),
        "ours cached": ([*ours[:2], "--no-sync", *ours[2:]], False),
        "qemu cached": (job.theirs(source, stem), False),
    }
    if {job.source, job.target} & set(jobs.COMPRESSED):
        found["qemu best"] = (job.theirs(source, stem, "-m", "16", "-W"), False)
    return found


def run_job(job: jobs.Job, source: str, folder: str, count: int, digest: str) -> dict[str, object]:
    """Medians and minima of all commands of a job; the outputs of both tools are proven equal to the source."""
    stem = os.path.join(folder, "out")
    outputs = job.outputs(stem)
    runs: dict[str, list[measure.Run]] = {}
    for turn in range(count):
        for name, (command, flush) in commands(job, source, stem).items():
            runs.setdefault(name, []).append(measure.run(command, outputs, flush=flush))
            if turn == 0 and name in ("ours durable", "qemu cached"):
                found = diskfmt.digest(outputs[0], format=jobs.TARGETS[job.target][0], follow="pieces")
                if found != digest:
                    raise SystemExit(f"{job.name}: the output of {name} differs from the source")
    for name in outputs:
        os.unlink(name)
    medians = {name: asdict(measure.median(done)) for name, done in runs.items()}
    for name, done in runs.items():
        medians[name]["fastest"] = measure.fastest(done)
    return {"name": job.name, "runs": medians}


def where() -> dict[str, str]:
    """The machine and the versions."""
    version = subprocess.run(["qemu-img", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, Linux {platform.release().split('-')[0]}",
        "load": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "qemu-img": version.split()[2],
        "diskfmt": diskfmt.__version__,
        "codecs": engine.codecs(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--data", type=int, default=2048, help="MiB of stored data (default 2048)")
    parser.add_argument("--size", type=int, default=10240, help="MiB of the disk (default 10240)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (default 5)")
    parser.add_argument("--only", default="", help="jobs whose name this regular expression finds")
    parser.add_argument("--tree", help="copy this directory into the disk instead of seeded data")
    parser.add_argument("--dir", help="where the files go (default: a temporary directory)")
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    if shutil.which("qemu-img") is None:
        raise SystemExit("qemu-img is missing: there is nothing to compare with")
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="diskfmt-bench-") as folder:
        chosen = [job for job in jobs.all_jobs() if re.search(args.only, job.name)]
        print("making the disk", flush=True)
        sources = make_sources(folder, args, {job.source for job in chosen})
        digest = diskfmt.digest(sources["raw"], format="raw")
        found = []
        for job in chosen:
            found.append(run_job(job, sources[job.source], folder, args.runs, digest))
            print(report.table(found[-1:])[-1], flush=True)
        raw = next((job for job in found if job["name"] == "raw → raw"), None)
        copies = None
        if raw is not None:
            copy = os.path.join(folder, "copy")
            done = [
                measure.run(["cp", "--sparse=always", sources["raw"], copy], [copy], flush=False)
                for _ in range(args.runs)
            ]
            copies = raw["runs"]["ours cached"]["wall"] / measure.median(done).wall
        kind = f"ext4 with a copy of {args.tree}" if args.tree else f"seeded with {images.SEED}"
        stored = images.stored_mib(sources["raw"])
        result = {
            "where": where(),
            "disk": f"{args.size} MiB with {stored} MiB stored, {kind}",
            "count": args.runs,
            "cp": copies,
            "jobs": found,
        }
    if not args.dry:
        store(result)
    print(report.page([result]))


def store(result: dict[str, object]) -> None:
    """Put a result in the place of an older one for the same disk, in results.json and in the README."""
    path, readme = HERE / "results.json", HERE / "README.md"
    older = json.loads(path.read_text()) if path.exists() else []
    results = [*(one for one in older if one["disk"] != result["disk"]), result]
    path.write_text(json.dumps(results, indent=1) + "\n")
    readme.write_text(readme.read_text().partition(report.MARK)[0] + report.page(results))


if __name__ == "__main__":
    main()
