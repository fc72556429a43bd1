"""What the stories' clock does while a database server is at work."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.cloud import a_cloud

WORK_S = 0.5
SLEEPS = {"postgresql": "SELECT pg_sleep(0.5)", "mariadb": "SELECT SLEEP(0.5)"}


@pytest.mark.skipif(databases.kind() == databases.SQLITE, reason="SQLite answers in a thread")
async def test_the_clock_does_not_jump_while_the_server_is_at_work_for_a_caller_that_left(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path, lead=False) as cloud:
        began, began_s = asyncio.Event(), time.monotonic()

        def work(conn: Any) -> None:
            began.set()
            conn.exec_driver_sql(SLEEPS[databases.kind()])

        caller = asyncio.create_task(cloud.uow.write(work))
        await began.wait()
        caller.cancel()
        await asyncio.wait([caller])
        await asyncio.sleep(5)

        assert time.monotonic() - began_s >= WORK_S
