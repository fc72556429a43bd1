"""`unkai audit` and `unkai instance adopt`: what they print, and codes that scripts can use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builders import a_host, an_id, an_instance
from tests.support.command_line import check_golden, unkai
from tests.support.served_api import ServedApi
from unkai_scheduler.agents.port import MACHINE_SPECS, Endpoint, HeldMachine, MachineOrder
from unkai_scheduler.domain.findings import Finding, FindingKind, Remedy
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.domain.machines import Machine, MachineState
from unkai_scheduler.store import hosts, images
from unkai_wire.errors import DeadlineExceeded

FOUND, REFUSED, SILENT = 4, 4, 6
FORMS = ("table", "wide", "json", "yaml", "name")


class RememberingAgents:
    """Agents that tell what a machine was ordered to be."""

    def __init__(self) -> None:
        self.held: dict[str, HeldMachine] = {}
        self.silent: set[str] = set()
        self.unanswered: set[str] = set()

    async def machine_spec(self, endpoint: object, instance_id: str) -> HeldMachine:
        held = self.held[instance_id]
        if held.machine.host_id in self.silent:
            self.unanswered.add(instance_id)
            raise DeadlineExceeded("it does not answer")
        return held


def an_orphan(cloud: ServedApi, name: str = "web") -> Finding:
    return Finding(
        FindingKind.ORPHAN,
        cloud.host.id,
        cloud.host.name,
        f"machine {name} on host h1 is one that the database does not know; it is kept",
        Remedy.OPERATOR,
        "'unkai instance adopt' takes it into the database",
        instance_id=an_id("instance"),
        name=name,
        project_id="prj-1",
        generation=3,
        machine_state="RUNNING",
        vcpus=1,
        memory_bytes=128 << 20,
    )


def a_drift(cloud: ServedApi) -> Finding:
    return replace(
        an_orphan(cloud, "db"),
        kind=FindingKind.MACHINE_AHEAD,
        message="machine db on host h1 is newer than the database knows",
        remedy=Remedy.LEADER,
        fix="the leader takes over what the host was last told",
    )


@pytest.mark.parametrize("form", FORMS)
def test_findings_print_as_their_golden_files_say(cloud: ServedApi, form: str) -> None:
    cloud.leader.findings = [an_orphan(cloud), a_drift(cloud)]

    drift, orphans = unkai("audit", "drift", "-o", form), unkai("audit", "orphans", "-o", form)

    assert (drift.code, orphans.code) == (FOUND, FOUND), drift.err + orphans.err
    check_golden(f"audit-drift.{form}", drift.out)
    check_golden(f"audit-orphans.{form}", orphans.out)


def test_scripts_can_tell_nothing_from_something_and_from_not_knowing(cloud: ServedApi) -> None:
    assert unkai("audit", "orphans").code == 0
    assert unkai("audit", "drift").code == 0

    cloud.leader.unseen_hosts = ["h7"]
    silent = unkai("audit", "orphans", "-o", "json")
    assert (silent.code, silent.out.strip()) == (SILENT, "[]")
    assert "h7" in silent.err
    assert unkai("audit", "orphans", "--host", "h1").code == 0, "that one could be looked at"

    cloud.leader.findings = [a_drift(cloud)]
    assert unkai("audit", "drift").code == FOUND
    assert unkai("audit", "drift", "--remedy", "operator").code == SILENT
    assert unkai("audit", "drift", "--kind", "lost").code == SILENT


def test_nobody_leads(cloud: ServedApi) -> None:
    cloud.leader.is_leading = False

    assert unkai("audit", "drift").code == SILENT


def test_what_a_host_names_moves_no_cursor(cloud: ServedApi) -> None:
    bad = replace(an_orphan(cloud, "\x1b[2Jx"), instance_id="\x1b]0;evil\x07")
    cloud.leader.findings = [bad]

    shown = unkai("audit", "orphans")

    assert "\x1b" not in shown.out
    assert "\x07" not in shown.out


def remember(cloud: ServedApi, name: str, host: Host | None = None) -> str:
    """Let a host hold an orphan that it can tell of; return its id."""
    agents = cloud.api.services.adoptions._agents
    if not isinstance(agents, RememberingAgents):
        agents = RememberingAgents()
        cloud.api.services.adoptions._agents = agents
    image, host = cloud.image_row, host or cloud.host
    row = an_instance(name=name, image_id=image.id)
    cloud.lead(lambda conn: images.get(conn, image.id) or images.insert(conn, image))
    machine = Machine(row.id, host.id, 3, 3, 1, MachineState.RUNNING, name=name)
    agents.held[row.id] = HeldMachine(machine, MachineOrder(row, image, 64 << 20, must_exist=True))
    cloud.leader.machines.append(machine)
    cloud.leader.findings.append(
        replace(an_orphan(cloud, name), instance_id=row.id, host_id=host.id, host_name=host.name)
    )
    return row.id


def test_orphans_are_adopted_by_id_by_name_and_all(cloud: ServedApi, tmp_path: Path) -> None:
    first, second, third, fourth = (remember(cloud, name) for name in ("a", "b", "c", "a"))

    by_id = unkai("instance", "adopt", first, "-o", "name")
    by_name = unkai("instance", "adopt", "b", "--name", "bb", "-o", "name")
    taken = unkai("instance", "adopt", fourth)
    everything = unkai("instance", "adopt", "--all", "-o", "name")

    assert (by_id.code, by_id.out) == (0, "a\n"), by_id.err
    assert (by_name.code, by_name.out) == (0, "bb\n"), by_name.err
    assert taken.code == REFUSED
    assert "--name" in taken.err
    # The fake audit goes on telling of what is known by now: those are refused, each by its name.
    assert everything.code == REFUSED
    assert sorted(everything.out.split()) == sorted(["c", f"a-{fourth[-6:]}"])
    assert everything.err.count("INSTANCE_KNOWN") == 2
    assert "its name a is taken" in everything.err
    assert second in everything.err
    assert third not in everything.err


@pytest.mark.parametrize(
    "words", [(), ("--all", "web"), ("a", "b", "--name", "x"), ("--all", "--name", "x")]
)
def test_what_makes_no_sense_is_wrong_usage(cloud: ServedApi, words: tuple[str, ...]) -> None:
    assert unkai("instance", "adopt", *words).code == 2


def test_an_orphan_that_is_not_there_is_not_found(cloud: ServedApi) -> None:
    assert unkai("instance", "adopt", "nobody").code == 3
    assert unkai("instance", "adopt", an_id("instance")).code == 3


def test_all_is_adopted_but_what_a_silent_host_holds_and_that_is_said(cloud: ServedApi) -> None:
    for name in ("a", "b"):
        remember(cloud, name)
    cloud.leader.unseen_hosts = ["h7"]

    done = unkai("instance", "adopt", "--all", "-o", "name")

    assert (done.code, sorted(done.out.split())) == (SILENT, ["a", "b"])
    assert "1 host is silent and could not be looked at: h7" in done.err
    assert "2 orphans of the other hosts were adopted" in done.err
    assert "once every host is back" in done.err


def test_a_host_that_falls_silent_meanwhile_keeps_no_others_machines(cloud: ServedApi) -> None:
    dying = a_host(name="h2", features=(MACHINE_SPECS,))
    cloud.lead(lambda conn: hosts.insert(conn, dying))
    cloud.api.live.set_endpoint(Endpoint(dying.id, "h2:1", "h2"))
    lost = [remember(cloud, name, dying) for name in ("a", "c", "d")]
    remember(cloud, "b")
    agents = cloud.api.services.adoptions._agents
    assert isinstance(agents, RememberingAgents)
    agents.silent.add(dying.id)

    done = unkai("instance", "adopt", "--all", "-o", "name")

    assert (done.code, done.out.split()) == (SILENT, ["b"])
    assert "host h2 cannot be asked" in done.err
    assert len(agents.unanswered) == 1, "each would take a whole timeout"
    assert all(done.err.count(f"machine {ident}") == 1 for ident in lost)
    assert done.err.count("HOST_UNREACHABLE") == 3
