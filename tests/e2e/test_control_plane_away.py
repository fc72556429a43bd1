"""Story: the whole control plane is away for ten minutes, and no guest notices.

Both schedulers, all members of etcd and the database server are killed at once. Meanwhile each
guest prints its own clock, a person types on a console attached by the agent alone, and libvirt
writes down whatever happens to a domain. A control run of the same length, half of it before and
half after, says how large a gap the machine's load makes in a guest's clock by itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.acceptance import Shows, full_counts
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.terminal import CTRL_BRACKET, Terminal
from tests.support.user import User, tiny_image
from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_lab.spec import POSTGRESQL, LabSpec

pytestmark = pytest.mark.timeout(2400)
AWAY_S = 600.0 if full_counts() else 60.0
SETTLE_S = 20.0
"""How long after the return late actions are waited for: two leases of a host and a resync."""
BEATS = b"""#!/bin/sh
while :; do
	read -r up _ </proc/uptime
	echo "beat $up"
	usleep 200000
done &
"""
_BEAT = re.compile(r"beat (\d+\.\d\d)[\r\n]")
LIFECYCLE = ("stdbuf", "-oL", "virsh", "event", "--event", "lifecycle", "--loop", "--timestamp")
ANSWER_S = 10.0
MAX_GROWTH_KIB = 16 << 10
MAX_LINES_A_MINUTE = 30


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts; two schedulers, three members of etcd, PostgreSQL."""
    skip_without_a_lab_machine()
    spec = LabSpec(name="away", hosts=3, etcd_members=3, schedulers=2, database=POSTGRESQL)
    with running_lab(unique(spec)) as made:
        yield made


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What must not change on a host while nobody orders anything."""

    agent: int
    guests: dict[int, int]
    """Start time, in clock ticks since the machine's boot, of each QEMU."""
    ledger: dict[str, str]
    lifecycle: str
    """What libvirt said of its domains: defined, started, suspended, stopped, undefined."""


def _facts(lab: Lab) -> dict[str, HostFacts]:
    return {host: _facts_of(lab, host) for host in lab.spec.host_names}


def _facts_of(lab: Lab, host: str) -> HostFacts:
    agent = lab.site.running(host, "agent")
    assert agent is not None
    entries = (lab.paths.cell(host) / "agent" / "ledger" / "machines").glob("*.json")
    return HostFacts(
        agent=agent.pid,
        guests={pid: _started(pid) for pid in lab.qemu_pids(host)},
        ledger={path.stem: path.read_text() for path in entries},
        lifecycle=lab.paths.log(host, "lifecycle").read_text(),
    )


def _started(pid: int) -> int:
    """Return a process's start time: field 22 of `/proc/PID/stat` (proc_pid_stat(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@dataclass(frozen=True, slots=True)
class AgentUse:
    """What an agent has used up."""

    cpu_s: float
    memory_kib: int
    log_lines: int


def _uses(lab: Lab) -> dict[str, AgentUse]:
    return {host: _use(lab, host) for host in lab.spec.host_names}


def _use(lab: Lab, host: str) -> AgentUse:
    agent = lab.site.running(host, "agent")
    assert agent is not None
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{agent.pid}/status").read_text()
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert memory is not None
    return AgentUse(
        cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        memory_kib=int(memory[1]),
        log_lines=lab.paths.log(host, "agent").read_bytes().count(b"\n"),
    )


class Beats:
    """The clocks of the guests, read on their hosts: that takes no scheduler."""

    def __init__(self, lab: Lab, guests: list[Any]) -> None:
        self._lab = lab
        self._guests = guests

    def all(self) -> dict[str, list[float]]:
        """Return every beat of each guest."""
        found = {}
        for guest in self._guests:
            folder = self._lab.paths.cell(guest.host_name) / "agent" / "machines" / guest.id
            kept = [*sorted(folder.glob("console.log.?"), reverse=True), folder / "console.log"]
            text = "".join(path.read_text(errors="replace") for path in kept)
            found[guest.name] = [float(beat) for beat in _BEAT.findall(text)]
        return found

    def now(self) -> dict[str, float]:
        """Return the newest beat of each guest."""
        return {name: beats[-1] for name, beats in self.all().items()}

    def span(self, work: Callable[[], None]) -> Span:
        """Do some work and return the time it took, in each guest's own clock."""
        first = self.now()
        work()
        return Span(first, self.now())

    def check_seen(self, guest: str, seen: list[float], span: Span) -> None:
        """Assert that who watched a guest's console saw every beat, in order."""
        printed = [beat for beat in self.all()[guest] if span.holds(guest, beat)]
        assert [beat for beat in seen if span.holds(guest, beat)] == printed

    def largest_gap_s(self, *spans: Span) -> float:
        """Return the largest gap between two beats of one guest within one of the spans."""
        gaps = []
        for name, beats in self.all().items():
            for span in spans:
                within = [beat for beat in beats if span.holds(name, beat)]
                gaps += [later - earlier for earlier, later in pairwise(within)]
        return max(gaps)


