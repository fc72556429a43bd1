"""Request ids replay the first answer; tombstones remember the highest removal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.support.builders import NOON, an_instance
from tests.support.store import FaultyStore
from unkai_scheduler.domain.machines import Tombstone
from unkai_scheduler.store import instances, requests, tombstones
from unkai_scheduler.store.unit_of_work import UnitOfWork
from unkai_wire.errors import AlreadyExists, InvalidArgument, Unavailable

REQUEST = ("r-1", "client:ada", "CreateInstance", "digest-1")
ANSWER = {"instance_id": "ins-1", "operation_id": "opr-1", "nested": {"list": [1, "two", None]}}


async def test_the_same_request_again_gives_the_first_answer(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: requests.remember(conn, *REQUEST, ANSWER, NOON))

    assert await uow.read(lambda conn: requests.recall(conn, *REQUEST)) == ANSWER


@pytest.mark.parametrize("change", [{2: "DeleteInstance"}, {3: "digest-2"}])
async def test_an_id_used_for_another_request_is_refused(
    uow: UnitOfWork, change: dict[int, str]
) -> None:
    await uow.write(lambda conn: requests.remember(conn, *REQUEST, ANSWER, NOON))
    other = [change.get(place, text) for place, text in enumerate(REQUEST)]

    with pytest.raises(InvalidArgument) as caught:
        await uow.read(lambda conn: requests.recall(conn, *other))

    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_the_ids_of_two_principals_do_not_meet(uow: UnitOfWork) -> None:
    await uow.write(lambda conn: requests.remember(conn, *REQUEST, ANSWER, NOON))

    other = await uow.read(
        lambda conn: requests.recall(conn, "r-1", "client:eve", "CreateInstance", "digest-1")
    )

    assert other is None


async def test_an_empty_id_is_never_remembered(uow: UnitOfWork) -> None:
    def twice(conn: Connection) -> object:
        for _ in range(2):
            requests.remember(conn, "", *REQUEST[1:], ANSWER, NOON)
        return requests.recall(conn, "", *REQUEST[1:])

    assert await uow.write(twice) is None


async def test_a_failed_mutation_remembers_nothing(uow: UnitOfWork) -> None:
    def create(conn: Connection) -> None:
        requests.remember(conn, *REQUEST, ANSWER, NOON)
        instances.insert(conn, an_instance(name="one"))
        instances.insert(conn, an_instance(name="one"))

    with pytest.raises(AlreadyExists):
        await uow.write_grouped(create)

    assert await uow.read(lambda conn: requests.recall(conn, *REQUEST)) is None


async def test_a_lost_answer_is_settled_by_asking_again(uow: UnitOfWork) -> None:
    store = FaultyStore(uow)
    store.lose_answer_of_next(Unavailable("the answer was lost"))
    row = an_instance()

    def create(conn: Connection) -> dict[str, Any]:
        known = requests.recall(conn, *REQUEST)
        if known is None:
            instances.insert(conn, row)
            requests.remember(conn, *REQUEST, ANSWER, NOON)
        return known or ANSWER | {"new": True}

    with pytest.raises(Unavailable):
        await store.write_grouped(create)

    assert await store.write_grouped(create) == ANSWER


async def test_old_requests_expire(uow: UnitOfWork) -> None:
    later = NOON + timedelta(hours=1)
    await uow.write(lambda conn: requests.remember(conn, *REQUEST, ANSWER, NOON))
    await uow.write(lambda conn: requests.remember(conn, "r-2", *REQUEST[1:], ANSWER, later))

    assert await uow.write(lambda conn: requests.expire(conn, later, 9)) == 1
    assert await uow.read(lambda conn: requests.recall(conn, *REQUEST)) is None
    assert await uow.read(lambda conn: requests.recall(conn, "r-2", *REQUEST[1:])) == ANSWER


async def test_a_tombstone_only_ever_rises(uow: UnitOfWork) -> None:
    first = Tombstone("ins-1", "hst-1", generation=4, run_epoch=2, remove_time=NOON)
    other = replace(first, host_id="hst-2")

    def insert(conn: Connection) -> None:
        tombstones.insert(conn, first)
        tombstones.insert(conn, replace(first, generation=6))
        tombstones.insert(conn, replace(first, generation=5))
        tombstones.insert(conn, other)

    await uow.write(insert)

    expected = [replace(first, generation=6), other]
    assert await uow.read(lambda conn: tombstones.of_instance(conn, "ins-1")) == expected
    assert await uow.read(lambda conn: tombstones.of_instance(conn, "ins-2")) == []
