"""Hives: each key and value against hivex, typed values, damage that stays where it is."""

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.base import BudgetError, DamagedError, GuestError, UnsupportedError
from diskfmt.guest.registry import MAX_HIVE, Hive, Key, Kind, Value, checksum
from guest.trees import run, survives, tool


def exported(path: str | Path) -> dict[str, dict[str, tuple[int, bytes]]]:
    """All keys and values as hivexregedit prints them: path → name in lower case → (type, bytes)."""
    keys: dict[str, dict[str, tuple[int, bytes]]] = {}
    current: dict[str, tuple[int, bytes]] = {}
    for line in run(tool("hivexregedit"), "--export", path, "\\").splitlines():
        if line.startswith("[\\"):
            current = keys.setdefault(line[2:-1], {})
        elif line.startswith(("@=", '"')):
            name, _, data = line.rpartition("=")
            name = "" if name == "@" else name[1:-1].replace('\\"', '"').replace("\\\\", "\\")
            kind, _, text = data.partition(":")
            if kind == "dword":
                current[name.lower()] = (4, int(text, 16).to_bytes(4, "little"))
            else:
                number = 3 if kind == "hex" else int(kind[4:-1], 16)
                current[name.lower()] = (number, bytes.fromhex(text.replace(",", "")))
    return keys


def walk(key: Key, path: str = "") -> dict[str, dict[str, tuple[int, bytes]]]:
    values = {}
    for name in key.values():
        value = key.raw_value(name)
        assert value is not None
        values[name.lower()] = (value.kind, value.data)
    found = {path: values}
    for child in list(key.keys()):
        found.update(walk(child, f"{path}\\{child.name}" if path else child.name))
    return found


HIVES = ["hivex-minimal", "regipy-BCD", "regipy-SYSTEM"]


@pytest.mark.parametrize("case", HIVES)
def test_each_key_and_value_is_what_hivex_says(corpus, case: str) -> None:
    path = corpus.path(case)
    told, found = exported(path), walk(Hive(Path(path).read_bytes()).root)
    assert set(found) == set(told)
    different = [name for name in told if found[name] != told[name]]
    assert not different, [(name, found[name], told[name]) for name in different[:3]]


@pytest.mark.parametrize("case", [case for case in HIVES if case != "hivex-minimal"])
def test_what_the_corpus_says_of_services(corpus, case: str) -> None:
    told = corpus.cases[case]["hive"]["dissect"]
    hive = Hive(Path(corpus.path(case)).read_bytes())
    assert (hive.root.name, len(list(hive.root.subkeys()))) == (told["root"], told["subkeys"])
    for service, starts in told["services"].items():
        key = hive.key(f"controlset{told['current']:03}\\SERVICES\\{service}")
        assert key is not None
        assert key.value("start") in starts


MERGED = r"""Windows Registry Editor Version 5.00

[\Typed]
"Text"=hex(1):41,00,e4,00,00,00
"Expand"=hex(2):25,00,41,00,25,00,00,00
"Texts"=hex(7):41,00,00,00,42,00,00,00,00,00
"Dword"=dword:12345678
"Qword"=hex(b):01,00,00,00,00,00,00,80
"Bytes"=hex:01,02,03,04,05
"One"=hex:01
"Nothing"=hex:
@="default"

[\Typed\Below]

[\Typed\Below\Deeper]
"x"=dword:00000001
"""


