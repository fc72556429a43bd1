"""Doctor's rounds through the API: the host's agent asked, clocks compared, old agents told of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.api import Api, an_api, refused
from tests.support.builders import NOON, a_host
from unkai.host.v1 import diagnosis_pb2
from unkai.host.v1 import host_service_pb2 as pb
from unkai_scheduler.agents.fake import FakeAgents
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.store import hosts
from unkai_wire.doctor.findings import Finding, Severity
from unkai_wire.errors import Unavailable

SICK = Finding("kvm", Severity.WARN, "KVM does not work", "slow guests", "mend it", "agent h1")


class Clocks:
    """The hosts' clock, which tests set."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> datetime:
        return NOON + timedelta(seconds=self.ahead_s)


class World:
    """A served API and one host behind it."""

    def __init__(self, api: Api, agents: FakeAgents, clocks: Clocks) -> None:
        self.api, self.agents, self.clocks = api, agents, clocks
        self.host = a_host(name="h1", features=("diagnose.v1",))

    async def know(self, host: Host) -> None:
        """Let the database and the fake cloud have the host."""
        self.host = host
        await self.api.lead(lambda conn: hosts.insert(conn, host))
        self.agents.add_host(host.id, host.name)

    async def examined(self, *checks: str) -> diagnosis_pb2.Diagnosis:
        """Examine it."""
        request = pb.DiagnoseHostRequest(host_id=self.host.id, checks=checks)
        return (await self.api.hosts.DiagnoseHost(request)).diagnosis


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clocks = Clocks()
    agents = FakeAgents(clock=clocks)
    async with an_api(tmp_path / "a", agents=agents) as api:
        yield World(api, agents, clocks)


async def test_what_the_host_found_is_returned(world: World) -> None:
    await world.know(world.host)
    world.agents.hosts[world.host.id].findings = (SICK,)
    found = await world.examined()
    assert (found.where, found.check_count) == ("agent h1", 1)
    assert [(f.check, f.severity, f.fix) for f in found.findings] == [
        ("kvm", diagnosis_pb2.DiagnosisFinding.SEVERITY_WARN, "mend it")
    ]
    assert found.end_time.ToDatetime().hour == NOON.hour


async def test_a_healthy_host_has_no_findings(world: World) -> None:
    await world.know(world.host)
    assert not (await world.examined()).findings


@pytest.mark.parametrize(("ahead_s", "said"), [(90, "90 s ahead of"), (-400, "400 s behind")])
async def test_a_host_whose_clock_is_wrong_is_told(world: World, ahead_s: float, said: str) -> None:
    await world.know(world.host)
    world.clocks.ahead_s = ahead_s
    (found,) = (await world.examined()).findings
    assert found.check == "clock-scheduler"
    assert said in found.what
    assert not (await world.examined("kvm")).findings


async def test_an_agent_without_the_feature_is_called_too_old(world: World) -> None:
    await world.know(a_host(name="h1", features=()))
    found = await world.examined()
    assert found.check_count == 0
    assert [f.check for f in found.findings] == ["versions"]
    assert "h1" in found.findings[0].fix


async def test_a_host_that_does_not_answer_is_an_error(world: World) -> None:
    await world.know(world.host)
    world.agents.fail(world.host.id, Unavailable("gone", reason="HOST_GONE"))
    request = pb.DiagnoseHostRequest(host_id=world.host.id)
    assert (await refused(world.api.hosts.DiagnoseHost(request))).reason == "HOST_GONE"


@pytest.mark.parametrize("checks", [["x"] * 65, ["--config"], [""], ["a b"], ["x" * 65]])
async def test_names_that_cannot_be_checks_are_refused(world: World, checks: list[str]) -> None:
    for call, request in (
        (world.api.hosts.DiagnoseHost, pb.DiagnoseHostRequest(host_id="hst-x", checks=checks)),
        (world.api.hosts.DiagnoseScheduler, pb.DiagnoseSchedulerRequest(checks=checks)),
    ):
        assert (await refused(call(request))).reason == "INVALID_CHECKS"


async def test_the_scheduler_examines_itself(world: World) -> None:
    answer = await world.api.hosts.DiagnoseScheduler(pb.DiagnoseSchedulerRequest())
    assert answer.diagnosis.where == "scheduler s1"
    assert not answer.diagnosis.findings


async def test_a_host_that_is_not_known_is_not_found(world: World) -> None:
    error = await refused(
        world.api.hosts.DiagnoseHost(pb.DiagnoseHostRequest(host_id=world.host.id))
    )
    assert error.reason.endswith("NOT_FOUND")
