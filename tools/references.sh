#!/usr/bin/env bash
# Write every page of docs/reference anew from the code.
set -euo pipefail
cd "$(dirname "$0")/.."
for page in cli error settings; do
  python "tools/${page}_reference.py"
done
