"""What really is in a cloud of one process: its database file, and what its fake hosts hold."""

from __future__ import annotations

import dataclasses

from tests.support import databases
from tests.support.checker import check
from tests.support.cloud import Cloud
from tests.support.findings import Finding
from tests.support.raw_rows import read_by_settings
from tests.support.sights import Held, HostSight, Rules, Sight


def look(cloud: Cloud) -> Sight:
    """Look at all of a cloud."""
    keys = {
        **{f"/unkai/v1/hosts/{ident}": None for ident in cloud.etcd.hosts},
        **{f"/unkai/v1/schedulers/{name}": None for name in cloud.etcd.schedulers},
    }
    leader = cloud.etcd.leader
    if leader is not None:
        keys["/unkai/v1/leader"] = dataclasses.asdict(leader)
    return Sight(
        read_by_settings({"url": databases.settings_of(cloud.folder).url}),
        hosts=[_host(cloud, host_id) for host_id in cloud.host_ids],
        keys=keys,
        schedulers=len(cloud.schedulers),
    )


def findings(cloud: Cloud, rules: Rules = Rules()) -> list[Finding]:  # noqa: B008 - frozen
    """Look at all of a cloud, and judge."""
    return check(look(cloud), rules)


async def wait_clean(
    cloud: Cloud,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    within_s: float = 120.0,
) -> None:
    """Wait until nothing is at odds; fail with what is at the deadline."""
    found: list[str] = []

    async def is_clean() -> bool:
        found[:] = [str(finding) for finding in findings(cloud, rules)]
        return not found

    try:
        await cloud.until(is_clean, "nothing is at odds", within_s=within_s)
    except AssertionError as error:
        raise AssertionError(f"{error}; still: {found}") from error


def _host(cloud: Cloud, host_id: str) -> HostSight:
    host = cloud.agents.hosts[host_id]
    return HostSight(
        host.description.name,
        reported={
            ident: Held(held.machine.generation, held.machine.run_epoch, held.machine.state.value)
            for ident, held in host.machines.items()
        },
        tombstones={
            ident: Held(stone.generation, stone.run_epoch)
            for ident, stone in host.tombstones.items()
        },
    )
