"""What passes on the real path: OpenFlow's counters of the flows that a trace passed, by cookie.

Hosts are asked twice, around a window in which whoever asks sends packets. Counters say that
something passed there, not whose it was: others may use the same rule. A flow that is made anew
meanwhile begins at 0, so a count that fell is no count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from unkai_scheduler.agents.port import Agents, Endpoint
from unkai_scheduler.domain.reachability import Hop
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.store import hosts
from unkai_wire.errors import UnkaiError

WINDOW_S = 5.0
"""Between both looks."""
SETTLE_S = 1.0
"""Longer than a switch keeps what its datapath has counted from its flows: half a second."""
MAX_COOKIES = 64
_LOG = structlog.get_logger(__name__)

Counts = Mapping[tuple[str, int], int]
"""Packets by host and cookie."""


class PathCounters:
    """Reads the counters of hosts."""

    def __init__(
        self,
        context: ServiceContext,
        agents: Agents,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._context = context
        self._agents = agents
        self._sleep = sleep

    async def counted(self, hops: Sequence[Hop], host_ids: Iterable[str]) -> tuple[Hop, ...]:
        """Return the hops with the packets that each counted meanwhile, on all hosts of the path.

        A hop whose flows no host has, or whose host does not answer, has no count.
        """
        cookies = list(dict.fromkeys(c for hop in hops for c in hop.cookies))[:MAX_COOKIES]
        endpoints = await self._endpoints(sorted(set(host_ids)))
        if not cookies or not endpoints:
            return tuple(hops)
        before = await self._look(endpoints, cookies)
        await self._sleep(WINDOW_S + SETTLE_S)
        after = await self._look(endpoints, cookies)
        passed = _differences(before, after)
        return tuple(
            replace(hop, packet_count=sum(passed[c] for c in hop.cookies if c in passed))
            if any(c in passed for c in hop.cookies)
            else hop
            for hop in hops
        )

    async def _endpoints(self, host_ids: Sequence[str]) -> list[Endpoint]:
        rows = await self._context.uow.read(
            lambda conn: [hosts.get(conn, host_id) for host_id in host_ids]
        )
        return [Endpoint(row.id, row.address, row.tls_name) for row in rows if row]

    async def _look(self, endpoints: Sequence[Endpoint], cookies: Sequence[int]) -> Counts:
        answers = await asyncio.gather(*(self._ask(each, cookies) for each in endpoints))
        return {
            (endpoint.host_id, cookie): count
            for endpoint, counts in zip(endpoints, answers, strict=True)
            for cookie, count in counts.items()
        }

    async def _ask(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        try:
            return await self._agents.count_flows(endpoint, cookies)
        except UnkaiError as error:
            _LOG.warning("flows_not_counted", host_id=endpoint.host_id, reason=error.reason)
            return {}


def joined(hops: Sequence[Hop], others: Iterable[Hop]) -> list[Hop]:
    """Return hops with the flows of others that are the same of another packet."""
    known: dict[tuple[str, ...], tuple[int, ...]] = {}
    for other in others:
        known[other.kind, other.id, other.message] = other.cookies
    return [
        replace(
            hop,
            cookies=tuple(
                dict.fromkeys((*hop.cookies, *known.get((hop.kind, hop.id, hop.message), ())))
            ),
        )
        for hop in hops
    ]


def _differences(before: Counts, after: Counts) -> dict[int, int]:
    """Return the packets between two looks by cookie, where both say so."""
    passed: dict[int, int] = {}
    for (host_id, cookie), count in after.items():
        earlier = before.get((host_id, cookie))
        if earlier is not None and count >= earlier:
            passed[cookie] = passed.get(cookie, 0) + count - earlier
    return passed
