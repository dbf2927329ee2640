"""Headers, footers and descriptors as `open_image` judges them."""

import random
import struct
import zlib

import pytest
from builders import vmdk

import diskfmt
from diskfmt.errors import CorruptError, DiskfmtError, Reason, RefusedError, Severity
from diskfmt.formats.vmdk import footer as vmdk_footer
from diskfmt.formats.vmdk import markers as vmdk_markers
from diskfmt.formats.vmdk.sparse import SparseHeader, pack_header, pack_marker, read_header

GRAIN = b"\xa5" * 65536
SPARSE = vmdk.sparse({0: GRAIN}, capacity=2048)
STREAM = vmdk.stream({0: GRAIN}, capacity=2048)
FOOTER = vmdk.footer_at(STREAM)
FLAT = vmdk.flat_text(128)

# struct SparseExtentHeader of VMware's Virtual Disk Format 1.1, filled in by hand, field after field.
GOLDEN = bytes.fromhex(
    "4b444d56"  # magicNumber
    "01000000"  # version
    "03000000"  # flags: newline test, redundant grain table
    "0000400000000000"  # capacity: 4,194,304 sectors
    "8000000000000000"  # grainSize: 128 sectors
    "0100000000000000"  # descriptorOffset
    "1400000000000000"  # descriptorSize: 20 sectors
    "00020000"  # numGTEsPerGT: 512
    "1500000000000000"  # rgdOffset
    "1601000000000000"  # gdOffset
    "8002000000000000"  # overHead
    "00"  # uncleanShutdown
    "0a200d0a"  # the four line end characters
    "0000"  # compressAlgorithm
).ljust(512, b"\0")


def test_golden_header_gives_its_fields_and_packs_back():
    found = read_header(GOLDEN)
    assert found == SparseHeader(
        version=1, flags=3, capacity=4194304, grain_size=128, descriptor_size=20, rgd_offset=21, gd_offset=278,
        overhead=640,
    )  # fmt: skip
    assert (found.grain, found.coverage, found.directory_entries) == (65536, 33554432, 64)
    assert pack_header(found) == GOLDEN


def test_marker_packs_as_the_specification_draws_it():
    assert pack_marker(4, 1) == struct.pack("<QII", 4, 0, 1).ljust(512, b"\0")


def test_sparse_image_is_described(open_bytes):
    image, files = open_bytes(SPARSE)
    assert (image.format, image.subformat, image.virtual_size, image.unit) == (
        "vmdk", "monolithicSparse", 1048576, 65536,
    )  # fmt: skip
    assert not image.findings
    assert not image.references
    assert image.specific == {
        "cid": 0xFFFFFFFE,
        "parent-cid": 0xFFFFFFFF,
        "create-type": "monolithicSparse",
        "extents": [{"virtual-size": 1048576, "filename": files[0].path, "cluster-size": 65536, "format": ""}],
    }


def test_stream_image_takes_the_directory_from_its_footer(open_bytes):
    image, _ = open_bytes(STREAM)
    assert image.subformat == "streamOptimized"
    assert image.header.header.gd_offset == vmdk.field(STREAM, "gdOffset", FOOTER)
    assert image.header.shape.grains_end == FOOTER - 512
    assert image.specific["extents"][0]["compressed"] is True
    assert not image.findings


def test_flat_descriptor_names_its_piece(open_bytes):
    image, _ = open_bytes(FLAT)
    assert (image.subformat, image.virtual_size, image.unit) == ("monolithicFlat", 65536, None)
    (piece,) = image.references
    assert (piece.kind, piece.name, piece.format) == ("piece", "d-flat.vmdk", "raw")
    assert not image.findings


def fails(open_bytes, data: bytes) -> DiskfmtError:
    with pytest.raises(DiskfmtError) as caught:
        open_bytes(data)
    assert caught.value.offset is not None
    return caught.value


