"""Story: the leader is parted from one thing at a time. The fence holds.

Two schedulers over one database server. While users create and delete, the leader is cut off from
etcd, from the database, from the hosts. Another leads where the leader cannot do its work;
everything accepted ends, nothing is doubled.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.support.acceptance import Shows, count, full_counts, seeded
from tests.support.clouds import a_lab_on, databases
from tests.support.evidence import leader_of, rows_of
from tests.support.fire import Plan, Traffic, delete_all, under_fire
from tests.support.lab import wait_for
from tests.support.partitions import AGENTS, DATABASE, ETCD, cut_off
from unkai_lab.lab import Lab

pytestmark = pytest.mark.timeout(1800)
TAKE_OVER_S = {ETCD: 10.0, DATABASE: 25.0, AGENTS: 40.0}
"""A lease of 3 s; 6 s of unfitness once calls fail; and 9 s more until hosts count as silent."""


@pytest.fixture(scope="module", params=databases(only_servers=True))
def pair(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with a_lab_on(request.param, hosts=1, simulated=4, etcd_members=3) as lab:
        yield lab


@pytest.fixture
def whole(pair: Lab) -> Iterator[Lab]:
    """The lab, whole; emptied afterwards."""
    yield pair
    pair.restore()
    delete_all(pair)


def the_plan() -> Plan:
    return Plan(count(60), real=count(6), callers=4, pause_s=0.5)


def the_leader(lab: Lab) -> str:
    return wait_for(lambda: leader_of(lab), "a scheduler leads", 15)


@pytest.mark.parametrize("party", [ETCD, DATABASE, AGENTS])
def test_a_leader_parted_from_one_party_is_replaced_and_everything_accepted_ends(
    whole: Lab, party: str, shows: Shows
) -> None:
    before, took_s = rows_of(whole).term, 0.0

    def shoot(traffic: Traffic, rng: random.Random) -> None:
        nonlocal took_s
        traffic.goes_on = True
        time.sleep(rng.uniform(0.5, 2.0))
        old = the_leader(whole)
        with cut_off(whole, whole.spec.scheduler_cell(old), party):
            begun = time.monotonic()

            def another() -> bool:
                return leader_of(whole) not in ("", old)

            wait_for(another, f"another than {old} leads", TAKE_OVER_S[party])
            took_s = time.monotonic() - begun
            time.sleep(10.0 if full_counts() else 3.0)

    rng = seeded(f"parted from {party}")
    traffic, _, rows = under_fire(whole, f"cut-{party}", rng, the_plan(), shoot)
    assert rows.term > before
    shows(
        f"solid 2 leader cut from {party} {whole.spec.database}",
        f"another led after {took_s:.1f} s; {traffic.ended} creates ended, none doubled;"
        f" term {before} -> {rows.term}",
    )
