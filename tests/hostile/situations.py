"""One situation for each reason code: what to do through the public API to get exactly it.

Each function gets an empty folder, and either returns a job that raises, or the findings that have the reason.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders import qcow2, vhd, vmdk

import diskfmt
from diskfmt import Finding, Reason, engine
from diskfmt.engine import Fault, Op, SystemCalls
from hostile.kit import SECTOR, mbr_disk, text

CLUSTER = 4096

RESERVED = {
    Reason.LIMIT_TIME: "there is no limit on time yet",
}
"""Codes that nothing in this version gives."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """`make(folder, stack)` returns a job to call. `error` is what it raises; None: the job returns findings."""

    make: Callable[[Path, ExitStack], Callable[[], Any]]
    error: type[diskfmt.DiskfmtError] | None = diskfmt.CorruptError


def image(fields: dict[str, int] | None = None, pokes: tuple[tuple[str, int], ...] = (), **options: Any) -> bytes:
    """A small qcow2 image with header fields changed, and `pokes`: L2 entry of a cluster or offset → number."""
    options = {"size": 1 << 20, "bits": 12} | options
    built = qcow2.image({0: ("data", text(CLUSTER)), 3: ("deflate", text(CLUSTER, 1))}, **options)
    built.patch(**(fields or {}))
    places = {"l1": built.l1, "cluster0": built.entry(0), "cluster1": built.entry(1)}
    for name, value in pokes:
        built.poke(places[name], value)
    return bytes(built.data)


def convert(folder: Path, data: bytes | None = None, **options: Any) -> Callable[[], Any]:
    """A job that converts `data`."""
    if data is not None:
        (folder / "image").write_bytes(data)
    (folder / "out").mkdir(exist_ok=True)
    options = {"format": "raw", "sync": False} | options
    return lambda: diskfmt.convert(folder / "image", folder / "out" / "o", **options)


def of_image(data: Callable[[], bytes], **options: Any) -> Callable[[Path, ExitStack], Callable[[], Any]]:
    return lambda folder, _: convert(folder, data(), **options)


def findings(data: Callable[[], bytes]) -> Callable[[Path, ExitStack], Callable[[], tuple[Finding, ...]]]:
    def make(folder: Path, _: ExitStack) -> Callable[[], tuple[Finding, ...]]:
        (folder / "image").write_bytes(data())
        return lambda: diskfmt.check(folder / "image").findings

    return make


def with_calls(op: Op, *, how: Fault = Fault.ERRNO, code: int = errno.EIO, **options: Any):
    """A conversion in which calls of the system fail."""

    def make(folder: Path, stack: ExitStack) -> Callable[[], Any]:
        calls = SystemCalls.faulty(op, 1, how=how, code=code, sticky=how is Fault.ERRNO)
        swap(stack, engine, "system", lambda: calls)
        return convert(folder, mbr_disk(), **options)

    return make


def swap(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Put something else in the place of an attribute until the stack ends."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def codec_missing(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    swap(stack, engine, "can_decode", lambda codec: False)
    return convert(folder, image())


def internal(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    """A layout that gives away places twice: a bug, if it were real."""
    from diskfmt.formats.qcow2.layout import Qcow2Layout

    swap(stack, Qcow2Layout, "add", lambda *_: ((), 0))
    return convert(folder, mbr_disk(), format="qcow2")


def in_use(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    job = convert(folder, mbr_disk())
    stack.enter_context((folder / "image").open("r+b"))
    return job


def source_changed(folder: Path, _: ExitStack) -> Callable[[], Any]:
    def write(progress: diskfmt.Progress) -> None:
        if progress.phase == "sync":
            with open(folder / "image", "r+b") as file:
                file.write(b"\1")

    return convert(folder, mbr_disk(), progress=write, sync=True)


def not_regular(folder: Path, stack: ExitStack) -> Callable[[], Any]:
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(str(folder / "image"))
    return convert(folder)


def output_exists(folder: Path, _: ExitStack) -> Callable[[], Any]:
    job = convert(folder, mbr_disk())
    os.rmdir(folder / "out")
    (folder / "there").write_text("precious")
    return lambda: job and diskfmt.convert(folder / "image", folder / "there", format="raw")


def output_busy(folder: Path, _: ExitStack) -> Callable[[], Any]:
    (folder / "image").write_bytes(mbr_disk())
    os.link(folder / "image", folder / "same")
    return lambda: diskfmt.convert(folder / "image", folder / "same", format="qcow2", force=True)


def wrong_marker() -> bytes:
    """A stream whose grain says that it takes more than twice its size."""
    data = vmdk.stream({0: text(16 * SECTOR)}, capacity=64, grain=16)
    return vmdk.put(data, vmdk.STREAM_OVERHEAD * SECTOR + 8, struct.pack("<I", 1 << 30))


def with_journal() -> bytes:
    """An seSparse piece that says that its journal has to be replayed."""
    return vmdk.set_u64(vmdk.sesparse({0: text(8 * SECTOR)}, capacity=64), SECTOR + 24, 1)


def bad_frame() -> bytes:
    data = bytearray(image())
    at = qcow2.image(
        {0: ("data", text(CLUSTER)), 3: ("deflate", text(CLUSTER, 1))}, size=1 << 20, bits=12
    ).places[3]  # fmt: skip
    data[at : at + 16] = b"\xff" * 16
    return bytes(data)


def dynamic() -> bytearray:
    return vhd.dynamic(8 * CLUSTER, {0: (b"\xff", text(CLUSTER))})


def leaked() -> bytes:
    built = qcow2.image({0: ("data", text(CLUSTER)), 1: ("data", text(CLUSTER))}, size=1 << 20, bits=12)
    return bytes(built.poke(built.entry(1), 0).data)


def shared() -> bytes:
    built = qcow2.image({0: ("data", text(CLUSTER)), 600: ("data", text(CLUSTER))}, size=4 << 20, bits=12)
    return bytes(built.poke(built.l1 + 8, built.peek(built.l1)).data)


def nested() -> bytes:
    built = qcow2.image({0: ("data", image()[:CLUSTER])}, size=1 << 20, bits=12)
    return bytes(built.data)


def not_ready(folder: Path, _: ExitStack) -> Callable[[], Any]:
    """An image of a format that the cloud does not take."""
    (folder / "there").write_text("precious")
    path = folder / "vm.qcow2"
    path.write_bytes(image())
    return lambda: diskfmt.check_readiness(path, profile="azure").raise_if_blocked()


REFUSED, LIMIT, IO, BUSY = diskfmt.RefusedError, diskfmt.LimitError, diskfmt.IOFailedError, diskfmt.InUseError
NOT_READY = diskfmt.NotReadyError

SITUATIONS: dict[Reason, Situation] = {
    Reason.USAGE: Situation(make=of_image(mbr_disk, format="vdi"), error=diskfmt.UsageError),
    Reason.EXTERNAL_REFERENCE: Situation(make=of_image(lambda: image(backing=b"/etc/passwd")), error=NOT_READY),
    Reason.AMBIGUOUS_FORMAT: Situation(make=of_image(lambda: image() + vhd.footer(len(image()), 2)), error=REFUSED),
    Reason.NESTED_FORMAT: Situation(make=of_image(nested), error=NOT_READY),
    Reason.FORMAT_MISMATCH: Situation(make=of_image(image, source_format="vhd"), error=REFUSED),
    Reason.UNKNOWN_FORMAT: Situation(make=of_image(lambda: text(1 << 16)), error=REFUSED),
    Reason.UNSUPPORTED_SUBFORMAT: Situation(make=of_image(lambda: image({"version": 4})), error=REFUSED),
    Reason.UNKNOWN_FEATURE: Situation(make=of_image(lambda: image({"incompatible": 1 << 40})), error=NOT_READY),
    Reason.CODEC_MISSING: Situation(make=codec_missing, error=NOT_READY),
    Reason.ENCRYPTED: Situation(make=of_image(lambda: image({"crypt_method": 1})), error=NOT_READY),
    Reason.DIFFERENTIAL: Situation(
        make=of_image(lambda: bytes(vhd.patch(dynamic(), "head", "current_size", 4 * CLUSTER))), error=NOT_READY
    ),
    Reason.BAD_CHECKSUM: Situation(make=of_image(lambda: bytes(vhd.patch(dynamic(), "header", "checksum", 1)))),
    Reason.BAD_VALUE: Situation(make=of_image(lambda: image({"l1_offset": 8193}))),
    Reason.OUT_OF_FILE: Situation(make=of_image(lambda: image(pokes=(("cluster0", 1 << 50 | qcow2.COPIED),)))),
    Reason.OVERLAP: Situation(make=of_image(lambda: image(pokes=(("cluster0", qcow2.COPIED | 2 * CLUSTER),)))),
    Reason.SHARED_CLUSTERS: Situation(make=of_image(shared)),
    Reason.TRUNCATED: Situation(make=of_image(lambda: image()[: 4 * CLUSTER])),
    Reason.CORRUPT_FLAG: Situation(make=of_image(lambda: image({"incompatible": 2}))),
    Reason.CORRUPT_DATA: Situation(make=of_image(bad_frame)),
    Reason.NEEDS_REPLAY: Situation(make=of_image(with_journal)),
    Reason.UNCLEAN: Situation(make=findings(lambda: image({"incompatible": 1})), error=None),
    Reason.LEAKED: Situation(make=findings(leaked), error=None),
    Reason.LIMIT_SIZE: Situation(make=of_image(lambda: image({"size": 1 << 62})), error=LIMIT),
    Reason.LIMIT_METADATA: Situation(make=of_image(lambda: image({"cluster_bits": 22})), error=LIMIT),
    Reason.LIMIT_EXPANSION: Situation(make=of_image(wrong_marker), error=LIMIT),
    Reason.IN_USE: Situation(make=in_use, error=BUSY),
    Reason.SOURCE_CHANGED: Situation(make=source_changed, error=BUSY),
    Reason.READ_ERROR: Situation(make=with_calls(Op.PREAD), error=IO),
    Reason.WRITE_ERROR: Situation(make=with_calls(Op.PWRITE), error=IO),
    Reason.NO_SPACE: Situation(make=with_calls(Op.PWRITE, code=errno.ENOSPC), error=IO),
    Reason.VERIFY_FAILED: Situation(make=with_calls(Op.PWRITE, how=Fault.LIE, verify=True), error=IO),
    Reason.NOT_REGULAR: Situation(make=not_regular, error=REFUSED),
    Reason.OUTPUT_EXISTS: Situation(make=output_exists, error=REFUSED),
    Reason.OUTPUT_BUSY: Situation(make=output_busy, error=REFUSED),
    Reason.NOT_READY: Situation(make=not_ready, error=NOT_READY),
    Reason.INTERNAL: Situation(make=internal, error=diskfmt.InternalError),
}
