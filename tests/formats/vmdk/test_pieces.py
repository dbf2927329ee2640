"""Disks of several files: sections, COWD and seSparse pieces, and what their headers may not say."""

import random
import struct
import tracemalloc

import numpy as np
import oracles
import pytest
from builders import vmdk
from hypothesis import given, settings
from hypothesis import strategies as st

import diskfmt
from diskfmt.errors import DiskfmtError, Reason, Severity
from diskfmt.extents import Kind, require_normal

GRAIN = 4096
A, B, C = (bytes([value]) * GRAIN for value in (0xA1, 0xB2, 0xC3))
TIB = 1 << 40


def save(folder, lines, *, create_type="custom", more=(), head=None, **pieces):
    """A descriptor `d.vmdk` and its pieces `d-<name>.vmdk`; where it is."""
    text = vmdk.text(create_type, tuple(lines), more=more, **({} if head is None else {"head": head}))
    (folder / "d.vmdk").write_bytes(text)
    for name, data in pieces.items():
        (folder / f"d-{name}.vmdk").write_bytes(data)
    return folder / "d.vmdk"


def read(path, follow="pieces"):
    with diskfmt.open_disk(path, follow=follow) as disk:
        at = 0
        for rows in disk.extents():
            end = int(rows[-1]["guest_off"] + rows[-1]["length"])
            require_normal(rows, at, end, [file.size for file in disk.files])
            at = end
        return disk.read_at(0, disk.size)


def refused(path, follow="pieces"):
    with pytest.raises(DiskfmtError) as caught:
        read(path, follow)
    report = diskfmt.check(path, follow=follow)
    assert not report.ok
    return caught.value


def guest(grains, sectors, grain=GRAIN):
    out = bytearray(sectors * 512 + grain)
    for number, data in grains.items():
        out[number * grain : number * grain + len(data)] = data
    return bytes(out[: sectors * 512])


MIXED = (
    'RW 3 FLAT "d-a.vmdk" 1',
    "RW 5 ZERO",
    'RDONLY 20 SPARSE "d-b.vmdk"',
    'RW 7 FLAT "d-a.vmdk" 9',
    'RW 9 VMFS "d-e.vmdk"',
    'RW 24 VMFSSPARSE "d-c.vmdk"',
    'RW 33 SESPARSE "d-f.vmdk"',
    'RW 17 SPARSE "d-g.vmdk"',
)
FLAT = bytes(range(256)) * 32
PIECES = {
    "a": FLAT,
    "b": vmdk.sparse({1: A, 2: B[:2048]}, capacity=20, grain=8, descriptor=b""),
    "e": FLAT[::-1],
    "c": vmdk.cowd({0: b"\1" * 512, 23: b"\2" * 512, 7: b"\3" * 512}, capacity=24),
    "f": vmdk.sesparse({4: A[:512], 0: B}, capacity=33, other={1: 1 << 60, 2: 2 << 60}),
    "g": vmdk.stream({0: A, 2: C[:512]}, capacity=17, grain=8),
}
MIXED_GUEST = b"".join((
    FLAT[512:2048],
    bytes(5 * 512),
    guest({1: A, 2: B[:2048]}, 20),
    FLAT[9 * 512 : 16 * 512],
    FLAT[::-1][: 9 * 512],
    guest({0: b"\1" * 512, 23: b"\2" * 512, 7: b"\3" * 512}, 24, 512),
    guest({0: B, 4: A[:512]}, 33),
    guest({0: A, 2: C[:512]}, 17),
))  # fmt: skip


def test_extents_of_every_kind_follow_each_other(tmp_path):
    path = save(tmp_path, MIXED, **PIECES)
    assert read(path) == MIXED_GUEST
    assert diskfmt.check(path, follow="pieces", deep=True).findings == ()
    with diskfmt.open_disk(path, follow="pieces") as disk:
        for start in range(0, disk.size, 700):
            for length in (1, 511, 5000):
                assert disk.read_at(start, length) == MIXED_GUEST[start : start + length]


