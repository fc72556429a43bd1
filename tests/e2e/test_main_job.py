"""Story: the main job on real engines, step by step.

1. Four instances of two flavors run on several hosts and say on their consoles who they are.
2. Hosts show them under readable names; QEMU is confined. 3. Power. 4. Consoles.
5. A client that knows us only by reflection. 6. Deleted, nothing is left.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import process_facts, wait_for
from tests.support.user import CONVERSATION, SAY_HELLO, User
from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_wire.errors import NotFound

ROOT = Path(__file__).parents[2]


def _environment(lab: Lab) -> dict[str, str]:
    return {**os.environ, "UNKAI_SOCKET": str(lab.paths.scheduler_socket)}


def test_four_instances_of_two_flavors_run_on_several_hosts_and_say_who_they_are(
    lab: Lab, user: User, shows: Shows
) -> None:
    flavors = {"web-1": "nano", "web-2": "nano", "db-1": "micro", "db-2": "micro"}
    answers = {
        name: user.create(name, flavor=flavor, user_data=SAY_HELLO)
        for name, flavor in flavors.items()
    }
    for answer in answers.values():
        user.finish(answer.operation)
    made = {name: user.get(answer.instance.id) for name, answer in answers.items()}
    assert {user.known_state(each.id) for each in made.values()} == {"RUNNING"}
    assert len({each.host_id for each in made.values()}) >= 2
    for name, each in made.items():
        log = user.wait_log(each.id, "unkai-tiny: ready")
        assert f"unkai-tiny: hostname={name}" in log
        assert f"unkai-tiny: instance-id={each.id}" in log
        assert f"hello from {name}" in log
        assert "unkai-tiny: user-data exit=0" in log
    listed = {host: lab.virsh(host, "list", "--name").split() for host in lab.spec.host_names}
    for name, each in made.items():
        assert f"{name}.{each.id[-6:]}" in listed[each.host_name]
        assert each.effective_accelerator in ("kvm", "tcg")
    shows("5.2 virsh list", ", ".join(name for names in listed.values() for name in names))


def test_every_qemu_is_confined(lab: Lab, user: User, shows: Shows) -> None:
    for number in range(3):
        user.launch(f"confined-{number}")
    pids = [pid for host in lab.spec.host_names for pid in lab.qemu_pids(host)]
    assert len(pids) == 3
    owner = int(subprocess.check_output(["id", "-u", "libvirt-qemu"], text=True))
    for pid in pids:
        facts = process_facts(pid)
        assert facts.uid == owner
        assert facts.seccomp_mode == 2
        assert facts.effective_capabilities == 0
        assert facts.no_new_privileges
    shows("6.1 QEMU", f"{len(pids)} of {len(pids)} run as libvirt-qemu with seccomp 2")


def test_power_is_what_the_user_asks_for(lab: Lab, user: User) -> None:
    made = user.launch("power")
    user.wait_log(made.id, "unkai-tiny: ready")
    user.act("Stop", made.id)
    assert user.known_state(made.id) == "STOPPED"
    assert "unkai-tiny: going down" in user.log(made.id), "the guest was asked first"
    assert lab.qemu_pids(made.host_name) == []
    user.act("Start", made.id)
    assert user.known_state(made.id) == "RUNNING"
    user.wait_log(made.id, "unkai-tiny: boot=2")
    user.act("Reboot", made.id, force=True)
    user.wait_log(made.id, "unkai-tiny: boot=3")
    assert user.known_state(made.id) == "RUNNING"


def test_a_guest_that_powers_itself_off_stays_off(user: User) -> None:
    made = user.launch("sleepy", user_data=b"#!/bin/sh\n(sleep 1; poweroff) &\n")
    stopped = user.wait_state(made.id, "STOPPED")
    assert stopped.desired_power == type(stopped).POWER_OFF


def _read_until(console: subprocess.Popen[bytes], text: bytes) -> None:
    """Read what a console shows until a text is in it."""
    assert console.stdout is not None
    shown, end = b"", time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < end, f"not shown: {text!r}; {shown!r}"
        if select.select([console.stdout], [], [], 1.0)[0]:
            piece = os.read(console.stdout.fileno(), 65536)
            assert piece, f"it ended and has not shown {text!r}; {shown!r}"
            shown += piece


@pytest.mark.parametrize("way", ["scheduler", "host"])
def test_a_console_takes_what_is_typed(lab: Lab, user: User, way: str) -> None:
    made = user.launch(f"console-{way}")
    user.wait_log(made.id, "login:")
    command = [installed("unkai"), "instance", "console", made.name]
    environment = _environment(lab)
    if way == "host":
        command.append("--on-host")
        environment = {
            **os.environ,
            "UNKAI_SOCKET": "/nowhere",
            "UNKAI_AGENT_SOCKET": str(lab.agent_socket(made.host_name)),
        }
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as console:
        assert console.stdin is not None
        for line, answer in CONVERSATION:
            console.stdin.write(line)
            console.stdin.flush()
            _read_until(console, answer)
        console.stdin.close()
        assert console.wait(60) == 0


def test_a_client_that_knows_us_only_by_reflection(lab: Lab, user: User, shows: Shows) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "docs" / "howto" / "reflection_client.py"),
            f"unix:{lab.paths.scheduler_socket}",
            *("tiny", "nano", "reflected"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = [line.split()[1:3] for line in done.stdout.splitlines()]
    assert words[0][0] == "CREATED"
    assert ["UPDATED", "RUNNING"] in words
    assert words[-1][0] == "DELETED"
    shows("5.1 by reflection", f"created, watched ({len(words)} events) and deleted an instance")


def test_the_command_launches_explains_and_deletes(lab: Lab, user: User) -> None:
    def unkai(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed("unkai"), *words],
            env=_environment(lab),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    launched = unkai("launch", "tiny", "cli-1", "--flavor", "nano", "-o", "json")
    assert launched.returncode == 0, launched.stderr
    (instance,) = json.loads(launched.stdout)
    assert instance["state"] == "RUNNING"
    explained = unkai("instance", "explain", "cli-1")
    assert explained.returncode == 0, explained.stderr
    assert instance["host_name"] in explained.stdout
    assert "cpu_used_ratio" in explained.stdout
    assert unkai("instance", "show", instance["id"][:14]).returncode == 0
    again = unkai("launch", "tiny", "cli-1", "--flavor", "nano")
    assert again.returncode == 4
    assert "INSTANCE_EXISTS" in again.stderr
    assert unkai("instance", "delete", "cli-1").returncode == 0
    gone = unkai("instance", "show", "cli-1")
    assert gone.returncode == 3
    assert "why: INSTANCE_NOT_FOUND" in gone.stderr
    assert "fix:" in gone.stderr


def test_what_is_deleted_leaves_nothing_on_its_host(lab: Lab, user: User) -> None:
    made = user.launch("brief")
    folder = lab.paths.cell(made.host_name) / "agent" / "machines" / made.id
    assert folder.exists()
    user.act("Delete", made.id)
    assert not folder.exists()
    assert made.name not in lab.virsh(made.host_name, "list", "--all", "--name")
    wait_for(lambda: not lab.qemu_pids(made.host_name), "no QEMU is left", 5)
    with pytest.raises(NotFound):
        user.get(made.id)
