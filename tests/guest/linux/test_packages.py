"""Package databases: of dpkg and apk as text, of rpm made by rpm itself and by the tools of Berkeley DB."""

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskfmt.guest.base import DamagedError, GuestError, UnsupportedError
from diskfmt.guest.fact import Known, Unknown
from diskfmt.guest.linux import packages, rpm_db
from diskfmt.guest.linux.facts import gather
from diskfmt.guest.linux.packages import Package
from guest.linux.trees import Host, Tree

DPKG = """Package: cloud-init
Status: install ok installed
Priority: optional
Architecture: all
Version: 22.4.2-1+deb12u3
Description: initialization system
 Package: not-a-package
 .
 more

Package: open-vm-tools
Status: deinstall ok config-files
Architecture: amd64
Version: 2:12.2

Package: held
Status: hold ok installed
Version: 1
Architecture: amd64
"""

APK = "C:Q1abc=\nP:busybox\nV:1.36.1-r15\nA:x86_64\nF:bin\nR:busybox\n\nC:Q1x=\nP:cloud-init\nV:23.4-r0\nA:noarch\n\n"


def test_dpkg() -> None:
    found = packages.installed(Tree({"/var/lib/dpkg/status": DPKG}))
    assert found is not None
    assert (found.kind, found.source, set(found.by_name)) == ("dpkg", "/var/lib/dpkg/status", {"cloud-init", "held"})
    assert found.get("none", "cloud-init") == Package(name="cloud-init", version="22.4.2-1+deb12u3", arch="all")
    assert found.starting("cloud-") == (found.by_name["cloud-init"],)


def test_dpkg_in_pieces() -> None:
    tree = Tree(
        {"/var/lib/dpkg/status.d/base": "Package: base-files\nVersion: 1\n", "/var/lib/dpkg/status.d/base.md5sums": "x"}
    )
    found = packages.installed(tree)
    assert found is not None
    assert set(found.by_name) == {"base-files"}


def test_apk() -> None:
    found = packages.installed(Tree({"/lib/apk/db/installed": APK}))
    assert found is not None
    assert found.get("busybox") == Package(name="busybox", version="1.36.1-r15", arch="x86_64")
    assert found.kind == "apk"


def test_no_database() -> None:
    assert packages.installed(Tree({})) is None


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg here")
def test_this_machines_packages_are_those_that_dpkg_lists() -> None:
    said = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}\t${Package}\t${Version}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = {
        line.split("\t")[1]: line.split("\t")[2] for line in said.stdout.splitlines() if line.startswith("installed")
    }
    found = packages.installed(Host(Path("/")))
    assert found is not None
    got = {name: package.version for name, package in found.by_name.items()}
    if {name: got.get(name) for name in wanted} != wanted:
        pytest.skip("packages are being installed at this moment")


