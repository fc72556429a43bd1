"""Story: a lab that is up is a cloud that takes instances.

1. Every host is registered and sends figures. 2. A host that reboots comes back with a new boot
id. 3. What was stopped is restored. 4. Simulated hosts stand beside real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.lab import (
    running_lab,
    skip_without_a_lab_machine,
    unique,
    wait_for,
)
from unkai.host.v1 import host_pb2
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec
from unkai_lab.status import lab_status


def test_every_host_is_registered_and_sends_figures(lab: Lab) -> None:
    hosts = wait_for(lab.hosts, "the scheduler answers")
    assert [host.name for host in hosts] == list(lab.spec.host_names)
    assert all(host.state == host_pb2.Host.STATE_UP for host in hosts)
    assert all(0 <= host.usage_age_s < 10 for host in hosts)
    assert len({host.boot_id for host in hosts}) == len(hosts)


def test_status_says_that_everything_runs(lab: Lab) -> None:
    status = lab_status(lab)
    assert status["state"] == "UP", status
    assert status["hosts_registered"] == status["hosts_wanted"] == 3
    assert [cell["name"] for cell in status["cells"]] == list(lab.spec.cells)
    assert json.loads(json.dumps(status)) == status


def test_a_rebooted_host_comes_back_with_a_new_boot_id(lab: Lab) -> None:
    before = {host.name: host.boot_id for host in wait_for(lab.hosts, "it answers")}
    lab.reboot("h2")

    def after() -> dict[str, str] | None:
        boots = {h.name: h.boot_id for h in lab.hosts() if h.state == host_pb2.Host.STATE_UP}
        return boots if len(boots) == 3 and boots["h2"] != before["h2"] else None

    boots = wait_for(after, "h2 is up with a new boot id", 30)
    assert {name for name in boots if boots[name] != before[name]} == {"h2"}


def test_a_killed_scheduler_serves_again_after_a_start(lab: Lab) -> None:
    lab.kill_scheduler()
    assert lab.hosts() == []
    lab.start_scheduler()
    lab.wait_registered()


def test_whatever_was_stopped_is_restored(lab: Lab) -> None:
    lab.stop_host("h1")
    lab.kill_agent("h2")
    lab.kill_libvirt("h2")
    lab.cut("h3")
    lab.kill_etcd()
    lab.restore()
    assert lab_status(lab)["state"] == "UP"
    wait_for(
        lambda: (
            {h.name for h in lab.hosts() if h.state == host_pb2.Host.STATE_UP}
            == set(lab.spec.host_names)
        ),
        "all hosts are up",
        30,
    )


def test_the_command_line_reaches_the_lab_by_its_environment(lab: Lab) -> None:
    lines = subprocess.run(
        [sys.executable, "-m", "unkai_lab", "env", "--name", lab.spec.name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    script = f"{lines}exec {sys.executable} -m unkai_lab status -o json"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == lab.spec.name


def test_a_command_on_a_host_keeps_its_exit_code_and_output(lab: Lab) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "unkai_lab", "exec", "--name", lab.spec.name, "h1", "--"),
            *("sh", "-c", "hostname; exit 7"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "h1\n")


@pytest.mark.parametrize("simulated", [12])
def test_simulated_hosts_stand_beside_real_ones(simulated: int) -> None:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="sim", hosts=1, simulated=simulated))) as lab:
        hosts = wait_for(lab.hosts, "the scheduler answers")
        assert len(hosts) == 1 + simulated
        assert len({host.address for host in hosts}) == 2
