#!/usr/bin/env bash
# Write every page of docs/reference, and the dashboards, anew from the code.
set -euo pipefail
cd "$(dirname "$0")/.."
for page in cli error settings doctor; do
  python "tools/${page}_reference.py"
done
python -m tools.dashboards
