#!/usr/bin/env bash
# Run every suite. Randomised tests print their seed; give UNKAI_TEST_SEED to repeat one.
# With no argument in two lanes side by side: the stories in labs, and all else. With arguments, those
# of pytest, in one.
set -euo pipefail
cd "$(dirname "$0")/.."
if (($#)); then
  exec python -m pytest -q tests "$@"
fi
stories=$(mktemp)
trap 'rm -f "$stories"' EXIT
python -m pytest -q tests/e2e >"$stories" 2>&1 &
lane=$!
trap 'kill "$lane" 2>/dev/null || true; wait "$lane" || true; rm -f "$stories"' EXIT
others=0
python -m pytest -q tests/unit tests/contract tests/cluster || others=$?
printf '\ntests/e2e:\n'
# What it has said until now, and what it says until it ends.
tail -n +1 -f --pid="$lane" "$stories"
wait "$lane"
exit "$others"
