"""One lab of three hosts for the whole session; a test that needs another makes its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as e2e: it needs root and real engines."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of three hosts that is up. Whoever breaks something mends it."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="e2e", hosts=3))) as made:
        yield made
