#!/usr/bin/env bash
# Run every benchmark, half an hour each at most; each prints a table and one JSON object as its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
for script in bench/*.py; do
  echo "== $script"
  timeout --kill-after=30 1800 python "$script"
done
