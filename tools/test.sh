#!/usr/bin/env bash
# Run every suite. Randomised tests print their seed; give UNKAI_TEST_SEED to repeat one.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pytest -q tests "$@"