# One field of a good sparse image changed; what says so, and where.
STOPS = {
    "version-0": ("version", 0, Reason.UNKNOWN_FEATURE, 4),
    "version-4": ("version", 4, Reason.UNKNOWN_FEATURE, 4),
    "newlines": ("doubleEndLineChar1", 10, Reason.BAD_VALUE, 73),
    "capacity-0": ("capacity", 0, Reason.BAD_VALUE, 12),
    "capacity-above-2-tib": ("capacity", (1 << 32) + 1, Reason.LIMIT_SIZE, 12),
    "capacity-max": ("capacity", (1 << 64) - 1, Reason.LIMIT_SIZE, 12),
    "grain-0": ("grainSize", 0, Reason.BAD_VALUE, 20),
    "grain-not-power": ("grainSize", 96, Reason.BAD_VALUE, 20),
    "grain-4": ("grainSize", 4, Reason.LIMIT_METADATA, 20),
    "grain-4096": ("grainSize", 4096, Reason.LIMIT_METADATA, 20),
    "entries-0": ("numGTEsPerGT", 0, Reason.BAD_VALUE, 44),
    "entries-1024": ("numGTEsPerGT", 1024, Reason.BAD_VALUE, 44),
    "descriptor-at-2": ("descriptorOffset", 2, Reason.BAD_VALUE, 28),
    "descriptor-too-long": ("descriptorSize", 129, Reason.LIMIT_METADATA, 36),
    "descriptor-over-tables": ("descriptorSize", 21, Reason.OVERLAP, 48),
    "directory-0": ("gdOffset", 0, Reason.OVERLAP, 56),
    "directory-in-descriptor": ("gdOffset", 20, Reason.OVERLAP, 56),
    "directory-behind-end": ("gdOffset", 1 << 40, Reason.TRUNCATED, 56),
    "directory-max": ("gdOffset", (1 << 64) - 2, Reason.TRUNCATED, 56),
    "directory-at-end": ("gdOffset", vmdk.GD_AT_END, Reason.BAD_VALUE, 56),
    "copy-over-directory": ("rgdOffset", vmdk.field(SPARSE, "gdOffset"), Reason.OVERLAP, None),
    "copy-behind-end": ("rgdOffset", 1 << 40, Reason.TRUNCATED, 48),
    "overhead-behind-end": ("overHead", 1 << 40, Reason.TRUNCATED, 64),
    "overhead-too-small": ("overHead", 20, Reason.BAD_VALUE, 64),
}


@pytest.mark.parametrize("field, value, reason, offset", STOPS.values(), ids=STOPS.keys())
def test_header_that_makes_no_sense_stops(open_bytes, field, value, reason, offset):
    error = fails(open_bytes, vmdk.patch(SPARSE, field, value))
    assert error.reason is reason
    assert offset is None or error.offset == offset


FINDS = {
    "unknown-flag": (SPARSE, {"flags": 0x13}, Reason.UNKNOWN_FEATURE),
    "zeroed-in-version-1": (SPARSE, {"flags": 7}, Reason.DIFFERENTIAL),
    "compressed-without-markers": (SPARSE, {"flags": 0x10003, "compressAlgorithm": 1}, Reason.UNSUPPORTED_SUBFORMAT),
    "markers-without-compression": (SPARSE, {"flags": 0x20003}, Reason.UNSUPPORTED_SUBFORMAT),
    "compression-without-flag": (SPARSE, {"compressAlgorithm": 1}, Reason.UNKNOWN_FEATURE),
    "padding": (SPARSE, {"lastPad": 1}, Reason.DIFFERENTIAL),
    "smaller-than-descriptor": (SPARSE, {"capacity": 1024}, Reason.DIFFERENTIAL),
    "no-descriptor": (SPARSE, {"descriptorOffset": 0, "descriptorSize": 0}, Reason.UNSUPPORTED_SUBFORMAT),
}


@pytest.mark.parametrize("image, fields, reason", FINDS.values(), ids=FINDS.keys())
def test_feature_that_is_not_read_keeps_the_converter_away(open_bytes, image, fields, reason):
    for name, value in fields.items():
        image = vmdk.patch(image, name, value)
    found = [finding for finding in open_bytes(image)[0].findings if finding.severity is Severity.ERROR]
    assert reason in [finding.reason for finding in found]


def test_unclean_shutdown_is_a_warning(open_bytes):
    image, _ = open_bytes(vmdk.patch(SPARSE, "uncleanShutdown", 1))
    assert [(finding.reason, finding.severity) for finding in image.findings] == [(Reason.UNCLEAN, Severity.WARNING)]
    assert image.extra["dirty-flag"] is True


