"""LVM2: metadata by builders and by LVM itself, every volume compared with what was put on it."""

import contextlib
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest import lvm
from diskfmt.guest.base import DamagedError, GuestError, UnsupportedError
from diskfmt.guest.device import DiskDevice
from diskfmt.guest.lvmtext import parse
from diskfmt.guest.volumes import Volume, _groups, scan
from guest.kit import MIB, File, loop, memory, need, run, sparse
from guest.lvm_builder import PV, crc, disk, metadata

EXTENT = 4 * MIB


def groups(*disks: bytes) -> lvm.VolumeGroup:
    device = memory(disks[0])
    physical = lvm.read_physical(device)
    assert physical is not None
    group = lvm.read_group(device, physical)
    assert group is not None
    return group


def test_builder_knows_the_checksum() -> None:
    assert crc(b"") == 0xF597A6CF
    assert lvm._crc(b"any bytes") == crc(b"any bytes")


def test_linear_and_striped_volumes() -> None:
    chance = random.Random(3)
    raw = bytearray(disk(64 * MIB, metadata("vg-0", [PV(1), PV(2)], LINEAR + STRIPED)))
    data = [chance.randbytes(MIB) for _ in range(16)]
    other = bytearray(disk(64 * MIB, metadata("vg-0", [PV(1), PV(2)], LINEAR + STRIPED), identity=PV(2)))
    for image in (raw, other):
        for number in range(15 * 4):
            image[MIB + number * MIB : MIB + number * MIB + MIB] = data[chance.randrange(16)]
    one, two = memory(raw), memory(other)
    group = groups(bytes(raw))
    assert (group.name, group.extent_size, [v.name for v in group.volumes]) == ("vg-0", EXTENT, ["root", "stripes"])
    devices = {PV(1).id: one, PV(2).id: two}
    root = lvm.LogicalDevice(group.volumes[0], devices)
    expected = raw[MIB + 2 * EXTENT : MIB + 4 * EXTENT] + other[MIB : MIB + EXTENT]
    assert root.size == len(expected)
    assert root.read_at(0, root.size) == expected
    striped = lvm.LogicalDevice(group.volumes[1], devices)
    a, b = raw[MIB + 4 * EXTENT : MIB + 6 * EXTENT], other[MIB + 4 * EXTENT : MIB + 6 * EXTENT]
    chunk = 64 << 10
    expected = b"".join(a[at : at + chunk] + b[at : at + chunk] for at in range(0, len(a), chunk))
    assert striped.read_at(0, striped.size) == expected
    for offset in (0, 1, chunk - 1, chunk, 3 * chunk + 5, striped.size - 10):
        assert striped.read_at(offset, 10) == expected[offset : offset + 10]
    assert [v.kinds for v in group.volumes] == [("linear",), ("striped",)]


LINEAR = """root {
 id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA1"
 status = ["READ", "WRITE", "VISIBLE"]
 flags = []
 creation_time = 1700000000	# a time
 creation_host = "host"
 segment_count = 2
 segment1 { start_extent = 0
 extent_count = 2
 type = "striped"
 stripe_count = 1	# linear
 stripes = [ "pv1", 2 ]
 }
 segment2 { start_extent = 2
 extent_count = 1
 type = "striped"
 stripe_count = 1
 stripes = [ "pv2", 0 ]
 }
}
"""
STRIPED = """stripes {
 id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAA2"
 status = ["READ", "WRITE", "VISIBLE"]
 flags = []
 creation_time = 1700000000
 creation_host = "host"
 segment_count = 1
 segment1 { start_extent = 0
 extent_count = 4
 type = "striped"
 stripe_count = 2
 stripe_size = 128
 stripes = [ "pv1", 4, "pv2", 4 ]
 }
}
"""


def single(name: str, kind: str, more: str = "", *, visible: bool = True) -> str:
    status = '"READ", "WRITE", "VISIBLE"' if visible else '"READ", "WRITE"'
    return (
        f'{name} {{ id = "x"\nstatus = [{status}]\nsegment_count = 1\n'
        f'segment1 {{ start_extent = 0\nextent_count = 1\ntype = "{kind}"\n{more} }} }}\n'
    )


@pytest.mark.parametrize("kind", ["thin", "thin-pool", "raid1", "mirror", "snapshot", "cache", "vdo", "writecache"])
def test_other_kinds_are_known_by_name_and_refused(kind: str) -> None:
    raw = disk(4 * MIB, metadata("vg", [PV(1)], LINEAR.replace('"pv2"', '"pv1"') + single("other", kind)))
    tree = scan(memory(raw))
    assert [volume.name for volume in tree.volumes] == ["disk", "vg/root", "vg/other"]
    assert tree.volumes[1].device is not None
    other = tree.volumes[2]
    assert (other.device, other.problem) == (None, f"LVM {kind}")
    assert tree.groups[0].volumes[1].kinds == (kind,)
    with pytest.raises(UnsupportedError, match=kind):
        lvm.LogicalDevice(tree.groups[0].volumes[1], {})


