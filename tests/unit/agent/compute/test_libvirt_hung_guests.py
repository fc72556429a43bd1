"""The hypervisor's driver beside a guest whose own QEMU answers nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import libvirt
import pytest

from tests.support.builders import an_id
from unkai_agent.compute import domain_xml, libvirt_driver
from unkai_agent.compute.driver import DiskError
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_wire import ids
from unkai_wire.errors import Unavailable

HUNG, WELL = an_id("instance"), an_id("instance")
LOOKS = 24
"""More looks at a hung guest than the driver may lose calls."""


class _Domain:
    """A guest that its disk has paused; the hung one's QEMU never says what it met there."""

    def __init__(self, ident: str, answers: threading.Event) -> None:
        self._ident = ident
        self._answers = answers
        self.is_on = True

    def metadata(self, *_: Any) -> str:
        return (
            f'<{domain_xml.METADATA_TAG} xmlns="{domain_xml.NAMESPACE}" '
            f'instance_id="{self._ident}" generation="1" run_epoch="1"/>'
        )

    def state(self) -> list[int]:
        if not self.is_on:
            return [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED]
        return [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]

    def name(self) -> str:
        return self._ident

    def isActive(self) -> bool:
        return self.is_on

    def destroy(self) -> None:
        self.is_on = False

    def resume(self) -> None:
        self._answers.wait(30)

    def shutdownFlags(self, _flags: int) -> None:
        self._answers.wait(30)

    def reboot(self, _flags: int) -> None:
        self._answers.wait(30)

    def reset(self) -> None:
        self._answers.wait(30)

    def diskErrors(self) -> dict[str, int]:
        self._answers.wait(30)
        return {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE}


class _Connection:
    """Two guests."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        at_once = threading.Event()
        at_once.set()
        self.domains = {
            str(ids.uuid_of(HUNG)): _Domain(HUNG, self.answers),
            str(ids.uuid_of(WELL)): _Domain(WELL, at_once),
        }

    def lookupByUUIDString(self, text: str) -> _Domain:
        return self.domains[text]


class _Session:
    """A session whose connection stands until it is given up; counted where it has consoles."""

    given_up = 0
    connection: Any = None

    def __init__(self, _libvirt: Any, _uri: str, on_change: Callable[[str], None] | None) -> None:
        self._watches = on_change is not None

    def open(self) -> None:
        pass

    def usable(self) -> bool:
        return True

    def retire(self) -> None:
        type(self).given_up += self._watches

    close = retire


REQUESTS = 5
"""How many calls of one connection libvirtd carries out at once."""


class _BusySession(_Session):
    """A session as libvirtd serves it: a connection's calls beyond `REQUESTS` wait."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = _BusyConnection(_Session.connection, threading.Semaphore(REQUESTS))


class _BusyConnection:
    def __init__(self, connection: _Connection, free: threading.Semaphore) -> None:
        self._connection = connection
        self._free = free

    def lookupByUUIDString(self, text: str) -> _BusyDomain:
        with self._free:
            return _BusyDomain(self._connection.domains[text], self._free)


class _BusyDomain:
    resumes = threading.Semaphore(0)
    """One permit for each that has begun."""

    def __init__(self, domain: _Domain, free: threading.Semaphore) -> None:
        self._domain = domain
        self._free = free
        self.state, self.isActive = domain.state, domain.isActive

    def destroy(self) -> None:
        with self._free:
            self._domain.destroy()

    def resume(self) -> None:
        with self._free:
            _BusyDomain.resumes.release()
            self._domain.resume()


@pytest.fixture
async def hypervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Connection]:
    connection = _Connection()
    monkeypatch.setattr(_Session, "connection", connection)
    monkeypatch.setattr(_Session, "given_up", 0)
    monkeypatch.setattr(libvirt_driver, "Session", _Session)
    yield connection
    connection.answers.set()


