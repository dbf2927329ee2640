"""Paths as the guest resolves them: against the running kernel, which resolves the same tree in a chroot."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskfmt.guest.base import BudgetError, DamagedError, Entry, FileKind, FsInfo, GuestError, UnsupportedError
from diskfmt.guest.paths import MissingError, Root, version_key, walk
from guest.kit import ENVIRONMENT

Node = bytes | str | dict[str, "Node"]  # a file, a link, a directory


class Files:
    """A file system in memory."""

    info = FsInfo(kind="test")

    def __init__(self, tree: dict[str, Node]) -> None:
        self.tree = tree

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.tree
        for part in path.split("/"):
            if part:
                node = node.get(part) if isinstance(node, dict) else None
        return node

    def stat(self, path: str) -> Entry | None:
        node = self._find(path)
        if node is None:
            return None
        kind = {bytes: FileKind.FILE, str: FileKind.LINK, dict: FileKind.DIRECTORY}[type(node)]
        return Entry(kind=kind, size=len(node))

    def names(self, path: str) -> Iterator[str]:
        node = self._find(path)
        assert isinstance(node, dict)
        return iter(node)

    def read(self, path: str, offset: int = 0, length: int = 1 << 20) -> bytes:
        node = self._find(path)
        assert isinstance(node, bytes)
        return node[offset : offset + length]

    def link(self, path: str) -> str:
        node = self._find(path)
        assert isinstance(node, str)
        return node


TREE: dict[str, Node] = {
    "etc": {
        "os-release": "../usr/lib/os-release",
        "fstab": b"the table",
        "absolute": "/usr/lib/os-release",
        "up": "../../../../../../usr/lib/os-release",
        "dangling": "/none",
        "self": "self",
        "a": "b",
        "b": "a",
        "dir": "/usr",
        "slashes": "//usr///lib/./os-release/",
    },
    "usr": {"lib": {"os-release": b"ID=debian", "modules": {"6.1.0-9-amd64": {"x": b""}, "6.1.0-10-amd64": {}}}},
    "bin": "usr/bin",
    "boot": {"vmlinuz-6.1.0-9": b"", "vmlinuz-6.1.0-10": b"", "config": b""},
    **{f"l{number}": f"l{number + 1}" for number in range(60)},
    "l60": "etc/fstab",
}
ROOT = Root({"/": Files(TREE)})


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/etc/os-release", "/usr/lib/os-release"),
        ("etc/os-release", "/usr/lib/os-release"),
        ("/etc/absolute", "/usr/lib/os-release"),
        ("/etc/up", "/usr/lib/os-release"),
        ("/etc/slashes", "/usr/lib/os-release"),
        ("/../../etc/./fstab", "/etc/fstab"),
        ("/etc/dir/lib/../lib/os-release", "/usr/lib/os-release"),
        ("/etc/dir/..", "/"),
        ("/", "/"),
        ("", "/"),
        ("/l25", "/etc/fstab"),
        ("/etc/new", "/etc/new"),
    ],
)
def test_resolution(path: str, real: str) -> None:
    assert ROOT.resolve(path) == real


def test_reading() -> None:
    assert ROOT.read("/etc/up") == b"ID=debian"
    assert ROOT.read_text("/etc/os-release") == "ID=debian"
    assert ROOT.read_at("/etc/os-release", 3, 3) == b"deb"
    assert ROOT.exists("/etc/absolute")
    assert ROOT.is_directory("/etc/dir")
    assert not ROOT.is_directory("/etc/fstab")
    assert ROOT.link("/etc/os-release") == "../usr/lib/os-release"
    assert ROOT.link("/etc/dir/lib") is None
    assert ROOT.link("/none/x") is None
    entry = ROOT.stat("/etc/os-release")
    assert entry == Entry(kind=FileKind.FILE, size=9)


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/none/..",
        "/none/../etc/fstab",
        "/etc/dangling",
        "/etc/fstab/x",
        "/etc/fstab/..",
        "/etc/os-release/."[:-2] + "/x",
        "/bin/sh",
    ],
)
def test_what_is_missing(path: str) -> None:
    assert ROOT.stat(path) is None
    assert not ROOT.exists(path)
    assert ROOT.names(path) == []
    with pytest.raises(MissingError):
        ROOT.read(path)


def test_links_without_end_are_damage() -> None:
    for path in ("/etc/self", "/etc/a", "/l0", "/etc/self/x"):
        with pytest.raises(DamagedError, match="40 links"):
            ROOT.exists(path)
    assert ROOT.exists("/l21")  # 40 links
    with pytest.raises(DamagedError):
        ROOT.exists("/l20")


def test_limits() -> None:
    with pytest.raises(BudgetError):
        ROOT.read("/etc/fstab", limit=8)
    assert ROOT.read("/etc/fstab", limit=9) == b"the table"
    with pytest.raises(BudgetError):
        ROOT.exists("/x" * 3000)
    deep: Node = {}
    for _ in range(100):
        deep = {"d": deep}
    root = Root({"/": Files(deep)})
    assert root.exists("/d" * 64)
    with pytest.raises(BudgetError):
        root.exists("/d" * 65)
    with pytest.raises(BudgetError):
        list(walk(root, "/"))


def test_only_files_are_read() -> None:
    for path in ("/etc", "/"):
        with pytest.raises(GuestError):
            ROOT.read(path)


def test_names_and_the_newest() -> None:
    assert ROOT.names("/boot") == ["config", "vmlinuz-6.1.0-10", "vmlinuz-6.1.0-9"]
    assert ROOT.names("/none") == []
    assert ROOT.names("/etc/fstab") == []
    assert ROOT.newest("/boot", "vmlinuz-") == "/boot/vmlinuz-6.1.0-10"
    assert ROOT.newest("/boot", "initrd") is None
    assert ROOT.find("/usr/lib/modules") == ["/usr/lib/modules/6.1.0-9-amd64", "/usr/lib/modules/6.1.0-10-amd64"]
    assert set(walk(ROOT, "/usr")) == {"/usr/lib/os-release", "/usr/lib/modules/6.1.0-9-amd64/x"}
    assert version_key("²") < version_key("1")


def test_mounts() -> None:
    boot = Files({"grub": {"grub.cfg": b"cfg"}, "out": "/etc/fstab", "back": "../etc/fstab"})
    efi = Files({"EFI": {"BOOT": {"BOOTX64.EFI": b"MZ"}}})
    root = ROOT.mounted({"/boot": boot, "/boot/efi/": efi})
    assert root.read("/boot/grub/grub.cfg") == b"cfg"
    assert root.names("/boot") == ["back", "grub", "out"]
    assert root.read("/boot/out") == root.read("/boot/back") == b"the table"
    assert root.read("/boot/efi/EFI/BOOT/BOOTX64.EFI") == b"MZ"
    assert ROOT.names("/boot")[0] == "config"


def test_a_root_needs_one() -> None:
    with pytest.raises(ValueError):
        Root({"/boot": Files({})})


WINDOWS: dict[str, Node] = {
    "Windows": {"System32": {"Config": {"SYSTEM": b"regf"}, "straße": b"s"}},
    "Documents and Settings": "\\??\\C:\\Users",
    "Users": {"All Users": "C:\\ProgramData", "Me": {}},
    "ProgramData": {"x": b"y"},
    "Other": "\\??\\D:\\x",
    "Volume": "\\??\\Volume{4c1b02c1-d990-11dc-99ae-806e6f6e6963}\\x",
}


def test_windows_paths() -> None:
    root = Root({"/": Files(WINDOWS)}, ignore_case=True)
    for path in (
        "/windows/SYSTEM32/config/system",
        "\\WINDOWS\\system32\\Config\\System",
        "C:\\Windows\\System32\\config\\SYSTEM",
        "c:/windows/system32/config/system",
    ):
        assert root.read(path) == b"regf"
        assert root.resolve(path) == "/Windows/System32/Config/SYSTEM"
    assert root.read("/DOCUMENTS AND SETTINGS/all users/X") == b"y"
    assert root.exists("/windows/system32/STRAßE")
    assert not root.exists("/windows/system32/strasse")
    for path in ("/Other", "/Volume", "D:\\x"):
        with pytest.raises(UnsupportedError):
            root.exists(path)
    assert ROOT.stat("/ETC/fstab") is None


# ---- the kernel as the oracle ----------------------------------------------------------------------------------------

_CHROOT = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
for path in sys.stdin.read().split("\\n"):
    try:
        with open(path, "rb") as file:
            print("file", file.read().hex())
    except OSError as error:
        print("error", error.errno)
"""
_NAMES = st.sampled_from(["a", "b", "c", "d"])
_TEXTS = (
    st.lists(st.sampled_from(["a", "b", "c", "d", "..", ".", ""]), min_size=1, max_size=5).map("/".join).filter(bool)
)
_TREES = st.recursive(
    st.binary(min_size=1, max_size=3) | _TEXTS, lambda inner: st.dictionaries(_NAMES, inner, max_size=4), max_leaves=12
)


def build(path: Path, node: Node) -> None:
    if isinstance(node, bytes):
        path.write_bytes(node)
    elif isinstance(node, str):
        os.symlink(node, path)
    else:
        path.mkdir(exist_ok=True)
        for name, inner in node.items():
            build(path / name, inner)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_resolution_is_the_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("chroot")
    counter = iter(range(100_000))

    @given(tree=st.dictionaries(_NAMES, _TREES, max_size=4), paths=st.lists(_TEXTS, min_size=1, max_size=20))
    def check(tree: dict[str, Node], paths: list[str]) -> None:
        place = base / str(next(counter))
        place.mkdir()
        build(place, tree)
        done = subprocess.run(
            [sys.executable, "-c", _CHROOT, str(place)],
            input="\n".join("/" + p for p in paths),
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
        )
        root = Root({"/": Files(tree)})
        for path, said in zip(paths, done.stdout.splitlines(), strict=True):
            try:
                ours = f"file {root.read('/' + path).hex()}"
            except GuestError:
                ours = "error"
            # A slash behind a file is an error to the kernel and none to us.
            if not (path.endswith(("/", "/.")) and ours.startswith("file")):
                assert said.startswith(ours), (tree, path, said)

    check()