def test_hidden_volumes_and_those_made_of_others() -> None:
    text = single("pool_tmeta", "striped", 'stripe_count = 1\nstripes = ["pv1", 0]', visible=False)
    text += single("stacked", "striped", 'stripe_count = 1\nstripes = ["other", 0]')
    tree = scan(memory(disk(4 * MIB, metadata("vg", [PV(1)], text))))
    assert [(v.name, v.problem) for v in tree.volumes[1:]] == [("vg/stacked", "LVM stacked")]


def test_missing_physical_volumes_are_told() -> None:
    tree = scan(memory(disk(4 * MIB, metadata("vg", [PV(1), PV(2)], LINEAR + STRIPED))))
    assert tree.groups[0].missing == (PV(2).id,)
    assert all(v.device is None and PV(2).id in v.problem for v in tree.volumes[1:])


def test_names_of_devices() -> None:
    tree = scan(
        memory(
            disk(
                64 * MIB,
                metadata("my-vg", [PV(1)], single("my-lv", "striped", 'stripe_count = 1\nstripes = ["pv1", 0]')),
            )
        )
    )
    assert tree.volumes[1].names == ("/dev/my-vg/my-lv", "/dev/mapper/my--vg-my--lv")
    assert tree.find("/dev/mapper/my--vg-my--lv") == tree.volumes[1:]
    assert tree.find("/dev/mapper/my-vg-my-lv") == ()


def test_metadata_that_wraps_around_its_area() -> None:
    text = metadata("vg", [PV(1)], single("lv", "striped", 'stripe_count = 1\nstripes = ["pv1", 0]'))
    raw = disk(4 * MIB, text, place=MIB - 4096 - 700)
    assert [v.name for v in groups(raw).volumes] == ["lv"]


def test_second_area_where_the_first_is_damaged() -> None:
    text = metadata("vg", [PV(1)], single("lv", "striped", 'stripe_count = 1\nstripes = ["pv1", 0]'))
    raw = bytearray(disk(4 * MIB, text, second=True))
    raw[4096 + 512] ^= 1
    assert [v.name for v in groups(bytes(raw)).volumes] == ["lv"]


@pytest.mark.parametrize("place", [512 + 17, 512 + 24, 512 + 40, 4096 + 30, 4096 + 41, 4096 + 512 + 50])
def test_damage_is_seen(place: int) -> None:
    text = metadata("vg", [PV(1)], LINEAR)
    raw = bytearray(disk(4 * MIB, text))
    raw[place] ^= 1
    tree = scan(memory(raw))
    assert tree.groups == ()
    assert tree.problems or tree.whole.kind != "LVM2_member"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("extent_count = 2", "extent_count = 0"),
        ("extent_count = 2", "extent_count = 3"),
        ("start_extent = 2", "start_extent = 7"),
        ("segment_count = 2", "segment_count = 3"),
        ("segment_count = 2", "segment_count = -1"),
        ("segment_count = 2", 'segment_count = "two"'),
        ("stripe_count = 1", "stripe_count = 2"),
        ("stripe_size = 128", "stripe_size = 0"),
        ("stripe_size = 128", "stripe_size = 100000"),
        ('"pv1", 4, "pv2", 4', '"pv1", 4, "pv2"'),
        ('"pv1", 4, "pv2", 4', '4, "pv1", 4, "pv2"'),
        ("extent_size = 8192", "extent_size = 0"),
        ("extent_size = 8192", "extent_size = 99999999999999999999999"),
        ("logical_volumes {", "logical_volumes { {"),
        ("logical_volumes {", "logical_volumes = {"),
        ("logical_volumes {", "logical_volumes ["),
        ("logical_volumes {", '"'),
        ("logical_volumes {", "x { " * 40),
        ("logical_volumes {", "\x01"),
    ],
)
def test_metadata_that_makes_no_sense(old: str, new: str) -> None:
    text = metadata("vg", [PV(1), PV(2)], LINEAR + STRIPED)
    assert old in text
    tree = scan(memory(disk(4 * MIB, text.replace(old, new))))
    assert tree.groups == ()
    assert tree.problems


def test_stripes_that_leave_the_disk_are_damage() -> None:
    text = metadata("vg", [PV(1)], LINEAR.replace('"pv2", 0', '"pv1", 99999999'))
    tree = scan(memory(disk(4 * MIB, text)))
    device = tree.volumes[1].device
    assert device is not None
    with pytest.raises(DamagedError):
        device.read_at(device.size - 10, 10)