async def test_a_paused_guest_whose_qemu_hangs_is_seen_and_its_power_can_be_cut(
    hypervisor: _Connection,
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5)
    async with asyncio.timeout(60):
        for _ in range(LOOKS):
            seen = await driver.get_domain(HUNG)
            assert seen is not None
            assert (seen.paused_by_error, seen.disk_error) == (True, None)
        assert _Session.given_up == 0, "consoles of other guests would end with the connection"

        await driver.destroy(HUNG)
        gone = await driver.get_domain(HUNG)
        assert gone is not None
        assert not gone.paused_by_error

        other = await driver.get_domain(WELL)
        assert other is not None
        assert other.paused_by_error

        hypervisor.answers.set()
        while other.disk_error is None:
            await asyncio.sleep(0.01)
            other = await driver.get_domain(WELL)
            assert other is not None
        assert other.disk_error is DiskError.NO_ROOM, "asked again once calls have come back"
    await driver.close()


ACTS: dict[str, Callable[[LibvirtDriver, str], Awaitable[None]]] = {
    "resume": lambda driver, ident: driver.start(ident),
    "shut down": lambda driver, ident: driver.shutdown(ident),
    "restart": lambda driver, ident: driver.reboot(ident, force=False),
    "reset": lambda driver, ident: driver.reboot(ident, force=True),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
async def test_a_guest_whose_qemu_hangs_when_told_to_act_costs_no_other_anything(
    hypervisor: _Connection, act: Callable[[LibvirtDriver, str], Awaitable[None]]
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5, start_deadline_s=0.5)
    async with asyncio.timeout(60):
        for _ in range(LOOKS):
            with pytest.raises(Unavailable):
                await act(driver, HUNG)
            await act(driver, WELL)
        assert await driver.get_domain(WELL) is not None
        assert _Session.given_up == 0, "consoles of other guests would end with the connection"

        hypervisor.answers.set()
        while True:
            with contextlib.suppress(Unavailable):
                await act(driver, HUNG)
                break
            await asyncio.sleep(0.01)
        await driver.destroy(HUNG)
    await driver.close()


async def test_the_power_of_a_guest_whose_qemu_hangs_in_an_act_can_be_cut(
    hypervisor: _Connection,
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5, start_deadline_s=0.5)
    for act in ACTS.values():
        with pytest.raises(Unavailable):
            await act(driver, HUNG)

    await driver.destroy(HUNG)

    gone = await driver.get_domain(HUNG)
    assert gone is not None
    assert not gone.paused_by_error
    await driver.close()


async def test_power_can_be_cut_however_many_guests_hang_in_a_resume(
    hypervisor: _Connection,
) -> None:
    driver = LibvirtDriver("fake:///hung", start_deadline_s=0.2, max_lost_calls=2)
    hung = [HUNG, *(an_id("instance") for _ in range(3))]
    for ident in hung:
        hypervisor.domains[str(ids.uuid_of(ident))] = _Domain(ident, hypervisor.answers)
    for ident in hung:
        with pytest.raises(Unavailable):
            await driver.start(ident)
    with pytest.raises(Unavailable):
        await driver.start(WELL)  # as many starts are stuck as may be

    for ident in (*hung, WELL):
        await driver.destroy(ident)

    assert not any(domain.is_on for domain in hypervisor.domains.values())
    await driver.close()


async def test_power_is_cut_at_once_while_hung_resumes_fill_their_connection(
    hypervisor: _Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_driver, "Session", _BusySession)
    monkeypatch.setattr(_BusyDomain, "resumes", threading.Semaphore(0))
    driver = LibvirtDriver("fake:///hung")
    hung = [HUNG, *(an_id("instance") for _ in range(REQUESTS - 1))]
    for ident in hung:
        hypervisor.domains[str(ids.uuid_of(ident))] = _Domain(ident, hypervisor.answers)
    starts = [asyncio.create_task(driver.start(ident)) for ident in hung]
    async with asyncio.timeout(20):
        for _ in hung:
            assert await asyncio.to_thread(_BusyDomain.resumes.acquire, timeout=20)

        for ident in (*hung, WELL):
            await driver.destroy(ident)

    assert not any(domain.is_on for domain in hypervisor.domains.values())
    hypervisor.answers.set()
    await asyncio.gather(*starts)
    await driver.close()
