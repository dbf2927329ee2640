"""Every command on real images, against qemu-img where it has the same thing."""

import json
import os
import subprocess
from pathlib import Path

import pytest

IMAGES = {
    "qcow2": ("qcow2",),
    "qcow2-zlib": ("qcow2", "-c"),
    "vhd": ("vpc", "-o", "force_size=on"),
    "vmdk": ("vmdk",),
    "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
}
# What qemu-img calls vpc; keys that say the same of the container in other words.
SAME_FORMAT = {"vpc": "vhd"}


@pytest.fixture(params=IMAGES)
def image(request, made) -> Path:
    return made(*IMAGES[request.param])


def qemu_json(qemu_img: str, *words: object):
    done = subprocess.run([qemu_img, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_json_has_what_qemu_img_says(cli, image, qemu_img):
    theirs = qemu_json(qemu_img, "info", "--output=json", image)
    ours = json.loads(cli("info", "--output", "json", image).out)
    theirs["format"] = SAME_FORMAT.get(theirs["format"], theirs["format"])
    specific = theirs.pop("format-specific", {"data": {}})["data"]
    theirs.pop("children", None)  # since qemu-img 8
    assert {key: ours.get(key) for key in theirs} == theirs
    have = ours.get("format-specific", {"data": {}})["data"]
    assert {key: have.get(key) for key in specific} == specific
    assert ours["findings"] == []
    assert ours["references"] == []
    assert ours["subformat"]


def test_info_human_is_aligned_and_tells_sizes(cli, made):
    lines = cli("info", made("qcow2")).out.splitlines()
    values = dict(line.split(":", 1) for line in lines if not line.startswith(" "))
    assert values["virtual size"].strip() == "4 MiB (4194304 bytes)"
    assert values["file format"].strip() == "qcow2"
    assert len({len(line) - len(line.split(":", 1)[1].lstrip()) for line in lines[:6]}) == 1


def test_info_backing_chain_is_a_list_of_one(cli, made, tmp_path, qemu_img):
    base = made("qcow2")
    top = tmp_path / "top.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    ran = cli("info", "--output", "json", "--backing-chain", top)
    (entry,) = json.loads(ran.out)
    assert ran.code == 0
    assert entry["backing-filename"] == str(base)
    assert [finding["reason"] for finding in entry["findings"]] == ["EXTERNAL_REFERENCE"]


def test_info_shows_findings_and_references_with_remedy(cli, tmp_path, qemu_img):
    top = tmp_path / "top.qcow2"
    name = "no\x1b[31m\nwhere.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", top, "1M"], check=True)
    ran = cli("info", top)
    assert ran.code == 0
    assert "error: " in ran.out
    assert "EXTERNAL_REFERENCE" in ran.out
    assert "remedy: " in ran.out
    assert r"no\x1b[31m\x0awhere.qcow2" in ran.out


# ---- map -------------------------------------------------------------------------------------------------------------


def test_map_json_equals_qemu_img(cli, image, qemu_img):
    theirs = qemu_json(qemu_img, "map", "--output=json", image)
    ours = json.loads(cli("map", "--output", "json", image).out)
    # "compressed" is known to qemu-img since version 8.2. It calls the blocks that a VHD does not store present,
    # although a differencing VHD takes such blocks from its parent.
    keys = ("start", "length", "depth", "zero", "data", "offset", *(() if image.suffix == ".vpc" else ("present",)))
    assert [[row.get(key) for key in keys] for row in ours] == [[row.get(key) for key in keys] for row in theirs]
    assert all(row["compressed"] == (row["data"] and "offset" not in row) for row in ours)


def test_map_human_tells_all_kinds(cli, made, tmp_path, qemu_io):
    plain = made("qcow2", name="plain")
    subprocess.run([qemu_io, "-c", "write -z 2M 64k", plain], check=True, capture_output=True)
    text = cli("map", plain).out
    assert text.splitlines()[0].split() == ["Offset", "Length", "Mapped", "to", "File"]
    assert f"{0x200000:<#15x} {0x10000:<#15x} zero\n" in text
    assert "unallocated" in text
    assert str(plain) in text
    assert "compressed" in cli("map", made("qcow2", "-c", name="packed")).out


def test_map_json_of_one_row_is_a_list(cli, tmp_path):
    path = tmp_path / "empty.raw"
    path.write_bytes(bytes(1 << 20))
    assert len(json.loads(cli("map", "-f", "raw", "--output", "json", path).out)) >= 1


# ---- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [(), ("--deep",)], ids=["", "deep"])
def test_check_sound_image_is_zero(cli, image, deep):
    ran = cli("check", *deep, image)
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("No errors were found on the image")
    document = json.loads(cli("check", *deep, "--output", "json", image).out)
    assert document["ok"] is True
    assert document["deep"] is bool(deep)


def test_check_json_equals_qemu_img(cli, made, qemu_img):
    path = made("qcow2", "-c")
    theirs = qemu_json(qemu_img, "check", "--output=json", path)
    ours = json.loads(cli("check", "--output", "json", path).out)
    for key in ("filename", "format", "check-errors", "total-clusters", "allocated-clusters", "compressed-clusters"):
        assert ours[key] == theirs.get(key, 0), key


def test_check_broken_image_gives_the_code_of_the_finding(cli, made):
    path = made("qcow2")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - (64 << 10))
    ran = cli("check", path)
    assert ran.code == 3
    assert "error: " in ran.out
    assert ran.out.splitlines()[-1].startswith("The image is not fit to be converted: ")
    assert json.loads(cli("check", "--output", "json", path).out)["ok"] is False


# ---- convert ---------------------------------------------------------------------------------------------------------

