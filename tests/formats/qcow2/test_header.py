"""What is accepted, doubted and refused of headers, extensions, snapshots and bitmaps: one hostile image a check."""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import qcow2 as build

import diskfmt
from diskfmt.errors import CorruptError, DiskfmtError, LimitError, Reason, RefusedError, Severity
from diskfmt.formats.base import Image
from diskfmt.formats.qcow2 import extras
from diskfmt.formats.qcow2.header import open_image
from diskfmt.formats.qcow2.records import build_header
from diskfmt.stores.source import SourceFile

MIB = 1 << 20
NOTE, WARNING, DAMAGE, ERROR = sorted(Severity)
Opener = Callable[[build.Built], Image]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def do(built: build.Built) -> Image:
        path = tmp_path / "d.qcow2"
        path.write_bytes(built.data)
        with SourceFile(str(path)) as source:
            return open_image(source)

    return do


def good(**options: object) -> build.Built:
    """One MiB in clusters of 4 KiB, three stored."""
    clusters = {1: ("data", b"one"), 200: ("deflate", b"compressed"), 3: ("zero", b"")}
    if options.get("version") == 2:
        del clusters[3]
    return build.image(clusters, size=MIB, **options)  # type: ignore[arg-type]


def found(image: Image) -> list[tuple[Severity, Reason]]:
    return [(finding.severity, finding.reason) for finding in image.findings]


def test_version_3_is_described(opened: Opener) -> None:
    image = opened(good())
    assert (image.format, image.subformat, image.virtual_size, image.unit) == ("qcow2", "v3", MIB, 4096)
    assert image.findings == ()
    assert image.references == ()
    assert image.extra == {"dirty-flag": False}
    assert image.specific == {
        "compat": "1.1",
        "compression-type": "zlib",
        "refcount-bits": 16,
        "lazy-refcounts": False,
        "corrupt": False,
        "extended-l2": False,
    }


def test_version_2_is_described(opened: Opener) -> None:
    image = opened(good(version=2))
    assert image.subformat == "v2"
    assert image.findings == ()
    assert image.specific == {"compat": "0.10", "compression-type": "zlib", "refcount-bits": 16}


def test_version_2_extension_is_not_taken_for_features(opened: Opener) -> None:
    """Bytes 72 to 79 of this image would be unknown incompatible features in version 3."""
    image = opened(good(version=2, extensions=[build.extension(0xFFFFFFFF, b"x" * 24)]))
    assert found(image) == [(NOTE, Reason.UNKNOWN_FEATURE)]
    assert image.header.incompatible == 0


def test_zstd_image_is_described(opened: Opener) -> None:
    image = opened(build.image({0: ("zstd", b"x")}, size=MIB))
    assert (image.subformat, image.specific["compression-type"]) == ("v3+zstd", "zstd")
    assert image.findings == ()


def test_golden_header_is_built() -> None:
    """Byte for byte from the section "Header" of the specification."""
    fields = {"version": 3, "cluster_bits": 16, "virtual_size": 10 << 20, "l1_size": 1, "l1_offset": 0x10000,
              "refcount_table_offset": 0x50000, "refcount_table_clusters": 1}  # fmt: skip
    header = build_header(fields, compression_type=1)
    assert header[:112].hex(" ", 4) == (
        "514649fb 00000003 00000000 00000000 00000000 00000010 00000000 00a00000 00000000 00000001 "
        "00000000 00010000 00000000 00050000 00000001 00000000 00000000 00000000 00000000 00000008 "
        "00000000 00000000 00000000 00000000 00000004 00000070 01000000 00000000"
    )
    assert header[112:120].hex() == "6803f857" + f"{7 * 48:08x}"
    assert header[120 + 3 * 48 :][:18] == b"\x00\x03compression type"
    assert header[-8:] == bytes(8)
    assert len(header) <= 512


def test_golden_version_2_header_is_built() -> None:
    fields = {"version": 2, "cluster_bits": 9, "virtual_size": 512, "l1_size": 1, "l1_offset": 512,
              "refcount_table_offset": 1536, "refcount_table_clusters": 2}  # fmt: skip
    assert build_header(fields, compression_type=0).hex(" ", 4) == (
        "514649fb 00000002 00000000 00000000 00000000 00000009 00000000 00000200 00000000 00000001 "
        "00000000 00000200 00000000 00000600 00000002 00000000 00000000 00000000 00000000 00000000"
    )


