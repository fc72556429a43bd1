"""Concurrent calls for one key share one run."""

from __future__ import annotations

import asyncio

import pytest

from unkai_agent.storage.single_flight import SingleFlight
from unkai_wire.errors import FailedPrecondition


class Work:
    """Work that waits to be let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.runs += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_come_meanwhile_share_one_run() -> None:
    flights, work = SingleFlight(), Work()
    calls = [asyncio.create_task(flights.run("a", work)) for _ in range(5)]
    await settle()
    work.go.set()
    await asyncio.gather(*calls)
    assert work.runs == 1


async def test_other_keys_run_by_themselves() -> None:
    flights, work = SingleFlight(), Work()
    calls = [asyncio.create_task(flights.run(key, work)) for key in "abc"]
    await settle()
    assert work.runs == 3
    work.go.set()
    await asyncio.gather(*calls)


async def test_an_error_is_shared_as_a_copy_each() -> None:
    flights, work = SingleFlight(), Work()
    work.error = FailedPrecondition("no", reason="DISK_FULL", metadata={"what": "x"})
    calls = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await settle()
    work.go.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert work.runs == 1
    assert [e.to_record() for e in errors if isinstance(e, FailedPrecondition)] == [
        work.error.to_record()
    ] * 3
    assert len({id(e) for e in errors}) == 3


async def test_after_a_bug_the_next_tries_for_itself() -> None:
    flights, work = SingleFlight(), Work()
    work.error = KeyError("bug")
    calls = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await settle()
    work.go.set()
    assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [KeyError] * 3
    assert work.runs == 3


async def test_a_cancelled_run_is_taken_over() -> None:
    flights, work = SingleFlight(), Work()
    first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert work.runs == 2
    work.go.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_waiter_may_leave_without_harm() -> None:
    flights, work = SingleFlight(), Work()
    first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await settle()
    second.cancel()
    await settle()
    work.go.set()
    await first
    assert work.runs == 1
