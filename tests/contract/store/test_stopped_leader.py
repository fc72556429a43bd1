"""A leader stopped inside its transaction: another leads, and the revived one is refused."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.acceptance import Shows
from tests.support.builders import an_instance
from tests.support.store import a_store
from unkai_scheduler.store import instances, sqlite
from unkai_scheduler.store.servers import IDLE_IN_TRANSACTION_S
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import Unavailable

ROOT = Path(__file__).parents[3]


async def test_a_stopped_leader_holds_nobody_up_for_long_and_writes_no_more(
    tmp_path: Path, database: str, shows: Shows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)
    async with a_store(tmp_path) as uow:
        term = await uow.take_term(0)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.store_child", "lead", str(tmp_path), str(term)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        try:
            assert await child.stdout.readline() == b"inside\n"
            child.send_signal(signal.SIGSTOP)
            if database == databases.SQLITE:
                refused = await _refused(uow)
                child.send_signal(signal.SIGCONT)
                answers = [(await child.stdout.readline()).decode().strip()]
                taken_s = await _take(uow)
            else:
                refused = ""
                taken_s = await _take(uow)
                child.send_signal(signal.SIGCONT)
                answers = [(await child.stdout.readline()).decode().strip()]
            out, _ = await child.communicate(b"again\n")
            answers.append(out.decode().strip())
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        rows = await uow.read(lambda conn: instances.list_page(conn, after=None, limit=99))
        await uow.write(lambda conn: instances.insert(conn, an_instance()))

    if database == databases.SQLITE:
        # Nobody else could take the term meanwhile, so what it had begun is in order.
        assert refused == "DATABASE_UNAVAILABLE"
        assert answers == ["done", "NOT_LEADER"]
        assert len(rows) == 1
        text = f"writes meanwhile: {refused}; on retry: done; then the old leader: {answers[1]}"
    else:
        assert answers == ["NOT_LEADER", "NOT_LEADER"]
        assert rows == []
        assert taken_s <= IDLE_IN_TRANSACTION_S + 2
        text = f"another took the term after {taken_s:.1f} s; the revived one: {answers[0]}"
    shows(f"solid 2 stopped inside a transaction {database}", text)


async def _refused(uow: UnitOfWork) -> str:
    with pytest.raises(Unavailable) as caught:
        await uow.write(lambda conn: instances.insert(conn, an_instance()))
    return caught.value.reason


async def _take(uow: UnitOfWork) -> float:
    began_s = time.monotonic()
    while True:
        try:
            await uow.take_term(0)
        except Unavailable:
            assert time.monotonic() - began_s < 30
        else:
            return time.monotonic() - began_s