def test_unknown_compression_of_a_stream_is_found(open_bytes):
    data = vmdk.patch(vmdk.patch(STREAM, "compressAlgorithm", 2), "compressAlgorithm", 2, FOOTER)
    assert [finding.reason for finding in open_bytes(data)[0].findings] == [Reason.UNKNOWN_FEATURE]


EMBEDDED = {
    "other-type": vmdk.text("streamOptimized", ('RW 2048 SPARSE "d.vmdk"',)),
    "flat-extent": vmdk.text("monolithicSparse", ('RW 2048 FLAT "/etc/passwd" 0',)),
    "no-access": vmdk.text("monolithicSparse", ('NOACCESS 2048 SPARSE "d.vmdk"',)),
    "two-extents": vmdk.text("monolithicSparse", ('RW 1024 SPARSE "d.vmdk"',) * 2),
    "other-size": vmdk.text("monolithicSparse", ('RW 2047 SPARSE "d.vmdk"',)),
}


@pytest.mark.parametrize("descriptor", EMBEDDED.values(), ids=EMBEDDED.keys())
def test_descriptor_that_contradicts_its_header_is_found(open_bytes, descriptor):
    image, _ = open_bytes(vmdk.sparse({}, capacity=2048, descriptor=descriptor))
    assert {finding.reason for finding in image.findings} == {Reason.DIFFERENTIAL}
    assert not image.references


# ---- footers


def test_stream_without_its_directory_is_truncated(open_bytes):
    for length in range(1024, FOOTER - 512, 300):
        assert fails(open_bytes, STREAM[:length]).reason is Reason.TRUNCATED


LOST = {
    "no-footer": STREAM[: FOOTER - 512],
    "half-a-marker": STREAM[: FOOTER - 300],
    "marker-alone": STREAM[:FOOTER],
    "half-a-footer": STREAM[: FOOTER + 100],
    "no-end-marker": STREAM[: FOOTER + 512],
    "byte-less": STREAM[:-1],
    "footer-marker-zeroed": vmdk.put(STREAM, FOOTER - 512, bytes(16)),
    "footer-zeroed": vmdk.put(STREAM, FOOTER, bytes(512)),
    "end-marker-not-zero": vmdk.put(STREAM, len(STREAM) - 512, b"\1"),
    "padded": STREAM[: FOOTER - 512] + bytes(1 << 20),
}


@pytest.mark.parametrize("data", LOST.values(), ids=LOST.keys())
def test_lost_footer_is_told_and_made_good_by_the_markers(open_bytes, read_guest, data):
    image, files = open_bytes(data)
    assert [(one.reason, one.severity) for one in image.findings] == [(Reason.TRUNCATED, Severity.DAMAGE)]
    assert read_guest(image, files) == GRAIN.ljust(1 << 20, b"\0")


def test_markers_are_followed_in_windows(open_bytes, read_guest, monkeypatch):
    rng = random.Random(3)
    grains = {number: rng.randbytes(4096) for number in range(0, 1500, 3)}
    data = vmdk.stream(grains, capacity=8 * 1500, grain=8)[:-1024]
    for window in (512, 1024, 64 << 10, 4 << 20):
        monkeypatch.setattr(vmdk_markers, "WINDOW", window)
        image, files = open_bytes(data)
        guest = read_guest(image, files)
        assert all(guest[number * 4096 : (number + 1) * 4096] == part for number, part in grains.items())


def test_directory_inside_guest_data_is_not_taken_for_the_lost_one(open_bytes):
    """A guest may hold a stream itself: what is left of the file ends like one, but the markers lead elsewhere."""
    inner = (vmdk.marker(1, 0, 2) + bytes(512) + bytes(512)).ljust(65536, b"\1")
    data = vmdk.put(STREAM[:-1024], len(STREAM) - 6 * 512, b"")
    plain = zlib.compress(inner, 0)
    whole = struct.pack("<QI", 0, len(plain)) + plain
    at = 128 * 512
    cut = data[:at] + whole[: whole.index(vmdk.marker(1, 0, 2)) + 1024]
    padding = -(len(cut) - 1024) % 512
    shifted = data[:at] + whole[:12] + bytes(padding) + whole[12 : len(cut) - at]
    assert vmdk.marker(1, 0, 2) in shifted[-1536:]
    assert fails(open_bytes, shifted).reason is Reason.TRUNCATED


