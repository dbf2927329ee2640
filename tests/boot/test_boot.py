"""A Linux system goes through all formats and boots from each of them, boot sector first.

Slow: it downloads a system, and qemu runs it without the help of the processor. `make boot` runs it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from oracles import GuestDigest, digest_file, read_guest

from boot.build import BootDisk, BuildError, build, why_not

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1800)]

_BOOT_TIMEOUT = 300.0
_LOADER = "SYSLINUX"  # the first line of the boot loader, which qemu could not have brought along


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One image of the tour: what `convert` is told, and how qemu calls the format."""

    name: str
    options: tuple[str, ...]
    format: str
    qemu: str


_TOUR = (
    Stage(name="vhd", options=("-O", "vhd"), format="vhd", qemu="vpc"),
    Stage(name="vmdk", options=("-O", "vmdk"), format="vmdk", qemu="vmdk"),
    Stage(name="qcow2-zstd", options=("-O", "qcow2", "-c", "zstd"), format="qcow2", qemu="qcow2"),
    Stage(name="raw-again", options=("-O", "raw"), format="raw", qemu="raw"),
)
_ALL = (Stage(name="raw", options=(), format="raw", qemu="raw"), *_TOUR)
_EACH = [pytest.param(stage, id=stage.name) for stage in _ALL]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """The disk, and its images by the name of the stage."""

    disk: BootDisk
    images: dict[str, str]


@pytest.fixture(scope="module")
def say() -> Callable[[str], None]:
    """A function that tells whoever waits (`pytest -s`) what happens, and when."""
    start = time.monotonic()
    return lambda text: print(f"\n  [{time.monotonic() - start:5.0f} s] {text}", end="", flush=True)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Tour]:
    """The disk taken from format to format, each image made from the one before."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = str(tmp_path_factory.mktemp("boot"))
    try:
        disk = build(folder, say)
    except BuildError as error:
        pytest.fail(str(error))
    images = {"raw": disk.path}
    source = disk.path
    for stage in _TOUR:
        target = os.path.join(folder, f"{stage.name}.img")
        say(f"diskfmt convert {' '.join(stage.options)}")
        _diskfmt("convert", "--progress", "none", *stage.options, source, target)
        images[stage.name] = source = target
    yield Tour(disk=disk, images=images)
    for path in images.values():
        os.unlink(path)


def _diskfmt(*arguments: str) -> str:
    command = (sys.executable, "-m", "diskfmt", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _boot(image: str, format: str, log: Path) -> str:
    """What a machine with this disk, and nothing else to boot from, says on its serial port until it is off."""
    drive = f"file={image},format={format},if=virtio,snapshot=on"
    machine = ("-accel", "tcg", "-m", "512", "-no-reboot", "-nic", "none", "-boot", "order=c,strict=on")
    console = ("-nodefaults", "-display", "none", "-serial", f"file:{log}")
    command = ("qemu-system-x86_64", *machine, *console, "-drive", drive)
    # The temporary file of `snapshot=on` goes where the images are.
    environment = {**os.environ, "TMPDIR": os.path.dirname(image)}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=_BOOT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        text = log.read_text(errors="replace")
        pytest.fail(f"not off after {_BOOT_TIMEOUT:.0f} s; the console: {text[-2000:]}")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return log.read_text(errors="replace")


@pytest.mark.parametrize("stage", _EACH)
def test_bootable_disk_converted_has_the_digest_of_the_original(stage: Stage, tour: Tour) -> None:
    assert _diskfmt("digest", tour.images[stage.name]).split()[0] == _diskfmt("digest", tour.disk.path).split()[0]
    assert _seen_by_others(tour.images[stage.name], stage.format) == digest_file(tour.disk.path)


def _seen_by_others(image: str, format: str) -> GuestDigest:
    return digest_file(image) if format == "raw" else read_guest(image, format, "qemu-img")


@pytest.mark.parametrize("stage", _EACH)
def test_bootable_disk_converted_boots_from_its_boot_sector(
    stage: Stage, tour: Tour, tmp_path: Path, say: Callable[[str], None]
) -> None:
    start = time.monotonic()
    console = _boot(tour.images[stage.name], stage.qemu, tmp_path / "console")
    say(f"{stage.name}: booted, read all files and went off in {time.monotonic() - start:.0f} s")
    assert tour.disk.damaged not in console
    assert _LOADER in console, console[-2000:]
    assert f"{tour.disk.booted} {tour.disk.files}" in console, console[-2000:]
