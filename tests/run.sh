#!/usr/bin/env bash
# make test: all tests. One or two that fail are run once more, by themselves, and are named as flaky if they pass then. More
# than that, and all that fails twice, is a failure. See docs/decisions/flaky-tests.md.
#
#   tests/run.sh [ARGUMENT OF cargo test]...
set -euo pipefail
cd "$(dirname "$0")/.."

most=2
dir=$(mktemp -d "${TMPDIR:-/tmp}/oplogue-tests.XXXXXX")
trap 'rm -rf "$dir"' EXIT

cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$dir/log" && exit 0

# "test a::b ... FAILED", and at the end, for each target: "error: test failed, to rerun pass `-p oplogue --test it`"
mapfile -t failed < <(sed -nE 's/^test ([^ ]+) \.\.\. FAILED$/\1/p' "$dir/log")
mapfile -t targets < <(sed -nE 's/^error: test failed, to rerun pass `(.*)`$/\1/p' "$dir/log")
count=$(grep -cE '^test .* \.\.\. FAILED$' "$dir/log" || true)
if [ ${#targets[@]} = 0 ] || [ "$count" = 0 ] || [ "$count" -gt $most ] || [ "$count" != ${#failed[@]} ]; then
  exit 1
fi

printf '\n==> Once more: %s\n' "${failed[*]}"
for target in "${targets[@]}"; do
  # Split into words on purpose: it is "-p PACKAGE --test TARGET".
  # shellcheck disable=SC2086
  cargo test $target "$@" -- --exact "${failed[@]}" 2>&1 | tee -a "$dir/again" || exit 1
done
# Each must have been found.
passed=$(grep -cE '^test .* \.\.\. ok$' "$dir/again" || true)
[ "$passed" -ge "$count" ] || exit 1
for name in "${failed[@]}"; do
  printf 'FLAKY: %s failed, and passed when run once more. What it said first is above; it is a bug to be found.\n' "$name"
done