@dataclass(frozen=True, slots=True)
class Span:
    """A time by the guests' own clocks."""

    first: dict[str, float]
    last: dict[str, float]

    def holds(self, guest: str, beat: float) -> bool:
        """Tell whether a guest's beat lies within."""
        return self.first[guest] <= beat <= self.last[guest]


class Person:
    """Types on one console by the agent's own path, and watches another one."""

    def __init__(self, typed: Terminal, watched: Terminal) -> None:
        self._typed = typed
        self._watched = watched
        self.answers = 0
        self.slowest_s = 0.0
        typed.type(b"\n")
        typed.shows(b"login: ")
        typed.type(b"root\n")
        typed.shows(b":/root# ")

    def work(self, length_s: float) -> None:
        """Ask the guest something every two seconds."""
        until_s = time.monotonic() + length_s
        while (now := time.monotonic()) < until_s:
            self.answers += 1
            self._typed.type(b"echo $((%d * 2))-answer\n" % self.answers)
            self._typed.shows(b"\r\n%d-answer" % (self.answers * 2), within_s=ANSWER_S)
            self.slowest_s = max(self.slowest_s, time.monotonic() - now)
            self._watched.until(lambda: time.monotonic() > min(now + 2, until_s))

    @property
    def watched(self) -> list[float]:
        """The beats seen on the console that is watched."""
        return [float(beat) for beat in _BEAT.findall(self._watched.shown.decode(errors="replace"))]

    def leave(self) -> None:
        """Leave both consoles."""
        for terminal in (self._typed, self._watched):
            terminal.type(CTRL_BRACKET)
            assert terminal.ends() == 0
            assert terminal.settings == terminal.before


def _attached(lab: Lab, guest: Any) -> Terminal:
    command = [installed("unkai"), "instance", "console", guest.name, "--on-host"]
    environment = {
        **os.environ,
        "UNKAI_SOCKET": "/nowhere",
        "UNKAI_AGENT_SOCKET": str(lab.agent_socket(guest.host_name)),
    }
    terminal = Terminal(command, environment)
    terminal.shows(b"connected to")
    return terminal


def _kill_control_plane(lab: Lab) -> None:
    for name in lab.spec.scheduler_names:
        lab.kill_scheduler(name)
    lab.kill_etcd()
    lab.control.kill_database()


def _guests(lab: Lab, user: User) -> tuple[list[Any], Any]:
    """Launch a guest with a clock on each host and more, and one to work on; wait for all."""
    user.upload("tiny", tiny_image())
    beating = [user.launch(f"clock-{number}", user_data=BEATS) for number in range(4)]
    desk = user.launch("desk")
    for guest in beating:
        user.wait_log(guest.id, "login:")
    user.wait_log(desk.id, "login:")
    assert {guest.host_name for guest in [*beating, desk]} == set(lab.spec.host_names)
    return beating, desk


