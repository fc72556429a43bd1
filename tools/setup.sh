#!/usr/bin/env bash
# Install what the project needs: Debian packages, then a virtual environment with the locked
# Python packages. Quick when nothing changed. Starts no service.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
say() { printf 'setup: %s\n' "$*"; }

mapfile -t wanted < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' tools/debian-packages.txt)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  if [[ $(id -u) != 0 ]]; then
    say "these Debian packages are missing; run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  say "installing ${#missing[@]} Debian packages (a few minutes the first time)"
  log=$(mktemp)
  # Installing must start nothing: a policy that refuses holds for the time of the installation.
  policy=/usr/sbin/policy-rc.d
  made_policy=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=1
  fi
  trap '[[ -z $made_policy ]] || rm -f "$policy"' EXIT
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -30 "$log" >&2
    say "apt-get failed; the whole log is in $log" >&2
    exit 1
  fi
  rm -f "$log"
fi

stamp="$venv/.unkai-setup"
state=$(sha256sum requirements.lock pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1)
if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$state" ]]; then
  say "nothing to do"
  exit 0
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1). Set PYTHON." >&2
  exit 1
}
say "making the virtual environment $venv from requirements.lock"
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@" 2> >(grep -v '^WARNING: ' >&2); }
# The lock binds the environments in which packages are built, too.
export PIP_CONSTRAINT="$PWD/requirements.lock"
pip install setuptools hatchling editables
pip install -r requirements.lock
pip install --no-deps --no-build-isolation -e .
printf '%s' "$state" >"$stamp"
say "done"
