"""Story: the switch of a host crashes, dies, or hangs, under guests that talk.

1. After a crash a monitor starts the program again: guests reach each other, their ports stand and
   count as before.
2. A program that is dead for good, or hangs, is told of its host, and nothing new with ports goes
   there until it is back.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.support.guest_shell import GuestShell
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_user import NetworkUser
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec
from unkai_lab.switches import CONTROLLER, DATABASE, SWITCH, SWITCH_PROGRAMS

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_a_lab_machine(networks=True)
    with running_lab(unique(LabSpec(name="swi", hosts=2, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def user(lab: Lab) -> Iterator[NetworkUser]:
    """A user with two guests, each on a host of its own."""
    made = NetworkUser(lab)
    for host in ("h1", "h2"):
        made.launch(f"on-{host}", host=host)
        made.api.wait_log(made.id_of("instance", f"on-{host}"), "login:")
    yield made
    made.close()


def _await_reach(user: NetworkUser, claim: str) -> None:
    address = user.addresses("on-h1")[4]
    with GuestShell(user.lab, "on-h2") as shell:
        wait_for(lambda: shell.succeeds(f"ping -c 1 -W 2 {address}"), claim, 90)


def _received_per_s(user: NetworkUser, instance_id: str) -> float:
    """Return what the next sample says that a machine's port receives; -1: it has no port."""
    for message in user.api.client.stream("HostService", "WatchUsage", include_machines=True):
        for machine in message.machines:
            if machine.instance_id == instance_id:
                return sum(p.received_packets_per_s for p in machine.ports) if machine.ports else -1
    return -1


def _ports(user: NetworkUser, name: str) -> list[str]:
    ident = user.id_of("instance", name)
    return [port["state"] for port in user.show("port", "list", "--instance", ident)]


@pytest.mark.parametrize("program", SWITCH_PROGRAMS)
def test_guests_reach_each_other_again_after_a_crash(
    lab: Lab, user: NetworkUser, program: str
) -> None:
    _await_reach(user, "guests reach each other")
    devices = lab.switch("h1").vsctl("list-ports", "br-int")
    before = lab.site.worker("h1", program)
    lab.switch("h1").crash(program, signal.SIGABRT)
    wait_for(lambda: lab.site.worker("h1", program) not in (None, before), f"{program} is back")
    _await_reach(user, "guests reach each other again")
    assert lab.switch("h1").vsctl("list-ports", "br-int") == devices
    wait_for(lambda: _ports(user, "on-h1") == ["ACTIVE"], "its port stands", 60)
    ident, address = user.id_of("instance", "on-h1"), user.addresses("on-h1")[4]
    with GuestShell(lab, "on-h2") as shell:
        shell.begin(f"ping -c 200 -i 0.2 {address}")
    wait_for(lambda: _received_per_s(user, ident) > 1, "its port counts", 30)


@contextmanager
def dead(lab: Lab, program: str) -> Iterator[None]:
    lab.switch("h1").kill(program)
    try:
        yield
    finally:
        lab.switch("h1").start()


@contextmanager
def stopped(lab: Lab, program: str) -> Iterator[None]:
    process = wait_for(lambda: lab.site.worker("h1", program), f"{program} runs")
    process.kill(signal.SIGSTOP)
    try:
        yield
    finally:
        process.kill(signal.SIGCONT)


@pytest.mark.parametrize("blow", [dead, stopped])
@pytest.mark.parametrize(
    ("program", "said"), [(SWITCH, SWITCH), (CONTROLLER, CONTROLLER), (DATABASE, "switch")]
)
def test_a_host_without_a_working_switch_says_so_and_gets_nothing_with_ports(
    lab: Lab, user: NetworkUser, program: str, said: str, blow: object
) -> None:
    assert callable(blow)
    broken: AbstractContextManager[None] = blow(lab, program)

    def told() -> str:
        return str(user.show("host", "show", "h1").get("network_problem", ""))

    wait_for(lambda: told() == "", "h1 is well", 60)
    with broken:
        wait_for(lambda: said in told(), f"h1 tells of {program}", 60)
        user("host", "cordon", "h2")
        try:
            refused = user.ask("launch", "tiny", "new", "--flavor", "nano")
        finally:
            user("host", "uncordon", "h2")
        assert refused.returncode != 0
        assert "h1's switch is in trouble" in refused.stdout + refused.stderr
        user("instance", "delete", "new")
    wait_for(lambda: told() == "", "h1 is well again", 60)
    _await_reach(user, "guests reach each other again")
