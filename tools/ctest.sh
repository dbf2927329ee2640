#!/bin/sh
# Configure, build and run the C tests of one CMake preset (native/CMakePresets.json).
set -eu
preset=${1:?preset}
cd "$(dirname "$0")/../native"
log=../build/native/$preset.log
mkdir -p ../build/native

run() { "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }; }
# A preset fixes what it names, not what an earlier run left in the cache.
run cmake --preset "$preset" ${DISKFMT_PYTHON_EXECUTABLE:+-DPython_EXECUTABLE="$DISKFMT_PYTHON_EXECUTABLE"}
run cmake --build --preset "$preset" -j "${JOBS:-2}"

prefix=""
# ThreadSanitizer does not find its place in a randomised address space of some kernels.
if [ "$preset" = tsan ] && setarch -R true 2>/dev/null; then prefix="setarch -R"; fi
run $prefix ctest --preset "$preset" --no-tests=error
sed -n 's/^.*% tests passed.*$/&/p' "$log"
