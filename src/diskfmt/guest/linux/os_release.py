"""Which distribution this is.

Sources: os-release(5) of systemd; the release files that came before it (/etc/redhat-release, /etc/SuSE-release,
/etc/lsb-release, /etc/debian_version). Where two of them name the same version, the longer one is the better: Debian's
os-release says 12, its debian_version 12.11.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from diskfmt.guest.linux.text import assignments, decode, lines

OS_RELEASE: Final = ("/etc/os-release", "/usr/lib/os-release")
_RELEASE_FILES: Final = (
    "/etc/centos-release",
    "/etc/rocky-release",
    "/etc/almalinux-release",
    "/etc/oracle-release",
    "/etc/fedora-release",
    "/etc/redhat-release",
    "/etc/system-release",
    "/etc/SuSE-release",
)
FILES: Final = (
    *OS_RELEASE,
    *_RELEASE_FILES,
    "/etc/debian_version",
    "/etc/lsb-release",
    "/etc/alpine-release",
    "/etc/arch-release",
    "/etc/gentoo-release",
)

# What os-release calls them → what we call them; other names stay.
_IDS: Final = {
    "amzn": "amazon",
    "ol": "oracle",
    "opensuse-leap": "opensuse",
    "sles_sap": "sles-sap",
    "redhat": "rhel",
    "kylin": "kylin",
    "uos": "uniontech",
    "uniontech": "uniontech",
    "tencentos": "tencentos",
}
# How the text of a release file begins, the longer names first.
_NAMES: Final = (
    ("centos stream", "centos-stream"),
    ("centos", "centos"),
    ("red hat enterprise linux", "rhel"),
    ("rocky linux", "rocky"),
    ("almalinux", "almalinux"),
    ("oracle linux", "oracle"),
    ("enterprise linux enterprise linux", "oracle"),
    ("scientific linux", "scientific"),
    ("fedora", "fedora"),
    ("amazon linux", "amazon"),
    ("suse linux enterprise", "sles"),
    ("opensuse", "opensuse"),
    ("tencentos", "tencentos"),
    ("kylin", "kylin"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A distribution and its version.

    `distro`: lower case, e.g. `debian`, `rhel`, `centos-stream`. `major`, `minor`: as they are written (`04`), empty
    where nothing says so. `name`: what it calls itself. `like`: ID_LIKE. `source`: the file that named the
    distribution.
    """

    distro: str
    major: str
    minor: str
    name: str
    like: tuple[str, ...]
    source: str

    @property
    def family(self) -> str:
        """`debian`, `rhel`, `suse`, or the distribution's own name: whose tools mend it."""
        for family, members in _FAMILIES.items():
            if self.distro in members or any(like in members for like in self.like):
                return family
        return self.distro


_FAMILIES: Final = {
    "debian": frozenset({"debian", "ubuntu", "kali", "raspbian", "linuxmint", "uniontech", "deepin"}),
    "suse": frozenset({"suse", "sles", "sles-sap", "opensuse", "opensuse-tumbleweed"}),
    "rhel": frozenset(
        {
            "rhel",
            "fedora",
            "centos",
            "centos-stream",
            "rocky",
            "almalinux",
            "oracle",
            "amazon",
            "scientific",
            "tencentos",
        }
        | {"openeuler", "anolis", "alinux"}
    ),
}


def _version(text: str) -> tuple[str, str]:
    """The first number of a text that starts a word: (major, minor)."""
    for word in text.replace("(", " ").replace(",", " ").split():
        digits = word.split(".")
        if digits[0].isdigit() and digits[0].isascii():
            minor = digits[1] if len(digits) > 1 and digits[1].isascii() and digits[1].isdigit() else ""
            return digits[0], minor
    return "", ""


def _first_line(data: bytes) -> str:
    return next((decode(line).strip() for _, line in lines(data) if line.strip()), "")


def _from_os_release(files: Mapping[str, bytes]) -> Release | None:
    for path in OS_RELEASE:
        if path not in files:
            continue
        said = {name: setting.value for name, setting in assignments(files[path]).items()}
        if said.get("ID"):
            distro = _IDS.get(said["ID"].lower(), said["ID"].lower())
            if distro == "centos" and "stream" in said.get("NAME", "").lower():
                distro = "centos-stream"
            major, minor = _version(said.get("VERSION_ID", ""))
            name = said.get("PRETTY_NAME") or said.get("NAME", "")
            like = tuple(said.get("ID_LIKE", "").lower().split())
            return Release(distro=distro, major=major, minor=minor, name=name, like=like, source=path)
    return None


def _from_suse(data: bytes) -> tuple[str, str]:
    """VERSION and PATCHLEVEL of /etc/SuSE-release."""
    said = {}
    for _, line in lines(data):
        key, equals, value = decode(line).partition("=")
        if equals:
            said[key.strip()] = value.strip()
    major, minor = _version(said.get("VERSION", ""))
    return major, minor or _version(said.get("PATCHLEVEL", ""))[0]


def _from_release_files(files: Mapping[str, bytes]) -> Iterator[Release]:
    for path in _RELEASE_FILES:
        text = _first_line(files.get(path, b""))
        for begin, distro in _NAMES:
            if text.lower().startswith(begin):
                major, minor = _from_suse(files[path]) if path == "/etc/SuSE-release" else _version(text)
                yield Release(distro=distro, major=major, minor=minor, name=text, like=(), source=path)
                break


def _from_others(files: Mapping[str, bytes]) -> Iterator[Release]:
    if "/etc/lsb-release" in files:
        said = {name: setting.value for name, setting in assignments(files["/etc/lsb-release"]).items()}
        if said.get("DISTRIB_ID"):
            major, minor = _version(said.get("DISTRIB_RELEASE", ""))
            distro = _IDS.get(said["DISTRIB_ID"].lower(), said["DISTRIB_ID"].lower())
            name = said.get("DISTRIB_DESCRIPTION", "")
            yield Release(distro=distro, major=major, minor=minor, name=name, like=(), source="/etc/lsb-release")
    for distro, path in (("debian", "/etc/debian_version"), ("alpine", "/etc/alpine-release")):
        if path in files:
            text = _first_line(files[path])
            major, minor = _version(text)
            yield Release(distro=distro, major=major, minor=minor, name=text, like=(), source=path)
    for distro, path in (("arch", "/etc/arch-release"), ("gentoo", "/etc/gentoo-release")):
        if path in files:
            major, minor = _version(_first_line(files[path]))
            yield Release(distro=distro, major=major, minor=minor, name=distro, like=(), source=path)


def identify(files: Mapping[str, bytes], *, sap: bool = False) -> Release | None:
    """The distribution that the release files (path → content) name, None where none does.

    `sap`: /etc/products.d has SLES_SAP.prod; SLES for SAP calls itself plain SLES since 12 SP4.
    """
    others = [*_from_release_files(files), *_from_others(files)]
    found = _from_os_release(files) or (others[0] if others else None)
    if found is None:
        return None
    major, minor = found.major, found.minor
    for other in others:
        same = other.distro == found.distro or (other.distro == "centos" and found.distro == "centos-stream")
        if same and (not major or (other.major == major and not minor)):
            major, minor = other.major, other.minor
    distro = "sles-sap" if sap and found.distro == "sles" else found.distro
    return Release(distro=distro, major=major, minor=minor, name=found.name, like=found.like, source=found.source)