def put_snapshots(built: build.Built, *entries: bytes, count: int | None = None) -> build.Built:
    at = len(built.data)
    built.data += b"".join(entries).ljust(built.cluster, b"\0")
    return built.patch(nb_snapshots=len(entries) if count is None else count, snapshots_offset=at)


def put_bitmaps(*entries: bytes, **changed: int) -> build.Built:
    values = {"count": len(entries), "reserved": 0, "size": sum(map(len, entries)), "offset": 0} | changed
    built = good(extensions=[build.extension(build.BITMAPS, bytes(24))])
    at = len(built.data)
    built.data += b"".join(entries).ljust(built.cluster, b"\0") + bytes(built.cluster)
    values["offset"] = values["offset"] or at
    struct.pack_into(">IIQQ", built.data, 120, *(values[name] for name in ("count", "reserved", "size", "offset")))
    return built.patch(autoclear=1)


def one_bitmap(**changed: object) -> bytes:
    return build.bitmap(0x1000, 1, **changed)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[], build.Built], type[DiskfmtError], Reason, str, int]] = {
    "magic": (lambda: good().patch(magic=b"QFI\xfa"), RefusedError, Reason.FORMAT_MISMATCH, "no qcow2 header", 0),
    "version 1": (lambda: good().patch(version=1), RefusedError, Reason.UNSUPPORTED_SUBFORMAT, "version 1", 4),
    "small clusters": (lambda: good().patch(cluster_bits=8), CorruptError, Reason.BAD_VALUE, "smallest", 20),
    "large clusters": (lambda: good().patch(cluster_bits=22), LimitError, Reason.LIMIT_METADATA, "2^22", 20),
    "header of 96": (lambda: good().patch(header_length=96), CorruptError, Reason.BAD_VALUE, "header of 96", 100),
    "header of 107": (lambda: good().patch(header_length=107), CorruptError, Reason.BAD_VALUE, "header of 107", 100),
    "header of 4104": (lambda: good().patch(header_length=4104), LimitError, Reason.LIMIT_METADATA, "4104", 100),
    "compression type without bit": (
        lambda: good().patch(compression_type=1), CorruptError, Reason.BAD_VALUE, "is clear", 104),
    "compression bit without type": (
        lambda: good().patch(incompatible=8), CorruptError, Reason.BAD_VALUE, "is set", 104),
    "compression bit without field": (
        lambda: good().patch(incompatible=8, compression_type=1, header_length=104),
        CorruptError, Reason.BAD_VALUE, "is set", 104),
    "virtual size": (
        lambda: good().patch(size=(64 << 40) + 512), LimitError, Reason.LIMIT_SIZE, "virtual size", 24),
    "extended L2 in small clusters": (
        lambda: good().patch(incompatible=16), CorruptError, Reason.BAD_VALUE, "extended L2", 72),
    "L1 too large": (
        lambda: good().patch(l1_size=(4 << 20) + 1), LimitError, Reason.LIMIT_METADATA, "L1 table of", 36),
    "L1 too small": (lambda: good().patch(l1_size=0), CorruptError, Reason.BAD_VALUE, "needs 1", 36),
    "L1 unaligned": (
        lambda: good().patch(l1_offset=0x2200), CorruptError, Reason.BAD_VALUE, "not cluster aligned", 40),
    "L1 on the header": (lambda: good().patch(l1_offset=0), CorruptError, Reason.OVERLAP, "overlaps", 40),
    "L1 behind the file": (
        lambda: good().patch(l1_offset=0x100000), CorruptError, Reason.TRUNCATED, "L1 table ends", 40),
    "L1 far behind the file": (
        lambda: good().patch(l1_offset=1 << 50), CorruptError, Reason.OUT_OF_FILE, "L1 table ends", 40),
    "extension too long": (
        lambda: good(extensions=[build.extension(9, bytes(8))]).poke(116, 4096, ">I"),
        CorruptError, Reason.BAD_VALUE, "header extension", 112),
    "extension over the limit": (
        lambda: build.image({}, size=MIB, bits=18, extensions=[build.extension(9, bytes(65544))]),
        LimitError, Reason.LIMIT_METADATA, "header extension", 112),
    "too many extensions": (
        lambda: good(extensions=[build.extension(9, b"")] * 64), LimitError, Reason.LIMIT_METADATA, "more than 64",
        112 + 64 * 8),
    "long backing name": (
        lambda: good(backing=b"n" * 1024), CorruptError, Reason.BAD_VALUE, "1024 bytes", 16),
    "backing name on the header": (
        lambda: good(backing=b"n").patch(backing_offset=104), CorruptError, Reason.OVERLAP, "overlaps", 8),
    "backing name behind the cluster": (
        lambda: good(backing=b"nn").patch(backing_offset=4095), CorruptError, Reason.BAD_VALUE, "first cluster", 8),
    "short file": (lambda: cut(good(), 60), CorruptError, Reason.TRUNCATED, "the file ends", 60),
    "short file in version 3": (lambda: cut(good(), 100), CorruptError, Reason.TRUNCATED, "the file ends", 100),
    "cut before the end of L1": (lambda: cut(good(), 0x2007), CorruptError, Reason.TRUNCATED, "L1 table ends", 40),
}  # fmt: skip


