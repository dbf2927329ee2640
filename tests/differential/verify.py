"""An output against everything that can be known about it. Complaints are text; no complaint is the right answer."""

import hashlib
import os
from collections.abc import Iterator

import numpy as np
from oracles import (
    BLOCK,
    ORACLES,
    Effect,
    GuestDigest,
    OracleError,
    Traits,
    digest_blocks,
    digest_file,
    known_error,
    missing,
    read_guest,
)
from oracles.readers import qemu_check, qemu_info, qemu_map

import diskfmt
from differential.cases import Target
from diskfmt.errors import Severity

_STEP = 16 * BLOCK


def files_of(path: str) -> list[str]:
    """The files of an output: itself, and the data file of a monolithicFlat."""
    piece = f"{os.path.splitext(path)[0]}-flat.vmdk"
    return [path, piece] if os.path.exists(piece) else [path]


def fingerprint(path: str) -> str:
    """The SHA-256 of all bytes of all files of an output."""
    digest = hashlib.sha256()
    for name in files_of(path):
        with open(name, "rb") as file:
            while chunk := file.read(4 << 20):
                digest.update(chunk)
        digest.update(b"/")
    return digest.hexdigest()


def digest_by_diskfmt(path: str, format: str | None = None) -> GuestDigest:
    """What diskfmt itself reads."""
    with diskfmt.open_disk(path, format=format, follow="pieces") as disk:
        size = disk.size
        return digest_blocks(size, ((at, disk.read_at(at, min(_STEP, size - at))) for at in range(0, size, _STEP)))


def stored_bytes(raw: str, unit: int, size: int) -> int:
    """Bytes of the units of a disk of `size` bytes that are not all zero in the raw file: what must be stored."""
    total = 0
    step = max(unit, 4 << 20)
    with open(raw, "rb") as file:
        for start in range(0, os.path.getsize(raw), step):
            data = file.read(step)
            units = -(-len(data) // unit)
            used = np.frombuffer(data.ljust(units * unit, b"\0"), np.uint8).reshape(units, unit).any(axis=1)
            offsets = start + np.flatnonzero(used) * unit
            total += int(np.minimum(unit, size - offsets).sum())
    return total


def complaints(path: str, target: Target, expected: GuestDigest, raw: str) -> Iterator[str]:
    """What is wrong with the output `path` of the disk in the file `raw`; `expected` says its size and bytes."""
    if target.format == "raw":
        seen = digest_file(path)
        if seen != expected:
            yield f"the file is {seen}, not {expected}"
    else:
        yield from _oracles_complain(path, target, expected)
        yield from _qemu_complains(path, target, expected, raw)
    yield from _diskfmt_complains(path, target, expected)
    if target.subformat in ("raw", "fixed", "monolithicFlat"):
        yield from _blocks_complain(path, expected, raw)


def _oracles_complain(path: str, target: Target, expected: GuestDigest) -> Iterator[str]:
    traits = Traits(
        format=target.format,
        subformat=target.subformat,
        size=expected.size,
        codec=target.codec,
        version=2 if target.subformat == "v2" else 3,
        seekable=True,
    )
    for oracle in ORACLES:
        if missing(oracle):
            continue
        known = known_error(oracle, traits)
        if known is not None and known.effect is Effect.REFUSES:
            continue
        try:
            seen = read_guest(path, target.format, oracle)
        except OracleError as error:
            yield f"{oracle} cannot read it: {error}"
            continue
        if seen != expected and (known is None or seen.size != expected.size):
            yield f"{oracle} reads {seen}, not {expected}"


def _qemu_complains(path: str, target: Target, expected: GuestDigest, raw: str) -> Iterator[str]:
    size = qemu_info(path, target.format)["virtual-size"]
    if size != expected.size:
        yield f"qemu-img says {size} bytes, not {expected.size}"
    if target.format == "qcow2" or (target.format == "vmdk" and target.unit > 512):
        report = qemu_check(path, target.format)
        wrong = {key: report[key] for key in ("check-errors", "corruptions", "leaks") if report.get(key)}
        if wrong:
            yield f"qemu-img check: {wrong}"
    if target.unit > 512 or target.format == "qcow2":
        stored = sum(row["length"] for row in qemu_map(path, target.format) if row["data"])
        wanted = stored_bytes(raw, target.unit, expected.size)
        if stored != wanted:
            yield f"{stored} guest bytes are stored, {wanted} need to be"


def _diskfmt_complains(path: str, target: Target, expected: GuestDigest) -> Iterator[str]:
    name = target.format if target.format == "raw" else None
    seen = digest_by_diskfmt(path, name)
    if seen != expected:
        yield f"diskfmt reads {seen}, not {expected}"
    report = diskfmt.check(path, format=name, deep=True, follow="pieces")
    doubts = [finding for finding in report.findings if finding.severity >= Severity.WARNING]
    if doubts:
        yield f"diskfmt check: {doubts}"
    info = diskfmt.inspect(path, format=name)
    if info.format != target.format or info.subformat.partition("+")[0] != target.subformat:
        yield f"diskfmt takes it for {info.format} {info.subformat}"


def _blocks_complain(path: str, expected: GuestDigest, raw: str) -> Iterator[str]:
    """A target that is as long as the disk must be sparse: no 64 KiB that is all zero occupies space."""
    allowed = stored_bytes(raw, BLOCK, expected.size) + BLOCK
    allocated = sum(os.stat(name).st_blocks * 512 for name in files_of(path))
    if allocated > allowed:
        yield f"{allocated} bytes are allocated for {allowed} at most"