TARGETS = (
    "raw",
    "QCOW2",
    "qcow2:v2",
    "vpc",
    "vhd:Fixed",
    "vmdk",
    "vmdk:streamoptimized",
    "VMDK:MonolithicFlat",
)


@pytest.mark.parametrize("target", TARGETS)
def test_convert_writes_what_qemu_img_finds_identical(cli, raw, tmp_path, qemu_img, target):
    path = tmp_path / "out.vmdk"
    ran = cli("convert", "-f", "raw", "-O", target, "--verify", "--no-sync", raw, path)
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.splitlines()[-1].startswith("verified, digest ")
    name = {"vhd": "vpc"}.get(target.lower().partition(":")[0], target.lower().partition(":")[0])
    subprocess.run([qemu_img, "compare", "-f", "raw", "-F", name, raw, path], check=True, capture_output=True)


def test_convert_json_is_the_result(cli, raw, tmp_path):
    ran = cli("convert", "-O", "qcow2", "-o", "cluster_size=4k", "-o", "compat=0.10", "--output", "json", raw, "o")
    document = json.loads(ran.out)
    (Path.cwd() / "o").unlink()
    assert ran.code == 0
    assert (document["source-format"], document["format"], document["virtual-size"]) == ("raw", "qcow2", 4 << 20)
    assert document["digest"] is None


def test_convert_tells_warnings_on_stderr(cli, tmp_path):
    odd = tmp_path / "odd.raw"
    odd.write_bytes(b"x" * 1000)
    ran = cli("convert", "-f", "raw", "-O", "qcow2", odd, tmp_path / "o.qcow2")
    assert ran.code == 0
    assert all(line.startswith(f"diskfmt: warning: {odd}: ") for line in ran.err.splitlines())
    assert "24 zero bytes were appended" in ran.err


def test_convert_existing_target_is_kept_without_force(cli, raw, tmp_path):
    target = tmp_path / "there"
    target.write_text("precious")
    ran = cli("convert", "-O", "vhd", raw, target)
    assert ran.code == 1
    assert "[OUTPUT_EXISTS]" in ran.message
    assert target.read_text() == "precious"
    assert cli("convert", "-O", "vhd", "--force", raw, target).code == 0


def test_convert_nested_image_needs_a_waiver(cli, made, tmp_path):
    inner = made("qcow2")
    os.truncate(inner, -(-inner.stat().st_size // 512) * 512)
    outer, target = tmp_path / "outer.vhd", tmp_path / "t.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", inner, outer], check=True)
    ran = cli("convert", "-O", "qcow2", outer, target)
    assert ran.code == 1
    assert "NESTED_FORMAT" in ran.message
    assert not target.exists()
    ran = cli("convert", "-O", "qcow2", "--waive", "nested_format", outer, target)
    assert ran.code == 0
    assert "waived: " in ran.message


def test_convert_progress_json_ends_with_done(cli, raw, tmp_path):
    ran = cli("convert", "-O", "vhd", "--progress", "json", "--verify", raw, tmp_path / "o.vhd")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["check", "copy", "sync", "verify", "done"]
    assert set(lines[0]) == {"phase", "done", "total", "percent", "rate", "eta", "elapsed"}


# ---- compare, digest, measure ----------------------------------------------------------------------------------------


def test_compare_equal_across_formats_is_zero(cli, image, raw):
    ran = cli("compare", "-F", "raw", image, raw)
    assert (ran.code, ran.out, ran.err) == (0, "Images are identical.\n", "")
    assert json.loads(cli("compare", "--output", "json", image, raw).out)["equal"] is True


def test_compare_different_is_one_with_the_first_offset(cli, image, raw, tmp_path):
    other = tmp_path / "other.raw"
    data = bytearray(raw.read_bytes())
    data[1234567] ^= 1
    other.write_bytes(data)
    ran = cli("compare", image, other)
    assert (ran.code, ran.out) == (1, "Content mismatch at offset 1234567!\n")


def test_compare_longer_with_zeroes_is_equal_unless_strict(cli, raw, tmp_path):
    longer = tmp_path / "longer.raw"
    longer.write_bytes(raw.read_bytes() + bytes(4096))
    ran = cli("compare", raw, longer)
    assert ran.code == 0
    assert ran.message.startswith("diskfmt: warning: ")
    strict = cli("compare", "-s", raw, longer)
    assert strict.code == 1
    assert "size mismatch" in strict.out


def test_digest_is_equal_across_formats(cli, image, raw):
    text, name = cli("digest", image).out.rstrip("\n").split("  ")
    assert name == str(image)
    assert len(text) == 64
    assert json.loads(cli("digest", "--output", "json", raw).out) == {"filename": str(raw), "digest": text}


@pytest.mark.parametrize("target", ["raw", "qcow2", "vhd", "vmdk:streamOptimized", "qcow2 -c zstd"])
def test_measure_is_the_size_that_convert_gives(cli, image, tmp_path, target):
    words = target.split()
    document = json.loads(cli("measure", "--output", "json", "-O", *words, image).out)
    assert cli("convert", "--no-sync", "-O", *words, image, tmp_path / "out").code == 0
    assert document["required"] == (tmp_path / "out").stat().st_size
    lines = cli("measure", "-O", *words, image).out.splitlines()
    assert lines[0] == f"required size: {document['required']}"
    assert lines[1] == f"fully allocated size: {document['fully-allocated']}"


# ---- -o help ---------------------------------------------------------------------------------------------------------


def test_option_help_needs_no_files(cli):
    ran = cli("convert", "-O", "vpc", "-o", "help")
    assert ran.code == 0
    assert "block_size" in ran.out
    assert "streamOptimized" in cli("convert", "-O", "help").out
    assert cli("convert", "-o", "help").code == 2
    assert cli("measure", "-O", "nonsense", "-o", "help").code == 2
