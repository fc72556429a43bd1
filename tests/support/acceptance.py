"""The acceptance table: tests say what they showed, `make acceptance` prints it.

A test takes the fixture `shows` and calls `shows("4 scheduler killed", "10 of 10 RUNNING")`.
`full_counts()` says whether the full counts run (`make acceptance`) or a tenth of them.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

FILE_VARIABLE = "UNKAI_ACCEPTANCE_FILE"
FULL_VARIABLE = "UNKAI_FULL_COUNTS"
SEED_VARIABLE = "UNKAI_TEST_SEED"

Shows = Callable[[str, str], None]


def full_counts() -> bool:
    """Tell whether the full counts of the acceptance list shall run."""
    return bool(os.environ.get(FULL_VARIABLE))


def count(full: int, least: int = 1) -> int:
    """Return how often to do a randomised thing: all of it, or a tenth in `make test`."""
    return full if full_counts() else max(least, -(-full // 10))


def seeded(name: str) -> random.Random:
    """Return a generator whose seed is printed; UNKAI_TEST_SEED repeats a run."""
    seed = os.environ.get(SEED_VARIABLE) or str(time.time_ns() & 0xFFFFFFFF)
    print(f"{name}: seed {seed} (UNKAI_TEST_SEED={seed} repeats it)")
    return random.Random(f"{name}:{seed}")


def show(line: str, text: str) -> None:
    """Record and print what one acceptance line showed."""
    print(f"acceptance {line}: {text}")
    if path := os.environ.get(FILE_VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps([line, text], ensure_ascii=False) + "\n")
