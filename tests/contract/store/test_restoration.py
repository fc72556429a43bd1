"""A database declared restored: no request of the backup goes on, and what that says to users."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support import databases
from tests.support.builders import (
    NOON,
    a_claim,
    a_host,
    an_id,
    an_image,
    an_instance,
    an_operation,
)
from tests.support.store import a_store
from unkai_scheduler.domain.instances import Instance, InstanceState, Power
from unkai_scheduler.domain.operations import Operation, OperationState, Verb
from unkai_scheduler.store import claims, events, hosts, instances, operations, restoration
from unkai_scheduler.store.restoration import Restored
from unkai_scheduler.store.unit_of_work import Connection, UnitOfWork
from unkai_scheduler.store.upkeep import open_upkeep

S = InstanceState
LATER = NOON + timedelta(minutes=3)
HOST = a_host()
UNDER_WAY: Sequence[tuple[S, Verb | None, dict[str, Any]]] = (
    (S.PROVISIONING, Verb.CREATE, {}),
    (S.PROVISIONING, Verb.CREATE, {"host": True}),
    (S.PROVISIONING, Verb.CREATE, {"host": True, "has_run": True}),
    (S.PROVISIONING, None, {"host": True, "state_reason": {"reason": "CANCELLED"}}),
    (S.STOPPING, Verb.STOP, {"host": True, "has_run": True, "desired_power": Power.OFF}),
    (S.STARTING, Verb.START, {"host": True, "has_run": True}),
    (S.REBOOTING, Verb.REBOOT, {"host": True, "has_run": True, "reboot_serial": 1}),
)
AT_REST: Sequence[tuple[S, Verb | None, dict[str, Any]]] = (
    (S.RUNNING, None, {"host": True, "has_run": True}),
    (S.FAILED, None, {"state_reason": {"reason": "NO_CAPACITY"}}),
    (S.DELETING, Verb.DELETE, {"host": True, "has_run": True, "delete_requested": True}),
    (S.PROVISIONING, Verb.DELETE, {"host": True, "delete_requested": True}),
)
Filled = list[tuple[Instance, Operation | None]]


async def fill(uow: UnitOfWork, wanted: Sequence[tuple[S, Verb | None, dict[str, Any]]]) -> Filled:
    """Write instances, each with its operation and its claim."""
    made: Filled = []
    for state, verb, more in wanted:
        changes = {key: value for key, value in more.items() if key != "host"}
        row = an_instance(state=state, due_time=NOON, attempt=3, **changes)
        operation = None
        if verb is not None:
            cancelled = NOON if len(made) == 1 else None
            operation = an_operation(
                verb=verb, resource_id=row.id, cancel_requested_time=cancelled, queue_position=2
            )
            row = replace(row, operation_id=operation.id)
        made.append((row, operation))

    def work(conn: Connection) -> None:
        if hosts.get(conn, HOST.id) is None:
            hosts.insert(conn, HOST)
        for (row, operation), (_, _, more) in zip(made, wanted, strict=True):
            instances.insert(conn, row)
            if operation is not None:
                operations.insert(conn, operation)
            if more.get("host"):
                claims.insert(conn, [a_claim(row, HOST)])

    await uow.write(work)
    return made


async def declare(folder: Path) -> Restored:
    """Run what `unkai-scheduler db restored` does."""
    upkeep = open_upkeep(databases.settings_of(folder))
    return await asyncio.to_thread(upkeep.restored, LATER, an_id)


async def test_what_was_under_way_ends_and_its_creates_hold_nothing(tmp_path: Path) -> None:
    async with a_store(tmp_path) as uow:
        made = await fill(uow, UNDER_WAY)

    begun = await declare(tmp_path)

    assert {o.id for o in begun.ended} == {o.id for _, o in made if o is not None}
    async with a_store(tmp_path) as uow:
        for before, asked in made:
            row = await uow.read(lambda conn, i=before.id: instances.get(conn, i))
            assert row is not None
            assert (row.operation_id, row.etag != before.etag) == ("", True)
            if asked is not None:
                ended = await uow.read(lambda conn, i=asked.id: operations.get(conn, i))
                assert ended is not None
                assert (ended.state, ended.end_time) == (OperationState.FAILED, LATER)
                assert (ended.error or {})["reason"] == "DATABASE_RESTORED"
                assert ended.queue_position == 0
            if before.state is S.PROVISIONING:
                assert (row.state, row.host_id, row.due_time) == (S.FAILED, "", None)
                assert (row.state_reason or {})["reason"] == "DATABASE_RESTORED"
            else:
                # The leader takes over what its host was last told.
                assert (row.state, row.host_id, row.due_time) == (before.state, HOST.id, LATER)
                assert row.desired_power is before.desired_power


async def test_what_was_at_rest_or_being_deleted_stays_as_it_is(tmp_path: Path) -> None:
    async with a_store(tmp_path) as uow:
        made = await fill(uow, AT_REST)
        before = [await uow.read(lambda conn, i=r.id: instances.get(conn, i)) for r, _ in made]

    begun = await declare(tmp_path)

    assert begun.ended == ()
    async with a_store(tmp_path) as uow:
        after = [await uow.read(lambda conn, i=r.id: instances.get(conn, i)) for r, _ in made]
        active = await uow.read(
            lambda conn: operations.list_page(conn, after=None, limit=9, active_only=True)
        )
    assert after == before
    assert {o.id for o in active} == {o.id for _, o in made if o is not None}


async def test_users_are_told_by_one_event_for_each_thing_that_changed(tmp_path: Path) -> None:
    async with a_store(tmp_path) as uow:
        made = await fill(uow, UNDER_WAY[:2])
    await declare(tmp_path)

    async with a_store(tmp_path) as uow:
        await uow.write(lambda conn: events.stamp(conn, 99))
        told = await uow.read(lambda conn: events.list_page(conn, after=None, limit=99))
    assert sorted((e.resource_kind, e.resource_id, e.state, e.reason) for e in told) == sorted(
        (kind, ident, "FAILED", "DATABASE_RESTORED")
        for row, operation in made
        for kind, ident in (("instance", row.id), ("operation", operation.id if operation else ""))
    )


async def test_more_than_a_page_of_requests_end_and_declaring_it_twice_adds_nothing(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(restoration, "_AT_ONCE", 3)
    async with a_store(tmp_path) as uow:
        await fill(uow, [*UNDER_WAY[:1], *UNDER_WAY, *AT_REST])

    first, second = await declare(tmp_path), await declare(tmp_path)

    assert len(first.ended) == len(UNDER_WAY)
    assert second.ended == ()
    async with a_store(tmp_path) as uow:
        left = await uow.read(
            lambda conn: instances.list_page(conn, after=None, limit=99, states=[S.PROVISIONING])
        )
    assert [row.delete_requested for row in left] == [True]


async def test_an_image_that_is_being_deleted_goes_on(tmp_path: Path) -> None:
    image = an_image()
    deletion = an_operation(verb=Verb.DELETE, resource_kind="image", resource_id=image.id)
    async with a_store(tmp_path) as uow:
        await uow.write(lambda conn: operations.insert(conn, deletion))

    await declare(tmp_path)

    async with a_store(tmp_path) as uow:
        left = await uow.read(lambda conn: operations.get(conn, deletion.id))
    assert left == deletion
