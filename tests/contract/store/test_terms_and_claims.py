"""The fence of the leader's term, and the one way a claim changes its host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.support.builders import NOON, a_claim, a_host, an_instance
from tests.support.store import a_store
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.instances import Instance
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.store import claims, events, hosts, instances, tombstones
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    UnkaiError,
)

LATER = NOON + timedelta(minutes=5)
STATEMENT = "host burnt down; signed: ada"


async def test_a_term_is_above_the_last_and_above_what_agents_saw(uow: UnitOfWork) -> None:
    assert await uow.take_term(0) == 1
    assert await uow.take_term(0) == 2
    assert await uow.take_term(40) == 41
    assert await uow.take_term(7) == 42


async def test_a_leader_whose_term_is_over_writes_nothing(uow: UnitOfWork) -> None:
    row = an_instance()
    old = await uow.take_term(0)
    await uow.take_term(0)

    with pytest.raises(Conflict) as caught:
        await uow.lead(old, lambda conn: instances.insert(conn, row))

    assert caught.value.reason == "NOT_LEADER"
    assert await uow.read(lambda conn: instances.get(conn, row.id)) is None


async def test_a_term_the_database_has_not_given_is_refused_too(uow: UnitOfWork) -> None:
    # A database restored from a backup is behind the term that the leader holds.
    term = await uow.take_term(0)

    with pytest.raises(Conflict):
        await uow.lead(term + 1, claims.list_all)


async def test_the_leader_writes_under_its_term_and_terms_outlive_the_process(
    tmp_path: Path,
) -> None:
    row = an_instance()
    async with a_store(tmp_path) as uow:
        term = await uow.take_term(9)
        await uow.lead(term, lambda conn: instances.insert(conn, row))
    async with a_store(tmp_path) as again:
        assert await again.take_term(0) == term + 1
        assert await again.read(lambda conn: instances.get(conn, row.id)) == row


async def test_a_second_claim_on_an_instance_is_refused_with_its_whole_batch(
    uow: UnitOfWork,
) -> None:
    first, second, instance = await _placed(uow)
    other = an_instance()
    term = await uow.take_term(0)

    def claim_both(conn: Connection) -> None:
        instances.insert(conn, other)
        claims.insert(conn, [a_claim(other, second), a_claim(instance, second)])

    with pytest.raises(AlreadyExists):
        await uow.lead(term, claim_both)

    assert await uow.read(claims.list_all) == [a_claim(instance, first)]


async def test_a_claim_needs_its_instance_and_its_host(uow: UnitOfWork) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await uow.write(lambda conn: claims.insert(conn, [a_claim(an_instance(), a_host())]))

    assert caught.value.reason == "REFERENCE_BROKEN"


async def test_a_deleted_claim_frees_the_instance(uow: UnitOfWork) -> None:
    _, _, instance = await _placed(uow)

    await uow.write(lambda conn: claims.delete(conn, instance.id, NOON))

    assert await uow.read(lambda conn: claims.get(conn, instance.id)) is None
    assert await uow.read(lambda conn: instances.get(conn, instance.id)) == instance


async def test_a_moved_claim_raises_the_run_epoch_and_buries_the_old_machine(
    uow: UnitOfWork,
) -> None:
    old, new, instance = await _placed(uow)
    term = await uow.take_term(0)

    moved = await uow.lead(term, _move(instance, new))

    claim = await uow.read(lambda conn: claims.get(conn, instance.id))
    assert claim is not None
    assert (claim.host_id, claim.run_epoch) == (new.id, instance.run_epoch + 1)
    assert (moved.host_id, moved.host_name) == (new.id, new.name)
    assert moved.run_epoch == instance.run_epoch + 1
    assert moved.generation == instance.generation + 1
    assert moved.etag != instance.etag
    assert moved.due_time == moved.update_time == LATER
    assert await uow.read(lambda conn: instances.get(conn, instance.id)) == moved
    buried = await uow.read(lambda conn: tombstones.of_instance(conn, instance.id))
    assert buried == [
        Tombstone(instance.id, old.id, instance.generation, instance.run_epoch, LATER)
    ]


async def test_claims_made_or_moved_of_late_are_found(uow: UnitOfWork) -> None:
    _, new, instance = await _placed(uow)
    before = await uow.read(lambda conn: claims.made_since(conn, LATER))
    term = await uow.take_term(0)
    await uow.lead(term, _move(instance, new))

    moved = await uow.read(lambda conn: claims.made_since(conn, LATER))
    later = await uow.read(lambda conn: claims.made_since(conn, LATER + timedelta(seconds=1)))

    assert (before, [claim.host_id for claim in moved], later) == ([], [new.id], [])


async def test_a_moves_event_keeps_the_operators_statement(uow: UnitOfWork) -> None:
    old, new, instance = await _placed(uow)
    term = await uow.take_term(0)
    await uow.lead(term, _move(instance, new))
    await uow.lead(term, _move(instance, old))
    await uow.lead(term, lambda conn: events.stamp(conn, 10))

    told = await uow.read(lambda conn: events.list_page(conn, after=None, limit=9))

    assert [event.attributes["to_host_id"] for event in told] == [old.id, new.id]
    assert {event.attributes["statement"] for event in told} == {STATEMENT}
    assert {event.reason for event in told} == {"CLAIM_MOVED"}


@pytest.mark.parametrize(
    ("error", "target", "statement"),
    [
        (InvalidArgument, "new", "  "),
        (NotFound, "unknown", STATEMENT),
        (FailedPrecondition, "old", STATEMENT),
    ],
)
async def test_a_move_that_is_not_allowed_changes_nothing(
    uow: UnitOfWork, error: type[UnkaiError], target: str, statement: str
) -> None:
    old, new, instance = await _placed(uow)
    to = {"old": old, "new": new, "unknown": a_host()}[target]
    term = await uow.take_term(0)

    with pytest.raises(error):
        await uow.lead(term, _move(instance, to, statement))

    assert await uow.read(claims.list_all) == [a_claim(instance, old)]
    assert await uow.read(lambda conn: tombstones.of_instance(conn, instance.id)) == []


async def test_what_no_host_holds_cannot_move(uow: UnitOfWork) -> None:
    _, new, _ = await _placed(uow)
    free = an_instance()
    await uow.write(lambda conn: instances.insert(conn, free))

    with pytest.raises(FailedPrecondition) as caught:
        await uow.write(_move(free, new))
    assert caught.value.reason == "CLAIM_NOT_MOVABLE"
    with pytest.raises(NotFound):
        await uow.write(_move(an_instance(), new))


def _move(
    instance: Instance, to: Host, statement: str = STATEMENT
) -> Callable[[Connection], Instance]:
    return lambda conn: claims.move(conn, instance.id, to.id, statement=statement, now=LATER)


async def _placed(uow: UnitOfWork) -> tuple[Host, Host, Instance]:
    """Insert two hosts and an instance that the first one holds."""
    first, second = a_host(), a_host()
    instance = an_instance(generation=3, run_epoch=2)

    def insert(conn: Connection) -> None:
        hosts.insert(conn, first)
        hosts.insert(conn, second)
        instances.insert(conn, instance)
        claims.insert(conn, [a_claim(instance, first)])

    await uow.write(insert)
    return first, second, instance
