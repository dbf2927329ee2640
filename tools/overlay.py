"""Make an environment that runs this tree with a special build of the engine.

    python tools/overlay.py NAME [CMAKE OPTION...]

builds the engine with the options and leaves `build/overlay/NAME/bin/python`, which sees the packages of the
running environment and the sources of this tree, but its own engine. It serves sanitizers, coverage, and tests
of builds that lack a codec. Prints the path of the interpreter.
"""

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build_engine(name: str, options: list[str]) -> str:
    """Path of the module that was built."""
    tree = os.path.join(ROOT, "build", "overlay-native", name)
    configure = ["cmake", "-S", os.path.join(ROOT, "native"), "-B", tree, "-G", "Ninja"]
    define = ["-DDISKFMT_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}", *options]
    for command in ([*configure, *define], ["cmake", "--build", tree]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return os.path.join(tree, "_native.abi3.so")


def mirror_package(target: str, engine: str) -> None:
    """Fill `target` with links to the sources of the package and to the engine."""
    os.makedirs(target, exist_ok=True)
    package = os.path.join(ROOT, "src", "diskfmt")
    wanted = {name: os.path.join(package, name) for name in os.listdir(package) if not name.endswith(".so")}
    wanted.pop("__pycache__", None)
    wanted[os.path.basename(engine)] = engine
    for name in os.listdir(target):
        if name not in wanted and name != "__pycache__":
            os.unlink(os.path.join(target, name))
    for name, source in wanted.items():
        if not os.path.islink(os.path.join(target, name)):
            os.symlink(source, os.path.join(target, name))


def make_environment(root: str, site: str) -> str:
    """Path of the interpreter of an environment that looks into `site`, then into the running environment."""
    if not os.path.exists(os.path.join(root, "bin", "python")):
        venv.create(root, symlinks=True)
    python = os.path.join(root, "bin", "python")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A path named in a .pth file is searched, but its own .pth files are not read: an editable install there,
    # which would bring the ordinary engine, stays out.
    paths = os.path.join(root, "lib", version, "site-packages", "overlay.pth")
    with open(paths, "w", encoding="utf-8") as file:
        file.write(f"{site}\n{sysconfig.get_path('purelib')}\n")
    script = os.path.join(root, "bin", "diskfmt")
    with open(script, "w", encoding="utf-8") as file:
        file.write(f"#!{python}\nimport sys\nfrom diskfmt.cli import main\nsys.exit(main())\n")
    os.chmod(script, 0o755)
    return python


def preload_sanitizers(python: str) -> None:
    """Make the interpreter start with the sanitizers' runtimes, which must be loaded before all else.

    Only the interpreter that runs diskfmt: the oracles get an environment without them (qemu-img hangs, libyal's
    bindings die).
    """
    names = ("libasan.so", "libubsan.so")
    find = [subprocess.check_output(["cc", f"-print-file-name={name}"], text=True) for name in names]
    real = python + ".real"
    if not os.path.lexists(real):
        os.rename(python, real)
    preload = " ".join(path.strip() for path in find)
    with open(python, "w", encoding="utf-8") as file:
        file.write("#!/bin/bash\n")
        file.write(f'case "$*" in *oracles/worker*) ;; *) export LD_PRELOAD="{preload}" ;; esac\n')
        file.write(f'exec -a {python} {real} "$@"\n')
    os.chmod(python, 0o755)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    hook = os.path.join(os.path.dirname(os.path.dirname(python)), "lib", version, "site-packages", "preload.pth")
    with open(hook, "w", encoding="utf-8") as file:
        file.write("import os; os.environ.pop('LD_PRELOAD', None)\n")


def main(name: str, *options: str) -> None:
    """Build, and print where the interpreter is."""
    root = os.path.join(ROOT, "build", "overlay", name)
    site = os.path.join(root, "site")
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test workers may ask for the same one at once
        mirror_package(os.path.join(site, "diskfmt"), build_engine(name, list(options)))
        python = make_environment(root, site)
        if any(option.startswith("-DDISKFMT_SANITIZE=address") for option in options):
            preload_sanitizers(python)
        print(python)


if __name__ == "__main__":
    main(*sys.argv[1:])