def test_conversion_reads_extents_of_every_kind(tmp_path):
    path = save(tmp_path, MIXED, **PIECES)
    diskfmt.convert(path, tmp_path / "o.raw", format="raw", follow="pieces", sync=False, verify=True)
    assert (tmp_path / "o.raw").read_bytes() == MIXED_GUEST


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["flat", "zero", "sparse", "cowd", "sesparse", "stream"]), min_size=1, max_size=9),
    number=st.integers(0, 1 << 30),
)
def test_random_sets_equal_the_model(tmp_path_factory, kinds, number):
    seed = random.Random(number)
    folder = tmp_path_factory.mktemp("set")
    lines, pieces, model = [], {}, b""
    for index, kind in enumerate(kinds):
        sectors = seed.randint(1, 60)
        grain = 512 if kind == "cowd" else GRAIN
        count = -(-sectors * 512 // grain)
        chosen = sorted(seed.sample(range(count), seed.randint(0, count)))
        if kind != "stream":
            seed.shuffle(chosen)
        limit = sectors * 512
        grains = {n: seed.randbytes(min(grain, limit - n * grain)) for n in chosen}
        name = f"p{index}"
        if kind == "zero":
            lines.append(f"RW {sectors} ZERO")
            model += bytes(limit)
            continue
        model += guest(grains, sectors, grain)
        if kind == "flat":
            skip = seed.randint(0, 5)
            pieces[name] = bytes(skip * 512) + model[-limit:]
            lines.append(f'RW {sectors} FLAT "d-{name}.vmdk" {skip}')
            continue
        build = {
            "sparse": lambda g, capacity: vmdk.sparse(g, capacity=capacity, grain=8, descriptor=b""),
            "stream": lambda g, capacity: vmdk.stream(g, capacity=capacity, grain=8),
            "cowd": lambda g, capacity: vmdk.cowd(g, capacity=capacity),
            "sesparse": lambda g, capacity: vmdk.sesparse(g, capacity=capacity),
        }[kind]
        pieces[name] = build(grains, sectors)
        word = {"sparse": "SPARSE", "stream": "SPARSE", "cowd": "VMFSSPARSE", "sesparse": "SESPARSE"}[kind]
        lines.append(f'RW {sectors} {word} "d-{name}.vmdk"')
    assert read(save(folder, lines, **pieces)) == model


ORACLES = {
    "cowd": ("vmfsSparse", ('RW 9008 VMFSSPARSE "d-delta.vmdk"',), {"delta": vmdk.cowd(
        {0: b"\1" * 4096, 700: b"\2" * 4096, 4: b"\3" * 4096}, capacity=9008, grain=8)}),
    "cowd-single-sectors": ("vmfsSparse", ('RW 9008 VMFSSPARSE "d-delta.vmdk"',), {"delta": vmdk.cowd(
        {0: b"\1" * 512, 4097: b"\2" * 512, 9007: b"\3" * 512}, capacity=9008)}),
    "sesparse": ("seSparse", ('RW 73728 SESPARSE "d-sesparse.vmdk"',), {"sesparse": vmdk.sesparse(
        {**{n: bytes([n % 250 + 1]) * 4096 for n in range(4090, 9000)}, 0: A}, capacity=73728, other={7: 2 << 60})}),
    "two-sparse": ("twoGbMaxExtentSparse", ('RW 1024 SPARSE "d-s001.vmdk"', 'RW 512 SPARSE "d-s002.vmdk"'), {
        "s001": vmdk.sparse({0: A, 50: B}, capacity=1024, grain=16, descriptor=b""),
        "s002": vmdk.sparse({31: C}, capacity=512, grain=16, descriptor=b"")}),
    "two-flat": ("twoGbMaxExtentFlat", ('RW 16 FLAT "d-f001.vmdk" 0', 'RW 16 FLAT "d-f002.vmdk" 0'), {
        "f001": FLAT, "f002": FLAT[::-1]}),
}  # fmt: skip


@pytest.mark.parametrize("oracle", ["qemu-img", "libyal", "dissect"])
@pytest.mark.parametrize("create_type, lines, pieces", ORACLES.values(), ids=ORACLES.keys())
def test_others_read_the_same(tmp_path, create_type, lines, pieces, oracle):
    if oracles.missing(oracle):
        pytest.skip(oracles.missing(oracle))
    if (oracle, create_type) == ("libyal", "seSparse"):
        pytest.skip("libvmdk has no such extents")
    path = save(tmp_path, lines, create_type=create_type, **pieces)
    data = read(path)
    size = len(data)
    known = oracles.known_error(oracle, oracles.Traits(format="vmdk", subformat=create_type, size=size))
    if known is not None:
        pytest.skip(f"known error of {oracle}: {known.key}")
    assert oracles.read_guest(str(path), "vmdk", oracle) == oracles.digest_blocks(size, [(0, data)])


# ---- what a piece may not be


SESPARSE = PIECES["f"]
COWD = PIECES["c"]
SPARSE = PIECES["b"]


def at(name):
    return vmdk.SESPARSE_FIELDS[name]


def poke(name, value):
    return vmdk.set_u64(SESPARSE, at(name), value)


def sesparse_entry(number, value):
    tables = struct.unpack_from("<Q", SESPARSE, at("grainTables"))[0] * 512
    return vmdk.set_u64(SESPARSE, tables + 8 * number, value)


DIRECTORY = struct.unpack_from("<Q", SESPARSE, at("grainDirectory"))[0] * 512
HOSTILE = {
    "sesparse-magic": ("f", b"\0" + SESPARSE[1:], Reason.BAD_VALUE),
    "sesparse-version": ("f", poke("version", 0x200000002), Reason.UNKNOWN_FEATURE),
    "sesparse-grain": ("f", poke("grainSize", 16), Reason.UNKNOWN_FEATURE),
    "sesparse-table": ("f", poke("grainTableSize", 1 << 60), Reason.UNKNOWN_FEATURE),
    "sesparse-flags": ("f", poke("flags", 1), Reason.UNKNOWN_FEATURE),
    "sesparse-reserved": ("f", poke("reserved1", 1), Reason.UNKNOWN_FEATURE),
    "sesparse-pad": ("f", poke("pad", 1), Reason.UNKNOWN_FEATURE),
    "sesparse-capacity-0": ("f", poke("capacity", 0), Reason.BAD_VALUE),
    "sesparse-capacity": ("f", poke("capacity", 34), Reason.DIFFERENTIAL),
    "sesparse-capacity-max": ("f", poke("capacity", (1 << 64) - 1), Reason.LIMIT_SIZE),
    "sesparse-directory-small": ("f", poke("grainDirectorySize", 0), Reason.BAD_VALUE),
    "sesparse-directory-in-header": ("f", poke("grainDirectory", 0), Reason.OVERLAP),
    "sesparse-directory-far": ("f", poke("grainDirectory", 1 << 55), Reason.TRUNCATED),
    "sesparse-bitmap-far": ("f", poke("freeBitmap", 1 << 60), Reason.TRUNCATED),
    "sesparse-backmap-size": ("f", poke("backmapSize", (1 << 64) - 1), Reason.OVERLAP),
    "sesparse-volatile-far": ("f", poke("volatileHeader", (1 << 64) - 1), Reason.TRUNCATED),
    "sesparse-grains-far": ("f", poke("grains", (1 << 63) - 8), Reason.TRUNCATED),
    "sesparse-grains-max": ("f", poke("grains", (1 << 64) - 8), Reason.TRUNCATED),
    "sesparse-tables-on-directory": ("f", poke("grainTables", 8), Reason.OVERLAP),
    "sesparse-volatile-magic": ("f", vmdk.put(SESPARSE, 512, b"\0"), Reason.BAD_VALUE),
    "sesparse-volatile-pad": ("f", vmdk.put(SESPARSE, 1000, b"\1"), Reason.UNKNOWN_FEATURE),
    "sesparse-journal": ("f", vmdk.set_u64(SESPARSE, 512 + 24, 1), Reason.NEEDS_REPLAY),
    "sesparse-directory-type": ("f", vmdk.set_u64(SESPARSE, DIRECTORY, 2 << 60), Reason.BAD_VALUE),
    "sesparse-directory-bits": ("f", vmdk.set_u64(SESPARSE, DIRECTORY, 1 << 60 | 1 << 32), Reason.BAD_VALUE),
    "sesparse-table-far": ("f", vmdk.set_u64(SESPARSE, DIRECTORY, 1 << 60 | 0xFFFFFFFF), Reason.TRUNCATED),
    "sesparse-entry-type": ("f", sesparse_entry(3, 4 << 60), Reason.BAD_VALUE),
    "sesparse-entry-0-bits": ("f", sesparse_entry(3, 1), Reason.BAD_VALUE),
    "sesparse-entry-far": ("f", sesparse_entry(3, 3 << 60 | 1), Reason.TRUNCATED),
    "sesparse-entry-max": ("f", sesparse_entry(3, (4 << 60) - 1), Reason.TRUNCATED),
    "sesparse-entry-twice": ("f", sesparse_entry(3, 3 << 60), Reason.SHARED_CLUSTERS),
    "sesparse-cut": ("f", SESPARSE[:-1], Reason.TRUNCATED),
    "sesparse-cut-in-header": ("f", SESPARSE[:100], Reason.TRUNCATED),
    "cowd-magic": ("c", b"X" + COWD[1:], Reason.BAD_VALUE),
    "cowd-version": ("c", vmdk.set_u32(COWD, 4, 2), Reason.UNKNOWN_FEATURE),
    "cowd-flags": ("c", vmdk.set_u32(COWD, 8, 8), Reason.UNKNOWN_FEATURE),
    "cowd-capacity-0": ("c", vmdk.set_u32(COWD, 12, 0), Reason.BAD_VALUE),
    "cowd-capacity": ("c", vmdk.set_u32(COWD, 12, 25), Reason.DIFFERENTIAL),
    "cowd-grain": ("c", vmdk.set_u32(COWD, 16, 3), Reason.BAD_VALUE),
    "cowd-grain-0": ("c", vmdk.set_u32(COWD, 16, 0), Reason.BAD_VALUE),
    "cowd-grain-large": ("c", vmdk.set_u32(COWD, 16, 1 << 20), Reason.LIMIT_METADATA),
    "cowd-directory-in-header": ("c", vmdk.set_u32(COWD, 20, 3), Reason.OVERLAP),
    "cowd-directory-far": ("c", vmdk.set_u32(COWD, 20, 0xFFFFFFFF), Reason.TRUNCATED),
    "cowd-directory-small": ("c", vmdk.set_u32(COWD, 24, 0), Reason.BAD_VALUE),
    "cowd-table-in-header": ("c", vmdk.set_u32(COWD, 2048, 1), Reason.OVERLAP),
    "cowd-table-on-directory": ("c", vmdk.set_u32(COWD, 2048, 4), Reason.OVERLAP),
    "cowd-table-far": ("c", vmdk.set_u32(COWD, 2048, 0xFFFFFFFF), Reason.TRUNCATED),
    "cowd-entry-1": ("c", vmdk.set_u32(COWD, 5 * 512 + 4, 1), Reason.BAD_VALUE),
    "cowd-entry-in-header": ("c", vmdk.set_u32(COWD, 5 * 512 + 4, 2), Reason.OVERLAP),
    "cowd-entry-in-table": ("c", vmdk.set_u32(COWD, 5 * 512 + 4, 9), Reason.OVERLAP),
    "cowd-entry-far": ("c", vmdk.set_u32(COWD, 5 * 512 + 4, 1 << 30), Reason.TRUNCATED),
    "cowd-cut-in-header": ("c", COWD[:2047], Reason.TRUNCATED),
    "hosted-magic": ("b", COWD, Reason.BAD_VALUE),
    "hosted-capacity": ("b", vmdk.patch(SPARSE, "capacity", 21), Reason.DIFFERENTIAL),
    "hosted-flags": ("b", vmdk.patch(SPARSE, "flags", 0x13), Reason.UNKNOWN_FEATURE),
    "hosted-grain": ("b", vmdk.patch(SPARSE, "grainSize", 1 << 40), Reason.LIMIT_METADATA),
    "hosted-cut": ("b", SPARSE[:-4096], Reason.TRUNCATED),
    "hosted-with-a-parent": ("b", vmdk.sparse({}, capacity=20, grain=8, descriptor=vmdk.text(
        "monolithicSparse", ('RW 20 SPARSE "x"',), head=("CID=1", "parentCID=2"))), Reason.DIFFERENTIAL),
    "flat-cut": ("a", FLAT[: 16 * 512 - 1], Reason.TRUNCATED),
}  # fmt: skip


@pytest.mark.parametrize("name, data, reason", HOSTILE.values(), ids=HOSTILE.keys())
def test_piece_that_lies_is_refused_by_name(tmp_path, name, data, reason):
    path = save(tmp_path, MIXED, **PIECES | {name: data})
    error = refused(path)
    assert error.reason is reason
    assert error.offset is not None
    assert str(error.path).endswith(f"d-{name}.vmdk")
    told = [one for one in diskfmt.check(path, follow="pieces").findings if one.severity is Severity.ERROR]
    assert reason in {one.reason for one in told}


def test_error_in_a_piece_counts_from_the_start_of_the_disk(tmp_path):
    path = save(tmp_path, MIXED, **PIECES | {"c": HOSTILE["cowd-entry-far"][1]})
    assert refused(path).guest_offset == (3 + 5 + 20 + 7 + 9 + 1) * 512


def test_unclean_piece_is_a_warning_that_names_it(tmp_path):
    path = save(tmp_path, MIXED, **PIECES | {"c": vmdk.set_u32(COWD, 1648, 1)})
    assert read(path) == MIXED_GUEST
    (finding,) = diskfmt.check(path, follow="pieces").findings
    assert (finding.reason, finding.severity) == (Reason.UNCLEAN, Severity.WARNING)
    assert str(finding.path).endswith("d-c.vmdk")


def test_lost_tables_of_a_piece_are_told_by_its_name(tmp_path):
    data = vmdk.set_u32(SPARSE, vmdk.field(SPARSE, "gdOffset") * 512, 0)
    path = save(tmp_path, MIXED, **PIECES | {"b": data})
    assert read(path) == MIXED_GUEST
    (finding,) = diskfmt.check(path, follow="pieces").findings
    assert (finding.reason, finding.severity) == (Reason.CORRUPT_DATA, Severity.DAMAGE)
    assert str(finding.path).endswith("d-b.vmdk")


def test_missing_piece_is_named(tmp_path):
    path = save(tmp_path, MIXED, **PIECES)
    (tmp_path / "d-e.vmdk").unlink()
    with pytest.raises(DiskfmtError) as caught:
        read(path)
    assert caught.value.reason is Reason.READ_ERROR
    assert str(caught.value.path).endswith("d-e.vmdk")


def test_piece_without_the_stem_needs_permission_for_its_directory(tmp_path):
    path = save(tmp_path, ('RW 16 FLAT "other.vmdk" 0',))
    (tmp_path / "other.vmdk").write_bytes(FLAT)
    with pytest.raises(DiskfmtError) as caught:
        read(path)
    assert caught.value.reason is Reason.EXTERNAL_REFERENCE
    assert read(path, "same-directory") == FLAT


# ---- below


def chain(folder, *, cid="00000001", size=24, top=None, parent_size=24):
    head = (f"CID={cid}", "parentCID=ffffffff")
    save(folder, (f'RW {parent_size} FLAT "base-flat.vmdk" 0',), create_type="vmfs", head=head)
    (folder / "d.vmdk").rename(folder / "base.vmdk")
    (folder / "base-flat.vmdk").write_bytes(bytes(range(1, 13)) * 1024)
    return save(
        folder,
        (f'RW {size} SESPARSE "d-sesparse.vmdk"',),
        create_type="seSparse",
        head=("CID=2", "parentCID=1"),
        more=('parentFileNameHint="/vmfs/volumes/x/base.vmdk"',),
        sesparse=top or vmdk.sesparse({1: A}, capacity=size, other={2: 2 << 60}),
    )


def test_snapshot_of_esxi_is_read_over_its_base(tmp_path):
    base = bytes(range(1, 13)) * 1024
    assert read(chain(tmp_path), "same-directory") == base[:4096] + A + bytes(4096)


def test_unmapped_grain_over_a_base_has_two_readings(tmp_path):
    top = vmdk.sesparse({1: A}, capacity=24, other={2: 1 << 60})
    error = refused(chain(tmp_path, top=top), "same-directory")
    assert error.reason is Reason.DIFFERENTIAL
    assert error.guest_offset == 8192


@pytest.mark.parametrize("change", [{"cid": "00000003"}, {"parent_size": 23}], ids=["content-id", "size"])
def test_base_that_is_another_is_refused_before_a_byte_is_read(tmp_path, change):
    assert refused(chain(tmp_path, **change), "same-directory").reason is Reason.DIFFERENTIAL


# ---- large


def test_disk_of_62_tebibytes_is_mapped_and_checked_in_little_memory(tmp_path):
    sectors = 31 * TIB // 512
    with open(tmp_path / "d-big.vmdk", "wb") as file:
        file.write(vmdk.sesparse({}, capacity=8))
        _grow_sesparse(file, sectors)
    with open(tmp_path / "d-flat.vmdk", "wb") as file:
        file.truncate(4 * TIB)
        file.seek(3 * TIB)
        file.write(A)
    part = 4 * TIB // 512 // 1000
    lines = [f'RW {part} VMFS "d-flat.vmdk" {index * part}' for index in range(1000)]
    lines += [f'RW {sectors} SESPARSE "d-big.vmdk"', f"RW {27 * TIB // 512} ZERO"]
    path = save(tmp_path, lines)
    tracemalloc.start()
    try:
        with diskfmt.open_disk(path, follow="pieces") as disk:
            assert disk.size == 1000 * part * 512 + 58 * TIB
            stored = sum(int(rows["length"][rows["kind"] == Kind.DATA].sum()) for rows in disk.extents())
            assert stored == 4096 + 512 * 4096
            assert disk.read_at(3 * TIB, 4096) == A
            assert disk.read_at(1000 * part * 512 + 30 * TIB, 4096) == C
        assert diskfmt.check(path, follow="pieces").ok
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20


def _grow_sesparse(file, sectors):
    """An seSparse piece whose directory has its full length and whose tables are sparse: one in 2^11 is there."""
    directory = -(-8 * (sectors // 32768) // 512)
    used = range(0, sectors // 32768, 1 << 12)
    places = {"grainDirectory": 8, "grainTables": 8 + directory}
    places["freeBitmap"] = places["grainTables"] + 64 * len(used)
    places["backmap"] = places["freeBitmap"] + 8
    places["grains"] = places["backmap"] + 8
    sizes = {
        "grainDirectory": directory,
        "grainTables": 64 * len(used),
        "freeBitmap": 8,
        "backmap": 8,
        "grains": sectors,
    }
    for name, value in [("capacity", sectors), *places.items(), *((f"{name}Size", n) for name, n in sizes.items())]:
        file.seek(vmdk.SESPARSE_FIELDS[name])
        file.write(struct.pack("<Q", value))
    entries = np.zeros(sectors // 32768, "<u8")
    entries[list(used)] = [1 << 60 | index for index in range(len(used))]
    file.seek(8 * 512)
    file.write(entries.tobytes())
    wanted = 30 * TIB // (32768 * 512)
    chosen = used.index(wanted)
    for index in range(len(used)):
        numbers = range(512) if index == chosen else ()
        file.seek((places["grainTables"] + 64 * index) * 512)
        file.write(b"".join(struct.pack("<Q", 3 << 60 | number << 48) for number in numbers))
    file.seek(places["grains"] * 512)
    file.write(C * 512)
