"""The file itself: what it is, whether the cloud takes that, whether it is whole."""

from typing import Final

from diskfmt.errors import Finding, Reason, Severity
from diskfmt.readiness.facts import ContainerFacts, Facts
from diskfmt.readiness.profiles import Profile
from diskfmt.readiness.rules.base import Outcome, failed, passed, rule, warned

_COPY: Final = "copy the file again and compare checksums; diskfmt check --deep IMAGE tells more"
_SUFFIXES: Final = {
    "raw": {".raw", ".img", ".dd", ".bin", ""},
    "qcow2": {".qcow2", ".qcow"},
    "vhd": {".vhd", ".vpc"},
    "vmdk": {".vmdk"},
}
_ARCHIVES: Final = {
    "gzip": "gzip",
    "bzip2": "bzip2",
    "tar": "tar",
    "zip": "zip",
    "xz": "xz",
    "zstd": "zstd",
    "7z": "7z",
}
_DAMAGE: Final = frozenset(
    {Reason.BAD_VALUE, Reason.OUT_OF_FILE, Reason.OVERLAP, Reason.SHARED_CLUSTERS, Reason.CORRUPT_DATA}
)


def _convert(profile: Profile) -> str:
    return f"diskfmt convert -O {profile.convert.to} IMAGE TARGET"


def _evidence(finding: Finding) -> str:
    return finding.reason.value if finding.offset is None else f"offset {finding.offset:#x}"


def _first(container: ContainerFacts, *reasons: Reason, least: Severity = Severity.WARNING) -> Finding | None:
    """The gravest finding with one of the reasons."""
    found = [finding for finding in container.findings if finding.reason in reasons and finding.severity >= least]
    return max(found, key=lambda finding: finding.severity, default=None)


