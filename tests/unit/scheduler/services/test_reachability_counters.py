"""Counting packets on a path: two looks at its hosts, and what is between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import a_host, an_id
from tests.support.store import noon, open_store
from unkai_scheduler.agents.port import Endpoint
from unkai_scheduler.domain.reachability import Hop
from unkai_scheduler.services.context import ServiceContext
from unkai_scheduler.services.reachability_counters import (
    SETTLE_S,
    WINDOW_S,
    PathCounters,
    joined,
)
from unkai_scheduler.store import hosts
from unkai_wire.errors import Unavailable, UnkaiError


@dataclass
class CountingAgents:
    """Agents of which only counters answer, from one look to the next."""

    looks: dict[str, list[Mapping[int, int] | UnkaiError]]
    asked: list[list[int]] = field(default_factory=list)

    async def count_flows(self, endpoint: Endpoint, cookies: Sequence[int]) -> Mapping[int, int]:
        self.asked.append(list(cookies))
        look = self.looks[endpoint.host_id].pop(0)
        if isinstance(look, UnkaiError):
            raise look
        return look


def hop(*cookies: int) -> Hop:
    return Hop("security_group", "", "web", "lets it in", cookies=cookies)


DEAD = Unavailable("gone", reason="HOST_UNREACHABLE")


@pytest.mark.parametrize(
    ("first", "second", "counted"),
    [
        ([{1: 5}, {1: 8}], [{1: 0}, {1: 2}], 5),
        ([{1: 5}, {1: 8}], [{}, {}], 3),
        ([{1: 5}, {1: 8}], [DEAD, DEAD], 3),
        ([{1: 5}, {1: 5}], [{}, {}], 0),
        ([{1: 5}, {1: 2}], [{}, {}], None),
        ([{}, {1: 9}], [{}, {}], None),
        ([DEAD, {1: 9}], [{}, {}], None),
        ([{2: 1}, {2: 9}], [{}, {}], None),
    ],
    ids=[
        "both hosts count",
        "one has no such flow",
        "one does not answer",
        "nothing passes",
        "the flow is made anew",
        "it is new",
        "it did not answer at first",
        "another flow counts",
    ],
)
async def test_what_passed_between_two_looks_is_counted(
    tmp_path: Path, first: list[Any], second: list[Any], counted: int | None
) -> None:
    both = [a_host(), a_host()]
    agents: Any = CountingAgents({both[0].id: first, both[1].id: second})
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    uow = await open_store(tmp_path)
    try:
        await uow.write(lambda conn: [hosts.insert(conn, host) for host in both])
        context = ServiceContext(uow, noon, an_id, lambda ids: None)
        counters = PathCounters(context, agents, sleep)
        found = await counters.counted([hop(1), hop()], [host.id for host in both])
    finally:
        await uow.close()

    assert [each.packet_count for each in found] == [counted, None]
    assert slept == [WINDOW_S + SETTLE_S]
    assert agents.asked == [[1]] * 4


def test_hops_have_the_flows_of_a_later_packet_too() -> None:
    other = Hop("router", "", "r", "sends it on", cookies=(4,))
    assert joined([hop(1, 2), other], [hop(2, 3)]) == [hop(1, 2, 3), other]
