"""Sources from the network are used only if they are the pinned ones."""

import importlib.util
import io
import os
import tarfile

import pytest
from install_kit import ROOT


@pytest.fixture
def fetch():
    spec = importlib.util.spec_from_file_location("fetch", os.path.join(ROOT, "native", "deps", "fetch.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def pinned(fetch, path):
    return fetch.Source(project="lib", version="1", sha256=fetch.digest(path), folder="src/lib")


def test_fetch_archive_with_another_digest_is_not_used(fetch, tmp_path):
    (tmp_path / "archives").mkdir()
    archive(tmp_path / "archives" / "zstandard-0.25.0.tar.gz", {"zstandard-0.25.0/zstd/zstd.c": b"evil"})
    with pytest.raises(SystemExit, match="SHA-256 is"):
        fetch.main(str(tmp_path), "libzstd")
    assert os.listdir(tmp_path) == ["archives"]


def test_fetch_unpacks_the_library_folder_only(fetch, tmp_path):
    path = tmp_path / "lib-1.tar.gz"
    archive(path, {"lib-1/setup.py": b"no", "lib-1/src/lib/a.c": b"int a;", "lib-1/src/lib/in/b.h": b"int b;"})
    fetch.unpack(pinned(fetch, path), path, str(tmp_path / "lib"))
    assert (tmp_path / "lib" / "a.c").read_bytes() == b"int a;"
    assert (tmp_path / "lib" / "in" / "b.h").read_bytes() == b"int b;"
    assert sorted(os.listdir(tmp_path / "lib")) == ["a.c", "in"]


def test_fetch_never_writes_outside(fetch, tmp_path):
    path = tmp_path / "lib-1.tar.gz"
    archive(path, {"lib-1/src/lib/../../../evil": b"x", "../evil": b"x", "lib-1/src/lib/a.c": b""})
    fetch.unpack(pinned(fetch, path), path, str(tmp_path / "in" / "lib"))
    assert sorted(os.listdir(tmp_path)) == ["in", "lib-1.tar.gz"]
    assert os.listdir(tmp_path / "in" / "lib") == ["a.c"]


def test_fetch_pins_every_source_by_sha256(fetch):
    assert set(fetch.SOURCES) == {"libdeflate", "libisal", "libzstd"}
    assert all(len(bytes.fromhex(source.sha256)) == 32 for source in fetch.SOURCES.values())
