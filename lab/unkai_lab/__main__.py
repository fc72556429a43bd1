"""`python -m unkai_lab`: the same as `unkai lab`."""

from __future__ import annotations

import sys

from unkai_cli.main import main

main(["lab", *sys.argv[1:]])
