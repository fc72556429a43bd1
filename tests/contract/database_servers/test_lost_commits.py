"""A COMMIT whose answer is lost was done or was not: the store finds out, and never guesses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.acceptance import Shows, count, seeded
from tests.support.builders import an_instance
from tests.support.commit_proxy import CommitProxy, Fault, a_commit_proxy
from tests.support.store import a_store, ids_with_default_project, noon
from unkai_scheduler.database_settings import DatabaseSettings
from unkai_scheduler.store import (
    instances,
    server_unit_of_work,
    settled_transactions,
    settlements,
    terms,
    turns,
)
from unkai_scheduler.store.failures import DatabaseFailure, Failure
from unkai_scheduler.store.settled_transactions import SettledTransactions
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork, open_unit_of_work
from unkai_wire.errors import Unavailable


@dataclass
class Behind:
    """A store behind a proxy, and the same database without."""

    proxied: UnitOfWork
    direct: UnitOfWork
    proxy: CommitProxy


@pytest.fixture
async def behind(tmp_path: Path, database: str) -> AsyncIterator[Behind]:
    async with a_store(tmp_path) as direct:
        running = databases.server(database)
        async with a_commit_proxy(running.port) as proxy:
            url = databases.settings_of(tmp_path).url.replace(f":{running.port}", f":{proxy.port}")
            proxied = await open_unit_of_work(
                DatabaseSettings(url=url), clock=noon, new_id=ids_with_default_project()
            )
            await proxied.write(lambda conn: None)  # opens the writer's slot
            yield Behind(proxied, direct, proxy)
            await proxied.close()


def _add_one(ident: str) -> Any:
    def work(conn: Connection) -> int:
        row = instances.locked(conn, ident)
        assert row is not None
        instances.replace(conn, replace(row, attempt=row.attempt + 1), etag=None)
        return row.attempt + 1

    return work


async def _counted(uow: UnitOfWork, ident: str) -> int:
    row = await uow.read(lambda conn: instances.get(conn, ident))
    assert row is not None
    return row.attempt


@pytest.mark.parametrize("settles", [True, False], ids=["settled", "repeated"])
async def test_each_change_is_made_once_only_while_lost_commits_are_settled(
    behind: Behind,
    settles: bool,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    shows: Shows,
) -> None:
    if not settles:  # take it for undone, and do it again

        async def never(*_arguments: object) -> bool:
            return False

        monkeypatch.setattr(SettledTransactions, "_was_committed", never)
    row = an_instance(attempt=0)
    await behind.proxied.write(lambda conn: instances.insert(conn, row))
    changes, random = count(40, least=12), seeded(f"lost commits {database}")
    faults = [*Fault, *(random.choice(list(Fault)) for _ in range(changes - len(Fault)))]

    answers = []
    for fault in faults:
        behind.proxy.faults.append(fault)
        answers.append(await behind.proxied.write(_add_one(row.id)))

    counted = await _counted(behind.direct, row.id)
    assert behind.proxy.done == faults
    assert (counted == changes) is settles
    if settles:
        assert answers == list(range(1, changes + 1))
    shows(
        f"solid 2 lost COMMIT {database}{'' if settles else ', repeated blindly'}",
        f"{changes} changes, each COMMIT lost: counted {counted}",
    )


async def test_a_group_whose_commit_is_lost_is_settled_for_each_of_it(behind: Behind) -> None:
    for fault in Fault:
        rows = [an_instance() for _ in range(8)]
        behind.proxy.faults.append(fault)
        outcomes = await asyncio.gather(
            *(
                behind.proxied.write_grouped(lambda conn, r=row: instances.insert(conn, r))
                for row in rows
            ),
            return_exceptions=True,
        )
        stored = await behind.direct.read(
            lambda conn, r=rows: [instances.get(conn, row.id) for row in r]
        )
        assert outcomes == [None] * 8
        assert stored == rows


async def test_a_leader_whose_commit_came_too_late_learns_that_it_leads_no_more(
    behind: Behind,
) -> None:
    """The COMMIT is under way while another takes the term: both cannot be."""
    row = an_instance(attempt=0)
    await behind.direct.write(lambda conn: instances.insert(conn, row))
    term = await behind.proxied.take_term(0)
    behind.proxy.faults.append(Fault.DELAY_COMMIT)

    led = asyncio.ensure_future(behind.proxied.lead(term, _add_one(row.id)))
    await asyncio.sleep(0.5)
    taken = await behind.direct.take_term(0)
    await led

    assert taken == term + 1
    assert await _counted(behind.direct, row.id) == 1


async def test_a_slot_that_is_opened_while_an_earlier_try_is_still_being_committed_is_no_error(
    behind: Behind, tmp_path: Path
) -> None:
    """The COMMIT of the first try comes when the second has looked: both make the same row."""
    url = databases.settings_of(tmp_path).url
    running = databases.server(databases.kind())
    url = url.replace(f":{running.port}", f":{behind.proxy.port}")
    fresh = await open_unit_of_work(
        DatabaseSettings(url=url), clock=noon, new_id=ids_with_default_project()
    )
    behind.proxy.faults.append(Fault.DELAY_COMMIT)  # the first COMMIT is of opening the slot
    row = an_instance()
    try:
        await fresh.write(lambda conn: instances.insert(conn, row))
    finally:
        await fresh.close()

    assert behind.proxy.done == [Fault.DELAY_COMMIT]
    assert await behind.direct.read(lambda conn: instances.get(conn, row.id)) == row


async def test_a_cut_network_ends_calls_in_bounded_time_and_heals(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_unit_of_work, "ATTEMPT_S", 1.0)
    monkeypatch.setattr(settled_transactions, "ATTEMPT_S", 1.0)
    monkeypatch.setattr(turns, "RETRY_S", 2.0)
    row = an_instance(attempt=0)
    await behind.proxied.write(lambda conn: instances.insert(conn, row))
    behind.proxy.flowing.clear()
    began_s = time.monotonic()
    outcomes = await asyncio.gather(
        behind.proxied.write(_add_one(row.id)),
        behind.proxied.write_grouped(_add_one(row.id)),
        behind.proxied.read(lambda conn: instances.get(conn, row.id)),
        return_exceptions=True,
    )
    took_s = time.monotonic() - began_s
    behind.proxy.flowing.set()
    counted = await behind.proxied.write(_add_one(row.id))

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert took_s < 20
    assert counted == 1


async def test_an_outcome_that_cannot_be_found_out_is_said_to_be_unknown(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled_transactions, "SETTLE_S", 0.5)
    rows = [an_instance() for _ in range(3)]

    def cut_off(*_arguments: object) -> None:
        raise DatabaseFailure(Failure.LOST, "no network")

    monkeypatch.setattr(settlements, "settled", cut_off)
    behind.proxy.faults.append(Fault.LOSE_ANSWER)
    with pytest.raises(Unavailable, match="unknown") as alone:
        await behind.proxied.write(lambda conn: instances.insert(conn, rows[0]))
    await behind.proxied.write(lambda conn: None)  # opens the slot anew
    behind.proxy.faults.append(Fault.LOSE_ANSWER)
    together = await asyncio.gather(
        *(
            behind.proxied.write_grouped(lambda conn, r=row: instances.insert(conn, r))
            for row in rows[1:]
        ),
        return_exceptions=True,
    )
    monkeypatch.undo()

    assert alone.value.reason == "DATABASE_UNAVAILABLE"
    assert {type(error) for error in together} == {Unavailable}
    await behind.proxied.write(lambda conn: terms.take(conn, 0))  # and the store goes on
