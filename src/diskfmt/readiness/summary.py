"""Facts worth showing above the findings: what this image is."""

from collections.abc import Iterator

from diskfmt.guest.fact import Fact, Known, T
from diskfmt.readiness.facts import Facts


def summary(facts: Facts) -> Iterator[tuple[str, object]]:
    """Label and plain value of what is known."""
    image = facts.container.image
    if image is not None:
        yield "format", f"{image.format} {image.subformat}"
        yield "disk size", image.virtual_size
    if isinstance(facts.table, Known):
        yield "partition table", facts.table.value.kind.value
        yield "partitions", len(facts.table.value.partitions)
    if isinstance(facts.linux, Known) and facts.linux.value is not None:
        linux = facts.linux.value
        release = _value(linux.release)
        if release is not None:
            yield (
                "system",
                release.name or " ".join(part for part in (release.distro, release.major, release.minor) if part),
            )
        for label, fact in (("architecture", linux.arch), ("kernel", linux.kernel_version)):
            if isinstance(fact, Known) and fact.value:
                yield label, str(fact.value)
    if isinstance(facts.windows, Known) and facts.windows.value is not None:
        windows = facts.windows.value
        for label, told in (
            ("system", windows.product),
            ("build", windows.build),
            ("architecture", windows.architecture),
        ):
            if isinstance(told, Known):
                yield label, str(told.value)


def _value(fact: Fact[T]) -> T | None:
    return fact.value if isinstance(fact, Known) else None
