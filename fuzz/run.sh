#!/usr/bin/env bash
# Fuzz every target for so many seconds, or the targets named behind that: fuzz/run.sh SECONDS [TARGET...]
# Needs atheris and what the tests need: pip install -e '.[test]' atheris. An input that breaks a promise is left in
# fuzz/findings; put it into fuzz/seeds when the fault is mended.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
targets=("$@")
[ ${#targets[@]} != 0 ] || targets=(framing commands addresses parameters sasl proxy dialogue converse replies body answers client)

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$work/$target" fuzz/findings
  seeds=fuzz/seeds/$target
  [ "$target" != converse ] || seeds=fuzz/seeds/dialogue
  echo "== $target, $seconds s"
  # What is found goes into the first directory, the seeds are only read.
  if python fuzz/fuzz.py "$target" -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
    -artifact_prefix="fuzz/findings/$target-" "$work/$target" "$seeds" >"$work/log" 2>&1; then
    tail -n 1 "$work/log"
  else
    cat "$work/log"
    failed+=("$target")
  fi
done
rmdir fuzz/findings 2>/dev/null
if [ ${#failed[@]} != 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
