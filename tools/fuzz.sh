#!/bin/sh
# Run each libFuzzer target of native/fuzz for some seconds. Corpora stay in build/fuzz/<name>; a crash leaves its
# input there and ends with an error.
set -eu
seconds=${1:-60}
cd "$(dirname "$0")/.."
(cd native && cmake --preset fuzz >/dev/null && cmake --build --preset fuzz -j "${JOBS:-2}")
found=0
for source in native/fuzz/*.c; do
  [ -e "$source" ] || break
  name=$(basename "$source" .c)
  mkdir -p "build/fuzz/$name"
  seeds=""
  if [ -d "native/fuzz/seeds/$name" ]; then seeds=native/fuzz/seeds/$name; fi
  echo "== $name: $seconds s"
  "build/native/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" "build/fuzz/$name" $seeds 2>"build/fuzz/$name.log" ||
    { tail -n 60 "build/fuzz/$name.log" >&2; exit 1; }
  sed -n 's/^stat::number_of_executed_units: */  runs: /p; s/^stat::peak_rss_mb: */  peak memory (MiB): /p' "build/fuzz/$name.log"
  found=1
done
[ "$found" = 1 ] || { echo 'no fuzzers in native/fuzz' >&2; exit 1; }
