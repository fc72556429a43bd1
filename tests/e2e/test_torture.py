"""Story: schedulers and agents are killed at random moments; everything accepted ends.

On each database: hundreds of creates and deletes, some with real QEMU, while a scheduler or an
agent gets SIGKILL every few seconds. Afterwards an independent checker finds nothing doubled,
leaked or half-done on hosts, in etcd and in the database; two QEMUs of one instance are watched
for every 100 ms.
"""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from tests.support.acceptance import Shows, count, full_counts, seeded
from tests.support.clouds import a_lab_on, databases
from tests.support.fire import Plan, Traffic, under_fire
from unkai_lab.lab import Lab

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("database", databases())
def test_everything_accepted_ends_while_schedulers_and_agents_are_killed(
    database: str, shows: Shows
) -> None:
    creates, real, wanted = count(300), count(60), count(60)
    kills: Counter[str] = Counter()
    plan = Plan(creates, real=real, callers=6, pause_s=0.5 if full_counts() else 0.2)

    with a_lab_on(database, hosts=3, simulated=5) as lab:
        rng = seeded(f"torture {database}")

        def shoot(traffic: Traffic, rng: random.Random) -> None:
            traffic.goes_on = True
            while kills.total() < wanted or traffic.ended < creates:
                time.sleep(rng.uniform(0.1, 2.0))
                assert not traffic.failures, traffic.failures
                kills[_shoot_one(lab, rng)] += 1

        traffic, twins, _ = under_fire(lab, "tor", rng, plan, shoot)
    told = ", ".join(f"{number} of {what}" for what, number in sorted(kills.items()))
    shows(
        f"solid 1 torture {database}",
        f"{kills.total()} SIGKILLs ({told}) during {traffic.ended} creates, {traffic.real} of them"
        f" real QEMUs, and {len(traffic.deleted)} deletes: all ended; the checker found nothing;"
        f" {twins.samples} samples, no instance twice; calls met {dict(traffic.failed)}",
    )


def _shoot_one(lab: Lab, rng: random.Random) -> str:
    """Kill a scheduler or an agent and start it again; say what it was."""
    if rng.random() < 0.5:
        name = rng.choice(lab.spec.scheduler_names)
        lab.kill_scheduler(name)
        _pause(rng)
        lab.start_scheduler(name)
        return "schedulers"
    # Not the fleet's process: simulated disks end with it, as if every host had lost its own.
    host = rng.choice(lab.spec.host_names)
    lab.kill_agent(host)
    _pause(rng)
    lab.start_agent(host)
    return "hosts' agents"


def _pause(rng: random.Random) -> None:
    """Leave it dead for a moment, or start it at once."""
    time.sleep(rng.choice((0.0, rng.uniform(0.0, 3.0))))