def test_recovered_footer_that_differs_from_the_header_is_found(open_bytes):
    image, _ = open_bytes(vmdk.patch(STREAM, "capacity", 4096, FOOTER)[:-1])
    assert Reason.DIFFERENTIAL in {f.reason for f in image.findings if f.severity is Severity.ERROR}


def test_what_follows_a_directory_without_footer_is_truncated(open_bytes):
    assert fails(open_bytes, STREAM[: FOOTER - 512] + b"\1" * 2048).reason is Reason.TRUNCATED


def test_padded_stream_is_read_with_a_warning(open_bytes):
    image, _ = open_bytes(STREAM + bytes(65536))
    (finding,) = image.findings
    assert (finding.reason, finding.severity) == (Reason.DIFFERENTIAL, Severity.WARNING)
    assert finding.offset == len(STREAM)


def test_stream_padded_beyond_the_search_is_truncated(open_bytes, monkeypatch):
    monkeypatch.setattr(vmdk_footer, "MAX_PADDING", 1 << 20)
    assert fails(open_bytes, STREAM + bytes(2 << 20)).reason is Reason.TRUNCATED


@pytest.mark.parametrize("field, value", [("capacity", 4096), ("overHead", 64), ("flags", 0x30003), ("pad", 1)])
def test_footer_that_differs_from_the_header_is_found(open_bytes, field, value):
    image, _ = open_bytes(vmdk.patch(STREAM, field, value, FOOTER))
    assert Reason.DIFFERENTIAL in {f.reason for f in image.findings if f.severity is Severity.ERROR}


def test_header_and_footer_with_different_directories_are_found(open_bytes):
    place = vmdk.field(STREAM, "gdOffset", FOOTER)
    same, _ = open_bytes(vmdk.patch(STREAM, "gdOffset", place))
    assert not same.findings
    other, _ = open_bytes(vmdk.patch(STREAM, "gdOffset", place - 4))
    assert [finding.reason for finding in other.findings] == [Reason.DIFFERENTIAL]


def test_footer_without_directory_is_truncated(open_bytes):
    assert fails(open_bytes, vmdk.patch(STREAM, "gdOffset", vmdk.GD_AT_END, FOOTER)).reason is Reason.TRUNCATED


# ---- other kinds


@pytest.mark.parametrize(
    "data, subformat",
    [
        (vmdk.cowd({}, capacity=2048), "vmfsSparse"),
        (vmdk.sesparse({}, capacity=2048), "seSparse"),
        (vmdk.sparse({}, capacity=2048, descriptor=b""), "monolithicSparse"),
    ],
    ids=["cowd", "sesparse", "hosted"],
)
def test_piece_alone_is_described_and_not_read(open_bytes, data, subformat):
    image, _ = open_bytes(data)
    assert (image.subformat, image.virtual_size) == (subformat, 1048576)
    assert [finding.reason for finding in image.findings] == [Reason.UNSUPPORTED_SUBFORMAT]


@pytest.mark.parametrize("length", [4, 8, 511])
@pytest.mark.parametrize("magic", [b"KDMV", b"COWD", bytes.fromhex("bebafeca00000000")])
def test_file_cut_in_its_header_is_truncated(open_bytes, magic, length):
    if len(magic) <= length:
        assert fails(open_bytes, magic.ljust(512, b"\0")[:length]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"KDMW", b"# a comment\n", SPARSE[1:]])
def test_other_content_is_a_mismatch(open_bytes, data):
    error = fails(open_bytes, data)
    assert isinstance(error, RefusedError)
    assert error.reason is Reason.FORMAT_MISMATCH


@pytest.mark.parametrize("wide", ["utf-16", "utf-16-le", "utf-16-be"])
def test_wide_descriptor_is_recognised_and_refused(open_bytes, wide):
    assert fails(open_bytes, FLAT.decode().encode(wide)).reason is Reason.DIFFERENTIAL


def test_descriptor_behind_blank_lines_is_recognised_and_refused(open_bytes):
    assert fails(open_bytes, b"\r\n\n# hello\n" + FLAT).reason is Reason.DIFFERENTIAL