def cut(built: build.Built, length: int) -> build.Built:
    del built.data[length:]
    return built


@pytest.mark.parametrize("case", REFUSED)
def test_header_without_sense_is_refused(case: str, opened: Opener) -> None:
    make, kind, reason, words, offset = REFUSED[case]
    with pytest.raises(kind) as caught:
        opened(make())
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert caught.value.offset == offset
    assert caught.value.remedy


FOUND: dict[str, tuple[Callable[[], build.Built], Severity, Reason, str]] = {
    "unknown incompatible bit": (
        lambda: good(extensions=[build.extension(build.FEATURE_TABLE, build.feature_name(0, 9, "warp drive"))]).patch(
            incompatible=1 << 9), ERROR, Reason.UNKNOWN_FEATURE, "bit 9, which the image calls 'warp drive'"),
    "unknown compatible bit": (
        lambda: good().patch(compatible=1 << 5), WARNING, Reason.UNKNOWN_FEATURE, "compatible feature, bit 5"),
    "unknown autoclear bit": (
        lambda: good().patch(autoclear=1 << 7), WARNING, Reason.UNKNOWN_FEATURE, "autoclear feature, bit 7"),
    "unknown compression": (
        lambda: good().patch(incompatible=8, compression_type=7), ERROR, Reason.UNKNOWN_FEATURE, "type 7"),
    "corrupt bit": (lambda: good().patch(incompatible=2), ERROR, Reason.CORRUPT_FLAG, "marked it"),
    "dirty bit": (lambda: good().patch(incompatible=1), WARNING, Reason.UNCLEAN, "not closed"),
    "AES": (lambda: good().patch(crypt_method=1), ERROR, Reason.ENCRYPTED, "AES"),
    "unknown encryption": (lambda: good().patch(crypt_method=9), ERROR, Reason.ENCRYPTED, "method 9"),
    "encryption header without encryption": (
        lambda: good(extensions=[build.extension(build.ENCRYPTION, bytes(16))]), ERROR, Reason.DIFFERENTIAL,
        "full disk encryption"),
    "extension twice": (
        lambda: good(extensions=[build.extension(build.FEATURE_TABLE, b"")] * 2), ERROR, Reason.DIFFERENTIAL, "twice"),
    "odd size": (lambda: good().patch(size=MIB - 1), ERROR, Reason.DIFFERENTIAL, "multiple of 512"),
    "reserved bytes": (lambda: good().poke(105, 1, "B"), WARNING, Reason.BAD_VALUE, "reserved bytes"),
    "bytes of a longer header": (
        lambda: good(extensions=[build.extension(9, b"")]).patch(header_length=120), WARNING, Reason.BAD_VALUE,
        "reserved bytes"),
    "refcount order": (lambda: good().patch(refcount_order=7), WARNING, Reason.BAD_VALUE, "2^7 bits"),
    "refcount table unaligned": (
        lambda: good().patch(refcount_table_offset=0x1200), WARNING, Reason.BAD_VALUE, "refcount table at"),
    "refcount table on the header": (
        lambda: good().patch(refcount_table_offset=0), WARNING, Reason.BAD_VALUE, "refcount table at"),
    "refcount table too large": (
        lambda: good().patch(refcount_table_clusters=4096), WARNING, Reason.LIMIT_METADATA, "refcount table of"),
    "refcount table behind the file": (
        lambda: good().patch(refcount_table_offset=0x100000), WARNING, Reason.TRUNCATED, "refcount table ends"),
    "bitmaps bit alone": (lambda: good().patch(autoclear=1), WARNING, Reason.BAD_VALUE, "bitmaps bit"),
    "raw bit alone": (lambda: good().patch(autoclear=2), WARNING, Reason.BAD_VALUE, "raw data file bit"),
    "backing format alone": (
        lambda: good(extensions=[build.extension(build.BACKING_FORMAT, b"raw")]), WARNING, Reason.BAD_VALUE,
        "no backing file"),
    "raw data file and backing file": (
        lambda: good(backing=b"base").patch(incompatible=4, autoclear=2), WARNING, Reason.BAD_VALUE, "by itself"),
    "snapshots and data file": (
        lambda: put_snapshots(good(), build.snapshot(0x2000, 1)).patch(incompatible=4), ERROR, Reason.DIFFERENTIAL,
        "internal snapshots of an image with a data file"),
    "data file name": (
        lambda: good(version=2, extensions=[build.extension(build.DATA_FILE, b"data")]), ERROR,
        Reason.EXTERNAL_REFERENCE, "the feature bit says that there is none"),
    "too many snapshots": (
        lambda: good().patch(nb_snapshots=65537), WARNING, Reason.LIMIT_METADATA, "65537 snapshots"),
    "snapshots on the header": (lambda: good().patch(nb_snapshots=1), ERROR, Reason.OVERLAP, "overlaps the header"),
    "snapshots unaligned": (
        lambda: good().patch(nb_snapshots=1, snapshots_offset=0x1200), WARNING, Reason.BAD_VALUE, "not cluster"),
    "snapshots behind the file": (
        lambda: good().patch(nb_snapshots=1, snapshots_offset=0x100000), WARNING, Reason.TRUNCATED, "snapshot 0 ends"),
    "snapshot extra": (
        lambda: put_snapshots(good(), build.snapshot(0x2000, 1, extra=bytes(1032))), WARNING, Reason.LIMIT_METADATA,
        "1032 bytes of extra"),
    "snapshot L1 too large": (
        lambda: put_snapshots(good(), build.snapshot(0x2000, 1 << 31)), WARNING, Reason.LIMIT_METADATA, "snapshot 0"),
    "snapshot L1 unaligned": (
        lambda: put_snapshots(good(), build.snapshot(0x2200, 1)), WARNING, Reason.BAD_VALUE, "not cluster aligned"),
    "snapshot L1 behind the file": (
        lambda: put_snapshots(good(), build.snapshot(0x200000, 1)), WARNING, Reason.TRUNCATED, "L1 table of snapshot"),
    "bitmaps extension length": (
        lambda: good(extensions=[build.extension(build.BITMAPS, bytes(16))]), WARNING, Reason.BAD_VALUE, "16 bytes"),
    "no bitmaps": (lambda: put_bitmaps(one_bitmap(), count=0), WARNING, Reason.BAD_VALUE, "counts 0"),
    "bitmaps reserved": (lambda: put_bitmaps(one_bitmap(), reserved=5), WARNING, Reason.BAD_VALUE, "0x5"),
    "too many bitmaps": (
        lambda: put_bitmaps(one_bitmap(), count=65536), WARNING, Reason.LIMIT_METADATA, "65536 bitmaps"),
    "bitmap directory too large": (
        lambda: put_bitmaps(one_bitmap(), size=(64 << 20) + 1), WARNING, Reason.LIMIT_METADATA, "directory of"),
    "bitmap directory unaligned": (
        lambda: put_bitmaps(one_bitmap(), offset=0x1234), WARNING, Reason.BAD_VALUE, "bitmap directory at"),
    "bitmap directory behind the file": (
        lambda: put_bitmaps(one_bitmap(), offset=1 << 20), WARNING, Reason.TRUNCATED, "bitmap directory ends"),
    "bitmap directory too short": (
        lambda: put_bitmaps(one_bitmap(), count=2), WARNING, Reason.BAD_VALUE, "before bitmap 1 of 2"),
    "bitmap longer than its directory": (
        lambda: put_bitmaps(one_bitmap(name=b"n" * 99), size=32), WARNING, Reason.BAD_VALUE, "ends behind"),
    "bitmap type": (lambda: put_bitmaps(one_bitmap(kind=2)), WARNING, Reason.BAD_VALUE, "type 2"),
    "bitmap flags": (lambda: put_bitmaps(one_bitmap(flags=8)), WARNING, Reason.BAD_VALUE, "flags 0x8"),
    "bitmap granularity": (lambda: put_bitmaps(one_bitmap(bits=63)), WARNING, Reason.BAD_VALUE, "2^63"),
    "bitmap name": (lambda: put_bitmaps(one_bitmap(name=b"")), WARNING, Reason.BAD_VALUE, "has 0 bytes"),
    "bitmap table unaligned": (
        lambda: put_bitmaps(build.bitmap(0x1001, 1)), WARNING, Reason.BAD_VALUE, "table of bitmap 0 at"),
    "bitmap table behind the file": (
        lambda: put_bitmaps(build.bitmap(0x100000, 1)), WARNING, Reason.TRUNCATED, "table of bitmap 0 ends"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_header_with_a_doubt_is_described_and_doubted(case: str, opened: Opener) -> None:
    make, severity, reason, words = FOUND[case]
    image = opened(make())
    (finding,) = image.findings
    assert (finding.severity, finding.reason) == (severity, reason)
    assert words in finding.message
    assert finding.offset is not None
    assert severity is not ERROR or finding.remedy


def test_unknown_extension_is_listed(opened: Opener) -> None:
    image = opened(good(extensions=[build.extension(0xABCD, b"12345")]))
    assert found(image) == [(NOTE, Reason.UNKNOWN_FEATURE)]
    (extension,) = image.header.extensions
    assert (extension.kind, extension.offset, extension.length) == (0xABCD, 120, 5)


def test_extension_area_without_end_marker_is_read(opened: Opener) -> None:
    """The name of the backing file ends the area too."""
    built = good(extensions=[build.extension(build.BACKING_FORMAT, b"raw")], backing=b"base")
    built.patch(backing_offset=112 + 16)
    image = opened(built)
    assert image.extra["backing-filename-format"] == "raw"


def test_backing_file_is_named_and_not_opened(opened: Opener, tmp_path: Path) -> None:
    image = opened(good(backing=b"b\xffse.raw", extensions=[build.extension(build.BACKING_FORMAT, b"raw")]))
    (reference,) = image.references
    assert (reference.kind, reference.name, reference.format) == ("backing", "b\udcffse.raw", "raw")
    assert image.extra["backing-filename"] == "b\udcffse.raw"
    assert image.extra["full-backing-filename"] == str(tmp_path / "b\udcffse.raw")
    assert image.subformat == "v3+backing"


@pytest.mark.parametrize(("make", "kind", "name"), [
    (lambda: good(backing=b"base"), "backing", "base"),
    (lambda: good().patch(backing_size=4), "backing", ""),
    (lambda: good().patch(incompatible=4), "data-file", ""),
    (lambda: good(extensions=[build.extension(build.DATA_FILE, b"data")]).patch(incompatible=4), "data-file", "data"),
])  # fmt: skip
def test_file_that_the_bytes_depend_on_is_a_reference(make: Callable[[], build.Built], kind: str, name: str,
                                                      tmp_path: Path) -> None:  # fmt: skip
    """Neither opened nor guessed: reading is refused, as long as nobody allows to open it."""
    path = tmp_path / "d.qcow2"
    path.write_bytes(make().data)
    with diskfmt.open_disk(path) as disk:
        assert [(reference.kind, reference.name) for reference in disk.missing] == [(kind, name)]
        with pytest.raises(RefusedError) as caught:
            disk.read_at(0, 1)
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE


def test_backing_name_with_protocol_stays(opened: Opener) -> None:
    assert opened(good(backing=b"nbd://x/y")).extra["full-backing-filename"] == "nbd://x/y"


def test_nul_in_a_name_is_a_differential(opened: Opener) -> None:
    assert found(opened(good(backing=b"a\0b"))) == [(ERROR, Reason.DIFFERENTIAL)]


def test_long_names_are_cut(opened: Opener) -> None:
    names = [build.extension(build.DATA_FILE, b"d" * 1030), build.extension(build.BACKING_FORMAT, b"f" * 20)]
    image = opened(good(extensions=names, backing=b"base"))
    assert (ERROR, Reason.LIMIT_METADATA) in found(image)
    assert (WARNING, Reason.LIMIT_METADATA) in found(image)
    assert [len(reference.name) for reference in image.references] == [4, 1023]
    assert image.references[0].format == "f" * 15


def test_snapshots_are_listed(opened: Opener) -> None:
    extra = struct.pack(">QQQ", 77, MIB, 5)
    image = opened(put_snapshots(good(), build.snapshot(0x2000, 1, extra=extra), build.snapshot(0x2000, 1, id=b"2")))
    first, second = image.extra["snapshots"]  # type: ignore[misc]
    assert first == {"id": "1", "name": "one", "vm-state-size": 77, "date-sec": 1_700_000_000, "date-nsec": 5,
                     "vm-clock-sec": 7, "vm-clock-nsec": 8, "icount": 5}  # fmt: skip
    assert (second["id"], second["vm-state-size"], "icount" in second) == ("2", 0, False)


def test_snapshot_table_over_the_limit_is_doubted(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "MAX_SNAPSHOT_TABLE", 100)
    image = opened(put_snapshots(good(), *[build.snapshot(0x2000, 1)] * 3))
    assert found(image) == [(WARNING, Reason.LIMIT_METADATA)]
    assert len(image.extra["snapshots"]) == 1  # type: ignore[arg-type]


def test_info_reads_little_of_long_snapshot_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand snapshots with names of 60,000 bytes: not more than 4 MiB are read."""
    built = good()
    at = len(built.data)
    built.patch(nb_snapshots=1000, snapshots_offset=at)
    entry = build.snapshot(0x2000, 1, id=b"i" * 30000, name=b"n" * 30000)
    path = tmp_path / "d.qcow2"
    path.write_bytes(built.data + entry * 1000)
    total = 0
    read_at = SourceFile.read_at

    def counted(source: SourceFile, offset: int, length: int) -> bytes:
        nonlocal total
        total += length
        return read_at(source, offset, length)

    monkeypatch.setattr(SourceFile, "read_at", counted)
    with SourceFile(str(path)) as source:
        image = open_image(source)
    assert len(image.extra["snapshots"]) == 1000  # type: ignore[arg-type]
    assert len(image.extra["snapshots"][0]["name"]) == 1024  # type: ignore[index]
    assert total <= 4 * MIB


def test_file_that_is_a_header_only_is_an_empty_disk(opened: Opener) -> None:
    built = cut(build.image({}, size=0), 112).patch(l1_size=0)
    assert opened(built).virtual_size == 0


LUKS_AT = 0x2000


def luks(**changed: int) -> build.Built:
    """An image that says LUKS, and a header of LUKS 1 where the L1 table's cluster is."""
    values = {"offset": LUKS_AT, "version": 1, "magic": 0x4C554B53} | changed
    built = good(extensions=[build.extension(build.ENCRYPTION, struct.pack(">QQ", values["offset"], 592))])
    built.patch(crypt_method=2, l1_offset=len(built.data), l1_size=1)
    built.data += bytes(4096)
    header = struct.pack(">IHH32s32s32sII20s32sI40s", values["magic"], 0xBABE, values["version"], b"aes",
                         b"cbc-essiv:sha256", b"sha1", 4040, 32, b"", b"", 1000, b"u-u-i-d")  # fmt: skip
    slots = struct.pack(">II32sII", 0x00AC71F3, 77, b"", 8, 4000)
    slots += struct.pack(">II32sII", 0xDEAD, 0, b"", 16, 4000) * 7
    built.data[LUKS_AT : LUKS_AT + 592] = header + slots
    return built


def test_luks_header_is_described(opened: Opener) -> None:
    encrypt = opened(luks()).specific["encrypt"]
    assert encrypt == {
        "format": "luks", "cipher-alg": "aes-256", "cipher-mode": "cbc", "ivgen-alg": "essiv",
        "ivgen-hash-alg": "sha256", "hash-alg": "sha1", "payload-offset": 4040 * 512, "master-key-iters": 1000,
        "uuid": "u-u-i-d",
        "slots": [{"active": True, "iters": 77, "key-offset": 4096, "stripes": 4000},
                  *[{"active": False, "key-offset": 8192}] * 7],
    }  # fmt: skip


@pytest.mark.parametrize("changed", [{"offset": 1 << 40}, {"version": 2}, {"magic": 0}])
def test_luks_header_without_sense_is_left_out(changed: dict[str, int], opened: Opener) -> None:
    assert opened(luks(**changed)).specific["encrypt"] == {"format": "luks"}


def test_encryption_without_its_header_is_described(opened: Opener) -> None:
    assert opened(good().patch(crypt_method=2)).specific["encrypt"] == {"format": "luks"}


def test_many_snapshots_are_listed_up_to_the_limit(opened: Opener) -> None:
    image = opened(put_snapshots(good(), *[build.snapshot(0x2000, 1)] * 1001))
    assert len(image.extra["snapshots"]) == 1000  # type: ignore[arg-type]
    assert found(image) == [(NOTE, Reason.LIMIT_METADATA)]


def test_bitmaps_are_listed(opened: Opener) -> None:
    image = opened(put_bitmaps(one_bitmap(name=b"bee"), one_bitmap(name=b"cee", flags=1, bits=9)))
    assert image.findings == ()
    assert image.specific["bitmaps"] == [
        {"name": "bee", "flags": ["auto"], "granularity": 65536},
        {"name": "cee", "flags": ["in-use"], "granularity": 512},
    ]


def test_many_bitmaps_are_listed_up_to_the_limit(opened: Opener) -> None:
    image = opened(put_bitmaps(*[one_bitmap()] * 1001))
    assert len(image.specific["bitmaps"]) == 1000  # type: ignore[arg-type]
    assert found(image) == [(NOTE, Reason.LIMIT_METADATA)]


@pytest.mark.parametrize("options", ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "lazy_refcounts=on",
                                     "refcount_bits=1", "compression_type=zstd", "extended_l2=on", "data_file=x.raw",
                                     "backing_file=b,backing_fmt=raw",
                                     "encrypt.format=aes,encrypt.key-secret=s"])  # fmt: skip
def test_description_equals_that_of_qemu_img(options: str, qemu_img: str, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(bytes(4 * MIB))
    command = [qemu_img, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=secret123"]
    command += ["-o", options] if options else []
    size = [] if "backing" in options else ["4M"]
    subprocess.run([*command, str(tmp_path / "d.qcow2"), *size], check=True, cwd=tmp_path)
    path = str(tmp_path / "d.qcow2")
    told = json.loads(subprocess.run([qemu_img, "info", "-U", "--output=json", path], check=True,
                                     capture_output=True, cwd=tmp_path).stdout)  # fmt: skip
    with SourceFile(path) as source:
        image = open_image(source)
    assert told.pop("format") == "qcow2"
    assert told.pop("virtual-size") == image.virtual_size
    assert told.pop("cluster-size") == image.unit
    assert told.pop("format-specific")["data"] == image.specific
    for name in ("filename", "actual-size"):
        del told[name]
    assert told == image.extra


def test_file_that_the_image_names_is_never_opened(opened: Opener, tmp_path: Path) -> None:
    """A FIFO under the name would block whoever opens it."""
    if not shutil.which("mkfifo"):
        pytest.skip("mkfifo is not installed")
    subprocess.run(["mkfifo", str(tmp_path / "base")], check=True)
    assert opened(good(backing=b"base")).references[0].name == "base"
