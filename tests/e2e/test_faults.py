"""Story: what fails, and what must happen then. Each step kills the real thing.

1. The scheduler during launches. 2. An agent. 3. A host, with and without its claims. 4. A disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from datetime import UTC, datetime

from tests.support.acceptance import Shows, seeded
from tests.support.lab import wait_for
from tests.support.user import User
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL
from unkai_scheduler.store import claims
from unkai_scheduler.store.unit_of_work import open_unit_of_work
from unkai_wire.ids import new_id


def _qemus(lab: Lab) -> dict[str, set[int]]:
    return {host: set(lab.qemu_pids(host)) for host in lab.spec.host_names}


def test_a_scheduler_killed_during_launches_finishes_all_and_doubles_none(
    lab: Lab, user: User, shows: Shows
) -> None:
    moments = seeded("scheduler killed")
    answers = [user.create(f"kill-{number}") for number in range(10)]
    time.sleep(moments.uniform(0.0, 1.5))
    lab.kill_scheduler()
    lab.start_scheduler()
    for answer in answers:
        user.finish(answer.operation)
    states = [user.known_state(answer.instance.id) for answer in answers]
    assert states == ["RUNNING"] * 10
    domains = [
        name for host in lab.spec.host_names for name in lab.virsh(host, "list", "--name").split()
    ]
    assert len(domains) == len(set(domains)) == 10
    assert sum(len(pids) for pids in _qemus(lab).values()) == 10
    shows("4.1 scheduler killed", "10 of 10 RUNNING, 10 domains, 10 QEMUs")


def test_guests_outlive_their_agent_and_are_adopted(lab: Lab, user: User, shows: Shows) -> None:
    made = [user.launch(f"orphan-{number}") for number in range(3)]
    before = _qemus(lab)
    for host in lab.spec.host_names:
        lab.kill_agent(host)
    for host in lab.spec.host_names:
        lab.start_agent(host)
    lab.wait_registered()
    for each in made:
        user.wait_state(each.id, "RUNNING")
    assert _qemus(lab) == before
    user.act("Stop", made[0].id, force=True)
    assert user.known_state(made[0].id) == "STOPPED", "an adopted machine obeys"
    shows("4.2 agents killed", f"{len(made)} guests ran on and were adopted, same processes")


def test_a_rebooted_host_starts_what_its_permit_allows(lab: Lab, user: User, shows: Shows) -> None:
    made = user.launch("reborn")
    off = user.launch("stays-off")
    user.act("Stop", off.id, force=True)
    # The guest counts its boots on its disk: the plug is pulled once the first is counted.
    user.wait_log(made.id, "unkai-tiny: boot=1")
    begun = time.monotonic()
    lab.reboot(made.host_name)
    wait_for(
        lambda: (
            user.get(made.id).start_time.ToMilliseconds() > made.start_time.ToMilliseconds()
            and user.state(made.id) == "RUNNING"
        ),
        "it runs again",
        60,
    )
    took = time.monotonic() - begun
    assert user.known_state(off.id) == "STOPPED"
    user.wait_log(made.id, "unkai-tiny: boot=2")
    shows("4.3 host rebooted", f"its machine ran again after {took:.0f} s, its own disk kept")


def test_a_host_rebooted_while_no_scheduler_is_there_starts_its_machines_itself(
    lab: Lab, user: User, shows: Shows
) -> None:
    made = user.launch("alone")
    user.wait_log(made.id, "unkai-tiny: boot=1")
    lab.kill_scheduler()
    begun = time.monotonic()
    lab.reboot(made.host_name)
    time.sleep(max(0.0, begun + 20 - time.monotonic()))
    assert lab.qemu_pids(made.host_name) == [], "a leader may still answer"
    wait_for(lambda: lab.qemu_pids(made.host_name), "it is started without a permit", 60)
    took = time.monotonic() - begun
    running = ("list", "--name", "--state-running")
    wait_for(lambda: made.name in lab.virsh(made.host_name, *running), "it is on", 60)
    before = lab.qemu_pids(made.host_name)
    lab.start_scheduler()
    lab.wait_registered()
    user.wait_state(made.id, "RUNNING")
    assert lab.qemu_pids(made.host_name) == before
    shows("4.3 no scheduler", f"its machine was started by its host alone after {took:.0f} s")


def test_a_rebooted_host_starts_nothing_whose_claim_has_moved(
    lab: Lab, user: User, shows: Shows
) -> None:
    made = user.launch("moved")
    old = made.host_name
    target = next(h for name, h in user.hosts().items() if name != old)
    lab.stop_host(old)
    user.wait_state(made.id, "UNKNOWN", 60)
    moved = asyncio.run(_move_claim(lab, made.id, target["id"]))
    assert moved == made.run_epoch + 1
    lab.start_host(old)
    folder = lab.paths.cell(old) / "agent" / "machines" / made.id
    wait_for(lambda: not folder.exists(), "the old host has let go of it", 60)
    assert lab.qemu_pids(old) == []
    assert made.name not in lab.virsh(old, "list", "--all", "--name")
    now = user.wait_state(made.id, "LOST", 30)
    assert now.host_name == target["name"]
    assert now.state_reason.message
    shows(
        "4.4 claim moved", f"{old} started nothing of it; on {now.host_name} it is LOST, not empty"
    )


async def _move_claim(lab: Lab, instance_id: str, host_id: str) -> int:
    """Move a claim as an operator's statement does, fenced by the reigning term."""
    path = lab.paths.cell(CONTROL) / "unkai.db"
    with sqlite3.connect(path) as connection:
        (term,) = connection.execute("SELECT term FROM leader_term").fetchone()
    clock = lambda: datetime.now(UTC)  # noqa: E731
    uow = await open_unit_of_work(f"sqlite:///{path}", clock=clock, new_id=new_id)
    try:
        moved = await uow.lead(
            term,
            lambda conn: claims.move(
                conn,
                instance_id,
                host_id,
                statement="the host is retired for ever; signed, the operator",
                now=clock(),
            ),
        )
    finally:
        await uow.close()
    return moved.run_epoch


def test_a_lost_disk_makes_the_instance_lost_and_no_empty_one(
    lab: Lab, user: User, shows: Shows
) -> None:
    made = user.launch("bereft")
    user.act("Stop", made.id, force=True)
    folder = lab.paths.cell(made.host_name) / "agent" / "machines" / made.id
    disk = folder / "root.qcow2"
    disk.unlink()
    user.act("Start", made.id, wait=False)
    lost = user.wait_state(made.id, "LOST", 30)
    assert not disk.exists()
    assert lost.state_reason.message
    shows("4.5 disk removed", f"LOST: {lost.state_reason.message}; no disk was made")


def test_a_killed_guest_runs_again(lab: Lab, user: User) -> None:
    made = user.launch("phoenix")
    user.wait_log(made.id, "unkai-tiny: boot=1")
    (pid,) = lab.qemu_pids(made.host_name)
    os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: set(lab.qemu_pids(made.host_name)) - {pid} and user.state(made.id) == "RUNNING",
        "another QEMU runs",
        30,
    )
    user.wait_log(made.id, "unkai-tiny: boot=2")


def test_guests_do_not_notice_that_the_control_plane_is_away(lab: Lab, user: User) -> None:
    made = user.launch("steady")
    before = _qemus(lab)
    lab.kill_scheduler()
    lab.kill_etcd()
    time.sleep(12)  # longer than every lease
    assert _qemus(lab) == before
    lab.start_etcd()
    lab.start_scheduler()
    lab.wait_registered()
    user.wait_state(made.id, "RUNNING")
    assert _qemus(lab) == before