TYPES = {
    "twoGbMaxExtentSparse": ('RW 128 SPARSE "d-s001.vmdk"',),
    "twoGbMaxExtentFlat": ('RW 128 FLAT "d-f001.vmdk" 0',),
    "vmfs": ('RW 128 VMFS "d-flat.vmdk"',),
    "vmfsSparse": ('RW 128 VMFSSPARSE "d-delta.vmdk"',),
    "seSparse": ('RW 128 SESPARSE "d-sesparse.vmdk"',),
    "custom": ('RW 64 FLAT "d-flat.vmdk" 0', "RW 64 ZERO"),
}


@pytest.mark.parametrize("create_type, extents", TYPES.items(), ids=TYPES.keys())
def test_types_of_several_files_are_described(open_bytes, create_type, extents):
    image, _ = open_bytes(vmdk.text(create_type, extents))
    assert (image.subformat, image.virtual_size) == (create_type, 65536)
    assert not image.findings
    assert [one.kind for one in image.references] == ["piece"]


def test_file_that_several_extents_name_is_one_reference(open_bytes):
    lines = ('RW 64 FLAT "d-a.vmdk" 0', 'RW 64 FLAT "d-b.vmdk" 0', "RW 8 ZERO", 'RW 64 FLAT "d-a.vmdk" 64')
    image, _ = open_bytes(vmdk.text("custom", lines))
    assert [one.name for one in image.references] == ["d-a.vmdk", "d-b.vmdk"]
    assert [(one.start, one.file_id, one.offset) for one in image.header.sections] == [
        (0, 1, 0), (32768, 2, 0), (65536, None, 0), (69632, 1, 32768),
    ]  # fmt: skip


UNREAD = {
    "zero-alone": ("monolithicFlat", ("RW 128 ZERO",)),
    "two": ("monolithicFlat", ('RW 64 FLAT "d-flat.vmdk" 0', 'RW 64 FLAT "d-flat.vmdk" 64')),
    "full-device": ("fullDevice", ('RW 128 FLAT "d-flat.vmdk" 0',)),
    "partitions": (
        "partitionedDevice",
        ('RW 63 FLAT "d-pt.vmdk" 0', 'RW 65 FLAT "d-x" 63 partitionUUID 1 deviceIdentifier 2'),
    ),
    "raw": ("vmfsRaw", ('RW 128 VMFSRAW "d-x"',)),
    "rdm": ("vmfsRawDeviceMap", ('RW 128 VMFSRDM "d-rdm.vmdk"',)),
    "pass-through": ("vmfsPassthroughRawDeviceMap", ('RW 128 VMFSRDM "d-rdmp.vmdk"',)),
    "rdm-in-custom": ("custom", ('RW 128 VMFSRDM "d-rdm.vmdk"',)),
    "device-in-custom": ("custom", ('RW 128 FLAT "d-x" 0 deviceIdentifier 2',)),
    "unknown-type": ("vmfsFancy", ('RW 128 VMFS "d-flat.vmdk"',)),
    "other-extent": ("twoGbMaxExtentFlat", ('RW 128 SPARSE "d-s001.vmdk"',)),
    "no-access": ("custom", ('NOACCESS 128 FLAT "d-flat.vmdk" 0',)),
    "no-name": ("custom", ("RW 128 FLAT",)),
    "name-of-zeroes": ("custom", ('RW 128 ZERO "d-flat.vmdk"',)),
}


@pytest.mark.parametrize("create_type, extents", UNREAD.values(), ids=UNREAD.keys())
def test_disk_that_is_not_read_is_refused_by_name(open_bytes, create_type, extents):
    image, _ = open_bytes(vmdk.text(create_type, extents))
    assert {finding.reason for finding in image.findings} == {Reason.UNSUPPORTED_SUBFORMAT}


def test_extents_of_no_length_say_nothing(open_bytes):
    lines = ("NOACCESS 0 ZERO", 'RW 128 FLAT "d-flat.vmdk" 0', 'NOACCESS 0 FLAT "/etc/passwd" 0')
    image, _ = open_bytes(vmdk.text("custom", lines))
    assert not image.findings
    assert [one.name for one in image.references] == ["d-flat.vmdk"]


