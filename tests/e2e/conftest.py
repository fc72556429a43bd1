"""A lab of three hosts for each story, so that no story feels the load of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.user import User, tiny_image
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

_HERE = Path(__file__).parent
_PATIENCE_S = 600
"""For a story's test that says nothing of it; a lab and its guests come up within its first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder as e2e: it needs root and real engines, and takes its time."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_PATIENCE_S))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab of three hosts that is up."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="e2e", hosts=3))) as made:
        yield made


@pytest.fixture(scope="module")
def lab_user(lab: Lab) -> Iterator[User]:
    """A user of the story's lab, with the image `tiny` uploaded."""
    user = User(lab.paths.scheduler_socket)
    user.upload("tiny", tiny_image())
    yield user
    user.close()


@pytest.fixture
def user(lab: Lab, lab_user: User) -> Iterator[User]:
    """The story's user; what a test broke is mended, what it leaves running is deleted."""
    yield lab_user
    lab.restore()
    lab_user.delete_all()