@rule("container-format-known", "Is it a disk image at all?")
def format_known(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is not None:
        return passed(f"{image.format} {image.subformat}")
    if any(name in facts.container.claims for name in ("iso9660", *_ARCHIVES)):
        return None  # rules of their own say so
    finding = next(iter(facts.container.findings), None)
    text = finding.message if finding is not None else "nothing is recognised"
    return failed(
        f"not a disk image: {text}", remedy="export the whole disk again: dd if=/dev/sda of=disk.raw bs=4M conv=sparse"
    )


@rule("container-format-allowed", "Does the cloud take the format?")
def format_allowed(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    taken = profile.image.formats
    if image is None or not taken:
        return None
    listed = ", ".join(taken)
    if image.format in taken:
        return passed(f"{image.format} is one of {listed}")
    return failed(f"the cloud takes {listed}; this is {image.format}", remedy=_convert(profile), cured=True)


@rule("container-format-match", "Does the name say what the content is?")
def format_match(facts: Facts, profile: Profile) -> Outcome | None:
    image, suffix = facts.container.image, facts.container.suffix
    if image is None:
        return None
    if profile.image.lower_case_extension and suffix != suffix.lower():
        return failed(f"the extension {suffix} has to be in lower case", remedy="rename the file")
    fits = _SUFFIXES.get(image.format, set())
    others = {known for known in set().union(*_SUFFIXES.values()) - fits if known}
    if suffix.lower() in others:
        return warned(f"named {suffix}, but its content is {image.format}", remedy="rename the file", cured=True)
    return passed(f"{suffix or 'no extension'} fits {image.format}")


@rule("container-fixed-vhd-probe", "Would readers take a fixed VHD for a raw disk?")
def fixed_vhd_probe(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None or (image.format, image.subformat) != ("vhd", "fixed"):
        return None
    if profile.image.formats == ("vhd",):
        return passed("the cloud expects a fixed VHD")
    return warned(
        "a fixed VHD has its only mark in the last 512 bytes: programs that look at the start take it for raw",
        remedy="declare the format as vhd (qemu-img: -f vpc)",
        cured=True,
    )


@rule("container-subformat", "Does the cloud take this kind of the format?")
def subformat(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None:
        return None
    if image.subformat == "differencing" or any(one.kind in ("parent", "backing") for one in image.references):
        return failed(
            "it holds only what differs from another image", remedy="merge it: " + _convert(profile) + " --follow DIR"
        )
    taken = profile.image.subformats.get(image.format, ())
    if taken and image.subformat not in taken:
        return failed(
            f"the cloud takes {image.format} as {', '.join(taken)}; this is {image.subformat}",
            remedy=_convert(profile),
            cured=True,
        )
    return passed(f"{image.format} {image.subformat}")


@rule("container-single-file", "Is the disk in one file?")
def single_file(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None:
        return None
    pieces = [one.name for one in image.references if one.kind in ("piece", "data-file")]
    if pieces:
        return failed(
            f"the disk is spread over {len(pieces)} more files", *pieces[:3], remedy=_convert(profile), cured=True
        )
    return passed("one file")


@rule("container-not-iso", "Is it a disk, not an installer's ISO?")
def not_iso(facts: Facts, profile: Profile) -> Outcome | None:
    if "iso9660" not in facts.container.claims:
        return passed("no ISO 9660 file system in front")
    if any(name in facts.container.claims for name in ("mbr", "gpt")):
        text = "an isohybrid: an installer that can be written to a stick, not an installed disk"
    else:
        text = "an ISO file system, not a disk"
    if "iso" in profile.image.formats:
        return warned(text, "offset 0x8001", remedy="it is only taken by force")
    return failed(text, "offset 0x8001", remedy="install it to a disk first, and import that disk")


@rule("container-not-archive", "Is it unpacked?")
def not_archive(facts: Facts, profile: Profile) -> Outcome | None:
    found = next((name for name in _ARCHIVES if name in facts.container.claims), None)
    if facts.container.image is not None or found is None:
        return passed("not packed")
    if found in profile.image.archives:
        return passed(f"{found} is taken")
    tool = {"tar": "tar -xf", "gzip": "gunzip -k", "xz": "unxz -k", "bzip2": "bunzip2 -k", "zip": "unzip"}.get(
        found, found
    )
    return failed(f"packed with {found}", "offset 0x0", remedy=f"unpack it: {tool} FILE")


@rule("container-header-consistent", "Do all copies of the header agree and sum up?")
def header_consistent(facts: Facts, profile: Profile) -> Outcome | None:
    finding = _first(facts.container, Reason.BAD_CHECKSUM, Reason.DIFFERENTIAL)
    if finding is None:
        return passed("headers agree") if facts.container.image is not None else None
    make = failed if finding.severity >= Severity.ERROR else warned
    return make(finding.message, _evidence(finding), remedy=finding.remedy or _convert(profile))


@rule("container-integrity", "Do the tables make sense?")
def integrity(facts: Facts, profile: Profile) -> Outcome | None:
    finding = _first(facts.container, *_DAMAGE)
    if finding is not None:
        make = failed if finding.severity >= Severity.DAMAGE else warned
        return make(finding.message, _evidence(finding), remedy=finding.remedy or _COPY)
    finding = _first(facts.container, Reason.UNCLEAN, Reason.CORRUPT_FLAG, Reason.NEEDS_REPLAY, Reason.LEAKED)
    if finding is not None:
        make = failed if finding.severity >= Severity.ERROR else warned
        return make(finding.message, _evidence(finding), remedy=finding.remedy or _convert(profile), cured=True)
    return passed("no damage") if facts.container.image is not None else None


@rule("container-truncated", "Is the file whole?")
def truncated(facts: Facts, profile: Profile) -> Outcome | None:
    finding = _first(facts.container, Reason.TRUNCATED)
    if finding is None:
        return passed("everything lies inside the file") if facts.container.image is not None else None
    make = failed if finding.severity >= Severity.ERROR else warned
    return make(finding.message, _evidence(finding), remedy=_COPY)


@rule("container-internal-snapshots", "Are there snapshots that the import drops?")
def internal_snapshots(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None or image.format != "qcow2":
        return None
    count = int(getattr(image.header, "snapshot_count", 0))
    if count:
        return warned(f"{count} internal snapshots are dropped by the import", remedy=_convert(profile), cured=True)
    return passed("no snapshots")


@rule("container-qcow2-features", "Does the qcow2 need features that the service may not have?")
def qcow2_features(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None or image.format != "qcow2":
        return None
    finding = _first(facts.container, Reason.UNKNOWN_FEATURE, least=Severity.ERROR)
    if finding is not None:
        return failed(finding.message, _evidence(finding), remedy="convert it with the tool that wrote it")
    specific = image.specific
    rare = [
        name
        for name, there in (
            ("zstd compression", specific.get("compression-type") == "zstd"),
            ("extended L2 entries", bool(specific.get("extended-l2"))),
            ("bitmaps", bool(specific.get("bitmaps"))),
        )
        if there
    ]
    if rare:
        return warned(
            f"it has {', '.join(rare)}, which older readers do not know",
            remedy=_convert(profile) + " -c zlib",
            cured=True,
        )
    return passed("features that every reader has")


@rule("container-encrypted", "Is the container readable without a key?")
def encrypted(facts: Facts, profile: Profile) -> Outcome | None:
    finding = _first(facts.container, Reason.ENCRYPTED)
    if finding is None:
        return passed("not encrypted") if facts.container.image is not None else None
    return failed(
        finding.message, _evidence(finding), remedy="convert it with its key into an image that is not encrypted"
    )


@rule("container-vhd-size-fields", "Do the size fields of the VHD agree?")
def vhd_size_fields(facts: Facts, profile: Profile) -> Outcome | None:
    image = facts.container.image
    if image is None or image.format != "vhd":
        return None
    current, geometry = image.specific.get("current-size"), image.specific.get("geometry-size")
    if current not in (geometry, image.virtual_size):
        return warned(
            f"tools disagree on the size: {geometry} by geometry, {current} by the size field",
            remedy=_convert(profile),
            cured=True,
        )
    return passed(f"{image.virtual_size} bytes, whoever reads it")
