"""What the packaging tests share. Not in tests/packaging: the name `packaging` belongs to a library."""

import os
import subprocess
import sys
import venv

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Nothing of the environment that runs the tests may help the one under test.
CLEAN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}

LOADED = """
import diskfmt._native
for line in open("/proc/self/maps"):
    if any(name in line for name in ("libdeflate", "libisal", "libzstd", "_native")):
        print(line.split(maxsplit=5)[5].strip())
"""


def run(*command, **options):
    """Run to a successful end; the standard output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def empty_venv(path, *, pip):
    """The interpreter of a new environment."""
    venv.create(path, symlinks=True, with_pip=pip)
    return os.path.join(path, "bin", "python")


def lend_packages(python):
    """Let the environment see the packages of the running one, but none of its editable installs."""
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    with open(os.path.join(purelib, "lend.pth"), "w", encoding="utf-8") as file:
        file.write(next(p for p in sys.path if p.endswith("site-packages")) + "\n")


def convert_there_and_back(python, folder):
    """Take a disk through every codec with the `diskfmt` beside the interpreter, in a clean environment."""
    diskfmt = os.path.join(os.path.dirname(python), "diskfmt")
    content = bytearray(3 << 20)
    content[4096:200_000] = os.urandom(195_904)
    content[1 << 20 : 2 << 20] = b"0123456789abcdef" * (1 << 16)
    source = os.path.join(folder, "disk.raw")
    with open(source, "wb") as file:
        file.write(content)
    for name, options in {
        "zstd.qcow2": ("-O", "qcow2", "-c", "zstd"),
        "zlib.qcow2": ("-O", "qcow2", "-c", "zlib"),
        "stream.vmdk": ("-O", "vmdk:streamOptimized"),
    }.items():
        target, back = os.path.join(folder, name), os.path.join(folder, name + ".raw")
        run(diskfmt, "convert", "-f", "raw", *options, source, target, cwd=folder, env=CLEAN)
        assert os.path.getsize(target) < len(content) // 2
        run(diskfmt, "convert", "-O", "raw", target, back, cwd=folder, env=CLEAN)
        with open(back, "rb") as file:
            assert file.read() == content
