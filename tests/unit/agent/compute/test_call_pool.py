"""Blocking calls under a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from unkai_agent.compute.call_pool import CallPool, CallTimedOut, PoolExhausted, PoolStuck


@pytest.fixture
async def gate() -> AsyncIterator[threading.Event]:
    """Holds stuck calls back; opened at the end so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def a_pool(size: int = 1, max_lost: int = 2, max_waiting: int = 100) -> CallPool:
    return CallPool("test", size=size, max_lost=max_lost, max_waiting=max_waiting)


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what a thread does; there is no event to wait for."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def lose_a_thread(pool: CallPool, gate: threading.Event) -> None:
    """Let a call hang until it is given up; one that began too late hangs nowhere."""
    lost = pool.lost
    async with asyncio.timeout(20):
        while pool.lost == lost:
            with pytest.raises(CallTimedOut):
                await pool.run(gate.wait, deadline_s=0.05)


async def test_a_call_returns_its_result_from_another_thread() -> None:
    name = await a_pool().run(lambda: threading.current_thread().name, deadline_s=5)
    assert name.startswith("test-")


async def test_a_thread_that_is_idle_for_long_ends_and_the_next_call_gets_a_new_one() -> None:
    pool = CallPool("idle", size=2, max_lost=2, idle_s=0.05)
    first = await pool.run(threading.current_thread, deadline_s=5)
    await asyncio.to_thread(first.join, 5)
    assert not first.is_alive()
    second = await pool.run(threading.current_thread, deadline_s=5)
    assert second is not first


async def test_calls_that_come_just_as_threads_end_are_all_answered() -> None:
    pool = CallPool("busy", size=3, max_lost=2, idle_s=0.001)
    for number in range(300):
        assert await pool.run(lambda n=number: n, deadline_s=5) == number  # type: ignore[misc]
        await asyncio.sleep(0.001 * (number % 3))


