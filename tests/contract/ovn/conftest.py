"""The northbound database of each test: the fake, and a real ovsdb-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.ovn_worlds import FakeWorld, RealWorld, World


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made: World = (
        FakeWorld() if request.param == "fake" else await asyncio.to_thread(RealWorld, tmp_path)
    )
    try:
        yield made
    finally:
        await made.close()
