"""Story: guests talk on while scheduler, ovn-northd and OVN's databases are killed and restarted.

A guest sends 100 numbered packets a second to one on another host, and counts what comes back. No
more may be lost than in the worst of the runs in which nobody is killed, plus 2: what
carries packets is on the hosts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.acceptance import Shows, full_counts
from tests.support.guest_shell import GuestShell
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_evidence import wait_agreed
from tests.support.user import User, tiny_image
from unkai.compute.v1.instance_pb2 import Instance
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
RATE = 100
MORE_ALLOWED = 2


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="away", hosts=2, networks=True))) as made:
        yield made


def _two_apart(user: User) -> tuple[str, str]:
    """Launch guests until two are on different hosts; return a name and the other's address."""
    by_host = {}
    for number in range(4):
        made = user.launch(f"g{number}", placement_policy=Instance.PLACEMENT_POLICY_SPREAD)
        by_host.setdefault(made.host_name, made)
        if len(by_host) == 2:
            one, other = by_host.values()
            address = next(a for a in _addresses(other) if "." in a)
            return one.name, address
    pytest.fail(f"all guests are on {set(by_host)}")


def _addresses(instance: Instance) -> list[str]:
    return [one.address for each in instance.interfaces for one in each.fixed_addresses]


def _lost(lab: Lab, name: str, address: str, seconds: int, act: Callable[[], None]) -> int:
    """Send for so long, act meanwhile; return how many packets never came back."""
    count = seconds * RATE
    with GuestShell(lab, name) as shell:
        ping = f"ping -i {1 / RATE} -c {count} -W 2 {address}"
        shell.run(f"rm -f /tmp/p; (cat /proc/uptime; {ping}; cat /proc/uptime) >/tmp/p 2>&1 &")
    begun_s = time.monotonic()
    act()
    time.sleep(max(0.0, begun_s + seconds - time.monotonic()))
    with GuestShell(lab, name) as shell:

        def ended() -> str:
            both = "[ $(grep -cE '^[0-9]+[.][0-9]+ [0-9.]+$' /tmp/p) = 2 ]"
            said = shell.run(f"{both} && grep -v seq= /tmp/p || true", within_s=60)
            return said if "received" in said else ""

        said = wait_for(ended, "the pings have ended", 120)
    begun, over = re.findall(r"^([0-9]+[.][0-9]+) [0-9.]+$", said, re.MULTILINE)
    found = re.search(r"(\d+) packets transmitted, (\d+)", said)
    assert found, said
    assert int(found[1]) == count
    assert float(over) - float(begun) > seconds * 0.8, "they were sent too fast"
    return count - int(found[2])


def _kill_all(lab: Lab, seconds: int) -> int:
    """Kill each program of the control plane in turn, and start it again; return how many."""
    ovn, kills, end = lab.control.ovn, 0, time.monotonic() + seconds * 0.8
    while not kills or time.monotonic() < end:
        for program in ("ovn-northd", "ovn-nb", "ovn-sb"):
            ovn.kill(program)
            time.sleep(0.3)
            ovn.start()
            kills += 1
        lab.kill_scheduler()
        time.sleep(0.3)
        lab.start_scheduler()
        kills += 1
    return kills


def test_running_guests_lose_nothing_while_the_control_plane_is_killed(
    lab: Lab, shows: Shows
) -> None:
    seconds, controls = (60, 5) if full_counts() else (6, 2)
    user = User(lab.socket())
    user.upload("tiny", tiny_image())
    name, address = _two_apart(user)
    user.close()
    with GuestShell(lab, name) as shell:
        wait_for(
            lambda: shell.succeeds(f"ping -c1 -W1 {address}"), "the guests reach each other", 60
        )
    undisturbed = [_lost(lab, name, address, seconds, lambda: None) for _ in range(controls)]
    kills: list[int] = []
    lost = _lost(lab, name, address, seconds, lambda: kills.append(_kill_all(lab, seconds)))
    shows(
        "networks 4 control away",
        f"{seconds * RATE} packets in {seconds} s during {kills[0]} SIGKILLs of ovn-northd, both"
        f" databases and the scheduler: {lost} lost; without kills {undisturbed}",
    )
    assert lost <= max(undisturbed) + MORE_ALLOWED
    wait_agreed(lab)
