"""The store on each database: every test of this folder runs on all of them.

`UNKAI_TEST_DATABASE` picks one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.store import a_store
from unkai_scheduler.store.unit_of_work import UnitOfWork

_CHOSEN = os.environ.get(databases.KIND_VARIABLE)


@pytest.fixture(params=[_CHOSEN] if _CHOSEN else databases.KINDS, autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Use one kind of database; the value is its name."""
    with databases.use(request.param):
        yield request.param


@pytest.fixture
async def uow(tmp_path: Path, database: str) -> AsyncIterator[UnitOfWork]:
    async with a_store(tmp_path) as unit:
        yield unit
