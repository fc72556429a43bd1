"""The story of an installation: the wheel in an empty environment, under the units' restrictions.

The lab gives etcd, libvirt and certificates; scheduler and agent are the wheel's, each confined
as its systemd unit says, and a user's command is the wheel's too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import distribution
from tests.support.acceptance import Shows
from tests.support.lab import (
    process_facts,
    running_lab,
    skip_without_a_lab_machine,
    unique,
    wait_for,
)
from tests.support.user import tiny_image
from unkai_lab import client
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, LabSpec

pytestmark = pytest.mark.timeout(900)  # pip compiles libvirt-python where it has no cache


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a wheel installed in an empty environment."""
    skip_without_a_lab_machine()
    folder = tmp_path_factory.mktemp("wheel")
    sources = distribution.copy_sources(folder / "sources")
    wheel = distribution.build(sources, folder / "dist", "wheel")[0]
    return distribution.make_environment(folder / "venv", f"{wheel}[scheduler,agent]")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab whose own scheduler and agent are gone: the wheel's take their places."""
    with running_lab(unique(LabSpec(name="wheel", hosts=1, accelerator="tcg"))) as made:
        made.kill_agent("h1")
        made.kill_scheduler()
        yield made


def _start(lab: Lab, cell: str, program: str, command: Path) -> int:
    unit = next((distribution.ROOT / command.name.removeprefix("unkai-")).glob("systemd/*.service"))
    python, script = command.with_name("python"), distribution.ROOT / "tests/support/confined.py"
    config = lab.paths.cell(cell) / f"{program}.toml"
    process = lab.site.start(
        cell,
        program,
        [
            *(str(python), str(script), str(unit)),
            # What StateDirectory= and RuntimeDirectory= are on an installed host.
            *("--writable", str(lab.paths.cell(cell)), "--writable", "/run"),
            *("--", str(command), "run", "--config", str(config)),
        ],
    )
    return process.pid


def test_the_wheel_in_an_empty_environment_runs_both_daemons(
    programs: Path, lab: Lab, shows: Shows
) -> None:
    scheduler = _start(lab, CONTROL, "scheduler", programs / "unkai-scheduler")
    socket = lab.paths.scheduler_socket
    wait_for(lambda: client.is_serving(socket), "the wheel's scheduler serves", 120)
    agent = _start(lab, "h1", "agent", programs / "unkai-agent")

    environment = os.environ | {"UNKAI_SOCKET": str(socket)}

    def unkai(*arguments: str) -> str:
        done = subprocess.run(
            [programs / "unkai", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def host_is_up() -> bool:
        hosts = json.loads(unkai("host", "list", "-o", "json"))
        return [(host["state"], bool(host["usage"])) for host in hosts] == [("UP", True)]

    wait_for(host_is_up, "the wheel's agent is UP and sends figures", 120)
    unkai("image", "upload", "tiny", str(tiny_image()))
    unkai("launch", "tiny", "hello", "--flavor", "nano", "--wait")
    instance = json.loads(unkai("instance", "show", "hello", "-o", "json"))
    assert instance["state"] == "RUNNING"
    wait_for(lambda: "hello" in unkai("instance", "logs", "hello"), "the guest speaks", 120)

    facts = {name: process_facts(pid) for name, pid in (("scheduler", scheduler), ("agent", agent))}
    assert all(f.no_new_privileges and f.seccomp_mode == 2 for f in facts.values())
    assert facts["scheduler"].effective_capabilities == 0
    unkai("instance", "delete", "hello", "--wait")
    assert json.loads(unkai("doctor", "--cloud", "-o", "json")) == []
    shows(
        "solid 11 wheel",
        "in an empty environment: scheduler and agent (real libvirt) under their units' "
        "restrictions, host UP, instance RUNNING, deleted; doctors find nothing",
    )
