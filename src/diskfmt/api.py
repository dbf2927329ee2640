"""The use cases: what `import diskfmt` offers, and what the command line calls.

Paths are `str | os.PathLike`. Everything returned is frozen and plain; `to_json()` gives values that `json` takes.
Errors are `diskfmt.DiskfmtError`. Nothing that an image names is opened unless `follow` allows it: None opens nothing,
`"pieces"` the pieces of a multi-file VMDK that lie beside it and carry its stem, `"same-directory"` also images below
it and its data file that lie beside it, any other text is the directory in which these are looked for. `below_format`
is the format of an image below where the one above does not record it; it is never guessed. `snapshot` is the id or
name of an internal snapshot to read in place of the present.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from diskfmt.chain import Layer, not_opened
from diskfmt.clearance import Clearance
from diskfmt.conversion.progress import Progress
from diskfmt.disk import Disk
from diskfmt.disk import open_disk as _open_disk
from diskfmt.errors import Finding, Reason, Severity, UsageError
from diskfmt.formats.base import Below
from diskfmt.readiness.model import ReadinessReport
from diskfmt.results import (
    CheckReport,
    Comparison,
    ConversionResult,
    ImageInfo,
    MapRow,
    Measurement,
    Region,
)

Path = str | os.PathLike[str]
Watcher = Callable[[Progress], None]


def open_disk(
    path: Path,
    *,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
) -> Disk:
    """The guest disk of an image, for random access: `size`, `read_at`, `extents`, `open`. A context manager.

    Raises:
        DiskfmtError: it cannot be read, or must not be.

    """
    return _open_disk(os.fspath(path), format=format, follow=follow, below_format=below_format, snapshot=snapshot)


def inspect(path: Path, *, format: str | None = None) -> ImageInfo:
    """What the image is, from its header alone; nothing else is opened.

    Raises:
        DiskfmtError: not an image that this program reads, or its header makes no sense.

    """
    with open_disk(path, format=format) as disk:
        return _describe(disk.layers[0], disk.findings, disk.evidence)


def inspect_chain(
    path: Path, *, format: str | None = None, follow: str | None = None, below_format: str | None = None
) -> tuple[ImageInfo, ...]:
    """What the image is and those below it, the top first, as far as `follow` allows to open them.

    Raises:
        DiskfmtError: one of them is not an image that this program reads, or must not be followed.

    """
    with open_disk(path, format=format, follow=follow, below_format=below_format) as disk:
        paths = [None, *(layer.files[0].path for layer in disk.layers[1:])]
        return tuple(
            _describe(
                layer,
                tuple(finding for finding in disk.findings if finding.path == name),
                disk.evidence if name is None else (),
            )
            for layer, name in zip(disk.layers, paths, strict=True)
        )


def _describe(layer: Layer, findings: tuple[Finding, ...], evidence: tuple[str, ...]) -> ImageInfo:
    image, file = layer.image, layer.files[0]
    return ImageInfo(
        filename=file.path,
        format=image.format,
        subformat=image.subformat,
        virtual_size=image.virtual_size,
        actual_size=os.fstat(file.fd).st_blocks * 512,
        file_size=file.size,
        cluster_size=image.unit,
        references=image.references,
        findings=(*findings, *(not_opened(one) for one in layer.missing if one.kind != "piece")),
        evidence=evidence,
        specific=image.specific,
        extra=image.extra,
    )


def map_rows(
    path: Path,
    *,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
) -> Iterator[MapRow]:
    """The extents of the guest disk in order, as qemu-img's `map` shows them, one at a time.

    Raises:
        DiskfmtError: while iterating too.

    """
    with open_disk(path, format=format, follow=follow, below_format=below_format, snapshot=snapshot) as disk:
        held: MapRow | None = None
        for row in _drawn_rows(disk):
            if held is not None and row.offset is None and replace(row, start=held.start, length=held.length) == held:
                held = replace(held, length=held.length + row.length)
                continue
            if held is not None:
                yield held
            held = row
        if held is not None:
            yield held


def _drawn_rows(disk: Disk) -> Iterator[MapRow]:
    """The rows of each window; neighbours in two windows may say the same."""
    from diskfmt.extents import outline
    from diskfmt.kinds import Kind

    for window in disk.extents():
        rows = outline(window)
        for at in range(0, len(rows), 4096):  # a Python object for each row takes twenty times its room
            for start, length, host_off, _, _, _, file_id, kind, _, depth in rows[at : at + 4096].tolist():
                stored = kind in (Kind.DATA, Kind.ENCODED)
                yield MapRow(
                    start=start,
                    length=length,
                    present=kind != Kind.HOLE,
                    zero=not stored,
                    data=stored,
                    compressed=kind == Kind.ENCODED,
                    offset=host_off if kind == Kind.DATA else None,
                    filename=disk.files[file_id].path if stored else None,
                    depth=depth,
                )


def regions(
    path: Path,
    *,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
) -> Iterator[Region]:
    """What each byte of the image's own files is for: regions without gap, file by file, from first to last byte.

    Raises:
        DiskfmtError: while iterating too.

    """
    from diskfmt.tiling import tile

    with open_disk(path, format=format, follow=follow, below_format=below_format, snapshot=snapshot) as disk:
        yield from tile(disk)


def check(
    path: Path,
    *,
    format: str | None = None,
    deep: bool = False,
    follow: str | None = None,
    below_format: str | None = None,
) -> CheckReport:
    """The integrity of the container: what the gate sees, and what the format's own check sees.

    `deep` also decodes every compressed frame. Images below are judged too where `follow` opens them; otherwise a
    warning says that they were not looked at.

    Raises:
        DiskfmtError: the file cannot be read, or is no image.

    """
    from diskfmt.readiness.gate import assess

    with open_disk(path, format=format, follow=follow, below_format=below_format) as disk:
        assessment = assess(disk, deep=deep, alone=True)
        return CheckReport(
            filename=disk.path,
            format=disk.image.format,
            subformat=disk.image.subformat,
            findings=assessment.findings,
            statistics=assessment.statistics,
            deep=deep,
        )


def check_readiness(
    path: Path,
    *,
    profile: str,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    waive: Sequence[str] = (),
    progress: Watcher | None = None,
) -> ReadinessReport:
    """Whether a cloud will import the image, and whether it will boot and be reachable there.

    `profile`: a name of `diskfmt profiles`, perhaps with switches (`tencent-cvm+strict-docs`), or the path of a TOML
    file.
    `waive`: ids of rules that are not to count.

    Raises:
        UsageError: no such profile, switch or rule.
        DiskfmtError: the file cannot be read, or is no image.

    """
    from diskfmt.readiness.check import assess_readiness
    from diskfmt.readiness.gate import assess
    from diskfmt.readiness.profiles import load
    from diskfmt.readiness.rules import require_known

    wanted = load(profile)
    require_known(waive)
    with open_disk(path, format=format, follow=follow, below_format=below_format) as disk:
        assessment = assess(disk, progress=_tell(progress, "check", disk.size))
        return assess_readiness(disk, assessment, wanted, waived=waive)


def compare(
    first: Path,
    second: Path,
    *,
    formats: tuple[str | None, str | None] = (None, None),
    strict: bool = False,
    follow: str | None = None,
    below_format: str | None = None,
    progress: Watcher | None = None,
) -> Comparison:
    """Whether two guest disks hold the same bytes. A longer one may end in zeroes, unless `strict`.

    Raises:
        DiskfmtError: one of them cannot be read.

    """
    from diskfmt.treehash import first_difference

    with ExitStack() as stack:
        paths = zip((first, second), formats, strict=True)
        one, other = (
            stack.enter_context(open_disk(path, format=name, follow=follow, below_format=below_format))
            for path, name in paths
        )
        sizes = (one.size, other.size)
        place = None
        if not (strict and one.size != other.size):
            place = first_difference(
                one, other, threads=_threads(None), progress=_tell(progress, "compare", max(sizes))
            )
        return Comparison(
            equal=place is None and not (strict and one.size != other.size),
            first_difference=place,
            sizes=sizes,
        )


def digest(
    path: Path,
    *,
    format: str | None = None,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
    progress: Watcher | None = None,
) -> str:
    """The digest of what the guest sees, as hex text; equal across formats.

    Raises:
        DiskfmtError: the disk cannot be read.

    """
    from diskfmt.treehash import guest_digest

    with open_disk(path, format=format, follow=follow, below_format=below_format, snapshot=snapshot) as disk:
        return guest_digest(disk, threads=_threads(None), progress=_tell(progress, "digest", disk.size))


def measure(
    path: Path,
    *,
    format: str,
    subformat: str | None = None,
    source_format: str | None = None,
    options: Mapping[str, str] | None = None,
    compress: str | None = None,
    exact: bool = False,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
) -> Measurement:
    """How large a conversion's output will be.

    Plain outputs are measured exactly: everything is done but the writing. Of a large compressed output a sample is
    compressed, unless `exact`: the result then has an `error_bound`, at most 3 % of the data.

    Raises:
        DiskfmtError: as `convert`.

    """
    from diskfmt.conversion.estimate import estimate
    from diskfmt.conversion.plan import make_plan
    from diskfmt.conversion.run import measure as measure_plan
    from diskfmt.conversion.target import parse_target
    from diskfmt.kinds import Codec

    target = parse_target(format, subformat=subformat, options=options, compress=compress)
    with open_disk(path, format=source_format, follow=follow, below_format=below_format, snapshot=snapshot) as disk:
        plan = make_plan(disk.size, target, "disk")
        parts = plan.new_output().parts
        full = sum(part.layout.full_size for part in parts)
        guess = None
        if not exact and len(parts) == 1 and parts[0].layout.placement.codec is not Codec.NONE:
            guess = estimate(disk, parts[0], threads=_threads(None))
        if guess is not None:
            return Measurement(required=guess.size, fully_allocated=full, error_bound=guess.bound)
        return Measurement(required=measure_plan(disk, plan, threads=_threads(None)), fully_allocated=full)


def convert(
    source: Path,
    target: Path,
    *,
    format: str,
    subformat: str | None = None,
    source_format: str | None = None,
    options: Mapping[str, str] | None = None,
    compress: str | None = None,
    verify: bool = False,
    force: bool = False,
    sync: bool = True,
    threads: int | None = None,
    waive: Sequence[str] = (),
    below: Path | None = None,
    recompress: bool = False,
    follow: str | None = None,
    below_format: str | None = None,
    snapshot: str | None = None,
    clearance: Clearance | None = None,
    progress: Watcher | None = None,
) -> ConversionResult:
    """Convert `source` into a new file `target`; when this returns, the right bytes are durable under that name.

    `format`: `raw`, `qcow2`, `vhd` or `vmdk`, or with its subformat `vmdk:streamOptimized`. `compress`: `zlib` or
    `zstd`, or with a level `zstd:7`; `recompress` makes frames anew that the source has in the same form. `verify`
    reads the output back and compares digests. `force` replaces an existing file. `sync` False leaves durability to the
    system. `waive` names reasons that are not to block. `below` names an image that the output records as its backing
    file or parent and leaves out what it shares with; a relative name is looked for beside the target. `clearance`
    takes the place of the gate's own assessment. `progress` is called about 20 times a second; an exception from it
    stops the conversion.

    Raises:
        NotReadyError: the gate found a blocker.
        DiskfmtError: anything else; no file of the target's name is left or touched.

    """
    from diskfmt.conversion.inherit import inheritance
    from diskfmt.conversion.plan import make_plan
    from diskfmt.conversion.run import run
    from diskfmt.conversion.target import parse_target

    wanted = parse_target(format, subformat=subformat, options=options, compress=compress)
    path = os.fspath(target)
    count = _threads(threads)
    opened = open_disk(source, format=source_format, follow=follow, below_format=below_format, snapshot=snapshot)
    with ExitStack() as stack:
        disk = stack.enter_context(opened)
        stack.enter_context(disk.hold())
        started = time.monotonic()
        if clearance is None:
            clearance = _clear(disk, waive, progress)
        assessed = time.monotonic() - started
        base = None
        if below is not None:  # its name means what it will mean to readers of the output
            beside = os.path.join(os.path.dirname(path), os.fspath(below))
            base = _open_below(stack, disk, beside, follow, below_format)
        plan = make_plan(
            disk.size,
            wanted,
            os.path.basename(path),
            below=None if base is None else _recorded(base, os.fspath(below or "")),
            shared=None if base is None else inheritance(disk, base),
            recompress=recompress,
        )
        outcome = run(disk, plan, clearance, path, threads=count, verify=verify, sync=sync, force=force, watch=progress)
        return ConversionResult(
            source=disk.path,
            target=path,
            source_format=disk.image.format,
            format=wanted.format.name,
            subformat=wanted.subformat,
            virtual_size=plan.virtual_size,
            file_size=outcome.file_size,
            actual_size=outcome.actual_size,
            digest=outcome.digest,
            findings=(*_not_blocking(clearance.findings), *plan.notes),
            waived=clearance.waived,
            threads=count,
            ungated=clearance.ungated_reason,
            seconds={"check": assessed, **outcome.seconds},
        )


def _open_below(stack: ExitStack, source: Disk, path: str, follow: str | None, below_format: str | None) -> Disk:
    """The image that an output is to be a difference to.

    One of the source's chain has the format that it has there, whatever its content looks like.
    """
    known = _format_in_chain(source, path)
    disk = stack.enter_context(open_disk(path, format=known, follow=follow, below_format=below_format))
    stack.enter_context(disk.hold())
    return disk


def _format_in_chain(source: Disk, path: str) -> str | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None  # opening it says what is wrong
    for layer in source.layers:
        identity = layer.files[0].identity
        if (identity.device, identity.inode) == (found.st_dev, found.st_ino):
            return layer.format.name
    return None


def _recorded(below: Disk, name: str) -> Below:
    mtime = below.files[0].identity.mtime_ns // 1_000_000_000
    return Below(name=name, format=below.format.name, image=below.image, mtime=mtime)


def _clear(disk: Disk, waive: Sequence[str], progress: Watcher | None) -> Clearance:
    from diskfmt.readiness.gate import assess

    assessment = assess(disk, progress=_tell(progress, "check", disk.size))
    return Clearance.from_assessment(assessment, waive=[_reason(name) for name in waive])


def _reason(name: str) -> Reason:
    try:
        return Reason(name.upper())
    except ValueError:
        raise UsageError(f"there is no reason code {name!r}", remedy="give one that an error message named") from None


def _not_blocking(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.severity is not Severity.ERROR)


def _threads(asked: int | None) -> int:
    if asked is None:
        return min(len(os.sched_getaffinity(0)), 8)
    if not 1 <= asked <= 64:
        raise UsageError(f"{asked} threads are not possible", remedy="give 1 to 64")
    return asked


def _tell(progress: Watcher | None, phase: str, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(Progress(phase=phase, done=min(done, total), total=total))
