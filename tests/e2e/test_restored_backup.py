"""Story: the database is lost, and etcd with it; an old backup is put back; no guest notices.

The backup is older than five instances, which all run on real QEMU, and than the stop of another;
one of the five was accepted when it was made, and waited for a host.
One command adopts the five. A checker that shares no code with the product then finds nothing to
repair, and all five can be stopped, started and deleted as usual.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows
from tests.support.api import an_ssh_key
from tests.support.evidence import qemus, uuid_of, wait_clean
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.sights import Rules
from tests.support.user import SAY_HELLO, User, tiny_image
from unkai.compute.v1 import key_pair_pb2
from unkai_lab.configuration import REAL_TRAIT, SIMULATED_TRAIT
from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_lab.spec import CONTROL, LabSpec

pytestmark = pytest.mark.timeout(600)
FOUND, SILENT = 4, 6
"""Exit codes of `unkai audit`."""
RESTORED = Rules(history=False)


@pytest.fixture(scope="module")
def old_lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="old", hosts=2, simulated=1))) as made:
        yield made


@pytest.fixture
def owner(old_lab: Lab) -> Iterator[User]:
    user = User(old_lab.paths.scheduler_socket)
    user.upload("tiny", tiny_image())
    yield user
    user.delete_all()
    user.close()


def unkai(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator does."""
    environment = {**os.environ, "UNKAI_SOCKET": str(lab.paths.scheduler_socket)}
    return subprocess.run(
        [installed("unkai"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def db(lab: Lab, *words: str) -> None:
    """Run `unkai-scheduler db` where the scheduler runs."""
    config = str(lab.paths.cell(CONTROL) / "scheduler.toml")
    verb, *rest = words
    lab.run(CONTROL, [installed("unkai-scheduler"), "db", verb, "--config", config, *rest])


def guests(lab: Lab) -> dict[str, tuple[int, str]]:
    """Return process and start of every QEMU, by UUID (proc_pid_stat(5), field 22)."""
    return {unit: (pid, _start(pid)) for unit, pid in qemus(lab)}


def _start(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def lose_all_and_restore(lab: Lab, backup: Path) -> None:
    """Put a backup back as docs/howto/recover.md says; etcd begins empty."""
    lab.kill_scheduler(signal_number=signal.SIGTERM)
    database = lab.paths.cell(CONTROL) / "unkai.db"
    for left in database.parent.glob("unkai.db*"):
        left.unlink()
    shutil.copy(backup, database)
    db(lab, "restored")
    lab.control.wipe_etcd()
    lab.start_scheduler()


def orphans_of_all(lab: Lab) -> list[dict[str, Any]]:
    """Return what `unkai audit orphans` lists; nothing while some host is silent."""
    if unkai(lab, "audit", "drift").returncode == SILENT:
        return []
    listed = unkai(lab, "audit", "orphans", "-o", "json")
    return json.loads(listed.stdout) if listed.returncode == FOUND else []


def test_five_instances_newer_than_the_backup_are_adopted_by_one_command(
    old_lab: Lab, owner: User, shows: Shows, tmp_path: Path
) -> None:
    lab = old_lab
    key = owner.client.call(
        "KeyPairService",
        "CreateKeyPair",
        project_id=owner.client.project_id,
        key_pair=key_pair_pb2.KeyPair(name="laptop", public_key=an_ssh_key()),
    ).key_pair

    def newly(number: int) -> dict[str, Any]:
        return {
            "required_traits": [REAL_TRAIT],
            "labels": {"number": str(number)},
            "key_pair_ids": [key.id],
            "user_data": SAY_HELLO,
        }

    # 1. Three instances, and a backup while the scheduler goes on, and a create waits for a host.
    old = [owner.launch(f"old-{n}", required_traits=[REAL_TRAIT]) for n in range(2)]
    simulated = owner.launch("simulated", required_traits=[SIMULATED_TRAIT])
    for name in owner.hosts():
        assert unkai(lab, "host", "cordon", name).returncode == 0
    asked = owner.create("new-0", capacity_wait_s=300, **newly(0))
    db(lab, "backup", str(tmp_path / "backup.db"))
    assert owner.get(asked.instance.id).host_id == ""
    for name in owner.hosts():
        assert unkai(lab, "host", "uncordon", name).returncode == 0

    # 2. Then it runs, and four more come, and one of the old is stopped.
    owner.finish(asked.operation)
    new = [owner.get(asked.instance.id)]
    new += [owner.launch(f"new-{n}", **newly(n)) for n in range(1, 5)]
    for made in new:
        owner.wait_log(made.id, f"hello from {made.name}", 120)
    owner.act("Stop", old[1].id, force=True)
    before = guests(lab)
    assert before.keys() == {uuid_of(made.id) for made in [old[0], *new]}

    # 3. Database and etcd are lost; the backup is put back. No guest notices.
    lose_all_and_restore(lab, tmp_path / "backup.db")
    told = wait_for(lambda: orphans_of_all(lab), "orphans are told of, and no host is silent", 60)
    assert {row["instance_id"] for row in told} == {made.id for made in new}
    assert owner.state(new[0].id) == "FAILED", "the backup has it, and it is not made again"
    for name in owner.hosts():  # as in the backup
        assert unkai(lab, "host", "uncordon", name).returncode == 0
    assert guests(lab) == before

    # 4. One command adopts all five.
    begun = time.monotonic()
    done = unkai(lab, "instance", "adopt", "--all", "-o", "json")
    took_s = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    adopted = {row["id"]: row for row in json.loads(done.stdout)}
    assert adopted.keys() == {made.id for made in new}, done.stderr
    for made in new:
        row = adopted[made.id]
        assert (row["name"], row["host_id"]) == (made.name, made.host_id)
        assert (row["vcpus"], row["memory_bytes"]) == (made.vcpus, made.memory_bytes)
        assert (row["labels"], row["key_pair_ids"]) == (dict(made.labels), [key.id])
        assert row["generation"] == made.generation

    # 5. Nothing else is to repair, and nobody was touched.
    wait_clean(lab, RESTORED)
    assert guests(lab) == before
    drift = unkai(lab, "audit", "drift")
    orphans = unkai(lab, "audit", "orphans")
    assert (drift.returncode, orphans.returncode) == (0, 0), drift.stdout + orphans.stdout
    assert owner.known_state(old[1].id) == "STOPPED"
    assert owner.known_state(simulated.id) == "RUNNING"

    # 6. They are instances as any other.
    for made in new:
        owner.act("Stop", made.id, force=True)
    wait_clean(lab, RESTORED)
    for made in new:
        owner.act("Start", made.id)
    wait_clean(lab, RESTORED)
    assert guests(lab).keys() == before.keys()
    owner.delete_all()
    wait_clean(lab, RESTORED)
    assert guests(lab) == {}
    shows(
        "solid 3 restored backup",
        f"database older than 5 instances, 1 of them accepted, and etcd wiped: {len(before)} of "
        f"{len(before)} QEMUs "
        f"are the same processes; 'unkai instance adopt --all' adopted 5 of 5 in {took_s:.1f} s; "
        "checker and audit found nothing then; all stopped, started, deleted",
    )
