"""Fetch the pinned sources of codec libraries, for machines that have no development packages of them.

    python fetch.py DIRECTORY NAME...

puts `DIRECTORY/NAME/` there. The sources come out of source archives on PyPI that carry the whole C library,
because PyPI is what a machine that can install this package can reach. An archive that already lies in
`DIRECTORY/archives/` is used without the network. Nothing is unpacked before its SHA-256 has been compared.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A PyPI source archive and the folder in it that is the C library."""

    project: str
    version: str
    sha256: str
    folder: str

    @property
    def archive(self) -> str:
        """The file name of the archive."""
        return f"{self.project}-{self.version}.tar.gz"


SOURCES = {
    "libdeflate": Source(
        project="deflate",
        version="0.9.0",
        sha256="962e0a6f1ea3a94b900a8ea0ce138fa92bfcbafda5b86367104a259ffcd3462b",
        folder="libdeflate",
    ),
    "libzstd": Source(
        project="zstandard",
        version="0.25.0",
        sha256="7713e1179d162cf5c7906da876ec2ccb9c3a9dcbdffef0cc7f70c3667a205f0b",
        folder="zstd",
    ),
    "libisal": Source(
        project="isal",
        version="1.8.0",
        sha256="124233e9a31a62030a07aafd48c26689561926f4e10417ed3ea46c211218f2b4",
        folder="src/isal/isa-l",
    ),
}


def digest(path: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(source: Source, archives: str) -> str:
    """The path of the verified archive. Raises SystemExit where it cannot be had or is another."""
    path = os.path.join(archives, source.archive)
    if not os.path.exists(path):
        # Only this project is taken as source: `--no-binary :all:` would build the build tools from source.
        # -I: inside a build environment of pip, PYTHONPATH hides the very pip that is needed.
        command = [
            *(sys.executable, "-I", "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", source.project, "--dest", archives, f"{source.project}=={source.version}"),
        ]
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
            raise SystemExit(f"{source.archive}: cannot be downloaded; put it into {archives} by hand")
    if (found := digest(path)) != source.sha256:
        raise SystemExit(f"{path}: SHA-256 is {found}, expected {source.sha256}; nothing of it was used")
    return path


def unpack(source: Source, archive: str, target: str) -> None:
    """Write the regular files of the library's folder under `target`."""
    prefix = f"{source.project}-{source.version}/{source.folder}/"
    partial = target + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(prefix)
            if not member.isfile() or name == member.name or ".." in name.split("/"):
                continue
            path = os.path.join(partial, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None  # isfile() above
            with open(path, "wb") as file:
                shutil.copyfileobj(content, file)
    os.rename(partial, target)


def main(directory: str, *names: str) -> None:
    """Fetch what is not there yet."""
    archives = os.path.join(directory, "archives")
    os.makedirs(archives, exist_ok=True)
    for name in names:
        target = os.path.join(directory, name)
        if not os.path.isdir(target):
            source = SOURCES[name]
            unpack(source, download(source, archives), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
