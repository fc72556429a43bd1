"""`unkai doctor` from afar, against scripted answers, and on this machine, in real processes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.command_line import unkai
from tests.support.fake_api import FakeApi
from unkai.host.v1 import host_pb2
from unkai.host.v1 import host_service_pb2 as pb
from unkai_cli import __version__
from unkai_wire.doctor.findings import Finding, Report, Severity
from unkai_wire.doctor.messages import to_message
from unkai_wire.errors import Unavailable, Unsupported

WARNING = Finding("kvm", Severity.WARN, "KVM hangs", "slow guests", "say tcg", "agent h1")
FAILURE = Finding(
    "etcd-quorum", Severity.FAIL, "no leader", "no writes", "start it", "scheduler s1"
)


def a_scheduler(*found: Finding, version: str = __version__, ahead_s: float = 0) -> object:
    report = Report("scheduler s1", version, 31, found)
    end_time = datetime.now(UTC) + timedelta(seconds=ahead_s)
    return pb.DiagnoseSchedulerResponse(diagnosis=to_message(report, end_time))


def a_host(*found: Finding, version: str = __version__) -> object:
    report = Report("agent h1", version, 35, found)
    return pb.DiagnoseHostResponse(diagnosis=to_message(report, datetime.now(UTC)))


def hosts(*addresses: str) -> object:
    listed = [
        host_pb2.Host(id=f"hst-{n}", name=f"h{n}", address=a) for n, a in enumerate(addresses)
    ]
    return pb.ListHostsResponse(hosts=listed)


@pytest.fixture
def healthy(fake: FakeApi) -> FakeApi:
    fake.script("DiagnoseScheduler", a_scheduler())
    fake.script("ListHosts", hosts("192.0.2.1:7444"))
    fake.script("DiagnoseHost", a_host())
    return fake


def test_a_healthy_cloud_prints_nothing_and_says_how_much_was_looked_at(healthy: FakeApi) -> None:
    outcome = unkai("doctor", "--cloud")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == "66 checks of scheduler s1, agent h1: nothing found\n"


def test_warnings_end_with_1_and_failures_with_2(healthy: FakeApi) -> None:
    healthy.script("DiagnoseHost", a_host(WARNING))
    assert unkai("doctor", "--cloud").code == 1
    healthy.script("DiagnoseScheduler", a_scheduler(FAILURE))
    assert unkai("doctor", "--cloud").code == 2


def test_a_finding_says_where_what_why_and_the_fix(healthy: FakeApi) -> None:
    healthy.script("DiagnoseHost", a_host(WARNING))
    assert unkai("doctor", "--cloud").out.splitlines() == [
        "WARN  agent h1: KVM hangs",
        "      check: kvm",
        "      why:   slow guests",
        "      fix:   say tcg",
    ]


def test_json_is_a_list_of_findings_also_of_none(healthy: FakeApi) -> None:
    assert json.loads(unkai("doctor", "--cloud", "-o", "json").out) == []
    healthy.script("DiagnoseHost", a_host(WARNING))
    assert json.loads(unkai("doctor", "--cloud", "-o", "json").out) == [WARNING.to_record()]


def test_an_agent_that_does_not_answer_is_a_finding_and_hides_no_other(healthy: FakeApi) -> None:
    healthy.script("DiagnoseScheduler", a_scheduler(FAILURE))
    healthy.script("DiagnoseHost", Unavailable("host hst-0 is away", reason="HOST_AWAY"))
    found = json.loads(unkai("doctor", "--cloud", "-o", "json").out)
    assert [f["check"] for f in found] == ["etcd-quorum", "agent-answers"]
    assert "away" in found[1]["what"]


def test_a_scheduler_that_does_not_answer_is_a_finding(fake: FakeApi) -> None:
    fake.script("DiagnoseScheduler", Unavailable("nobody there"))
    outcome = unkai("doctor", "--cloud", "-o", "json")
    assert outcome.code == 2
    assert [f["check"] for f in json.loads(outcome.out)] == ["scheduler-answers"]


def test_a_scheduler_that_is_too_old_is_called_that(fake: FakeApi) -> None:
    fake.script("DiagnoseScheduler", Unsupported("no such method"))
    outcome = unkai("doctor", "--cloud", "-o", "json")
    assert [f["check"] for f in json.loads(outcome.out)] == ["versions"]


def test_versions_and_clocks_of_this_side_are_compared(healthy: FakeApi) -> None:
    healthy.script("DiagnoseScheduler", a_scheduler(version="9.9.9", ahead_s=60))
    found = json.loads(unkai("doctor", "--cloud", "-o", "json").out)
    assert [f["check"] for f in found] == ["clock-command", "versions"]
    assert "60 s behind" in found[0]["what"] or "59 s behind" in found[0]["what"]


def test_hosts_at_one_address_are_asked_once(healthy: FakeApi) -> None:
    healthy.script("ListHosts", hosts("192.0.2.1:7444", "192.0.2.1:7444", "192.0.2.2:7444"))
    unkai("doctor", "--cloud")
    assert len(healthy.asked["DiagnoseHost"]) == 2


def test_a_host_that_was_lost_does_not_stand_for_one_that_is_there(healthy: FakeApi) -> None:
    states = (host_pb2.Host.STATE_UNKNOWN, host_pb2.Host.STATE_UP)
    listed = [host_pb2.Host(id=f"hst-{s}", address="192.0.2.1:7444", state=s) for s in states]
    healthy.script("ListHosts", pb.ListHostsResponse(hosts=listed))
    unkai("doctor", "--cloud")
    assert [asked.host_id for asked in healthy.asked["DiagnoseHost"]] == [f"hst-{states[1]}"]


def test_on_the_machine_a_role_is_examined_without_its_daemon(tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f"socket = '{tmp_path}/agent.sock'\n")
    outcome = unkai(
        "doctor", "--agent-config", str(settings), "--check", "agent-running", "-o", "json"
    )
    assert outcome.code == 2
    (found,) = json.loads(outcome.out)
    assert found["check"] == "agent-running"
    assert "systemctl start unkai-agent" in found["fix"]


def test_settings_that_cannot_be_used_are_the_finding(tmp_path: Path) -> None:
    for role in ("agent", "scheduler"):
        settings = tmp_path / f"{role}.toml"
        settings.write_text("listn = 1\n")
        outcome = unkai("doctor", f"--{role}-config", str(settings), "-o", "json")
        (found,) = json.loads(outcome.out)
        assert (found["check"], found["severity"]) == ("settings", "FAIL")
        assert "listn: no such setting" in found["what"]


def test_the_checks_of_both_roles_are_listed() -> None:
    shown = unkai("doctor", "--list").out
    assert "database-revision" in shown
    assert "qemu-conf" in shown
