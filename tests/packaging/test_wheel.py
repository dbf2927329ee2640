"""The wheel is all that a user needs."""

import glob
import os
import subprocess
import sys
import zipfile

import pytest
from install_kit import CLEAN, LOADED, ROOT, convert_there_and_back, empty_venv, lend_packages, run


@pytest.fixture(scope="module")
def plain_wheel(tmp_path_factory):
    """The wheel as built here: links the codec libraries of this machine."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index",
        f"--config-settings=build-dir={folder}/build", "-w", str(folder), ROOT,
    )  # fmt: skip
    (wheel,) = glob.glob(f"{folder}/*.whl")
    return wheel


def test_wheel_name_and_content_serve_every_python_from_3_11(plain_wheel):
    assert "-cp311-abi3-" in os.path.basename(plain_wheel)
    with zipfile.ZipFile(plain_wheel) as wheel:
        names = wheel.namelist()
    assert "diskfmt/_native.abi3.so" in names
    assert "diskfmt/py.typed" in names
    licenses = {os.path.basename(name) for name in names if "/licenses/" in name}
    assert {"LICENSE", "isa-l.txt", "libdeflate.txt", "zlib.txt", "zstd.txt"} <= licenses
    assert not [name for name in names if name.endswith((".c", ".h", ".a"))]


def test_wheel_exports_nothing_but_its_init_function(plain_wheel, tmp_path):
    with zipfile.ZipFile(plain_wheel) as wheel:
        module = wheel.extract("diskfmt/_native.abi3.so", tmp_path)
    symbols = run("nm", "-D", "--defined-only", module).split()[2::3]
    assert symbols == ["PyInit__native"]


def test_wheel_in_an_empty_environment_converts(plain_wheel, tmp_path):
    python = empty_venv(tmp_path / "venv", pip=False)
    run(sys.executable, "-m", "pip", "-qq", "--python", python, "install", "--no-deps", "--no-index", plain_wheel)
    lend_packages(python)
    convert_there_and_back(python, tmp_path)


@pytest.mark.slow
def test_repaired_wheel_carries_its_libraries_and_converts(tmp_path):
    wheel = os.environ.get("DISKFMT_WHEEL")
    if wheel is None:
        run(os.path.join(ROOT, "tools", "wheel.sh"), str(tmp_path), cwd=ROOT)
        (wheel,) = glob.glob(f"{tmp_path}/*.whl")
    assert "-manylinux" in os.path.basename(wheel)
    python = empty_venv(tmp_path / "venv", pip=True)
    run(python, "-m", "pip", "install", "-qq", os.path.abspath(wheel))

    loaded = run(python, "-c", LOADED, cwd=tmp_path, env=CLEAN).split()
    assert loaded
    assert [path for path in loaded if not path.startswith(str(tmp_path / "venv"))] == []
    convert_there_and_back(python, tmp_path)


def test_built_module_of_a_source_archive_needs_nothing_of_the_checkout(tmp_path):
    backend = "import scikit_build_core.build as b, sys; print(b.build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", backend, str(tmp_path), cwd=ROOT).split()[-1]
    listing = subprocess.run(["tar", "tzf", tmp_path / name], capture_output=True, text=True, check=True).stdout
    files = {line.partition("/")[2] for line in listing.splitlines()}
    assert {"native/CMakeLists.txt", "native/include/dfmt.h", "native/cffi_build.py", "LICENSE", "README.md"} <= files
    assert not [name for name in files if name.startswith((".venv", ".ci", "build/"))]
