"""The independent checker looks at a cloud at work: clean once it is settled, else it says so."""

from __future__ import annotations

from tests.support.cloud import Cloud
from tests.support.cloud_sight import findings, wait_clean
from tests.support.findings import Kind
from unkai_scheduler.domain.instances import InstanceState


async def test_a_cloud_is_clean_after_its_work_and_not_while_at_it(cloud: Cloud) -> None:
    made = [await cloud.create(f"vm-{n}") for n in range(4)]
    assert Kind.OPERATION_UNDER_WAY in {finding.kind for finding in findings(cloud)}
    for row in made:
        await cloud.until_state(row.id, InstanceState.RUNNING)
    await cloud.delete(made[0].id)
    await cloud.stop(made[1].id)

    await wait_clean(cloud)

    host_id = (await cloud.instance(made[2].id)).host_id
    cloud.agents.hosts[host_id].machines.pop(made[2].id)
    assert Kind.CLAIM_WITHOUT_MACHINE in {finding.kind for finding in findings(cloud)}
