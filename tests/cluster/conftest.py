"""Stories of a whole cloud run on a loop whose seconds are shorter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import acceptance, databases
from tests.support.cloud import Cloud, a_cloud
from tests.support.fast_loop import FastLoop
from tests.support.lock_order import watched


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"fast": FastLoop}


@pytest.fixture
def shows() -> acceptance.Shows:
    """Record what a line of the acceptance table showed, and on which database."""
    return lambda line, text: acceptance.show(f"{line}, {databases.kind()}", text)


@pytest.fixture(autouse=True)
def _lock_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which rows were locked out of order."""
    with watched(monkeypatch) as order:
        yield
    assert not order.broken, "\n".join(order.broken)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """A cloud of three hosts with one scheduler that leads."""
    async with a_cloud(tmp_path) as cloud:
        yield cloud
