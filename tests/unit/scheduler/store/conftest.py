"""The store that these tests share: real SQLite on a temporary file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.store import a_store
from unkai_scheduler.store.unit_of_work import UnitOfWork


@pytest.fixture
async def uow(tmp_path: Path) -> AsyncIterator[UnitOfWork]:
    async with a_store(tmp_path) as unit:
        yield unit
