"""Story: the tools that deal faults to a lab reach what they are aimed at, and nothing else.

1. A scheduler cut off from etcd reaches its database and agents, and so on. 2. A trapped scheduler
stops inside a transaction. 3. A scheduler with a wrong clock. 4. A hung libvirt.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.clocks import SteppedClock
from tests.support.faults import hung_libvirt, is_stopped
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.partitions import AGENTS, ETCD, SCHEDULERS, cut_off
from tests.support.trapped import Trap
from unkai_lab.configuration import AGENT_PORT, SCHEDULER_PORT, etcd_endpoints
from unkai_lab.errors import LabError
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two schedulers on one file, which is enough to aim at one of them."""
    skip_without_a_lab_machine()
    spec = LabSpec(name="tools", hosts=1, simulated=1, schedulers=2, shares_file=True)
    with running_lab(unique(spec)) as made:
        yield made


def reaches(lab: Lab, cell: str, endpoint: str) -> bool:
    """Try for a second, which on a busy machine may be too short for what is in reach."""
    host, _, port = endpoint.rpartition(":")
    probe = ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"]
    return lab.run(cell, probe, check=False).returncode == 0


def wait_reached(lab: Lab, cell: str, endpoint: str) -> None:
    wait_for(lambda: reaches(lab, cell, endpoint), f"{cell} reaches {endpoint}")


def test_a_partition_cuts_off_what_it_names_and_heals(pair: Lab) -> None:
    endpoints = {
        ETCD: etcd_endpoints(pair.spec)[0],
        AGENTS: f"{pair.spec.address('h1')}:{AGENT_PORT}",
        SCHEDULERS: f"{pair.spec.address('s2')}:{SCHEDULER_PORT}",
    }
    for party, away in endpoints.items():
        with cut_off(pair, "s1", party):
            assert not reaches(pair, "s1", away)
            for name in endpoints.keys() - {party}:
                wait_reached(pair, "s1", endpoints[name])
            wait_reached(pair, "s2", endpoints[ETCD])  # the other one is not concerned
            assert not reaches(pair, "s1", away), "still cut off"
    for each in endpoints.values():
        wait_reached(pair, "s1", each)


def test_a_trapped_scheduler_stops_inside_a_transaction_and_can_be_revived(
    pair: Lab, tmp_path: Path
) -> None:
    trap = Trap("in lead", signal.SIGSTOP, tmp_path / "armed")
    pair.kill_scheduler("s1")
    pair.kill_scheduler("s2")
    pair.control.start_scheduler("s1", trap.wrapper)
    process = pair.site.running("s1", "scheduler")
    assert process is not None
    trap.arm()
    wait_for(lambda: trap.has_gone_off and is_stopped(process.pid), "it has stopped itself", 20)
    process.kill(signal.SIGCONT)
    wait_for(lambda: not is_stopped(process.pid), "it goes on", 5)
    pair.restore()


def test_a_scheduler_with_a_wrong_clock_says_so_in_its_log(pair: Lab, tmp_path: Path) -> None:
    clock = SteppedClock.make(tmp_path)
    pair.kill_scheduler("s2")
    clock.step(-3600)
    log = pair.paths.log("s2", "scheduler")

    def starts() -> list[str]:
        lines = log.read_text().splitlines()
        return [line.split()[0] for line in lines if "scheduler_serving" in line]

    before = len(starts())
    pair.control.start_scheduler("s2", clock.wrapper)
    wait_for(lambda: len(starts()) > before, "it says that it serves", 10)
    behind = datetime.now(UTC) - datetime.fromisoformat(starts()[-1])
    assert behind.total_seconds() == pytest.approx(3600, abs=60)
    pair.kill_scheduler("s2")
    pair.restore()


def test_a_hung_libvirt_answers_nothing_and_then_again(pair: Lab) -> None:
    with hung_libvirt(pair, "h1"), pytest.raises(LabError, match="did not end"):
        pair.run("h1", ["virsh", "list"], timeout_s=1.0)
    pair.virsh("h1", "list")
