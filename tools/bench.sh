#!/usr/bin/env bash
# Run every benchmark; each prints a table and one JSON object as its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
for script in bench/*.py; do
  echo "== $script"
  python "$script"
done
