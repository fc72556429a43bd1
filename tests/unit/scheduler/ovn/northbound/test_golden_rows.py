"""The rows of a small cloud, against golden files.

Renew them with `UNKAI_RENEW_GOLDEN=1 pytest tests/unit/scheduler/ovn/northbound`, then read the
difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.northbound import a_world, labels_of, text_of
from unkai_scheduler.ovn.northbound.units import KINDS, keys_of, unit_of_key

_GOLDEN = Path(__file__).parents[4] / "golden" / "ovn"


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_a_kind_are_as_their_golden_file_says(kind: str) -> None:
    view = a_world()
    units = [unit_of_key(view, key) for key in keys_of(view)]
    shown = text_of([unit for unit in units if unit.key.startswith(f"{kind}:")], labels_of(units))
    path = _GOLDEN / f"{kind}.txt"
    if os.environ.get("UNKAI_RENEW_GOLDEN") == "1":
        path.write_text(shown)
    assert shown == path.read_text()


def test_golden_files_are_of_a_kind_each() -> None:
    assert {path.stem for path in _GOLDEN.glob("*.txt")} == set(KINDS)
