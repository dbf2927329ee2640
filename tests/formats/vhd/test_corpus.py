"""Images by other people's tools: read as their ground truth says, or refused for the right reason."""

from collections.abc import Iterator
from typing import Any

import pytest
from oracles.digest import BLOCK, GuestDigest, digest_blocks

import diskfmt
from diskfmt.errors import DiskfmtError, Reason, Severity, first_error
from diskfmt.extents import Kind
from diskfmt.formats.vhd.check import check
from diskfmt.formats.vhd.header import open_image
from diskfmt.formats.vhd.map import extents
from diskfmt.stores.source import SourceFile

# The corpus' own unpack.py leaves its manifest to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

READ = (
    "vhd-dynamic-2040G",
    "vhd-dynamic-forceoff",
    "vhd-dynamic-forceon",
    "vhd-dynamic-odd-forceoff",
    "vhd-fixed-forceon",
    "vhd-vhdlib-dynamic",
    "vhd-vhdutil-dynamic",
    "guest-data-disk-ntfs",
    "guest-debian12-mbr-ext4-vhdfixed",
    "guest-ubuntu2204-gpt-hybridboot-vhddyn",
    "qemu-virtualpc-dynamic",
    "vhdforensic-original-size-mismatch",
)

REPORTED = {  # readable, and the doubt is named
    "vhd-bitmap-zero": Reason.DIFFERENTIAL,
    "vhd-end-cookie-bad": Reason.TRUNCATED,
    "vhd-features-reserved-clear": Reason.BAD_VALUE,
    "vhd-fixed-not-mib": Reason.BAD_VALUE,
    "vhd-geometry-mismatch-unknown-creator": Reason.DIFFERENTIAL,
    "vhd-geometry-mismatch-vpc": Reason.DIFFERENTIAL,
    "vhd-geometry-mismatch-win": Reason.DIFFERENTIAL,
    "vhd-geometry-zero": Reason.DIFFERENTIAL,
    "vhdforensic-original-size-mismatch": Reason.DIFFERENTIAL,
    "qemu-virtualpc-dynamic": Reason.DIFFERENTIAL,
    "cut-vhd-dynamic-18": Reason.TRUNCATED,
}

REFUSED = {
    "cut-vhd-dynamic-04": Reason.OUT_OF_FILE,
    "cut-vhd-dynamic-05": Reason.TRUNCATED,
    "cut-vhd-dynamic-10": Reason.TRUNCATED,
    "cut-vhd-dynamic-11": Reason.TRUNCATED,
    "cut-vhd-dynamic-12": Reason.TRUNCATED,
    "cut-vhd-dynamic-13": Reason.TRUNCATED,
    "cut-vhd-fixed-07": Reason.FORMAT_MISMATCH,
    "cut-vhd-fixed-17": Reason.FORMAT_MISMATCH,
    "dfvfs-differential-vhd": Reason.BAD_CHECKSUM,
    "mix-qcow2-named-vhd": Reason.FORMAT_MISMATCH,
    "mix-vhdx-named-vhd": Reason.FORMAT_MISMATCH,
    "vhd-bat-entries-max": Reason.OUT_OF_FILE,
    "vhd-blocksize-2147483648": Reason.LIMIT_METADATA,
    "vhd-blocksize-3145728": Reason.BAD_VALUE,
    "vhd-dynheader-cookie-bad": Reason.BAD_VALUE,
    "vhd-fixed-cut": Reason.TRUNCATED,
    "vhd-fixed-size-large": Reason.TRUNCATED,
    "vhd-fixed-size-small": Reason.DIFFERENTIAL,
    "vhd-fixed-size-zero": Reason.BAD_VALUE,
    "vhd-footers-differ-size": Reason.DIFFERENTIAL,
    "vhd-size-larger-than-bat": Reason.BAD_VALUE,
    "vhd-size-max": Reason.LIMIT_SIZE,
    "vhd-trailing-garbage-odd": Reason.TRUNCATED,
    "vhd-type-1": Reason.BAD_VALUE,
}


DIFFERENCING = ("vhd-parent-etc-passwd", "vhd-parent-self", "vhd-type-4-noparent", "vhd-vhdutil-differencing")


def digest(path: str) -> GuestDigest:
    """The digest of the guest disk as header and map give it."""
    with SourceFile(path) as source:
        image = open_image(source)
        assert first_error(image.findings) is None

        def blocks() -> Iterator[tuple[int, bytes]]:
            index, block = -1, bytearray()
            for window in extents(image, [source], 0, image.virtual_size):
                for row in window[window["kind"] == Kind.DATA]:
                    at, host, left = int(row["guest_off"]), int(row["host_off"]), int(row["length"])
                    while left:
                        if at // BLOCK != index:
                            if index >= 0:
                                yield index * BLOCK, bytes(block)
                            index, block = at // BLOCK, bytearray(BLOCK)
                        step = min(left, BLOCK - at % BLOCK)
                        block[at % BLOCK : at % BLOCK + step] = source.read_at(host, step)
                        at, host, left = at + step, host + step, left - step
            if index >= 0:
                yield index * BLOCK, bytes(block)

        return digest_blocks(image.virtual_size, blocks())


@pytest.mark.parametrize("case", READ)
def test_image_of_another_tool_is_read_as_its_ground_truth_says(corpus: Any, case: str) -> None:
    truth = corpus.cases[case]
    seen = digest(corpus.path(case))
    assert seen.nz64k == truth["guest"]["nz64k"]
    # Readers differ on the size of a disk by Virtual PC: the manifest gives both, we follow the geometry.
    assert seen.size == truth["qemu_info"]["virtual-size"]
    assert seen.size in {truth["guest"]["size"], *(other["size"] for other in truth.get("disagree", ()))}


@pytest.mark.parametrize("case", REPORTED)
def test_doubtful_image_is_readable_and_the_doubt_is_reported(corpus: Any, case: str) -> None:
    with SourceFile(corpus.path(case)) as source:
        image = open_image(source)
        assert first_error(image.findings) is None
        findings = [*image.findings, *check(image, [source], False)]
        assert REPORTED[case] in {finding.reason for finding in findings}
        assert all(finding.severity < Severity.ERROR for finding in findings)
        list(extents(image, [source], 0, image.virtual_size))


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_image_is_refused_for_its_reason(corpus: Any, case: str) -> None:
    with SourceFile(corpus.path(case)) as source:
        try:
            error = first_error(open_image(source).findings)
            assert error is not None
            reason = error.reason
        except DiskfmtError as refused:
            reason = refused.reason
    assert reason is REFUSED[case]


@pytest.mark.parametrize("case", DIFFERENCING)
def test_differencing_disk_alone_is_refused(corpus: Any, case: str) -> None:
    with diskfmt.open_disk(corpus.path(case)) as disk, pytest.raises(DiskfmtError) as caught:
        disk.extents()
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE


FOLLOWED = {
    "vhd-parent-etc-passwd": Reason.READ_ERROR,  # no `passwd` lies beside it
    "vhd-parent-self": Reason.EXTERNAL_REFERENCE,
    "vhd-type-4-noparent": Reason.EXTERNAL_REFERENCE,
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_hostile_differencing_disk_is_refused_even_where_it_may_be_followed(corpus: Any, case: str) -> None:
    with pytest.raises(DiskfmtError) as caught:
        diskfmt.open_disk(corpus.path(case), follow="same-directory", below_format="vhd")
    assert caught.value.reason is FOLLOWED[case]
