#!/usr/bin/env bash
# Generate the Python code of the contracts into proto/python/unkai (or the folder given).
# Needs the dev extra in the environment whose python is first on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto/python}
rm -rf "$out/unkai"
mkdir -p "$out"
mapfile -t files < <(cd proto && find unkai -name '*.proto' | LC_ALL=C sort)
mapfile -t services < <(cd proto && find unkai -name '*_service.proto' | LC_ALL=C sort)
python -m grpc_tools.protoc -Iproto -Iproto/third_party \
  --python_out="$out" --mypy_out=quiet:"$out" "${files[@]/#/proto/}"
python -m grpc_tools.protoc -Iproto -Iproto/third_party \
  --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" "${services[@]/#/proto/}"
find "$out/unkai" -type d -exec touch {}/__init__.py \;
touch "$out/unkai/py.typed"
