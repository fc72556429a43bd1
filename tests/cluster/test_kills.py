"""The leader dies at any moment: every accepted operation ends, nothing doubles, nothing leaks."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.support.cloud import Cloud, a_cloud
from tests.support.tripwire import Tripwire
from unkai_scheduler.domain.instances import InstanceState
from unkai_scheduler.domain.operations import OperationState
from unkai_wire.errors import FailedPrecondition

S = InstanceState
SEEDS = int(os.environ.get("UNKAI_TEST_KILLS", "12"))
LAST_SIDE = 150
"""A quiet run of the workload crosses about as many sides."""


async def check_whole(cloud: Cloud) -> None:
    """Check what must hold once all is quiet, whatever happened before."""
    rows = {row.id: row for row in await cloud.instances()}
    held = cloud.machines()
    claimed = {claim.instance_id: claim.host_id for claim in await cloud.claims()}
    assert await cloud.active_operations() == []
    assert all(len(hosts) == 1 for hosts in held.values()), f"doubles: {held}"
    assert {ident: hosts[0] for ident, hosts in held.items()} == claimed
    assert {i: row.host_id for i, row in rows.items() if row.host_id} == claimed
    for row in rows.values():
        assert row.state in {S.RUNNING, S.STOPPED, S.FAILED}, row
        assert row.operation_id == ""
        assert (row.state is S.FAILED) == (not row.host_id)
    assert {ident for ident, row in rows.items() if row.state is S.RUNNING} == set(cloud.running())


async def workload(cloud: Cloud) -> list[str]:
    """Accept one of each: creates, one that fails on a host, stop, reboot, delete, cancel.

    Accepting does not wait for the leader, so it ends also while there is none.
    """
    made = [await cloud.create() for _ in range(5)]
    for number, one in enumerate(made):
        row = await settled(cloud, one.id)
        if row is None or row.state is not S.RUNNING:
            continue
        await (cloud.stop, cloud.reboot, cloud.delete, cloud.stop, cloud.delete)[number](one.id)
    late = await cloud.create()
    await asyncio.sleep(0.3)
    await cloud.cancel(late.operation_id)
    return [one.id for one in (*made, late)]


async def settled(cloud: Cloud, ident: str) -> object:
    """Wait a while until an instance is no longer being made."""
    for _ in range(40):
        row = await cloud.find(ident)
        if row is None or row.state is not S.PROVISIONING:
            return row
        await asyncio.sleep(0.2)
    return row


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_leader_that_dies_at_any_effect_is_made_good_by_the_next(
    tmp_path: Path, seed: int
) -> None:
    at = random.Random(seed).randrange(1, LAST_SIDE)
    async with a_cloud(tmp_path, lead=False) as cloud:
        cloud.agents.fail_starts(
            cloud.host_ids[seed % 3], FailedPrecondition("no room", reason="DISK_FULL")
        )
        wire = Tripwire(at)
        await cloud.start("s1", uow=wire.around(cloud.uow), agents=wire.around(cloud.agents))
        users = asyncio.create_task(workload(cloud))
        dead = asyncio.create_task(wire.died.wait())
        await asyncio.wait([users, dead], return_when=asyncio.FIRST_COMPLETED)
        await cloud.kill("s1")
        dead.cancel()

        await cloud.start("s2")
        await users
        await cloud.until_quiet()

        async def whole() -> bool:
            try:
                await check_whole(cloud)
            except AssertionError:
                return False
            return True

        try:
            await cloud.until(whole, "all is whole", within_s=60)
        except AssertionError:
            print(f"seed {seed}: died at side {at}: {wire.place}")
            await check_whole(cloud)
            raise


@pytest.mark.parametrize("seed", range(max(1, SEEDS // 4)))
async def test_leaders_that_die_again_and_again_still_get_there(tmp_path: Path, seed: int) -> None:
    chance = random.Random(1000 + seed)
    async with a_cloud(tmp_path) as cloud:
        made = [await cloud.create() for _ in range(10)]
        for _ in range(8):
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            await cloud.kill()
            await cloud.start()
        await cloud.until_quiet()

        await check_whole(cloud)
        ends = {(await cloud.operation(one.operation_id)).state for one in made}
        assert ends == {OperationState.SUCCEEDED}
        assert set(cloud.running()) == {one.id for one in made}


async def test_a_machine_that_needs_no_touch_is_not_touched_by_a_new_leader(cloud: Cloud) -> None:
    made = await cloud.create()
    await cloud.until_ended(made.operation_id)
    host_id = (await cloud.instance(made.id)).host_id
    before = cloud.agents.hosts[host_id].machines[made.id].machine
    row = await cloud.instance(made.id)

    await cloud.kill()
    await cloud.start("s2")
    await asyncio.sleep(45)

    assert cloud.agents.hosts[host_id].machines[made.id].machine == before
    assert await cloud.instance(made.id) == row
