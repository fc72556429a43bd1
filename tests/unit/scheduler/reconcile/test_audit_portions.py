"""What an audit finds is written by portions: thousands of findings hold no writer up for long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.builders import NOON, an_id
from tests.support.store import FaultyStore, a_store, noon
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.agents.port import Endpoint
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.reconcile import audit as audits
from unkai_scheduler.reconcile.audit import WRITTEN_AT_ONCE, Audit
from unkai_scheduler.reconcile.hearsay import Hearsay
from unkai_scheduler.reconcile.hosts import Hosts
from unkai_scheduler.reconcile.live import LiveState
from unkai_scheduler.reconcile.office import Office
from unkai_scheduler.settings import Settings
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_wire.errors import Unavailable

MANY = 2 * WRITTEN_AT_ONCE + 50


class AllUp:
    """Hosts that are all in sync."""

    def state(self, _host_id: str) -> HostState:
        return HostState.UP


class Written(FaultyStore):
    """A store that notes how many events each transaction of the leader left."""

    def __init__(self, uow: UnitOfWork) -> None:
        super().__init__(uow)
        self.counts: list[int] = []
        self.has_all = asyncio.Event()

    async def lead(self, term: int, work: Any) -> Any:
        result = await super().lead(term, work)
        self.counts.append(await self.read(count_events))
        if self.counts[-1] >= MANY:
            self.has_all.set()
        return result


def count_events(conn: Connection) -> int:
    return int(conn.exec_driver_sql("SELECT count(*) FROM events").scalar_one())


def a_live_state() -> LiveState:
    live, host_id = LiveState(clock=noon), an_id("host")
    live.set_endpoint(Endpoint(host_id, "fake:1", "host"))
    for _ in range(MANY):
        ident = an_id("instance")
        live.put_machine(Machine(ident, host_id, 1, 1, 1, MachineState.RUNNING, name="web"))
    live.end_sync(host_id)
    return live


async def test_each_transaction_has_its_portion_and_one_that_fails_is_made_up_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "MAX_WARNINGS", MANY)  # what was not written does not count
    async with a_store(tmp_path) as uow:
        store = Written(uow)
        office = Office(
            name="s1",
            term=await uow.take_term(0),
            uow=store,
            agents=FakeAgents(),
            images=cast(Any, None),
            live=a_live_state(),
            settings=Settings(),
            clock=lambda: NOON,
            new_id=an_id,
            hearsay=Hearsay(lambda: 0.0),
        )
        audit = Audit(office, cast(Hosts, AllUp()))
        store.refuse_next(Unavailable("not now", reason="DATABASE_UNAVAILABLE"))
        running = asyncio.create_task(audit.run())
        async with asyncio.timeout(60):
            while not store.has_all.is_set():
                audit.kick()
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
        told = await uow.read(
            lambda conn: conn.exec_driver_sql(
                "SELECT count(*), count(DISTINCT resource_id) FROM events"
            ).one()
        )

    assert tuple(told) == (MANY, MANY)
    grown = [
        after - before for before, after in zip([0, *store.counts], store.counts, strict=False)
    ]
    assert max(grown) <= WRITTEN_AT_ONCE
