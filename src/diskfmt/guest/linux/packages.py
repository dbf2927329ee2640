"""Installed packages: the databases of dpkg, apk and rpm.

Sources: deb-control(5) and dpkg's lib/dpkg/parse.c; apk-tools, "Installed database v2"; `rpm_db` for rpm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.base import MAX_ENTRIES, BudgetError, UnsupportedError
from diskfmt.guest.linux.root import Root, content, first_existing, sorted_names
from diskfmt.guest.linux.text import decode

MAX_TEXT: Final = 64 << 20
MAX_DATABASE: Final = 192 << 20
_DPKG: Final = "/var/lib/dpkg/status"
_DPKG_PIECES: Final = "/var/lib/dpkg/status.d"
_APK: Final = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_RPM: Final = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An installed package. `version` as its own tools print it, with release and epoch."""

    name: str
    version: str
    arch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What is installed. `kind`: `dpkg`, `apk` or `rpm`; `source`: the database."""

    kind: str
    source: str
    by_name: Mapping[str, Package]

    def get(self, *names: str) -> Package | None:
        """The first of the names that is installed."""
        return next((self.by_name[name] for name in names if name in self.by_name), None)

    def starting(self, *begins: str) -> tuple[Package, ...]:
        """The packages whose name begins so."""
        return tuple(package for name, package in self.by_name.items() if name.startswith(begins))


def _paragraphs(data: bytes) -> Iterator[list[bytes]]:
    start, count = 0, 0
    while start < len(data):
        stop = data.find(b"\n\n", start)
        stop = len(data) if stop < 0 else stop
        count += 1
        if count > MAX_ENTRIES:
            raise BudgetError(f"more than {MAX_ENTRIES} packages", offset=start)
        yield data[start:stop].split(b"\n")
        start = stop + 2


def parse_dpkg(data: bytes) -> Iterator[Package]:
    """The packages of dpkg's status that are installed, also those that are not configured yet."""
    for paragraph in _paragraphs(data):
        fields = _fields(paragraph, b":")
        status = fields.get("Status", "install ok installed").split()
        if "Package" in fields and status[-1:] != ["not-installed"] and status[-1:] != ["config-files"]:
            yield Package(
                name=fields["Package"], version=fields.get("Version", ""), arch=fields.get("Architecture", "")
            )


def parse_apk(data: bytes) -> Iterator[Package]:
    """The packages of apk's installed database."""
    for paragraph in _paragraphs(data):
        fields = _fields(paragraph, b":")
        if "P" in fields:
            yield Package(name=fields["P"], version=fields.get("V", ""), arch=fields.get("A", ""))


_WANTED: Final = (b"Package", b"Status", b"Version", b"Architecture", b"P", b"V", b"A")


def _fields(paragraph: list[bytes], colon: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in paragraph:
        name, there, value = line.partition(colon)
        if there and name in _WANTED:
            found.setdefault(decode(name), decode(value.strip()))
    return found


def _collected(kind: str, source: str, packages: Iterator[Package]) -> Packages:
    found: dict[str, Package] = {}
    for package in packages:
        found.setdefault(package.name, package)
    return Packages(kind=kind, source=source, by_name=found)


def installed(root: Root) -> Packages | None:
    """What is installed, None where there is no database that is known.

    Raises UnsupportedError for a database that is not read, DamagedError, BudgetError.
    """
    status = content(root, _DPKG, MAX_TEXT)
    pieces = [name for name in sorted_names(root, _DPKG_PIECES) if not name.endswith(".md5sums")]
    if status or pieces:
        texts = [status or b"", *(content(root, f"{_DPKG_PIECES}/{name}") or b"" for name in pieces)]
        return _collected("dpkg", _DPKG if status else _DPKG_PIECES, parse_dpkg(b"\n\n".join(texts)))
    database = first_existing(root, *_APK)
    if database is not None:
        return _collected("apk", database, parse_apk(content(root, database, MAX_TEXT) or b""))
    return _rpm(root)


def _rpm(root: Root) -> Packages | None:
    from diskfmt.guest.linux import rpm_db

    readers = {"rpmdb.sqlite": rpm_db.sqlite_headers, "Packages.db": rpm_db.ndb_headers, "Packages": rpm_db.bdb_headers}
    for directory in _RPM:
        for name, read in readers.items():
            path = f"{directory}/{name}"
            data = content(root, path, MAX_DATABASE)
            if not data:
                continue
            log = root.stat(f"{path}-wal")
            if log is not None and log.size > 0:
                raise UnsupportedError(f"{path} has changes that are only in its log, {path}-wal")
            headers = (rpm_db.parse_header(blob) for blob in read(data))
            packages = (Package(name=header.name, version=header.version, arch=header.arch) for header in headers)
            return _collected("rpm", path, packages)
    return None
