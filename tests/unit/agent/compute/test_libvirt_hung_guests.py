"""The hypervisor's driver beside a guest whose own QEMU answers nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import libvirt
import pytest

from tests.support.builders import an_id
from tests.support.fake_libvirtd import FakeLibvirtd, Guest
from unkai_agent.compute.driver import DiskError
from unkai_agent.compute.libvirt_driver import LibvirtDriver
from unkai_wire.errors import Unavailable

LOOKS = 24
"""More looks at a hung guest than the driver may lose calls."""


async def test_a_paused_guest_whose_qemu_hangs_is_seen_and_its_power_can_be_cut(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5)
    async with asyncio.timeout(60):
        for _ in range(LOOKS):
            seen = await driver.get_domain(hypervisor.hung)
            assert seen is not None
            assert (seen.paused_by_error, seen.disk_error) == (True, None)
        await driver.destroy(hypervisor.hung)
        gone = await driver.get_domain(hypervisor.hung)
        assert gone is not None
        assert not gone.paused_by_error

        other = await driver.get_domain(hypervisor.well)
        assert other is not None
        assert other.paused_by_error

        hypervisor.answers.set()
        while other.disk_error is None:
            await asyncio.sleep(0.01)
            other = await driver.get_domain(hypervisor.well)
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
    hypervisor: FakeLibvirtd, act: Callable[[LibvirtDriver, str], Awaitable[None]]
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5, start_deadline_s=0.5)
    async with asyncio.timeout(60):
        for _ in range(LOOKS):
            with pytest.raises(Unavailable):
                await act(driver, hypervisor.hung)
            await act(driver, hypervisor.well)
        assert await driver.get_domain(hypervisor.well) is not None

        hypervisor.answers.set()
        while True:
            with contextlib.suppress(Unavailable):
                await act(driver, hypervisor.hung)
                break
            await asyncio.sleep(0.01)
        await driver.destroy(hypervisor.hung)
    await driver.close()


async def test_the_power_of_a_guest_whose_qemu_hangs_in_an_act_can_be_cut(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.5, start_deadline_s=0.5)
    for act in ACTS.values():
        with pytest.raises(Unavailable):
            await act(driver, hypervisor.hung)

    await driver.destroy(hypervisor.hung)

    gone = await driver.get_domain(hypervisor.hung)
    assert gone is not None
    assert not gone.paused_by_error
    await driver.close()


async def test_power_can_be_cut_however_many_guests_hang_in_a_resume(
    hypervisor: FakeLibvirtd,
) -> None:
    driver = LibvirtDriver("fake:///hung", call_deadline_s=0.2, max_lost_calls=2)
    hung = [hypervisor.hung, *(an_id("instance") for _ in range(3))]
    for ident in hung:
        hypervisor.add(Guest(ident, hypervisor.answers))
    for ident in hung:
        with pytest.raises(Unavailable):
            await driver.start(ident)
    with pytest.raises(Unavailable):
        await driver.start(hypervisor.well)  # as many starts are stuck as may be

    for ident in (*hung, hypervisor.well):
        await driver.destroy(ident)

    assert not any(guest.is_on for guest in hypervisor.guests.values())
    await driver.close()


async def test_a_guest_that_goes_off_before_it_is_resumed_is_not_booted_among_the_buttons(
    hypervisor: FakeLibvirtd,
) -> None:
    guest = next(each for each in hypervisor.guests.values() if each.ident == hypervisor.well)
    guest.looks_until_off = 2  # paused at the look that chooses, off at the next
    driver = LibvirtDriver("fake:///")
    with pytest.raises(Unavailable, match="went off meanwhile"):
        await driver.start(guest.ident)
    assert guest.asked == []
    await driver.start(guest.ident)
    assert guest.asked == ["create"]
    await driver.close()


async def test_a_guest_that_powers_off_when_it_is_to_be_resumed_is_not_said_to_run(
    hypervisor: FakeLibvirtd,
) -> None:
    guest = next(each for each in hypervisor.guests.values() if each.ident == hypervisor.well)
    guest.next_states = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTDOWN]
    driver = LibvirtDriver("fake:///")
    with pytest.raises(Unavailable, match="still powering off"):
        await driver.start(guest.ident)
    assert guest.asked == []
    await driver.close()
