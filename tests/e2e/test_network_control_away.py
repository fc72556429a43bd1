"""Story: guests talk on while scheduler, ovn-northd and OVN's databases are killed and restarted.

A guest sends 100 numbered packets a second to one on another host, and counts what comes back. No
more may be lost than in the worst of the runs in which nobody is killed, plus 2: what carries
packets is on the hosts.

The sender is `fping`: when it is late, as it is on an emulated CPU, it makes up for it, while
`ping` counts its pause from when it has sent. That it keeps the rate is read from the guest's
kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.acceptance import Shows, full_counts
from tests.support.guest_shell import GuestShell
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_evidence import wait_agreed
from tests.support.network_user import NetworkUser
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
RATE = 100
"""Packets a second."""
SENT_IN_TIME = 0.95
"""Of the packets of a minute; of six seconds it is 0.8, for the sender's start is among them."""
MORE_ALLOWED = 2
_OUT_ECHOS = (
    'awk \'/^Icmp:/ {if (!n++) {for (i = 1; i <= NF; i++) if ($i == "OutEchos") c = i}'
    " else print $c}' /proc/net/snmp"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="away", hosts=2, networks=True))) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one run's packets."""

    in_time: int
    """Sent before the time was over."""
    lost: int


def _send(lab: Lab, name: str, address: str, seconds: int, act: Callable[[], None]) -> Run:
    """Send for so long, and act meanwhile."""
    count = seconds * RATE
    fping = f"fping -c {count} -p {1000 // RATE} -i 1 -t 2000 {address}"
    with GuestShell(lab, name) as shell:
        shell.run(f"rm -f /tmp/back /tmp/sent /tmp/over; sent() {{ {_OUT_ECHOS}; }}")
        shell.run(
            f"(sent >/tmp/sent; {fping} >/tmp/back 2>&1 & sleep {seconds}; sent >>/tmp/sent;"
            " wait; touch /tmp/over) >/dev/null 2>&1 &"
        )
    begun_s = time.monotonic()
    act()
    time.sleep(max(0.0, begun_s + seconds - time.monotonic()))
    with GuestShell(lab, name) as shell:
        wait_for(lambda: shell.succeeds("[ -e /tmp/over ]"), "all is sent and awaited", 120)
        before, after = map(int, shell.run("cat /tmp/sent").split())
        back = int(shell.run("grep bytes, /tmp/back | cut -d, -f1 | sort -u | wc -l"))
        said = shell.run("grep xmt /tmp/back")
    assert f"xmt/rcv/%loss = {count}/" in said
    return Run(in_time=after - before, lost=count - back)


def _kill_all(lab: Lab, seconds: int) -> int:
    """Kill each program of the control plane in turn, and start it again; return how many."""
    ovn, kills, end = lab.control.ovn, 0, time.monotonic() + seconds * 0.9
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
    user = NetworkUser(lab)
    user.launch("left", host="h1")
    user.launch("right", host="h2")
    user.shell("right")
    address = user.addresses("right")[4]
    reached = f"ping -c 1 -W 1 {address}"
    left = user.shell("left")
    wait_for(lambda: left.succeeds(reached), "the guests reach each other", 60)
    user.close()
    undisturbed = [_send(lab, "left", address, seconds, lambda: None) for _ in range(controls)]
    kills: list[int] = []
    run = _send(lab, "left", address, seconds, lambda: kills.append(_kill_all(lab, seconds)))
    lost, in_time = [one.lost for one in undisturbed], [one.in_time for one in undisturbed]
    shows(
        "networks 4 control away",
        f"{seconds * RATE} numbered packets, {run.in_time} of them in {seconds} s, during"
        f" {kills[0]} SIGKILLs of ovn-northd, both databases and the scheduler: {run.lost} lost;"
        f" {controls} runs without kills sent {in_time} in time and lost {lost}",
    )
    share = SENT_IN_TIME if full_counts() else 0.8
    assert min(run.in_time, *in_time) >= share * seconds * RATE
    assert run.lost <= max(lost) + MORE_ALLOWED
    wait_agreed(lab)
