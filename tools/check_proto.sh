#!/usr/bin/env bash
# Check the contracts: format, lint, no breaking change against the committed baseline, and
# generated code current. The baseline proto/baseline.binpb is renewed only with an ADR.
set -euo pipefail
cd "$(dirname "$0")/.."
buf format --diff --exit-code
buf lint
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
buf build --exclude-source-info -o "$work/now.binpb"
buf breaking "$work/now.binpb" --against proto/baseline.binpb --config '{"version":"v1","breaking":{"use":["FILE"]}}'
tools/generate_proto.sh "$work"
diff -r -x __pycache__ "$work/unkai" proto/python/unkai >/dev/null || {
  echo "the generated code is not current: run 'make proto' and commit what it changes" >&2
  exit 1
}
echo "contracts: formatted, linted, compatible, generated code current"
