"""Zones: who asks for one goes there, whatever else would be better, or is told where hosts are."""

from __future__ import annotations

from tests.support.adopting import a_call
from tests.support.builders import an_id
from tests.support.cloud import Cloud
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.hosts import HostsService

S = InstanceState


async def put(cloud: Cloud, host_id: str, zone: str) -> None:
    """Put a host into a zone."""
    await cloud.until(lambda: is_up(cloud, host_id), "the host is up")
    scheduler = cloud.schedulers["s1"]
    context = ServiceContext(cloud.uow, cloud.clock, an_id, scheduler.leader.wake)
    service = HostsService(context, scheduler.live, cloud.settings.placement.ratios)
    await service.update(a_call(), host_id, zone, ["zone"], "")


async def is_up(cloud: Cloud, host_id: str) -> bool:
    host = (await cloud.hosts()).get(host_id)
    return host is not None and host.state is HostState.UP


async def test_who_asks_for_a_zone_goes_there_and_a_host_keeps_its_own(cloud: Cloud) -> None:
    first, second, third = cloud.host_ids
    await put(cloud, second, "room-2")
    await put(cloud, third, "room-3")

    made = [await cloud.create(zone="room-2") for _ in range(4)]
    await cloud.until_quiet()
    assert {(await cloud.instance(one.id)).host_id for one in made} == {second}

    cloud.lose_host(third)
    await cloud.until(lambda: is_lost(cloud, third), "the host is silent")
    cloud.return_host(third)
    await cloud.until(lambda: is_up(cloud, third), "the host is back")
    there = await cloud.create(zone="room-3")
    await cloud.until_quiet()
    assert (await cloud.instance(there.id)).host_id == third
    assert (await cloud.hosts())[first].zone == "default"


async def is_lost(cloud: Cloud, host_id: str) -> bool:
    return (await cloud.hosts())[host_id].state is HostState.UNKNOWN


async def test_a_zone_that_no_host_is_in_is_explained(cloud: Cloud) -> None:
    made = await cloud.create(zone="moon")

    ended = await cloud.until_ended(made.operation_id, within_s=30)

    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["details"]["reasons"] == {"zone": 3}
    assert ended.error["message"] == (
        "no host fits: 3 of 3 are in another zone (nearest: h1 is in zone default)"
    )


async def test_who_waits_for_a_zone_is_placed_when_a_host_comes_into_it(cloud: Cloud) -> None:
    made = await cloud.create(zone="room-2", capacity_wait_s=600)

    async def waits() -> bool:
        return (await cloud.operation(made.operation_id)).queue_position == 1

    await cloud.until(waits, "it waits for its zone")
    await put(cloud, cloud.host_ids[1], "room-2")
    await cloud.until_quiet()

    row = await cloud.instance(made.id)
    assert (row.state, row.host_id) == (S.RUNNING, cloud.host_ids[1])
