"""Aggregates in a whole cloud: what they say of hosts counts for what is placed after it."""

from __future__ import annotations

from typing import Any

from tests.support.adopting import a_call, adopt, found
from tests.support.builders import a_project, an_id, an_instance
from tests.support.cloud import GIB, Cloud
from unkai_scheduler.agents.port import MachineOrder
from unkai_scheduler.domain.aggregates import Aggregate
from unkai_scheduler.domain.findings import FindingKind
from unkai_scheduler.domain.hosts import HostState
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.domain.operations import OperationState
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.services.aggregates import AggregateDraft, AggregatesService
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import projects


def aggregates(cloud: Cloud) -> AggregatesService:
    """Return the service beside a scheduler."""
    leader = cloud.schedulers["s1"].leader
    return AggregatesService(ServiceContext(cloud.uow, cloud.clock, an_id, leader.wake))


async def an_aggregate(cloud: Cloud, name: str = "fast", **said: Any) -> Aggregate:
    """Make an aggregate once all hosts are up."""

    async def are_up() -> bool:
        rows = await cloud.hosts()
        return len(rows) == 3 and all(row.state is HostState.UP for row in rows.values())

    await cloud.until(are_up, "all hosts are up")
    return await aggregates(cloud).create(a_call(), AggregateDraft(name, **said))


async def another_project(cloud: Cloud) -> Project:
    project = a_project()
    await cloud.uow.write(lambda conn: projects.insert(conn, project))
    return project


async def hosts_of(cloud: Cloud, *made: Any) -> set[str]:
    await cloud.until_quiet()
    return {(await cloud.instance(one.id)).host_id for one in made}


async def test_a_dedicated_host_takes_its_projects_instances_and_no_others(cloud: Cloud) -> None:
    first, second, third = cloud.host_ids
    ours = await another_project(cloud)
    closed = await an_aggregate(cloud, host_ids=(first, second), project_ids=(ours.id,))

    others = [await cloud.create() for _ in range(4)]
    asking = [await cloud.create(project_id=ours.id, aggregate_id=closed.id) for _ in range(4)]
    assert await hosts_of(cloud, *others) == {third}
    assert await hosts_of(cloud, *asking) <= {first, second}

    await aggregates(cloud).remove_hosts(a_call(), closed.id, [second])
    more = [await cloud.create() for _ in range(6)]
    assert await hosts_of(cloud, *more) == {second, third}


async def test_when_all_hosts_are_dedicated_to_others_it_is_explained(cloud: Cloud) -> None:
    ours = await another_project(cloud)
    await an_aggregate(cloud, "lab", host_ids=tuple(cloud.host_ids), project_ids=(ours.id,))

    made = await cloud.create()
    ended = await cloud.until_ended(made.operation_id, within_s=30)

    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error["details"]["reasons"] == {"dedicated": 3}
    assert ended.error["message"] == (
        "no host fits: 3 of 3 are dedicated to others "
        "(nearest: h1 is dedicated to other projects by aggregate lab)"
    )


async def test_who_waits_for_an_aggregate_is_placed_when_it_has_a_host(cloud: Cloud) -> None:
    fast = await an_aggregate(cloud, traits=("SSD",))
    asking = await cloud.create(aggregate_id=fast.id, capacity_wait_s=600)
    wanting = await cloud.create(required_traits=("SSD",), capacity_wait_s=600)

    async def wait() -> bool:
        placed = [await cloud.operation(one.operation_id) for one in (asking, wanting)]
        return [operation.queue_position for operation in placed] == [1, 2]

    await cloud.until(wait, "both wait")
    await aggregates(cloud).add_hosts(a_call(), fast.id, [cloud.host_ids[1]])

    assert await hosts_of(cloud, asking, wanting) == {cloud.host_ids[1]}


async def test_a_ratio_is_what_a_host_is_filled_and_audited_by(cloud: Cloud) -> None:
    first = cloud.host_ids[0]
    calm = await an_aggregate(cloud, "calm", host_ids=(first,), cpu_ratio=1.0)
    eight = await cloud.create(vcpus=8, aggregate_id=calm.id)
    assert await hosts_of(cloud, eight) == {first}

    ninth = await cloud.create(aggregate_id=calm.id)
    ended = await cloud.until_ended(ninth.operation_id, within_s=30)
    assert ended.error is not None
    assert ended.error["details"]["reasons"] == {"aggregate": 2, "vcpus": 1}

    draft = AggregateDraft(cpu_ratio=0.5)
    await aggregates(cloud).update(a_call(), calm.id, draft, ["cpu_ratio"], "")
    (oversold,) = await found(cloud, FindingKind.HOST_OVERSOLD)
    assert oversold.message == "host h1 holds more than may be claimed of it: vcpus 8 of 4"


async def test_an_adopted_instance_asks_for_its_aggregate_if_there_is_one_still(
    cloud: Cloud,
) -> None:
    first = cloud.host_ids[0]
    calm = await an_aggregate(cloud, "calm", host_ids=(first,), cpu_ratio=0.1)
    warnings = {}
    for ident in (calm.id, an_id("aggregate")):
        told = an_instance(image_id=cloud.image.id, aggregate_id=ident)
        order = MachineOrder(told, cloud.image, GIB, must_exist=True)
        machine = Machine(told.id, first, 1, 1, 1, MachineState.RUNNING, name=told.spec.name)
        cloud.agents.plant_machine(first, machine, order)
        await cloud.until(lambda t=told: is_orphan(cloud, t.id), "it is found")
        adopted = await adopt(cloud, told.id)
        warnings[adopted.instance.spec.aggregate_id] = adopted.warnings

    assert warnings.keys() == {calm.id, ""}
    oversold = "host h1 holds more CPUs now than may be claimed of it"
    assert all(oversold in said for said in warnings.values())


async def is_orphan(cloud: Cloud, instance_id: str) -> bool:
    orphans = await found(cloud, FindingKind.ORPHAN)
    return instance_id in {finding.instance_id for finding in orphans}
