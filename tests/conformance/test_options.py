"""Every documented option is accepted and does what it says; every other value is one line and exit code 2."""

import json
import subprocess
import uuid

import pytest

import diskfmt
from conformance.kit import content, write_sparse
from diskfmt import UsageError
from diskfmt.formats import FORMATS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "in.raw"
    write_sparse(path, content("patches", 3 << 20))
    return path


def info(path):
    return diskfmt.inspect(path).to_json()


def data(path):
    return info(path)["format-specific"]["data"]


def descriptor(path):
    text = path.read_bytes()[512 : 21 * 512].rstrip(b"\0").decode()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def ddb(key):
    return lambda path: descriptor(path)[key].strip(' "')


UUID = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")

# (format, option) → (value, how it is seen in the output, what is seen)
EFFECTS = {
    ("qcow2", "cluster_size"): [
        (text, lambda path: info(path)["cluster-size"], size)
        for text, size in (("512", 512), ("4k", 4096), ("64K", 65536), ("2M", 2 << 20), ("1024", 1024))
    ],
    ("qcow2", "compat"): [
        (text, lambda path: path.read_bytes()[7], version)
        for text, version in (("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3))
    ],
    ("qcow2", "refcount_bits"): [
        (text, lambda path: data(path)["refcount-bits"], int(text)) for text in ("1", "8", "16", "64")
    ],
    ("qcow2", "deflate_window"): [("15", lambda path: data(path)["compression-type"], "zlib")],
    ("vhd", "block_size"): [
        (text, lambda path: data(path)["block-size"], size)
        for text, size in (("512K", 1 << 19), ("2M", 2 << 20), ("256M", 1 << 28))
    ],
    ("vhd", "creator"): [(text, lambda path: data(path)["creator"].strip(), text) for text in ("win", "d2v", "CTXS")],
    ("vhd", "timestamp"): [("1700000000", lambda path: data(path)["created"], "2023-11-14T22:13:20+00:00")],
    ("vhd", "uuid"): [(str(UUID), lambda path: data(path)["unique-id"], str(UUID))],
    ("vmdk", "adapter_type"): [
        (text, ddb("ddb.adapterType "), text)
        for text in ("ide", "buslogic", "lsilogic", "lsisas1068", "pvscsi", "legacyESX")
    ],
    ("vmdk", "layout"): [("tables-first", lambda path: path.read_bytes()[56:64] != b"\xff" * 8, True)],
    ("vmdk", "hwversion"): [("13", ddb("ddb.virtualHWVersion "), "13")],
    ("vmdk", "toolsversion"): [("10", ddb("ddb.toolsVersion "), "10")],
    ("vmdk", "cid"): [("1a2b3c4d", lambda path: descriptor(path)["CID"], "1a2b3c4d"), ("7", ddb("CID"), "00000007")],
    ("vmdk", "uuid"): [(UUID.hex, lambda path: ddb("ddb.uuid ")(path).replace(" ", "").replace("-", ""), UUID.hex)],
}
COMPRESS = {"deflate_window": "zlib"}  # what an option needs
CASES = [(form, option, *effect) for (form, option), effects in EFFECTS.items() for effect in effects]


def test_table_of_options_is_complete():
    assert set(EFFECTS) == {(entry.name, option) for entry in FORMATS for option in entry.options}


@pytest.mark.parametrize(
    ("form", "option", "value", "look", "seen"), CASES, ids=[f"{case[0]}-{case[1]}-{case[2]}" for case in CASES]
)
def test_option_is_effective(source, tmp_path, form, option, value, look, seen):
    path = tmp_path / f"out.{form}"
    diskfmt.convert(
        source,
        path,
        format=form,
        source_format="raw",
        options={option: value},
        compress=COMPRESS.get(option),
        sync=False,
        verify=True,
    )
    assert look(path) == seen
    assert diskfmt.compare(source, path, formats=("raw", form)).equal


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("qcow2", {"cluster_size": "512", "compat": "0.10"}),
        ("qcow2", {"cluster_size": "2M", "compat": "v2", "refcount_bits": "16"}),
        ("vhd:fixed", {"creator": "tap", "timestamp": "0", "uuid": str(UUID)}),
        ("vhd", {"block_size": "512K", "creator": "win", "timestamp": "946684800", "uuid": UUID.hex}),
        ("vmdk:monolithicFlat", {"adapter_type": "ide", "hwversion": "8", "cid": "abc", "uuid": UUID.hex}),
        ("vmdk:streamOptimized", {"adapter_type": "pvscsi", "toolsversion": "1", "cid": "0"}),
    ],
    ids=str,
)
def test_options_go_together_and_qemu_agrees(source, tmp_path, qemu_img, form, options):
    name = form.partition(":")[0]
    path = tmp_path / f"out.{name}"
    try:
        diskfmt.convert(source, path, format=form, source_format="raw", options=options, verify=True, sync=False)
    except UsageError:
        assert "timestamp" in options  # before 2000, which a VHD cannot say
        return
    kind = {"vhd": "vpc"}.get(name, name)
    raw = tmp_path / "qemu.raw"
    subprocess.run([qemu_img, "convert", "-f", kind, "-O", "raw", path, raw], check=True, timeout=60)
    assert raw.read_bytes() == source.read_bytes()


NONSENSE = (
    "", " ", "-1", "0", "+1", "1e3", "0x10", "nan", "inf", "1_000", "٣", "²", "9" * 30, "9" * 5000, "a" * 5000,
    "\n", "\0", "x\ny", '"', "'; rm -rf /", "../../etc/passwd", "%s%n", "\udcff", "\u202e", "None", "True", "3M", "513",
    "4294967296", "18446744073709551616", "[]", "{}",
)  # fmt: skip


@pytest.mark.parametrize(("form", "option"), sorted(EFFECTS), ids="-".join)
def test_nonsense_is_a_usage_error_or_a_readable_image(source, tmp_path, form, option):
    refused = 0
    for turn, value in enumerate(NONSENSE):
        path = tmp_path / f"out{turn}.{form}"
        try:
            diskfmt.convert(
                source,
                path,
                format=form,
                source_format="raw",
                options={option: value},
                compress=COMPRESS.get(option),
                sync=False,
            )
        except UsageError as error:
            refused += 1
            assert error.exit_code == 2
            assert error.remedy
            assert "\n" not in str(error), repr(value)
            assert not path.exists()
        else:
            assert diskfmt.check(path).ok, repr(value)
            json.dumps(info(path))
            assert diskfmt.compare(source, path, formats=("raw", form)).equal
    assert refused >= len(NONSENSE) // 2


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
def test_unknown_option_names_those_that_exist(source, tmp_path, entry):
    with pytest.raises(UsageError) as caught:
        diskfmt.convert(source, tmp_path / "o", format=entry.name, source_format="raw", options={"size": "1"})
    assert all(option in caught.value.remedy for option in entry.options)


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
@pytest.mark.parametrize(
    "compress", ["zlib", "zstd", "zlib:9", "zlib:10", "zstd:22", "zstd:23", "lzma", "zlib:", "gzip:1"]
)
def test_compression_is_done_or_refused_by_name(source, tmp_path, entry, compress):
    for subformat in entry.subformats:
        path = tmp_path / f"{subformat}.{entry.name}"
        try:
            diskfmt.convert(
                source, path, format=entry.name, subformat=subformat, source_format="raw", compress=compress,
                sync=False, verify=True,
            )  # fmt: skip
        except UsageError as error:
            assert error.remedy
            assert not path.exists()
        else:
            assert any(row.compressed for row in diskfmt.map_rows(path))
