"""Replay: decisions of a real leader are made again, bit for bit, whoever leads meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.builders import an_id
from tests.support.cloud import Cloud
from unkai_scheduler.domain.instances import Instance, PlacementPolicy
from unkai_scheduler.placement.replay import Replayed, verify
from unkai_scheduler.placement.segments import unseal
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.placement import PlacementService
from unkai_scheduler.services.replays import ReplaysService
from unkai_wire.errors import FailedPrecondition


def context(cloud: Cloud) -> ServiceContext:
    return ServiceContext(cloud.uow, cloud.clock, an_id, lambda _ids: None)


def service(cloud: Cloud) -> ReplaysService:
    """Return the service of the one scheduler."""
    (scheduler,) = cloud.schedulers.values()
    log = scheduler.decision_log
    return ReplaysService(context(cloud), cloud.segments, log, cloud.settings.decision_log)


async def replayed(cloud: Cloud, instance: Instance) -> Replayed:
    return await service(cloud).replay(instance.id, weights={})


async def test_decisions_of_a_leader_and_of_its_successor_are_made_again(cloud: Cloud) -> None:
    first = [await cloud.create(name=f"a{n}") for n in range(5)]
    await cloud.until_quiet()
    for instance in first:  # of the segment under way
        assert (await replayed(cloud, instance)).differences == ()

    await cloud.kill("s1")
    await cloud.start("s2")
    second = [await cloud.create(name=f"b{n}") for n in range(5)]
    await cloud.until_quiet()

    for instance in [*first, *second]:
        found = await replayed(cloud, instance)
        assert found.differences == ()
        decision = await PlacementService(context(cloud)).explain(instance.id)
        assert found.replayed.summary == decision.summary
        assert found.recorded.host_id == decision.host_id
    await cloud.kill("s2")
    segments = [unseal(stored) for stored in cloud.segments.kept.values()]
    assert [problem for segment in segments for problem in verify(segment)] == []
    assert sum(segment.header.decisions for segment in segments) >= 10


async def test_a_decision_is_made_again_under_another_policy(cloud: Cloud) -> None:
    await cloud.create(name="first")
    await cloud.until_quiet()
    second = await cloud.create(name="second")
    await cloud.until_quiet()

    found = await service(cloud).replay(
        second.id, policy=PlacementPolicy.PACK, weights={"policy": 255}
    )

    assert found.recorded.policy == "spread"
    assert found.replayed.policy == "pack"
    assert found.replayed.host_id != found.recorded.host_id


async def test_a_decision_older_than_what_is_kept_is_told_with_the_setting(cloud: Cloud) -> None:
    instance = await cloud.create()
    await cloud.until_quiet()
    await cloud.kill("s1")
    await cloud.start("s2")
    cloud.segments.kept.clear()

    with pytest.raises(FailedPrecondition) as lost:
        await replayed(cloud, instance)
    assert lost.value.reason == "DECISION_NOT_LOGGED"
    assert "decision_log.segment_s" in lost.value.fix

    cloud.put_clock_back(-timedelta(days=8).total_seconds())
    with pytest.raises(FailedPrecondition, match="older than what is kept") as old:
        await replayed(cloud, instance)
    assert "decision_log.kept_s" in old.value.fix


async def test_a_damaged_segment_is_told_by_name(cloud: Cloud) -> None:
    instance = await cloud.create()
    await cloud.until_quiet()
    await cloud.kill("s1")
    await cloud.start("s2")
    ((name, stored),) = cloud.segments.kept.items()
    cloud.segments.kept[name] = stored[:-1]

    with pytest.raises(FailedPrecondition) as caught:
        await replayed(cloud, instance)

    assert caught.value.reason == "DECISION_LOG_DAMAGED"
    assert name in caught.value.message
