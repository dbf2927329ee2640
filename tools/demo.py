"""The main job, for real: make a partitioned disk, look at it, convert it around, prove that nothing is lost.

    python tools/demo.py [IMAGE]        (make demo, make demo IMAGE=vm.vmdk)

Works in `build/demo`, which is removed at the end unless KEEP=1. Ends with 0 only if every step did what it
should.
"""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "demo")
MIB = 1 << 20

DISK_SIZE = 1024 * MIB
ESP_START, ESP_SIZE = 1 * MIB, 64 * MIB
ROOT_START, ROOT_SIZE = 65 * MIB, 958 * MIB
CONTENT_SIZE = 256 * MIB
CONTENT_FILE = 4 * MIB  # so that there are many

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
QEMU_NAMES = {"vhd": "vpc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One conversion, and how qemu-img is told to do the same."""

    name: str
    title: str
    options: tuple[str, ...]
    qemu: tuple[str, ...]


TARGETS = (
    Target(name="disk.qcow2", title="qcow2, zstd", options=("-O", "qcow2", "-c", "zstd"),
           qemu=("-O", "qcow2", "-c", "-o", "compression_type=zstd")),
    Target(name="disk.vhd", title="VHD, dynamic", options=("-O", "vhd"),
           qemu=("-O", "vpc", "-o", "subformat=dynamic,force_size=on")),
    Target(name="disk.vmdk", title="VMDK, streamOptimized", options=("-O", "vmdk:streamOptimized"),
           qemu=("-O", "vmdk", "-o", "subformat=streamOptimized")),
)  # fmt: skip


class StepFailedError(Exception):
    """A step did not do what it should."""


def bold(text: str) -> str:
    """The text, bold on a terminal."""
    return f"\033[1m{text}\033[0m" if COLOUR else text


def dim(text: str) -> str:
    """The text, grey on a terminal."""
    return f"\033[2m{text}\033[0m" if COLOUR else text


def heading(text: str) -> None:
    """Print the title of a step."""
    print(f"\n{bold('── ' + text)}", flush=True)


def human(size: int) -> str:
    """A size in MiB."""
    return f"{size / MIB:,.1f} MiB"


def tool(name: str) -> str | None:
    """The path of a program, also where only root looks."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def quiet(*command: str, stdin: str = "") -> None:
    """Run a helper; its output is shown only if it fails."""
    program = tool(command[0])
    if program is None:
        raise StepFailedError(f"{command[0]} is missing; tools/sysdeps.sh demo installs it")
    line = [program, *command[1:]]
    done = subprocess.run(line, cwd=WORK, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailedError(f"{shlex.join(command)}: {done.stdout}{done.stderr}")


def diskfmt(*arguments: str, expect: int = 0, show: bool = True) -> str:
    """Run `diskfmt`; with `show`, print the command and what it says. The result is its standard output."""
    if show:
        print(f"$ diskfmt {shlex.join(arguments)}", flush=True)
    line = [sys.executable, "-m", "diskfmt", *arguments]
    done = subprocess.run(line, cwd=WORK, capture_output=True, text=True, check=False)
    text = (done.stdout if show else "") + done.stderr
    if text.strip():
        print(text.rstrip(), flush=True)
    if done.returncode != expect:
        raise StepFailedError(f"it ended with {done.returncode}, not with {expect}")
    return done.stdout


# ---- the disk ----------------------------------------------------------------------------------------------


def files_of_this_machine() -> Iterator[tuple[str, int]]:
    """Regular files below /usr with their sizes, in a fixed order."""
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
                yield path, os.path.getsize(path)


def collect_content(target: str) -> tuple[int, int]:
    """Copy files of this machine; how many, and their bytes."""
    count = total = 0
    for path, size in files_of_this_machine():
        if size > CONTENT_FILE or total + size > CONTENT_SIZE:
            continue
        copy = target + path
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copyfile(path, copy)
        count += 1
        total += size
    return count, total


def make_disk(name: str) -> None:
    """A GPT disk with an EFI system partition (FAT) and a root file system (ext4), made without root."""
    disk = os.path.join(WORK, name)
    with open(disk, "wb") as file:
        file.truncate(DISK_SIZE)
    table = (
        "label: gpt\n"
        f"start={ESP_START // 512}, size={ESP_SIZE // 512}, type=uefi, name=esp\n"
        f"start={ROOT_START // 512}, size={ROOT_SIZE // 512}, type=linux, name=root\n"
    )
    quiet("sfdisk", "--quiet", disk, stdin=table)

    # Made beside the disk and put into their places sparsely, so that old versions of the tools do as well.
    esp, root = os.path.join(WORK, "esp.img"), os.path.join(WORK, "root.img")
    for path, size in ((esp, ESP_SIZE), (root, ROOT_SIZE)):
        with open(path, "wb") as file:
            file.truncate(size)
    quiet("mkfs.vfat", "-F", "32", "-n", "ESP", esp)
    content = os.path.join(WORK, "content")
    count, total = collect_content(content)
    if tool("mcopy"):
        quiet("mcopy", "-i", esp, os.path.join(ROOT, "LICENSE"), "::LICENSE")
    quiet("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", content, root)
    for path, start in ((esp, ESP_START), (root, ROOT_START)):
        quiet("dd", f"if={path}", f"of={disk}", "bs=1M", f"seek={start // MIB}", "conv=sparse,notrunc")
        os.unlink(path)
    shutil.rmtree(content)
    stored = os.stat(disk).st_blocks * 512
    print(f"{name}: {human(DISK_SIZE)}, of which {human(stored)} are stored")
    print(f"  GPT; EFI system partition, FAT32; root, ext4, {count} files, {human(total)}")


# ---- the steps ---------------------------------------------------------------------------------------------


def qemu_seconds(source: str, source_format: str, target: Target) -> tuple[float, int] | None:
    """Seconds and bytes of the same conversion by qemu-img, or None where it is missing or fails."""
    if tool("qemu-img") is None:
        return None
    path = os.path.join(WORK, "qemu-" + target.name)
    name = QEMU_NAMES.get(source_format, source_format)
    command = ["qemu-img", "convert", "-f", name, *target.qemu, source, path]
    start = time.monotonic()
    if subprocess.run(command, cwd=WORK, capture_output=True, check=False).returncode != 0:
        return None
    # What diskfmt does before it says that it is done.
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    taken, size = time.monotonic() - start, os.path.getsize(path)
    os.unlink(path)
    return taken, size


def convert_all(source: str, source_format: str) -> None:
    """Convert the source to every target, each beside qemu-img."""
    rows = []
    for target in TARGETS:
        start = time.monotonic()
        diskfmt("convert", *target.options, source, target.name)
        taken, size = time.monotonic() - start, os.path.getsize(os.path.join(WORK, target.name))
        rows.append((target.title, taken, size, qemu_seconds(source, source_format, target)))
    print(f"\n  {'':24}{'diskfmt':>22}{'qemu-img':>26}")
    for title, taken, size, other in rows:
        line = f"  {title:24}{taken:8.2f} s {human(size):>12}"
        if other:
            line += f"{other[0]:12.2f} s {human(other[1]):>12}   {bold(f'{other[0] / taken:.1f}x as long')}"
        print(line)
    if all(row[3] is None for row in rows):
        print(dim("  (qemu-img is not here to compare with)"))


def prove(source: str) -> None:
    """All files hold the same disk."""
    names = [source, *(target.name for target in TARGETS)]
    if len({diskfmt("digest", name).split()[0] for name in names}) != 1:
        raise StepFailedError("the digests differ")
    for name in names[1:]:
        diskfmt("compare", source, name)
    diskfmt("convert", "--verify", "-O", "raw", "disk.vmdk", "back.raw")
    diskfmt("compare", source, "back.raw")


def refuse() -> None:
    """What must not be converted, is not."""
    print(dim("# an image that names another file as its backing file: nothing is opened unasked"))
    shutil.copyfile(os.path.join(WORK, "disk.qcow2"), os.path.join(WORK, "trojan.qcow2"))
    with open(os.path.join(WORK, "trojan.qcow2"), "r+b") as file:
        name = b"/etc/shadow"
        file.seek(8)
        file.write(struct.pack(">QI", 1024, len(name)))
        file.seek(1024)
        file.write(name)
    diskfmt("convert", "-O", "raw", "trojan.qcow2", "stolen.raw", expect=1)

    print(dim("# a download that ended early"))
    size = os.path.getsize(os.path.join(WORK, "disk.vhd"))
    with open(os.path.join(WORK, "disk.vhd"), "r+b") as file:
        file.truncate(size * 2 // 3)
    diskfmt("convert", "-O", "raw", "disk.vhd", "half.raw", expect=3)
    left = [name for name in ("stolen.raw", "half.raw") if os.path.exists(os.path.join(WORK, name))]
    if left:
        raise StepFailedError(f"it left {left[0]} behind")
    print(dim("# neither left a file behind"))


def run(image: str | None) -> None:
    """All steps."""
    if image is None:
        heading("a disk with a real partition table and real file systems, made on the spot")
        source = "disk.raw"
        make_disk(source)
    else:
        source = os.path.abspath(image)
    heading("what is it, and is it whole?")
    diskfmt("info", source)
    diskfmt("check", source)
    source_format = json.loads(diskfmt("info", "--output", "json", source, show=False))["format"]
    heading("convert")
    convert_all(source, source_format)
    heading("is it the same disk everywhere?")
    prove(source)
    heading("what diskfmt does not do")
    refuse()


def main(arguments: list[str]) -> int:
    """Run the demo; the exit code."""
    image = os.path.abspath(arguments[0]) if arguments else None
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    try:
        run(image)
    except StepFailedError as error:
        print(f"\n{bold('the demo failed')}: {error}", file=sys.stderr)
        return 1
    finally:
        if os.environ.get("KEEP") != "1":
            shutil.rmtree(WORK, ignore_errors=True)
    print(f"\n{bold('done')}: every copy holds the same disk; what was refused, was refused for a reason.")
    if os.environ.get("KEEP") == "1":
        print(f"The images are in {WORK}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