@pytest.fixture(scope="module")
def merged(corpus, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A hive that hivex wrote."""
    path = tmp_path_factory.mktemp("hive") / "hive"
    path.write_bytes(Path(corpus.path("hivex-minimal")).read_bytes())
    text = path.with_suffix(".reg")
    text.write_text(MERGED)
    run(tool("hivexregedit"), "--merge", path, text)
    return path.read_bytes()


def test_typed_values(merged: bytes) -> None:
    key = Hive(merged).key("typed")
    assert key is not None
    expected = {
        "Text": "Aä",
        "Expand": "%A%",
        "Texts": ("A", "B"),
        "Dword": 0x12345678,
        "Qword": 0x8000000000000001,
        "Bytes": b"\1\2\3\4\5",
        "One": b"\1",
        "Nothing": b"",
        "": "default",
    }
    assert {name: key.value(name) for name in key.values()} == expected
    assert key.value("NOTHERE") is None
    assert key.value("dWORD") == 0x12345678


def test_paths(merged: bytes) -> None:
    hive = Hive(merged)
    deeper = hive.key("\\TYPED\\below\\Deeper\\")
    assert deeper is not None
    assert (deeper.name, deeper.value("X"), hive.pending_logs, hive.truncated) == ("Deeper", 1, False, False)
    assert hive.key("typed\\nothing\\below") is None
    assert hive.key("") is not None


def test_long_values(corpus) -> None:
    """Values in segments are put together: the corpus' SYSTEM has none, so the list is made here."""
    hive = bytearray(Path(corpus.path("hivex-minimal")).read_bytes())
    data = random.Random(1).randbytes(40_000)
    parts = [data[at : at + 16344] for at in range(0, len(data), 16344)]
    places, base = [], len(hive) - 4096
    body = bytearray(32)
    for part in parts:
        places.append(base + len(body))
        cell = part + bytes(-(len(part) + 4) % 8)
        body += struct.pack("<i", -(len(cell) + 4)) + cell
    listed = base + len(body)
    body += struct.pack("<i3I", -16, *places)
    head = base + len(body)
    body += struct.pack("<i2sHI4x", -16, b"db", len(parts), listed)
    hive += body
    struct.pack_into("<I", hive, 40, len(hive) - 4096)
    struct.pack_into("<I", hive, 24, 5)
    struct.pack_into("<I", hive, 508, checksum(bytes(hive)))
    assert Hive(bytes(hive)).value_data(len(data), head) == data
    with pytest.raises(DamagedError, match="number of parts"):
        Hive(bytes(hive)).value_data(len(data) + 16344, head)


class TestDamage:
    def test_changes_that_wait_in_the_logs(self, merged: bytes) -> None:
        raw = bytearray(merged)
        struct.pack_into("<I", raw, 8, int.from_bytes(raw[4:8], "little") + 1)
        struct.pack_into("<I", raw, 508, checksum(bytes(raw)))
        hive = Hive(bytes(raw))
        assert hive.pending_logs
        assert hive.key("Typed") is not None

    def test_no_hive(self, merged: bytes) -> None:
        with pytest.raises(DamagedError, match="no registry hive"):
            Hive(b"hive" + merged[4:])
        with pytest.raises(DamagedError, match="no registry hive"):
            Hive(merged[:100])
        with pytest.raises(DamagedError, match="wrong checksum"):
            Hive(merged[:50] + b"\xff" + merged[51:])

    def test_another_version(self, merged: bytes) -> None:
        raw = bytearray(merged)
        struct.pack_into("<I", raw, 24, 9)
        struct.pack_into("<I", raw, 508, checksum(bytes(raw)))
        with pytest.raises(UnsupportedError, match=r"version 1\.9"):
            Hive(bytes(raw))

    def test_too_long(self) -> None:
        with pytest.raises(BudgetError):
            Hive(b"regf".ljust(MAX_HIVE + 1))

    def test_a_damaged_key_spoils_only_what_needs_it(self, merged: bytes) -> None:
        at = merged.index(b"Deeper") - 76
        raw = merged[:at] + b"??" + merged[at + 2 :]
        hive = Hive(raw)
        typed = hive.key("Typed")
        assert typed is not None
        assert typed.value("Dword") == 0x12345678
        assert hive.key("Typed\\Below") is not None
        for path in ("Typed\\Below\\Deeper", "Typed\\Below\\Other"):
            with pytest.raises(DamagedError, match="a key that makes no sense"):
                hive.key(path)

    def test_a_damaged_value_spoils_only_what_needs_it(self, merged: bytes) -> None:
        at = merged.index(b"Dword") - 20
        key = Hive(merged[:at] + b"??" + merged[at + 2 :]).key("Typed")
        assert key is not None
        assert key.value("One") == b"\1"
        with pytest.raises(DamagedError, match="a value that makes no sense"):
            key.value("Dword")

    def test_a_key_that_holds_itself(self, merged: bytes) -> None:
        """Its names go on for ever; a search ends where keys may not be deeper."""
        hive = Hive(merged)
        typed = merged.index(b"Typed") - 76
        place = (typed - 4 - 4096).to_bytes(4, "little")
        below = merged.index(b"Below") - 76
        listed = 4096 + int.from_bytes(merged[typed + 28 : typed + 32], "little") + 8
        assert merged[listed : listed + 4] == (below - 4 - 4096).to_bytes(4, "little")
        raw = merged[:listed] + place + merged[listed + 4 :]
        assert hive.key("Typed") is not None
        with pytest.raises(BudgetError):
            Hive(raw).key("\\".join(["Typed"] * 600))

    def test_nonsense_is_an_error_of_the_guest(self, merged: bytes) -> None:
        noise = random.Random(6)
        outcomes = []
        for _ in range(1500):
            raw = bytearray(merged)
            for _ in range(noise.randrange(1, 5)):
                raw[noise.randrange(4096, len(raw))] = noise.choice((0, 1, 255, noise.randrange(256)))
            outcomes.append(survives(lambda: walk(Hive(bytes(raw)).root), GuestError))  # noqa: B023
        assert any(outcomes)
        assert not all(outcomes)


@given(st.integers(0, 20), st.binary(max_size=64))
def test_a_value_of_any_type_and_bytes_has_a_typed_form(kind: int, data: bytes) -> None:
    typed = Value("x", kind, data).typed
    if kind not in Kind.__members__.values():
        assert typed == data
    assert isinstance(typed, str | int | bytes | tuple)