def test_text() -> None:
    section = parse(b'a = 1 b="x\\"y" c=["p", 2, 3.5] # note\nd { e = -4 } 2024 { f = [] }')
    assert section == {"a": 1, "b": 'x"y', "c": ["p", 2, 3.5], "d": {"e": -4}, "2024": {"f": []}}


@given(st.binary(max_size=200))
def test_any_text_is_parsed_or_damage(text: bytes) -> None:
    with contextlib.suppress(GuestError):
        parse(text)


_SCALARS = st.text('ab\\"#{}[]=\n', max_size=5) | st.integers(-99, 99)


@given(_SCALARS | st.lists(_SCALARS, max_size=4))
def test_values_come_back(value: str | int | list[str | int]) -> None:
    def say(item: str | int | list[str | int]) -> str:
        if isinstance(item, list):
            return f"[{', '.join(map(say, item))}]"
        if isinstance(item, int):
            return str(item)
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = f"s {{ name = {say(value)} }}".encode("utf-8", "replace")
    if b"?" not in text:
        assert parse(text) == {"s": {"name": value}}


# ---- LVM itself ------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_what_lvm_wrote(tmp_path: Path) -> None:
    """pvcreate and vgcfgrestore write the label and the metadata; lvs says what LVM sees in them."""
    need("pvcreate", "vgcfgrestore", "lvs")
    path = sparse(tmp_path / "pv", 128 * MIB)
    with loop(path) as name:
        only = f'devices {{ filter=["a|^{name}$|", "r|.*|"] use_devicesfile=0 }}'
        backup = tmp_path / "backup"
        text = metadata(
            "testvg",
            [PV(1)],
            (LINEAR + STRIPED).replace('"pv2"', '"pv1"').replace('"pv1", 4, "pv1", 4', '"pv1", 4, "pv1", 8'),
        )
        backup.write_text(f'contents = "Text Format Volume Group"\nversion = 1\n{text}')
        run("pvcreate", "--config", only, "-y", "--uuid", PV(1).id, "--restorefile", backup, name)
        run("vgcfgrestore", "--config", only, "-f", backup, "testvg")
        said = run(
            "lvs",
            "--config",
            only,
            "--noheadings",
            "--units",
            "b",
            "--nosuffix",
            "-o",
            "lv_name,lv_uuid,lv_size,seg_pe_ranges,segtype",
            "testvg",
        )
        said_vg = run("vgs", "--config", only, "--noheadings", "-o", "vg_uuid,vg_seqno", "testvg").split()
    tree = scan(DiskDevice(File(path)))
    assert tree.problems == ()
    assert (tree.groups[0].id, str(tree.groups[0].sequence)) == (said_vg[0], said_vg[1])
    ours = []
    for volume in tree.groups[0].volumes:
        for segment in volume.segments:
            count = segment.size // EXTENT // len(segment.stripes)
            first = [(stripe.offset - MIB) // EXTENT for stripe in segment.stripes]
            ranges = " ".join(f"{name}:{start}-{start + count - 1}" for start in first)
            kind = "linear" if len(segment.stripes) == 1 else "striped"
            ours.append(f"{volume.name} {volume.id} {volume.size} {ranges} {kind}")
    assert sorted(ours) == sorted(re.sub(r" +", " ", line.strip()) for line in said.splitlines())


def group_of(*disks: bytes) -> tuple[tuple[lvm.VolumeGroup, ...], tuple[Volume, ...], tuple[str, ...]]:
    """What the physical volumes on several disks make together."""
    found = [scan(memory(raw)).volumes[0] for raw in disks]
    return _groups([replace(volume, name=f"p{number}") for number, volume in enumerate(found, 1)])


def test_volumes_without_metadata_are_found_by_those_that_have_it() -> None:
    text = metadata("vg", [PV(1), PV(2)], LINEAR)
    one, two = disk(4 * MIB, text), disk(4 * MIB, text, identity=PV(2), bare=True)
    made, logical, problems = group_of(one, two)
    assert (made[0].missing, problems) == ((), ())
    assert logical[0].device is not None
    assert group_of(two)[2] == ("p1: LVM physical volume without metadata",)


def test_older_metadata_on_another_volume_does_not_count() -> None:
    old = metadata("vg", [PV(1), PV(2)], LINEAR)
    new = metadata("vg", [PV(1), PV(2)], LINEAR + STRIPED, sequence=9)
    made, logical, problems = group_of(disk(4 * MIB, old), disk(4 * MIB, new, identity=PV(2)))
    assert (len(made), made[0].sequence, made[0].missing, problems) == (1, 9, (), ())
    assert [v.name for v in logical] == ["vg/root", "vg/stripes"]
    assert all(v.device is not None for v in logical)
