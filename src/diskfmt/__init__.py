"""diskfmt: inspect, gate and convert disk images – never silently wrong.

    >>> import diskfmt
    >>> diskfmt.inspect("vm.vmdk").virtual_size
    >>> diskfmt.convert("vm.vmdk", "vm.qcow2", format="qcow2", compress="zstd")

Names are loaded when they are first used, so that `import diskfmt` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from diskfmt._version import __version__

if TYPE_CHECKING:
    from diskfmt.api import (
        check,
        check_readiness,
        compare,
        convert,
        digest,
        inspect,
        inspect_chain,
        map_rows,
        measure,
        open_disk,
        regions,
    )
    from diskfmt.clearance import Clearance
    from diskfmt.conversion.progress import Progress
    from diskfmt.disk import Disk
    from diskfmt.errors import (
        CorruptError,
        DiskfmtError,
        Finding,
        InternalError,
        InUseError,
        IOFailedError,
        LimitError,
        NotReadyError,
        Reason,
        RefusedError,
        Severity,
        UsageError,
    )
    from diskfmt.readiness.model import ReadinessReport
    from diskfmt.results import CheckReport, Comparison, ConversionResult, ImageInfo, MapRow, Measurement, Region

_HOME = {
    "diskfmt.api": (
        "check",
        "check_readiness",
        "compare",
        "convert",
        "digest",
        "inspect",
        "inspect_chain",
        "map_rows",
        "measure",
        "open_disk",
        "regions",
    ),
    "diskfmt.clearance": ("Clearance",),
    "diskfmt.conversion.progress": ("Progress",),
    "diskfmt.disk": ("Disk",),
    "diskfmt.errors": (
        "CorruptError",
        "DiskfmtError",
        "Finding",
        "IOFailedError",
        "InUseError",
        "InternalError",
        "LimitError",
        "NotReadyError",
        "Reason",
        "RefusedError",
        "Severity",
        "UsageError",
    ),
    "diskfmt.readiness.model": ("ReadinessReport",),
    "diskfmt.results": (
        "CheckReport",
        "Comparison",
        "ConversionResult",
        "ImageInfo",
        "MapRow",
        "Measurement",
        "Region",
    ),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CheckReport",
    "Clearance",
    "Comparison",
    "ConversionResult",
    "CorruptError",
    "Disk",
    "DiskfmtError",
    "Finding",
    "IOFailedError",
    "ImageInfo",
    "InUseError",
    "InternalError",
    "LimitError",
    "MapRow",
    "Measurement",
    "NotReadyError",
    "Progress",
    "ReadinessReport",
    "Reason",
    "RefusedError",
    "Region",
    "Severity",
    "UsageError",
    "__version__",
    "check",
    "check_readiness",
    "compare",
    "convert",
    "digest",
    "inspect",
    "inspect_chain",
    "map_rows",
    "measure",
    "open_disk",
    "regions",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'diskfmt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
