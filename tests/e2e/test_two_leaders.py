"""Story: two schedulers that both believe they lead. The fence holds: nothing is sold twice.

The leader is stopped for half a minute, at a random moment and inside a transaction, while users
create more than the hosts can hold; another leads meanwhile; revived, the old one goes on with what
it was about to do, and is refused. On a database server a transaction that stands idle is ended
after 3 s. An SQLite file stays locked as long as the stopped one holds it: writes then end in
UNAVAILABLE, and the same request succeeds afterwards.
"""

from __future__ import annotations

import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.acceptance import Shows, count, full_counts, seeded
from tests.support.clouds import a_lab_on, databases
from tests.support.evidence import leader_of, rows_of
from tests.support.faults import halted, is_stopped
from tests.support.fire import Plan, Traffic, calling, delete_all, under_fire
from tests.support.lab import wait_for
from tests.support.trapped import Trap
from unkai_lab.journal import ProcessId
from unkai_lab.lab import Lab
from unkai_lab.spec import SQLITE
from unkai_wire.errors import Unavailable

pytestmark = pytest.mark.timeout(1800)
PAUSE_S = 30.0 if full_counts() else 5.0
"""A lease of the lead lives 3 s, a transaction on a server 3 s: either is long over."""
PATIENCE_S = 60.0
"""Long over what any of it takes, for a machine that has much else to do."""


def process_of(lab: Lab, scheduler: str) -> ProcessId:
    process = lab.site.running(lab.spec.scheduler_cell(scheduler), "scheduler")
    assert process is not None, f"{scheduler} does not run"
    return process


def set_traps(lab: Lab, folder: Path) -> dict[str, Trap]:
    """Start both schedulers anew, each with a trap inside a leader's transactions."""
    names = lab.spec.scheduler_names
    traps = {name: Trap("in lead", signal.SIGSTOP, folder / f"armed-{name}") for name in names}
    for name in names:
        lab.kill_scheduler(name)
    with ThreadPoolExecutor(len(names)) as pool:
        wrappers = [traps[name].wrapper for name in names]
        list(pool.map(lab.control.start_scheduler, names, wrappers))
    return traps


def wait_for_another(lab: Lab, old: str) -> str:
    def other() -> str:
        name = leader_of(lab)
        return name if name not in ("", old) else ""

    return wait_for(other, f"another than {old} leads", PATIENCE_S)


def has_learnt(lab: Lab, scheduler: str, since: int) -> bool:
    """Tell whether a scheduler has said, after so many bytes of its log, that its reign is over."""
    text = lab.paths.log(lab.spec.scheduler_cell(scheduler), "scheduler").read_bytes()[since:]
    return any(word in text for word in (b"reign_ended", b"lead_not_renewed", b"lead_lost"))


def log_size(lab: Lab, scheduler: str) -> int:
    return lab.paths.log(lab.spec.scheduler_cell(scheduler), "scheduler").stat().st_size


def half_of(traffic: Traffic) -> None:
    """Let some of the work be done first."""
    tenth = traffic.plan.creates // 10
    wait_for(lambda: traffic.ended >= tenth or traffic.is_over, "work goes on", PATIENCE_S)


@pytest.mark.parametrize("database", databases())
def test_a_leader_stopped_and_revived_sells_nothing_twice(
    database: str, shows: Shows, tmp_path: Path
) -> None:
    # More than the simulated hosts hold: eight large ones each.
    creates = count(100)
    simulated = max(1, creates // 10)
    plan = Plan(
        creates,
        real=count(10),
        kept_ratio=1.0,
        callers=6,
        simulated_flavor="large",
        capacity_wait_s=5,
        may_lack_capacity=True,
    )
    is_file = database == SQLITE
    with a_lab_on(database, hosts=2, simulated=simulated, shared_file=is_file) as lab:
        rng = seeded(f"two leaders {database}")
        before = rows_of(lab).term
        outside = _stopped_at_a_random_moment(lab, rng, plan)
        delete_all(lab)
        inside = _stopped_in_a_transaction(lab, rng, plan, tmp_path, is_file=is_file)
        after = rows_of(lab).term
    assert after >= before + 2
    made = [outside, inside]
    shows(
        f"solid 2 two leaders {database}",
        f"stopped {PAUSE_S:.0f} s at a random moment and inside a transaction, revived; "
        f"{sum(t.ended for t in made)} creates, {sum(len(t.refused) for t in made)} of them"
        f" refused for want of room: all ended, no host oversold, no machine twice; "
        f"term {before} -> {after}",
    )


def _stopped_at_a_random_moment(lab: Lab, rng: random.Random, plan: Plan) -> Traffic:
    def shoot(traffic: Traffic, rng: random.Random) -> None:
        half_of(traffic)
        time.sleep(rng.uniform(0.0, 1.0))
        old = wait_for(lambda: leader_of(lab), "one leads", PATIENCE_S)
        since = log_size(lab, old)
        with halted(process_of(lab, old).pid):
            begun = time.monotonic()
            wait_for_another(lab, old)
            time.sleep(max(0.0, begun + PAUSE_S - time.monotonic()))
        wait_for(lambda: has_learnt(lab, old, since), f"{old} learns of it", PATIENCE_S)

    return under_fire(lab, "outside", rng, plan, shoot)[0]


def _stopped_in_a_transaction(
    lab: Lab, rng: random.Random, plan: Plan, folder: Path, *, is_file: bool
) -> Traffic:
    def shoot(traffic: Traffic, rng: random.Random) -> None:
        half_of(traffic)
        old = wait_for(lambda: leader_of(lab), "one leads", PATIENCE_S)
        process, since = process_of(lab, old), log_size(lab, old)
        traps[old].arm()
        wait_for(lambda: traps[old].has_gone_off and is_stopped(process.pid), "stops", PATIENCE_S)
        begun = time.monotonic()
        other = next(name for name in traps if name != old)
        request_id = str(uuid.uuid4())
        if is_file:
            refused_meanwhile(lab, other, request_id)
        else:
            assert wait_for_another(lab, old) == other
        time.sleep(max(0.0, begun + PAUSE_S - time.monotonic()))
        process.kill(signal.SIGCONT)
        wait_for(lambda: has_learnt(lab, old, since), f"{old} learns of it", PATIENCE_S)
        if is_file:
            with calling(lab) as caller:
                caller.persist(lambda user: user.create("retried", request_id=request_id))

    traps = set_traps(lab, folder)
    return under_fire(lab, "inside", rng, plan, shoot)[0]


def refused_meanwhile(lab: Lab, scheduler: str, request_id: str) -> None:
    """See that a write ends in UNAVAILABLE while the file is locked."""
    number = list(lab.spec.scheduler_names).index(scheduler)
    with calling(lab, first=number, timeout_s=60.0) as caller, pytest.raises(Unavailable):
        caller.user.create("retried", request_id=request_id)
