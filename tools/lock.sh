#!/usr/bin/env bash
# Renew requirements.lock: every Python package that `make setup` installs, at one version each.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet install -e '.[scheduler,agent,dev]' setuptools hatchling editables
{
  echo "# Every Python package that 'make setup' installs. Renew with tools/lock.sh."
  "$work/venv/bin/pip" freeze --all --exclude-editable --exclude unkai --exclude pip | sed 's/ @ .*//' | LC_ALL=C sort -f
} >requirements.lock