def test_no_guest_notices_that_the_control_plane_is_away(lab: Lab, shows: Shows) -> None:
    with ExitStack() as stack:
        user = stack.enter_context(closing(User(lab.socket())))
        beating, desk = _guests(lab, user)
        for host in lab.spec.host_names:
            lab.site.start(host, "lifecycle", LIFECYCLE)
        person = Person(
            stack.enter_context(_attached(lab, desk)),
            stack.enter_context(_attached(lab, beating[0])),
        )
        beats = Beats(lab, beating)
        wait_for(lambda: not _active(user), "nothing is under way")
        instances, facts = _instances(user), _facts(lab)
        revision = user.client.newest_revision()

        # 1. Half of the control run.
        control = [beats.span(lambda: person.work(AWAY_S / 2))]

        # 2. The control plane is away, and comes back.
        def away() -> None:
            _kill_control_plane(lab)
            person.work(AWAY_S)

        def back() -> None:
            lab.control.start()
            lab.wait_registered()
            person.work(SETTLE_S)

        used, answered = _uses(lab), person.answers
        alone = beats.span(away)
        used_up, answered = _used_up(used, _uses(lab)), person.answers - answered
        returning = beats.span(back)

        # 3. No action was taken, and none is.
        assert _facts(lab) == facts
        assert _instances(user) == instances
        assert _events_since(user, revision) == []

        # 4. The other half of the control run.
        control.append(beats.span(lambda: person.work(AWAY_S / 2)))
        person.leave()

        # 5. What watched the domains would have seen an action.
        user.act("Stop", desk.id, force=True)
        log = lab.paths.log(desk.host_name, "lifecycle")
        wait_for(lambda: "Stopped" in log.read_text(), "libvirt tells of a domain that stops")

    gaps = [beats.largest_gap_s(*spans) for spans in (control, [alone], [returning])]
    print("gaps: control run {:.2f} s, away {:.2f} s, return {:.2f} s".format(*gaps))
    beats.check_seen(beating[0].name, person.watched, alone)
    assert gaps[1] <= 2 * gaps[0]
    shows(
        "solid 6 control plane away",
        f"{AWAY_S:.0f} s without 2 schedulers, 3 etcd and PostgreSQL: largest gap in the clocks of"
        f" {len(beating)} guests {gaps[1]:.2f} s (control run {gaps[0]:.2f} s; {gaps[2]:.2f} s at"
        f" the return); {answered} of {answered} lines typed by the agent's own"
        f" path answered, slowest after {person.slowest_s:.2f} s; afterwards the same processes,"
        f" ledgers and instances, and no event of theirs; {used_up}",
    )


def _instances(user: User) -> dict[str, Any]:
    return {each.id: each for each in user.list()}


def _active(user: User) -> list[Any]:
    known = user.client.pages("OperationService", "ListOperations")
    return [each for each in known if not each.HasField("end_time")]


def _events_since(user: User, revision: str) -> list[str]:
    """Return the events after a revision, but those of hosts: they were away, and came back."""
    found = []
    for event in user.client.pages("EventService", "ListEvents", limit=500):
        if event.revision == revision:
            break
        if event.resource_kind != "host":
            found.append(f"{event.resource_kind} {event.resource_name} {event.state}")
    return found


def _used_up(before: dict[str, AgentUse], after: dict[str, AgentUse]) -> str:
    """Assert that agents neither work, talk nor grow while they wait; say what they used."""
    ratios, grown, lines = [], [], []
    for host, use in before.items():
        ratios.append((after[host].cpu_s - use.cpu_s) / AWAY_S)
        grown.append(after[host].memory_kib - use.memory_kib)
        lines.append(after[host].log_lines - use.log_lines)
    assert max(grown) <= MAX_GROWTH_KIB, grown
    assert max(lines) <= MAX_LINES_A_MINUTE * (1 + AWAY_S / 60), lines
    return (
        f"each agent took at most {max(ratios):.1%} of a core, grew by {max(grown)} KiB and wrote "
        f"{max(lines)} lines"
    )