async def test_a_call_raises_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        await a_pool().run(lambda: 1 // 0, deadline_s=5)


async def test_a_timeout_that_the_call_raised_is_not_ours() -> None:
    def work() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await a_pool().run(work, deadline_s=5)


async def test_a_stuck_call_ends_at_its_deadline_and_the_next_one_runs(
    gate: threading.Event,
) -> None:
    pool = a_pool(size=1)
    await lose_a_thread(pool, gate)
    assert await pool.run(lambda: 7, deadline_s=5) == 7


async def test_a_stuck_call_delays_others_no_longer_than_its_own_deadline(
    gate: threading.Event,
) -> None:
    pool = a_pool(size=1)
    stuck, other = await asyncio.gather(
        pool.run(gate.wait, deadline_s=0.1),
        pool.run(lambda: 7, deadline_s=5),
        return_exceptions=True,
    )
    assert isinstance(stuck, CallTimedOut)
    assert other == 7


class SlowToBegin(CallPool):
    """Its threads stop for a moment between taking a call and beginning it."""

    def __init__(self) -> None:
        super().__init__("slow", size=2, max_lost=2)
        self.taken, self.go_on = threading.Event(), threading.Event()

    def _next(self) -> Any:
        call = super()._next()
        if call is not None:
            self.taken.set()
            self.go_on.wait(20)
        return call


async def test_no_call_waits_for_a_busy_thread_while_another_may_be_started(
    gate: threading.Event,
) -> None:
    pool = SlowToBegin()
    long = asyncio.create_task(pool.run(gate.wait, deadline_s=20))
    assert await asyncio.to_thread(pool.taken.wait, 20)
    other = asyncio.create_task(pool.run(lambda: 7, deadline_s=20))
    await asyncio.sleep(0)  # it is submitted while the first is taken, and not yet begun
    pool.go_on.set()
    async with asyncio.timeout(5):
        assert await other == 7
    assert not long.done()
    gate.set()
    await long


async def test_a_thread_that_cannot_be_started_costs_its_call_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, done = a_pool(size=1, max_waiting=3), list[int]()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", _no_more_threads)
        for _ in range(5):  # more than may wait: none of them does
            with pytest.raises(PoolExhausted, match="no thread"):
                await pool.run(lambda: done.append(1), deadline_s=5)
    assert await pool.run(lambda: 7, deadline_s=5) == 7
    assert done == [], "who asked was told that it was not done"


async def test_a_thread_that_comes_back_takes_the_calls_that_wait_for_one(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    pool = a_pool(size=1)
    stuck = asyncio.ensure_future(pool.run(gate.wait, deadline_s=1.0))
    await eventually(lambda: pool.busy == 1)
    waiting = asyncio.ensure_future(pool.run(lambda: 7, deadline_s=20))
    await asyncio.sleep(0)
    monkeypatch.setattr(threading.Thread, "start", _no_more_threads)
    with pytest.raises(CallTimedOut):
        await stuck
    gate.set()
    assert await waiting == 7
    assert (pool.lost, pool.busy) == (0, 0)
    assert await pool.run(lambda: 8, deadline_s=20) == 8


async def test_a_pool_that_lost_its_last_thread_with_a_full_queue_serves_again(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    pool = a_pool(size=1, max_waiting=1)
    stuck = asyncio.ensure_future(pool.run(gate.wait, deadline_s=1.0))
    await eventually(lambda: pool.busy == 1)
    waiting = asyncio.ensure_future(pool.run(lambda: 7, deadline_s=1.0))
    await asyncio.sleep(0)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", _no_more_threads)
        for call in (stuck, waiting):
            with pytest.raises(CallTimedOut):
                await call
    with pytest.raises(PoolExhausted, match="wait"):  # a thread is there, and empties the queue
        await pool.run(lambda: 8, deadline_s=5)
    await eventually(lambda: pool._queued == 0)
    assert await pool.run(lambda: 8, deadline_s=5) == 8


def _no_more_threads(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_beyond_its_bound_the_pool_refuses_at_once(gate: threading.Event) -> None:
    pool = a_pool(size=1, max_lost=2)
    for _ in range(2):
        await lose_a_thread(pool, gate)
    with pytest.raises(PoolStuck):
        await pool.run(lambda: 7, deadline_s=5)


async def test_calls_that_come_back_make_room_again(gate: threading.Event) -> None:
    pool = a_pool(size=1, max_lost=1)
    await lose_a_thread(pool, gate)
    gate.set()
    await eventually(lambda: pool.lost == 0)
    assert await pool.run(lambda: 7, deadline_s=5) == 7


async def test_a_call_whose_deadline_passed_in_the_queue_never_begins(
    gate: threading.Event,
) -> None:
    pool = a_pool(size=1)
    begun = []
    stuck = asyncio.ensure_future(pool.run(gate.wait, deadline_s=0.2))
    await asyncio.sleep(0)
    with pytest.raises(CallTimedOut):
        await pool.run(lambda: begun.append(1), deadline_s=0.05)
    gate.set()
    assert await stuck is True
    assert await pool.run(lambda: 7, deadline_s=5) == 7
    assert begun == []


async def test_the_queue_is_bounded(gate: threading.Event) -> None:
    pool = a_pool(size=1, max_waiting=1)
    running = asyncio.ensure_future(pool.run(gate.wait, deadline_s=5))
    await eventually(lambda: pool.busy == 1)
    waiting = asyncio.ensure_future(pool.run(lambda: 7, deadline_s=5))
    await asyncio.sleep(0)
    with pytest.raises(PoolExhausted):
        await pool.run(lambda: 8, deadline_s=5)
    gate.set()
    assert (await running, await waiting) == (True, 7)


async def test_a_cancelled_call_gives_its_thread_up(gate: threading.Event) -> None:
    pool = a_pool(size=1)
    call = asyncio.ensure_future(pool.run(gate.wait, deadline_s=5))
    await eventually(lambda: pool.busy == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await pool.run(lambda: 7, deadline_s=5) == 7


async def test_a_closed_pool_refuses() -> None:
    pool = a_pool()
    await pool.run(lambda: 7, deadline_s=5)
    pool.close()
    with pytest.raises(PoolExhausted):
        await pool.run(lambda: 7, deadline_s=5)
