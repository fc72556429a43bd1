"""Doctor's rounds for those who are not on the machine: a host by its agent, and this scheduler.

No row is changed and no leader is needed: any scheduler asks the agent at the address in the
database. The agent's clock is compared with ours on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.domain.hosts import Host
from unkai_scheduler.services.checks import fetch
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import hosts
from unkai_wire.doctor.child import Examine
from unkai_wire.doctor.etcd import CLOCK_S, clock_finding
from unkai_wire.doctor.findings import Finding, Report, Severity
from unkai_wire.errors import Unsupported

FEATURE = "diagnose.v1"
CLOCK = "clock-scheduler"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, and when it ended by the clock of the machine examined."""

    report: Report
    end_time: datetime


class DiagnosesService:
    """Use cases of `unkai doctor`."""

    def __init__(self, context: ServiceContext, agents: Agents, examine: Examine) -> None:
        self._context = context
        self._agents = agents
        self._examine = examine

    async def scheduler(self, checks: Sequence[str]) -> Diagnosis:
        """Examine this scheduler, etcd and the database."""
        report = await self._examine(checks)
        return Diagnosis(report, self._context.clock())

    async def host(self, host_id: str, checks: Sequence[str]) -> Diagnosis:
        """Have a host's agent examine it."""
        host = await self._context.uow.read(
            lambda conn: fetch("host", host_id, "host_id", lambda i: hosts.get(conn, i))
        )
        if FEATURE not in host.features:
            return Diagnosis(_too_old(host), self._context.clock())
        endpoint = Endpoint(host.id, host.address, host.tls_name)
        begun = self._context.clock()
        try:
            report, end_time = await self._agents.diagnose(endpoint, checks)
        except Unsupported:
            return Diagnosis(_too_old(host), self._context.clock())
        ahead_s = _ahead_s(end_time, begun, self._context.clock())
        if abs(ahead_s) > CLOCK_S and (not checks or CLOCK in checks):
            wrong = replace(
                clock_finding(ahead_s, "the scheduler's"), check=CLOCK, where=report.where
            )
            report = replace(report, findings=(*report.findings, wrong))
        return Diagnosis(report, end_time)


def _ahead_s(theirs: datetime, begun: datetime, ended: datetime) -> float:
    """Return how far a clock is ahead of ours, which read it between two moments."""
    if theirs > ended:
        return (theirs - ended) / timedelta(seconds=1)
    return min(0.0, (theirs - begun) / timedelta(seconds=1))


def _too_old(host: Host) -> Report:
    where = f"agent {host.name}"
    finding = Finding(
        "versions",
        Severity.WARN,
        f"the agent of {host.name} is version {host.agent_version}, which cannot examine its host",
        "nothing is known of that host but what the scheduler sees",
        f"on {host.name}: pip install --upgrade unkai; systemctl restart unkai-agent",
        where,
    )
    return Report(where, host.agent_version, 0, (finding,))
