"""Connections to libvirt: one call at a time on each, and none outlives its use."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from unittest.mock import Mock

import pytest

from tests.support.acceptance import seeded
from tests.support.compute import until
from tests.support.fake_libvirtd import FakeLibvirtd
from unkai_agent.compute import libvirt_connections, libvirt_session
from unkai_agent.compute.libvirt_console import ConsoleAttachment
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_wire.errors import NotFound, Unavailable, UnkaiError

MISSING = "ins-01h455vb4pex5vsknk084sn02q"


async def test_no_two_calls_meet_on_a_connection_whatever_hangs_and_whoever_leaves(
    hypervisor: FakeLibvirtd,
) -> None:
    chance = seeded("connections")
    driver = LibvirtDriver("fake:///", call_deadline_s=0.3, start_deadline_s=0.3)

    async def one() -> None:
        ident = chance.choice([hypervisor.hung, hypervisor.well, MISSING])
        act = chance.choice([driver.get_domain, driver.start, driver.shutdown, driver.destroy])
        with contextlib.suppress(UnkaiError, TimeoutError):
            async with asyncio.timeout(chance.choice([0.0, 0.01, 0.1, 5.0])):
                await act(ident)
        for guest in hypervisor.guests.values():
            guest.is_on = True

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(20)))
    hypervisor.answers.set()
    await asyncio.gather(*(one() for _ in range(50)))
    await driver.close()
    await hypervisor.until_open(0)


async def test_a_call_after_another_has_its_connection(hypervisor: FakeLibvirtd) -> None:
    driver = LibvirtDriver("fake:///")
    await driver.start(hypervisor.well)
    opened = hypervisor.opened
    for _ in range(20):
        await driver.start(hypervisor.well)
        with pytest.raises(NotFound):
            await driver.start(MISSING)
    assert hypervisor.opened == opened == 2, "one watches, one serves"
    await driver.close()


async def test_a_connection_that_broke_is_replaced(hypervisor: FakeLibvirtd) -> None:
    driver = LibvirtDriver("fake:///")
    await driver.get_domain(hypervisor.well)
    hypervisor.break_connections()
    await driver.get_domain(hypervisor.well)
    await hypervisor.until_open(2)
    assert all(connection.stands for connection in hypervisor.connections)
    await driver.close()


async def test_connections_that_no_call_needs_for_long_are_closed(
    hypervisor: FakeLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = LibvirtDriver("fake:///", call_deadline_s=0.3)
    monkeypatch.setattr(libvirt_connections, "IDLE_S", 0.2)
    with contextlib.suppress(Unavailable):
        await asyncio.gather(*(driver.get_domain(hypervisor.hung) for _ in range(6)))

    hypervisor.answers.set()
    async with asyncio.timeout(20):
        while len(hypervisor.connections) > 2:  # one watches, one serves
            await driver.get_domain(hypervisor.well)
    await driver.close()
    await hypervisor.until_open(0)


async def test_without_threads_an_ended_call_keeps_its_answer_and_connections_are_closed_later(
    hypervisor: FakeLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = LibvirtDriver("fake:///")
    await driver.get_domain(hypervisor.well)
    hypervisor.break_connections()
    with monkeypatch.context() as full:
        start = threading.Thread.start
        full.setattr(threading.Thread, "start", lambda t: _none_to_retire(start, t))
        assert (await driver.get_domain(hypervisor.well)).instance_id == hypervisor.well
    await driver.close()
    await hypervisor.until_open(0)


def _none_to_retire(start: Callable[[threading.Thread], None], thread: threading.Thread) -> None:
    if thread.name == "libvirt-retire":
        raise RuntimeError("can't start new thread")
    start(thread)


def test_an_event_loop_that_had_no_thread_is_started_by_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libvirt, runs = Mock(), threading.Event()
    libvirt.virEventRunDefaultImpl = lambda: runs.set() or threading.Event().wait(60)
    monkeypatch.setattr(libvirt_session, "_event_loop", None)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
        with pytest.raises(Unavailable, match="thread"):
            libvirt_session.start_event_loop(libvirt)
    libvirt_session.start_event_loop(libvirt)
    assert runs.wait(20)


async def test_who_leaves_a_console_that_takes_nothing_waits_for_no_send(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///", call_deadline_s=0.3)
    console = driver.attach_console(hypervisor.hung, typed(b"ls"), force=False)
    assert await anext(console) == b""
    assert await asyncio.to_thread(hypervisor.sending.wait, 20)
    async with asyncio.timeout(20):
        await console.aclose()  # type: ignore[attr-defined]
    assert not hypervisor.consoles_left, "the send is still under way on that connection"

    hypervisor.answers.set()
    await hypervisor.until_open(1)  # which watches
    await driver.close()


async def test_a_console_leaves_nothing_open(hypervisor: FakeLibvirtd) -> None:
    driver = LibvirtDriver("fake:///")
    attached: weakref.WeakSet[ConsoleAttachment] = weakref.WeakSet()
    for _ in range(3):
        console = driver.attach_console(hypervisor.well, typed(), force=False)
        assert await anext(console) == b""
        attached.update(driver._consoles.values())
        await console.aclose()  # type: ignore[attr-defined]
    assert hypervisor.consoles_left == 3
    await hypervisor.until_open(1)  # which watches
    del console

    async def all_are_gone() -> bool:  # with what they have received
        gc.collect()
        return not attached

    await until(all_are_gone)
    await driver.close()


async def test_a_burst_has_as_many_connections_as_calls_are_under_way(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///", workers=4)
    await asyncio.gather(*(driver.get_domain(MISSING) for _ in range(100)))
    assert hypervisor.opened <= 5, "one watches"
    await driver.close()


async def test_calls_that_are_refused_cost_no_connection(hypervisor: FakeLibvirtd) -> None:
    driver = LibvirtDriver("fake:///", call_deadline_s=0.2, max_lost_calls=1)
    with pytest.raises(Unavailable):
        await driver.start(hypervisor.hung)
    opened = hypervisor.opened
    for _ in range(20):
        with pytest.raises(Unavailable, match="too many machines' QEMUs"):
            await driver.shutdown(hypervisor.well)
        await driver.get_domain(MISSING)
    assert hypervisor.opened <= opened + 1
    hypervisor.answers.set()
    await driver.close()


async def test_that_no_connection_can_be_made_is_no_refusal(hypervisor: FakeLibvirtd) -> None:
    driver = LibvirtDriver("fake:///")
    await driver._connections.watch()
    hypervisor.takes_no_more = True
    with pytest.raises(Unavailable, match="cannot be reached"):
        await driver.shutdown(hypervisor.well)
    hypervisor.takes_no_more = False
    await driver.shutdown(hypervisor.well)
    await driver.close()


async def test_what_was_given_up_while_it_connected_is_not_done_later(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///", call_deadline_s=0.2)
    await driver._connections.watch()
    hypervisor.connecting.clear()
    with pytest.raises(Unavailable):
        await driver.shutdown(hypervisor.well)
    hypervisor.connecting.set()
    await hypervisor.until_open(2)
    await driver.get_domain(hypervisor.well)
    assert not any("shut down" in guest.asked for guest in hypervisor.guests.values())
    await driver.close()


async def typed(*texts: bytes) -> AsyncIterator[bytes]:
    for text in texts:
        yield text
    await asyncio.Event().wait()