SPEC = """Name: {name}
Version: {version}
Release: 3.el9
Epoch: {epoch}
Summary: a test
License: none
BuildArch: noarch
%description
{text}
%files
"""


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real packages, one with a header of more than a page."""
    if shutil.which("rpmbuild") is None or shutil.which("rpm") is None:
        pytest.skip("rpm is not installed")
    top = tmp_path_factory.mktemp("rpms")
    for name, version, epoch, text in [
        ("cloud-init", "23.1.1", 0, "x"),
        ("big", "1.0", 2, "words of it " * 3000),
        ("tiny", "0", 0, "."),
    ]:
        spec = top / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, version=version, epoch=epoch, text=text))
        subprocess.run(
            ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}", "--define", f"_rpmdir {top}", str(spec)],
            check=True,
            capture_output=True,
        )
    return sorted(top.glob("noarch/*.rpm"))


def rpm_command(where: Path, backend: str) -> list[str]:
    return ["rpm", "--root", str(where), "--define", f"_db_backend {backend}", "--define", "_dbpath /var/lib/rpm"]


def database(rpms: list[Path], top: Path, backend: str) -> Path:
    """A root whose rpm database has the packages."""
    where = top / "root"
    done = subprocess.run(
        [*rpm_command(where, backend), "--nodeps", "--noscripts", "--ignorearch", "-i", *map(str, rpms)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this rpm makes no {backend} database here: {done.stderr.strip()[:200]}")
    return where


def listed(where: Path, backend: str) -> set[tuple[str, str, str]]:
    """What rpm itself says of its database."""
    said = subprocess.run(
        [*rpm_command(where, backend), "-qa", "--qf", "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH}\\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split() for line in said.stdout.splitlines())
    return {(name, version.removeprefix("(none):"), arch) for name, version, arch in rows}


def rows(found: packages.Packages) -> set[tuple[str, str, str]]:
    return {(package.name, package.version, package.arch) for package in found.by_name.values()}


@pytest.mark.parametrize("backend, name", [("sqlite", "rpmdb.sqlite"), ("ndb", "Packages.db")])
def test_rpm_databases_of_rpm(backend: str, name: str, rpms: list[Path], tmp_path: Path) -> None:
    where = database(rpms, tmp_path, backend)
    found = packages.installed(Host(where))
    assert found is not None
    assert found.source == f"/var/lib/rpm/{name}"
    assert rows(found) == listed(where, backend)
    assert {name for name, _, _ in rows(found)} == {"cloud-init", "big", "tiny"}
    assert found.by_name["big"].version == "2:1.0-3.el9"
    # The same after one was removed: its slot is free.
    subprocess.run(
        [*rpm_command(where, backend), "-e", "tiny"],
        check=True,
        capture_output=True,
    )
    again = packages.installed(Host(where))
    assert again is not None
    assert rows(again) == listed(where, backend)
    assert "tiny" not in again.by_name


def blobs(rpms: list[Path], top: Path) -> list[bytes]:
    where = database(rpms, top, "sqlite")
    return list(rpm_db.sqlite_headers((where / "var/lib/rpm/rpmdb.sqlite").read_bytes()))


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_berkeley_databases(page_size: int, rpms: list[Path], tmp_path: Path) -> None:
    load = next((name for name in ("db5.3_load", "db_load") if shutil.which(name)), None)
    if load is None:
        pytest.skip("no db_load")
    headers = blobs(rpms, tmp_path)
    many = headers * 20
    text = f"VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize={page_size}\nHEADER=END\n 00000000\n 03000000\n"
    for number, blob in enumerate(many, 1):
        text += f" {struct.pack('<I', number).hex()}\n {blob.hex()}\n"
    path = tmp_path / "var/lib/rpm/Packages"
    path.parent.mkdir(parents=True)
    subprocess.run([load, str(path)], input=(text + "DATA=END\n").encode(), check=True)
    assert sorted(rpm_db.bdb_headers(path.read_bytes())) == sorted(many)
    found = packages.installed(Host(tmp_path))
    assert found is not None
    assert rows(found) == {(h.name, h.version, h.arch) for h in map(rpm_db.parse_header, headers)}


def test_changes_in_the_log_are_not_passed_over(rpms: list[Path], tmp_path: Path) -> None:
    where = database(rpms, tmp_path, "sqlite")
    (where / "var/lib/rpm/rpmdb.sqlite-wal").write_bytes(b"frames")
    with pytest.raises(UnsupportedError, match="log"):
        packages.installed(Host(where))
    assert isinstance(gather(Host(where)).packages, Unknown)


def test_hostile_sqlite(tmp_path: Path) -> None:
    import sqlite3

    for number, script in enumerate(
        [
            "CREATE VIEW Packages AS WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM a) SELECT x FROM a",
            "CREATE TABLE Packages (hnum INTEGER, blob TEXT); INSERT INTO Packages VALUES (1, 'text')",
            "CREATE TABLE Other (x)",
            "CREATE TABLE Packages (hnum INTEGER)",
        ]
    ):
        path = tmp_path / f"{number}.sqlite"
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
        with pytest.raises(DamagedError):
            list(rpm_db.sqlite_headers(path.read_bytes()))
    for data in (b"", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(5000)):
        with pytest.raises(DamagedError):
            list(rpm_db.sqlite_headers(data))


@pytest.mark.parametrize("kind", ["sqlite", "ndb"])
def test_one_byte_changed_is_read_or_refused(kind: str, rpms: list[Path], tmp_path: Path) -> None:
    where = database(rpms, tmp_path, kind)
    read = {"sqlite": rpm_db.sqlite_headers, "ndb": rpm_db.ndb_headers}[kind]
    good = (where / "var/lib/rpm" / {"sqlite": "rpmdb.sqlite", "ndb": "Packages.db"}[kind]).read_bytes()

    @settings(max_examples=80)
    @given(at=st.integers(0, min(len(good), 9000) - 1), change=st.integers(1, 255))
    def changed(at: int, change: int) -> None:
        data = bytearray(good)
        data[at] ^= change
        try:
            for blob in read(bytes(data)):
                rpm_db.parse_header(blob)
        except GuestError:
            pass

    changed()


def ndb(headers: list[bytes], free: int = 3) -> bytearray:
    """ndb's Packages.db, written from the description in rpm's sources; the slots of the first page only."""
    slots, body, block = [], b"", 256
    for number, header in enumerate(headers, 1):
        blocks = -(-(16 + len(header) + 12) // 16)
        head = struct.pack("<4sIII", b"BlbS", number, 7, len(header))
        room = bytes(blocks * 16 - 12 - 16 - len(header))
        tail = struct.pack("<II4s", zlib.adler32(head + header), len(header), b"BlbE")
        body += head + header + room + tail
        slots += [struct.pack("<4sIII", b"Slot", number, block, blocks)] + [
            struct.pack("<4sIII", b"Slot", 0, 0, 0)
        ] * free
        block += blocks
    table = struct.pack("<4sIIII12x", b"RpmP", 0, 9, 1, len(headers) + 1) + b"".join(slots)
    table += struct.pack("<4sIII", b"Slot", 0, 0, 0) * ((4096 - len(table)) // 16)
    return bytearray(table + body)


def test_ndb_as_its_sources_describe_it(rpms: list[Path], tmp_path: Path) -> None:
    headers = blobs(rpms, tmp_path)
    assert list(rpm_db.ndb_headers(bytes(ndb(headers)))) == headers
    for at, value in [
        (0, b"x"),
        (12, b"\xff"),
        (32, b"s"),
        (36, b"\0\0\0\0"),
        (40, b"\x01\0\0\0"),
        (40, b"\xff\xff\xff\0"),
        (44, b"\x01\0\0\0"),
        (4096, b"x"),
        (4100, b"\x09"),
        (4108, b"\xff\xff"),
    ]:
        data = ndb(headers)
        data[at : at + len(value)] = value
        with pytest.raises(DamagedError):
            list(rpm_db.ndb_headers(bytes(data)))
    other = ndb(headers)
    other[4] = 1
    with pytest.raises(UnsupportedError):
        list(rpm_db.ndb_headers(bytes(other)))


def bdb(**changes: bytes) -> bytes:
    """Two pages of 512 bytes: a hash page with one item on an overflow page that follows."""
    meta = bytearray(512)
    meta[12:16], meta[20:24] = struct.pack("<I", 0x061561), struct.pack("<I", 512)
    page = bytearray(512)
    page[20:22], page[25] = struct.pack("<H", 2), 13
    page[26:30] = struct.pack("<HH", 500, 480)
    page[500:512] = b"\x01key________"
    page[480:492] = struct.pack("<B3xII", 3, 2, 300)
    page[492:500] = bytes(8)
    over = bytearray(512)
    over[22:24], over[25] = struct.pack("<H", 300), 7
    data = bytes(meta + page + over)
    for place, value in changes.items():
        at = int(place[1:])
        data = data[:at] + value + data[at + len(value) :]
    return data


def test_berkeley_db_by_hand() -> None:
    assert [len(value) for value in rpm_db.bdb_headers(bdb())] == [300]
    loop = bdb(_1046=struct.pack("<H", 100), _1040=struct.pack("<I", 2))
    with pytest.raises(DamagedError):
        list(rpm_db.bdb_headers(loop[:996] + struct.pack("<I", 5000) + loop[1000:]))
    for damaged in (
        bdb(_20=struct.pack("<I", 500)),
        bdb(_538=struct.pack("<H", 600)),
        bdb(_532=struct.pack("<H", 60000)),
        bdb(_996=struct.pack("<I", 9)),
        bdb(_1049=b"\x05"),
        bdb(_1046=b"\0\0"),
        b"",
    ):
        with pytest.raises(DamagedError):
            list(rpm_db.bdb_headers(damaged))
    for unknown in (bdb(_12=b"\0"), bdb(_24=b"\1"), bdb(_992=b"\x04")):
        with pytest.raises(UnsupportedError):
            list(rpm_db.bdb_headers(unknown))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        struct.pack(">II", 0, 0),
        struct.pack(">II", 1 << 30, 0),
        struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 99, 1) + b"abc\0",
        struct.pack(">II", 1, 4) + struct.pack(">IIII", 1000, 6, 0, 1) + b"abcd",
    ],
)
def test_hostile_headers(blob: bytes) -> None:
    with pytest.raises(DamagedError):
        rpm_db.parse_header(blob)


def test_a_database_of_no_known_kind_is_unknown() -> None:
    facts = gather(Tree({"/var/lib/rpm/Packages": bytes(4096), "/etc/passwd": ""}))
    assert isinstance(facts.packages, Unknown)
    assert isinstance(facts.software, Known)
