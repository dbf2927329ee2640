"""What the use cases return: frozen, plain, and with the JSON that scripts written for qemu-img read."""

from collections.abc import Mapping
from dataclasses import dataclass

from diskfmt.errors import EXIT_CODES, Finding, Severity
from diskfmt.escape import mask_credentials
from diskfmt.formats.base import Reference, Statistics


def finding_json(finding: Finding) -> dict[str, object]:
    """A finding as JSON values; places that do not exist are left out."""
    fields: dict[str, object] = {
        "reason": finding.reason.value,
        "severity": finding.severity.name.lower(),
        "message": finding.message,
        "offset": finding.offset,
        "guest-offset": finding.guest_offset,
        "remedy": finding.remedy,
        "filename": finding.path,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _reference_json(reference: Reference) -> dict[str, object]:
    fields = {
        "kind": reference.kind,
        "filename": mask_credentials(reference.name),
        "format": reference.format,
        "offset": reference.offset,
    }
    return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What `inspect` sees. Sizes in bytes; `actual_size` counts the blocks that the file occupies.

    `evidence` has one line for each claim of the detectors. `specific` and `extra` hold qemu-img's further keys.
    """

    filename: str
    format: str
    subformat: str
    virtual_size: int
    actual_size: int
    file_size: int
    cluster_size: int | None
    references: tuple[Reference, ...]
    findings: tuple[Finding, ...]
    evidence: tuple[str, ...]
    specific: Mapping[str, object]
    extra: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """qemu-img's keys and meanings, and `subformat`, `file-size`, `references`, `findings`, `evidence`."""
        document: dict[str, object] = {
            "virtual-size": self.virtual_size,
            "filename": self.filename,
            "format": self.format,
            "subformat": self.subformat,
            "actual-size": self.actual_size,
            "file-size": self.file_size,
        }
        if self.cluster_size is not None:
            document["cluster-size"] = self.cluster_size
        document |= self.extra
        if self.specific:
            document["format-specific"] = {"type": self.format, "data": dict(self.specific)}
        document["references"] = [_reference_json(reference) for reference in self.references]
        document["findings"] = [finding_json(finding) for finding in self.findings]
        document["evidence"] = list(self.evidence)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRow:
    """One extent, in bytes. `offset` is None where no byte is stored as it is; `filename` where none is stored."""

    start: int
    length: int
    present: bool
    zero: bool
    data: bool
    compressed: bool
    offset: int | None
    filename: str | None
    depth: int = 0

    def to_json(self) -> dict[str, object]:
        """A row of `qemu-img map --output=json`."""
        row: dict[str, object] = {
            "start": self.start,
            "length": self.length,
            "depth": self.depth,
            "present": self.present,
            "zero": self.zero,
            "data": self.data,
            "compressed": self.compressed,
        }
        if self.offset is not None:
            row["offset"] = self.offset
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A run of bytes of one file with one purpose.

    `kind`: `header`, `table`, `data`, `bitmap`, `snapshot` (data of snapshots only), `preallocated`, `hole`, `leaked`
    (nothing uses it) or `slack` (nothing uses it, and it is less than a unit).
    """

    filename: str
    start: int
    length: int
    kind: str

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {"start": self.start, "length": self.length, "kind": self.kind, "filename": self.filename}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `check` found. `statistics` is None where the tables could not be walked."""

    filename: str
    format: str
    subformat: str
    findings: tuple[Finding, ...]
    statistics: Statistics | None
    deep: bool

    @property
    def ok(self) -> bool:
        """Whether no finding is damage or an error."""
        return all(finding.severity < Severity.DAMAGE for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0, or the exit code of what fails the check: damage before refusal."""
        codes = {EXIT_CODES[finding.reason] for finding in self.findings if finding.severity >= Severity.DAMAGE}
        return 3 if 3 in codes else max(codes, default=0)

    def to_json(self) -> dict[str, object]:
        """qemu-img's keys where it has them, and `ok`, `findings`."""
        errors = sum(finding.severity >= Severity.DAMAGE for finding in self.findings)
        document: dict[str, object] = {
            "filename": self.filename,
            "format": self.format,
            "subformat": self.subformat,
            "ok": self.ok,
            "deep": self.deep,
            "check-errors": errors,
        }
        if self.statistics is not None:
            document |= {
                "total-clusters": self.statistics.total_units,
                "allocated-clusters": self.statistics.stored_units,
                "compressed-clusters": self.statistics.encoded_units,
                "image-end-offset": self.statistics.end,
            }
        document["findings"] = [finding_json(finding) for finding in self.findings]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Whether two guest disks are equal; `first_difference` is a guest offset, `sizes` their bytes."""

    equal: bool
    first_difference: int | None
    sizes: tuple[int, int]

    def to_json(self) -> dict[str, object]:
        """`equal`, `first-difference` (or null), `virtual-sizes`."""
        return {
            "equal": self.equal,
            "first-difference": self.first_difference,
            "virtual-sizes": list(self.sizes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Bytes that an output needs, and would need if every unit were stored and nothing compressed.

    `error_bound`: bytes by which `required` may be wrong, 19 times of 20; 0 where it was measured, not estimated.
    """

    required: int
    fully_allocated: int
    error_bound: int = 0

    def to_json(self) -> dict[str, object]:
        """qemu-img's keys, and `error-bound`."""
        return {
            "required": self.required,
            "fully-allocated": self.fully_allocated,
            "error-bound": self.error_bound,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionResult:
    """What a conversion did. Sizes in bytes, `seconds` of wall time per phase.

    `digest` is that of the guest disk, where it was verified. `findings` are doubts that did not block, `waived` the
    blockers that were waived, `ungated` the reason where the gate was left out.
    """

    source: str
    target: str
    source_format: str
    format: str
    subformat: str
    virtual_size: int
    file_size: int
    actual_size: int
    digest: str | None
    findings: tuple[Finding, ...]
    waived: tuple[Finding, ...]
    threads: int
    ungated: str | None
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """All of it, in the key style of qemu-img."""
        return {
            "source": self.source,
            "target": self.target,
            "source-format": self.source_format,
            "format": self.format,
            "subformat": self.subformat,
            "virtual-size": self.virtual_size,
            "file-size": self.file_size,
            "actual-size": self.actual_size,
            "digest": self.digest,
            "threads": self.threads,
            "ungated": self.ungated,
            "findings": [finding_json(finding) for finding in self.findings],
            "waived": [finding_json(finding) for finding in self.waived],
            "seconds": {phase: round(value, 3) for phase, value in self.seconds.items()},
        }
