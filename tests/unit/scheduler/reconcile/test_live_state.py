"""What the live state keeps, and for whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.builders import NOON
from unkai_scheduler.agents.fake_host import idle_usage
from unkai_scheduler.agents.port import Endpoint, UsageSample
from unkai_scheduler.domain.machines import Machine, MachineState, Tombstone
from unkai_scheduler.reconcile.live import QUEUE_SAMPLES, LiveState
from unkai_wire.errors import Unavailable

HOST = "hst-1"


def a_live_state() -> LiveState:
    return LiveState(clock=lambda: NOON, monotonic=lambda: 100.0)


def a_sample(host_id: str = HOST) -> UsageSample:
    return UsageSample(host_id, idle_usage(1 << 30, NOON), ())


def a_machine(generation: int = 1, state: MachineState = MachineState.RUNNING) -> Machine:
    return Machine("ins-1", HOST, generation, generation, 1, state)


def a_tombstone(generation: int = 1) -> Tombstone:
    return Tombstone("ins-1", HOST, generation, 1, NOON)


def test_an_unknown_host_is_unreachable() -> None:
    live = a_live_state()

    with pytest.raises(Unavailable) as refused:
        live.endpoint(HOST)
    assert refused.value.reason == "HOST_UNREACHABLE"

    live.set_endpoint(Endpoint(HOST, "127.0.0.1:1", "name"))
    assert live.endpoint(HOST).address == "127.0.0.1:1"


def test_an_answer_older_than_what_the_watch_told_is_ignored() -> None:
    live = a_live_state()
    live.put_machine(a_machine(2))

    live.put_answer(a_machine(2, MachineState.CONVERGING))

    assert live.machine(HOST, "ins-1") == a_machine(2)


def test_an_answer_newer_than_what_the_watch_told_is_taken() -> None:
    live = a_live_state()
    live.put_machine(a_machine(2))

    live.put_answer(a_machine(3, MachineState.CONVERGING))

    assert live.machine(HOST, "ins-1") == a_machine(3, MachineState.CONVERGING)


def test_a_late_answer_does_not_bring_back_what_is_buried() -> None:
    live = a_live_state()
    live.put_machine(a_machine(2))
    live.put_tombstone(a_tombstone(2))

    live.put_answer(a_machine(2, MachineState.CONVERGING))

    assert live.machine(HOST, "ins-1") is None
    assert live.tombstone(HOST, "ins-1") == a_tombstone(2)


def test_a_machine_newer_than_its_tombstone_replaces_it() -> None:
    live = a_live_state()
    live.put_tombstone(a_tombstone(2))

    live.put_machine(a_machine(3))

    assert live.tombstone(HOST, "ins-1") is None


def test_a_new_sync_forgets_what_was_told_before() -> None:
    live = a_live_state()
    live.put_machine(a_machine())
    live.end_sync(HOST)

    live.begin_sync(HOST)

    assert not live.is_synced(HOST)
    assert live.machines(HOST) == []


def test_a_newer_tombstone_outlives_the_acknowledgement_of_an_older_one() -> None:
    live = a_live_state()
    live.put_tombstone(a_tombstone(2))

    live.drop_tombstone(a_tombstone(1))
    assert live.tombstones(HOST) == [a_tombstone(2)]

    live.drop_tombstone(a_tombstone(2))
    assert live.tombstones(HOST) == []


async def test_a_subscriber_gets_the_newest_of_each_host_then_what_comes() -> None:
    live = a_live_state()
    live.put_sample(a_sample())
    got = live.subscribe()

    assert await anext(got) == a_sample()
    waiting = asyncio.ensure_future(anext(got))
    await asyncio.sleep(0)
    live.put_sample(a_sample("hst-2"))
    assert await waiting == a_sample("hst-2")


async def test_a_slow_subscriber_loses_the_oldest_and_blocks_nobody() -> None:
    live = a_live_state()
    got = live.subscribe()
    waiting = asyncio.ensure_future(anext(got))
    await asyncio.sleep(0)
    for number in range(QUEUE_SAMPLES + 50):
        live.put_sample(replace(a_sample(), host=replace(a_sample().host, machines_running=number)))

    first = await waiting
    assert first.host.machines_running == 50


async def test_when_the_reign_ends_subscribers_are_told_to_ask_again() -> None:
    live = a_live_state()
    got = live.subscribe()
    waiting = asyncio.ensure_future(anext(got))
    await asyncio.sleep(0)

    live.clear()

    with pytest.raises(Unavailable) as ended:
        await waiting
    assert ended.value.reason == "NOT_LEADER"


def test_a_sample_told_again_is_no_newer() -> None:
    """A host begins each watch with its newest sample, though its sampler may hang."""
    now_s = 100.0
    live = LiveState(clock=lambda: NOON, monotonic=lambda: now_s)
    live.put_sample(a_sample())

    now_s = 112.0
    again = live.put_sample(a_sample())

    assert again is None
    assert live.age_s(HOST) == 12.0


async def test_a_sample_told_again_is_not_passed_on() -> None:
    live = a_live_state()
    live.put_sample(a_sample())
    got = live.subscribe()
    await anext(got)

    waiting = asyncio.ensure_future(anext(got))
    await asyncio.sleep(0)
    live.put_sample(a_sample())
    newer = replace(a_sample(), host=replace(a_sample().host, machines_running=1))
    live.put_sample(newer)

    assert await waiting == newer


def test_who_holds_an_instance_is_known_by_each_hosts_last_whole_word() -> None:
    live, machine, other = a_live_state(), a_machine(), replace(a_machine(), host_id="hst-2")
    live.begin_sync(HOST)
    live.put_machine(machine)
    assert live.holders("ins-1") == (HOST,), "what is told by half counts"
    live.end_sync(HOST)
    live.put_machine(other)

    live.lose_sync(HOST)
    live.drop_host("hst-2")
    assert set(live.holders("ins-1")) == {HOST, "hst-2"}, "who is silent or lost holds it still"

    live.begin_sync(HOST)
    live.begin_sync(HOST)
    assert HOST in live.holders("ins-1"), "it has not said otherwise yet"
    live.end_sync(HOST)
    assert live.holders("ins-1") == ("hst-2",)
    live.put_tombstone(replace(a_tombstone(), host_id="hst-2"))
    assert live.holders("ins-1") == ()

    live.put_machine(machine)
    live.lose_sync(HOST)
    live.forget_host(HOST)
    assert live.holders("ins-1") == (), "it will never come back"


def test_a_host_that_never_ends_its_list_makes_us_remember_no_more_than_two_of_them() -> None:
    live = a_live_state()
    for number in range(9):
        live.begin_sync(HOST)
        live.put_machine(replace(a_machine(), instance_id=f"ins-{number}"))

    assert [n for n in range(9) if live.holders(f"ins-{n}")] == [8]
    live.clear()
    assert live.holders("ins-8") == ()


def test_a_tombstone_older_than_the_machine_lets_nothing_go() -> None:
    live = a_live_state()
    live.put_machine(a_machine(3))

    live.put_tombstone(a_tombstone(2))

    assert live.holders("ins-1") == (HOST,)