SHARED = {
    "flat": ('RW 64 FLAT "d-flat.vmdk" 0', 'RW 64 FLAT "d-flat.vmdk" 63'),
    "sparse": ('RW 64 SPARSE "d-s001.vmdk"', 'RW 64 SPARSE "d-s001.vmdk"'),
    "mixed": ('RW 64 SPARSE "d-s001.vmdk"', 'RW 64 FLAT "d-s001.vmdk" 1000'),
}


@pytest.mark.parametrize("lines", SHARED.values(), ids=SHARED.keys())
def test_two_extents_in_one_place_are_refused(open_bytes, lines):
    image, _ = open_bytes(vmdk.text("custom", lines))
    assert [finding.reason for finding in image.findings] == [Reason.SHARED_CLUSTERS]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../d-flat.vmdk", "a/b", "..\\win.ini", "C:\\x", "c:x", "..", ".", "", "json:{}"]
)
def test_piece_that_is_no_plain_name_is_an_external_reference(open_bytes, name):
    image, _ = open_bytes(vmdk.flat_text(128, name))
    assert [finding.reason for finding in image.findings] == [Reason.EXTERNAL_REFERENCE]


@pytest.mark.parametrize(
    "data, kind, name",
    [
        (FLAT.replace(b"parentCID=ffffffff", b"parentCID=12345678"), "parent", ""),
        (FLAT.replace(b"# Ext", b'parentFileNameHint="/base.vmdk"\n# Ext'), "parent", "/base.vmdk"),
    ],
    ids=["content-id", "hint"],
)
def test_parent_is_a_reference_that_nothing_opens(open_bytes, tmp_path, data, kind, name):
    image, _ = open_bytes(data, bytes(65536))
    assert (image.references[-1].kind, image.references[-1].name) == (kind, name)
    assert not image.findings
    with pytest.raises(DiskfmtError) as caught, diskfmt.open_disk(tmp_path / "d.vmdk", follow="pieces") as disk:
        disk.read_at(0, 512)
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE


def test_change_tracking_is_refused(open_bytes):
    image, _ = open_bytes(FLAT.replace(b"# Ext", b'changeTrackPath="d-ctk.vmdk"\n# Ext'))
    assert (image.references[-1].kind, image.references[-1].name) == ("change-track", "d-ctk.vmdk")
    assert [finding.reason for finding in image.findings] == [Reason.EXTERNAL_REFERENCE]


def test_parent_of_a_sparse_disk_is_shown_as_qemu_does(open_bytes):
    text = vmdk.text(
        "monolithicSparse", ('RW 2048 SPARSE "d.vmdk"',), head=("version=1", "CID=1", "parentCID=2"),
        more=('parentFileNameHint="base.vmdk"',),
    )  # fmt: skip
    image, _ = open_bytes(vmdk.sparse({}, capacity=2048, descriptor=text))
    assert image.extra["backing-filename"] == "base.vmdk"
    assert not image.findings


@pytest.mark.parametrize(
    "line", [b'encryptionKeys="vmware:key"\n', b'ddb.iofilters = "vmwarevmcrypt"\n'], ids=["workstation", "vsphere"]
)
def test_encrypted_disk_is_found(open_bytes, line):
    image, _ = open_bytes(FLAT + line)
    assert [finding.reason for finding in image.findings] == [Reason.ENCRYPTED]


def test_unknown_descriptor_version_is_found(open_bytes):
    image, _ = open_bytes(FLAT.replace(b"version=1", b"version=9"))
    assert [finding.reason for finding in image.findings] == [Reason.UNKNOWN_FEATURE]


def test_descriptor_without_sectors_is_bad_value(open_bytes):
    with pytest.raises(CorruptError):
        open_bytes(vmdk.text("monolithicFlat", ()))
    with pytest.raises(CorruptError):
        open_bytes(vmdk.flat_text(0))


def test_large_texts_and_disks_are_limits(open_bytes):
    assert fails(open_bytes, FLAT + bytes(1 << 20)).reason is Reason.LIMIT_METADATA
    assert fails(open_bytes, vmdk.flat_text((1 << 37) + 1)).reason is Reason.LIMIT_SIZE
    assert fails(open_bytes, vmdk.flat_text(1 << 53)).reason is Reason.LIMIT_SIZE
