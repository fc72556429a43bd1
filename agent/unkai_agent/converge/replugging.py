"""Ports of a machine that runs: made equal to the order, while its guest goes on.

A port comes with its link down, which goes up once OVN has installed it: its guest sees no network
that does not carry yet. A port that goes is cut off in the switch at once, for security waits for
no guest; the guest is then asked to let go of its device, again and again, for it may be booting,
or never do. Nothing is remembered that a look does not show: an agent that was killed half-way
goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass

import structlog

from unkai_agent.converge.machines import Machinery, domain_port, wirings
from unkai_agent.converge.plugging import look_s, port_status
from unkai_agent.domain.machines import LedgerEntry
from unkai_agent.domain.ports import PortStatus
from unkai_agent.network.driver import NetworkDriver
from unkai_wire.errors import FailedPrecondition, Unavailable, UnkaiError

_LOG = structlog.get_logger("unkai.agent.converge")
ASK_AGAIN_S = 10.0
"""Between askings of a guest that does not let go of a port."""
_LOOK_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class Replugged:
    """How a machine's ports stand after a turn."""

    ports: tuple[PortStatus, ...]
    """Those ordered, in their order; then those whose guest has not let go of them."""
    again_s: float | None
    """When to look again; None: all is as ordered."""


class Replugging:
    """What one machine's ports need while it runs."""

    def __init__(self) -> None:
        self._asked_s: dict[str, float] = {}
        """When its guest was last asked for a port, by the port's id."""
        self._since_s: float | None = None
        self._failures: dict[str, UnkaiError] = {}

    async def turn(self, machinery: Machinery, entry: LedgerEntry) -> Replugged:
        """Do what can be done now; failures are told of the port and tried again."""
        if machinery.network is None:
            return Replugged((), None)
        now_s, self._failures = asyncio.get_running_loop().time(), {}
        try:
            before = await machinery.compute.live_ports(entry.spec.instance_id)
        except UnkaiError:
            return await self._told(machinery, entry, None, now_s)
        ordered = {port.port_id for port in entry.spec.ports}
        leaving = sorted(before.keys() - ordered)
        if leaving:
            await self._cut(machinery.network, machinery, entry, leaving, now_s)
        for port in entry.spec.ports:
            if port.port_id not in before:
                await self._attach(machinery.network, machinery, entry, port.port_id)
        equal = before == dict.fromkeys(ordered, True)
        after = before if equal else await self._raised(machinery, entry)
        return await self._told(machinery, entry, after, now_s)

    async def _cut(
        self,
        network: NetworkDriver,
        machinery: Machinery,
        entry: LedgerEntry,
        leaving: list[str],
        now_s: float,
    ) -> None:
        # Each time: a libvirtd that was restarted plugs what its machine still has.
        await self._tried(leaving[0], network.clear(leaving))
        for port_id in leaving:
            asked_s = self._asked_s.get(port_id)
            if asked_s is None or now_s - asked_s >= ASK_AGAIN_S:
                self._asked_s[port_id] = now_s
                detach = machinery.compute.detach_port(entry.spec.instance_id, port_id)
                await self._tried(port_id, detach)

    async def _attach(
        self, network: NetworkDriver, machinery: Machinery, entry: LedgerEntry, port_id: str
    ) -> None:
        [port] = [each for each in entry.spec.ports if each.port_id == port_id]
        self._asked_s.pop(port_id, None)
        if await self._tried(port_id, network.clear([port_id])):
            made = domain_port(machinery, port)
            attach = machinery.compute.attach_port(entry.spec.instance_id, made)
            await self._tried(port_id, attach)

    async def _raised(self, machinery: Machinery, entry: LedgerEntry) -> Mapping[str, bool] | None:
        """Raise links of ports that are installed; return how all stand."""
        ident, compute = entry.spec.instance_id, machinery.compute
        try:
            live = await compute.live_ports(ident)
            stands = await wirings(machinery, entry)
            for port in entry.spec.ports:
                wiring = stands.get(port.port_id)
                if live.get(port.port_id) is False and wiring is not None and wiring.installed:
                    await self._tried(port.port_id, compute.raise_link(ident, port.port_id))
            return await compute.live_ports(ident)
        except UnkaiError:
            return None

    async def _told(
        self,
        machinery: Machinery,
        entry: LedgerEntry,
        live: Mapping[str, bool] | None,
        now_s: float,
    ) -> Replugged:
        stands = await wirings(machinery, entry)
        ports = [
            port_status(port, stands.get(port.port_id), self._failures.get(port.port_id))
            for port in entry.spec.ports
        ]
        if live is not None:
            ports = [
                PortStatus(each.port_id, False, each.error or _link_down(each.port_id).to_record())
                if live.get(each.port_id) is not True
                else each
                for each in ports
            ]
        leaving = sorted((live or {}).keys() - {port.port_id for port in entry.spec.ports})
        for port_id in leaving:
            error = self._failures.get(port_id) or _not_let_go(port_id)
            ports.append(PortStatus(port_id, installed=False, error=error.to_record()))
        equal = live == {port.port_id: True for port in entry.spec.ports}
        # What failed may have been done all the same; the next look says so.
        again_s = self._again_s(now_s, equal=equal and not self._failures)
        return Replugged(tuple(ports), again_s)

    def _again_s(self, now_s: float, *, equal: bool) -> float | None:
        if equal:
            self._since_s = None
            self._asked_s.clear()
            return None
        if self._since_s is None:
            self._since_s = now_s
        return look_s(now_s - self._since_s, _LOOK_MOST_S)

    async def _tried(self, port_id: str, act: Awaitable[None]) -> bool:
        try:
            await act
        except UnkaiError as error:
            self._failures[port_id] = error
            _LOG.info("port_failed", port_id=port_id, reason=error.reason, error=error.message)
            return False
        return True


def _link_down(port_id: str) -> Unavailable:
    return Unavailable(
        f"port {port_id} is plugged in and its link is not up yet",
        reason="PORT_LINK_DOWN",
        fix="wait a moment: it is raised once the port is installed",
        metadata={"port_id": port_id},
        retry_after_s=1.0,
    )


def _not_let_go(port_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the guest has not let go of port {port_id}: the port is cut off, its device is there",
        reason="PORT_NOT_LET_GO",
        fix="it is asked again; it goes at the latest when the instance is stopped and started",
        metadata={"port_id": port_id},
    )
