"""The contract of the compute port, on the fake and on real libvirt and QEMU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from tests.support.acceptance import Shows
from tests.support.compute import (
    ComputeHarness,
    FakeHarness,
    LibvirtHarness,
    until_state,
)
from tests.support.libvirt import PrivateLibvirt, private_libvirt, unavailable_reason
from unkai_agent.compute.driver import DiskError, DomainSpec, DomainState, OffReason
from unkai_wire import ids
from unkai_wire.errors import Conflict, FailedPrecondition, NotFound

_WHY_NOT = unavailable_reason()


@pytest.fixture(scope="module")
def libvirt() -> Iterator[PrivateLibvirt]:
    with private_libvirt() as running:
        yield running


@pytest.fixture(
    params=[
        "fake",
        "measured",
        pytest.param(
            "libvirt",
            marks=[pytest.mark.real, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)],
        ),
    ]
)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[ComputeHarness]:
    made: FakeHarness | LibvirtHarness
    if request.param in ("fake", "measured"):
        made = FakeHarness(measured=request.param == "measured")
    else:
        made = LibvirtHarness(request.getfixturevalue("libvirt"))
    yield made
    for domain in await made.driver.list_domains():
        await made.driver.destroy(domain.instance_id)
        await made.driver.undefine(domain.instance_id)
    await made.driver.close()


async def started(harness: ComputeHarness, name: str = "web") -> DomainSpec:
    spec = harness.spec(name)
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    return spec


async def nothing_typed() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for text in nothing:
        yield text


async def test_a_defined_domain_is_off_and_bears_our_metadata(harness: ComputeHarness) -> None:
    spec = replace(harness.spec(generation=3), run_epoch=2)
    await harness.driver.define(spec)
    domain = await harness.driver.get_domain(spec.instance_id)
    assert domain is not None
    assert (domain.name, domain.generation, domain.run_epoch) == (spec.name, 3, 2)
    assert (domain.state, domain.off_reason) == (DomainState.OFF, OffReason.UNKNOWN)
    assert domain.accelerator == "tcg"
    assert [d.instance_id for d in await harness.driver.list_domains()] == [spec.instance_id]


async def test_an_unknown_domain_is_none_and_can_be_stopped_and_removed(
    harness: ComputeHarness,
) -> None:
    missing = ids.new_id("instance")
    assert await harness.driver.get_domain(missing) is None
    await harness.driver.shutdown(missing)
    await harness.driver.destroy(missing)
    await harness.driver.undefine(missing)
    with pytest.raises(NotFound):
        await harness.driver.start(missing)
    with pytest.raises(NotFound):
        await harness.driver.reboot(missing, force=True)


async def test_defining_and_starting_twice_is_harmless(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id)
    assert (await until_state(harness.driver, spec, DomainState.RUNNING)).off_reason is None


async def test_a_paused_start_runs_once_it_is_started_again(harness: ComputeHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    for _ in range(2):
        await harness.driver.start(spec.instance_id, paused=True)
        domain = await until_state(harness.driver, spec, DomainState.PAUSED)
        assert not domain.paused_by_error
    await harness.driver.start(spec.instance_id)
    await until_state(harness.driver, spec, DomainState.RUNNING)
    await harness.driver.start(spec.instance_id, paused=True)
    await until_state(harness.driver, spec, DomainState.RUNNING)


async def test_a_paused_start_can_be_cut_off(harness: ComputeHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    await harness.driver.start(spec.instance_id, paused=True)
    await harness.driver.destroy(spec.instance_id)
    domain = await until_state(harness.driver, spec, DomainState.OFF)
    assert domain.off_reason is OffReason.DESTROYED


async def test_starts_that_overlap_all_succeed(harness: ComputeHarness) -> None:
    # As when an agent that dies while it starts a guest has a successor that does so, too.
    for _ in range(3):
        spec = harness.spec()
        await harness.driver.define(spec)

        async def start(delay_s: float, instance_id: str = spec.instance_id) -> None:
            await asyncio.sleep(delay_s)
            await harness.driver.start(instance_id)

        await asyncio.gather(*(start(0.03 * number) for number in range(12)))
        domain = await harness.driver.get_domain(spec.instance_id)
        assert domain is not None
        assert domain.state is DomainState.RUNNING


async def test_a_redefinition_counts_only_when_the_domain_is_off(harness: ComputeHarness) -> None:
    spec = await started(harness)
    newer = replace(spec, generation=2, vcpus=2)
    await harness.driver.define(newer)
    running = await harness.driver.get_domain(spec.instance_id)
    assert running is not None
    assert running.generation == 1
    await harness.driver.destroy(spec.instance_id)
    await harness.driver.define(newer)
    redefined = await harness.driver.get_domain(spec.instance_id)
    assert redefined is not None
    assert redefined.generation == 2


async def test_a_renamed_domain_takes_its_new_name_once_it_is_off(harness: ComputeHarness) -> None:
    spec = await started(harness, "before")
    renamed = replace(spec, name="after.000001", generation=2)
    await harness.driver.define(renamed)
    assert [d.name for d in await harness.driver.list_domains()] == [spec.name]
    await harness.driver.destroy(spec.instance_id)
    await harness.driver.define(renamed)
    await harness.driver.start(spec.instance_id)
    [domain] = await harness.driver.list_domains()
    assert (domain.name, domain.generation) == ("after.000001", 2)
    assert domain.state is DomainState.RUNNING


async def test_a_name_that_another_domain_bears_is_refused(harness: ComputeHarness) -> None:
    first, second = harness.spec(), harness.spec()
    await harness.driver.define(first)
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.define(replace(second, name=first.name))
    assert refused.value.reason == "DOMAIN_NAME_TAKEN"
    assert await harness.driver.get_domain(second.instance_id) is None


async def test_cutting_the_power_says_destroyed(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.driver.destroy(spec.instance_id)
    await harness.driver.destroy(spec.instance_id)
    domain = await harness.driver.get_domain(spec.instance_id)
    assert domain is not None
    assert (domain.state, domain.off_reason) == (DomainState.OFF, OffReason.DESTROYED)


async def test_a_guest_that_powers_itself_off_says_guest_shutdown(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.guest_shuts_down(spec)
    domain = await until_state(harness.driver, spec, DomainState.OFF)
    assert domain.off_reason is OffReason.GUEST_SHUTDOWN


async def test_the_power_button_reaches_the_guest(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.wait_for_guest(spec)
    await harness.driver.shutdown(spec.instance_id)
    domain = await until_state(harness.driver, spec, DomainState.OFF)
    assert domain.off_reason is OffReason.GUEST_SHUTDOWN
    await harness.driver.shutdown(spec.instance_id)


async def test_a_process_that_dies_says_crashed(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.crash(spec)
    domain = await until_state(harness.driver, spec, DomainState.OFF)
    assert domain.off_reason is OffReason.CRASHED


async def test_a_machine_starts_again_after_a_crash(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.crash(spec)
    await harness.driver.start(spec.instance_id)
    await until_state(harness.driver, spec, DomainState.RUNNING)


async def test_a_disk_that_fails_pauses_the_machine_and_says_so(
    harness: ComputeHarness, shows: Shows, request: pytest.FixtureRequest
) -> None:
    spec = harness.spec()
    changes = harness.driver.watch()
    await harness.start_on_a_broken_disk(spec)

    paused = await until_state(harness.driver, spec, DomainState.PAUSED)
    listed = [d for d in await harness.driver.list_domains() if d.instance_id == spec.instance_id]

    assert paused.paused_by_error
    assert paused.disk_error is DiskError.FAILED
    assert [domain.paused_by_error for domain in listed] == [True]
    async with asyncio.timeout(10), aclosing(changes) as hints:
        assert await anext(hints) == spec.instance_id
    await harness.driver.destroy(spec.instance_id)
    off = await until_state(harness.driver, spec, DomainState.OFF)
    assert (off.paused_by_error, off.disk_error) == (False, None)
    shows(f"solid 7 guest's disk, {request.node.callspec.id}", "unreadable: paused and told")


async def test_a_forced_reboot_keeps_the_machine_running(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.wait_for_guest(spec)
    await harness.driver.reboot(spec.instance_id, force=True)
    await harness.wait_for_guest(spec)
    domain = await harness.driver.get_domain(spec.instance_id)
    assert domain is not None
    assert domain.state is DomainState.RUNNING


async def test_a_machine_that_is_off_cannot_be_rebooted(harness: ComputeHarness) -> None:
    spec = harness.spec()
    await harness.driver.define(spec)
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.reboot(spec.instance_id, force=False)
    assert refused.value.reason == "DOMAIN_OFF"


async def test_a_running_machine_keeps_its_definition(harness: ComputeHarness) -> None:
    spec = await started(harness)
    with pytest.raises(FailedPrecondition) as refused:
        await harness.driver.undefine(spec.instance_id)
    assert refused.value.reason == "DOMAIN_NOT_OFF"
    await harness.driver.destroy(spec.instance_id)
    await harness.driver.undefine(spec.instance_id)
    await harness.driver.undefine(spec.instance_id)
    assert await harness.driver.get_domain(spec.instance_id) is None
    assert await harness.driver.list_domains() == []


async def test_usage_counts_running_machines_only(harness: ComputeHarness) -> None:
    spec, idle = await started(harness), harness.spec("idle")
    await harness.driver.define(idle)
    await harness.wait_for_guest(spec)
    first = await harness.driver.usage()
    assert [u.instance_id for u in first] == [spec.instance_id]
    assert first[0].memory_resident_bytes > 0
    second = await harness.driver.usage()
    assert second[0].cpu_time_ns >= first[0].cpu_time_ns
    await harness.driver.destroy(spec.instance_id)
    assert await harness.driver.usage() == []


async def test_watch_hints_at_a_machine_whose_state_changes(harness: ComputeHarness) -> None:
    spec = await started(harness)
    changes = harness.driver.watch()
    await harness.driver.destroy(spec.instance_id)
    async with asyncio.timeout(10):
        assert await anext(changes) == spec.instance_id


async def test_the_console_says_that_it_is_open_and_echoes(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.wait_for_guest(spec)

    async def keys() -> AsyncIterator[bytes]:
        for key in (b"h", b"ello"):
            yield key

    said = bytearray()
    console = harness.driver.attach_console(spec.instance_id, keys(), force=False)
    async with asyncio.timeout(20):
        assert await anext(console) == b""
        async for text in console:
            said += text
            if b"hello" in said:
                break
    await console.aclose()  # type: ignore[attr-defined]


async def test_a_held_console_is_refused_unless_by_force(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.wait_for_guest(spec)
    first = harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False)
    assert await anext(first) == b""
    with pytest.raises(Conflict) as refused:
        await anext(harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False))
    assert refused.value.reason == "CONSOLE_IN_USE"
    second = harness.driver.attach_console(spec.instance_id, nothing_typed(), force=True)
    assert await anext(second) == b""
    async with asyncio.timeout(10):
        with pytest.raises(Conflict) as ended:
            _ = [piece async for piece in first]
    assert ended.value.reason == "CONSOLE_TAKEN_OVER"
    await second.aclose()  # type: ignore[attr-defined]
    third = harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False)
    assert await anext(third) == b""
    await third.aclose()  # type: ignore[attr-defined]


async def test_a_console_ends_when_the_machine_goes_off(harness: ComputeHarness) -> None:
    spec = await started(harness)
    await harness.wait_for_guest(spec)
    console = harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False)
    assert await anext(console) == b""
    await harness.driver.destroy(spec.instance_id)
    async with asyncio.timeout(10):
        async with aclosing(console):  # type: ignore[type-var]
            async for _ in console:
                pass
    with pytest.raises(FailedPrecondition) as refused:
        await anext(harness.driver.attach_console(spec.instance_id, nothing_typed(), force=False))
    assert refused.value.reason == "DOMAIN_OFF"
