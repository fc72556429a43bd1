"""Story: the clock of whoever leads is set by an hour. The fence holds, and nobody notices.

Two schedulers on PostgreSQL, an etcd, a process of simulated hosts, without a lab. While users
create and delete, the leader's clock goes an hour ahead; it is stopped past its lease, the other
one leads, and its clock goes an hour back; it is stopped, and the first one, still ahead, leads
again. All go by the database's time, so nothing that was accepted ends by its deadline, and what
one has put off the next one does not leave lying.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import databases
from tests.support.acceptance import Shows, count, seeded
from tests.support.checker import check
from tests.support.clocks import SteppedClock
from tests.support.daemons import Cloud, Daemon, cloud_of_daemons, until
from tests.support.evidence import as_rows, simulated_hosts
from tests.support.faults import halted
from tests.support.fire import Plan, Traffic, calling, upload
from tests.support.raw_rows import read_by_settings
from tests.support.sights import Rules, Sight
from tests.support.user import tiny_image
from unkai_lab.configuration import SIMULATED_TRAIT
from unkai_lab.spec import POSTGRESQL

pytestmark = pytest.mark.timeout(600)
HOUR_S = 3600.0
HOSTS = 4


@dataclass
class Pair:
    """Two schedulers whose clocks can be set, and their hosts."""

    cloud: Cloud
    schedulers: Sequence[Daemon]
    clocks: Sequence[SteppedClock]
    fleet: Daemon

    def sockets(self) -> Sequence[Path]:
        return [Path(each.settings["socket"]) for each in self.schedulers]

    def figure(self, number: int, name: str) -> float:
        """Return one of a scheduler's figures."""
        lines = self.cloud.figures(self.schedulers[number]).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def leads(self, number: int) -> bool:
        return self.figure(number, "unkai_leader") == 1

    def set_clock(self, number: int, ahead_s: float) -> None:
        """Set one's clock, and wait until its process goes by it."""
        self.clocks[number].step(ahead_s)

        def is_set() -> bool:
            told_s = self.figure(number, "unkai_scheduler_clock_ahead_seconds")
            return abs(told_s - ahead_s) < 60

        until(is_set, f"{self.schedulers[number].name} is {ahead_s} s ahead")

    def let_lead(self, number: int) -> None:
        """Stop the other one, past its lease, until this one leads; revived, it leads no more."""
        other = self.schedulers[1 - number].process
        assert other is not None
        if not self.leads(number):
            with halted(other.pid):
                until(lambda: self.leads(number), f"{self.schedulers[number].name} leads")
        until(lambda: not self.leads(1 - number), "the other one has learnt that it leads no more")

    def look(self) -> Sight:
        tables = read_by_settings(self.schedulers[0].settings["database"])
        ids = {row["name"]: row["id"] for row in tables["hosts"]}
        state, socket = (Path(self.fleet.settings[key]) for key in ("state_dir", "socket"))
        return Sight(tables, hosts=simulated_hosts(state, socket, ids), schedulers=2)


def a_pair(cloud: Cloud, folder: Path) -> Pair:
    """Start two schedulers on one database, and hosts, and wait until all know each other."""
    (folder / "database").mkdir()
    url = databases.settings_of(folder / "database").url
    schedulers, clocks = [], []
    for name in ("s1", "s2"):
        (folder / name).mkdir()
        clocks.append(SteppedClock.make(folder / name))
        images = {"url": f"file://{folder / 'images'}"}
        made = cloud.scheduler(name, images=images)
        made.settings["database"] = {"url": url}
        made.command = [*clocks[-1].wrapper, *made.command]
        schedulers.append(made)
    fleet = cloud.fleet("f1", HOSTS, traits=[SIMULATED_TRAIT])
    pair = Pair(cloud, schedulers, clocks, fleet)
    schedulers[0].start()  # it makes the database's tables
    until(lambda: pair.leads(0), "the first one leads")
    schedulers[1].start()
    fleet.start()
    until(lambda: not pair.leads(1), "the second one serves")
    return pair


def work(traffic: Traffic, lives: int) -> None:
    """Let so many lives go by."""
    wanted = traffic.ended + lives
    until(lambda: traffic.ended >= wanted or traffic.failures, f"{lives} more lives", 120.0)


def test_leaders_whose_clocks_are_set_by_an_hour_lead_on_as_if_nothing_had_been(
    tmp_path: Path, shows: Shows
) -> None:
    rng = seeded("wrong clocks")
    turns: list[str] = []
    with databases.use(POSTGRESQL), cloud_of_daemons(tmp_path / "cloud") as cloud:
        pair = a_pair(cloud, tmp_path)
        upload(pair, "tiny", tiny_image())
        with calling(pair) as caller:
            steady = caller.finish(
                caller.persist(
                    lambda user: user.create(
                        "steady", required_traits=[SIMULATED_TRAIT], capacity_wait_s=60
                    )
                ).operation
            ).resource_id
            started = caller.persist(lambda user: user.get(steady)).start_time
        before = as_rows(pair.look().tables).term

        plan = Plan(count(60), callers=4, pause_s=0.2)
        with Traffic(pair, "clock", rng, plan) as traffic:
            traffic.goes_on = True
            for number, step_s in ((0, HOUR_S), (1, -HOUR_S)):
                pair.let_lead(number)
                time.sleep(rng.uniform(0.0, 1.0))
                pair.set_clock(number, step_s)
                work(traffic, count(60))
                turns.append(f"{pair.schedulers[number].name} {step_s / HOUR_S:+.0f} h")
            pair.let_lead(0)
            work(traffic, count(60))

        assert not traffic.failures, traffic.failures

        def is_clean() -> bool:
            found = [str(finding) for finding in check(pair.look(), Rules())]
            assert not found, found
            return True

        until(is_clean, "nothing is at odds", 120.0)
        rows = as_rows(pair.look().tables)
        traffic.check(rows)
        with calling(pair) as caller:
            guest = caller.persist(lambda user: user.get(steady))
            assert guest.start_time == started, "no agent has touched what needed no touch"
        logs = [each.log for each in pair.schedulers]
        until(lambda: all("clock_differs" in log.read_text() for log in logs), "both have said so")
    assert rows.term >= before + 2
    shows(
        "solid 2 clock of the leader postgresql",
        f"{', then its successor '.join(turns)}, then the first again, still ahead:"
        f" {len(traffic.operations)} creates and deletes ended, none by its deadline, no host"
        f" oversold, no machine doubled or touched; each, stopped past its lease, led no more when"
        f" revived; term {before} -> {rows.term}",
    )
