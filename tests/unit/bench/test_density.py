"""The density bench: a replay keeps to capacities, and no policy knows when instances will end."""

from __future__ import annotations

import heapq
from pathlib import Path

import pytest

from bench.packing.policies import PEERS, ours
from bench.packing.replay import bound, replay
from bench.packing.trace import Trace, counts, parse_shapes, read_trace

SMALL = Path(__file__).parents[3] / "bench" / "data" / "azure_v1_dev_small.csv.gz"
MIXED = parse_shapes("64x128:2,96x256:2,64x384:1")
ROWS = 2000
POLICIES = {"ours": ours, **PEERS}


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Return the first rows of the small trace."""
    return read_trace(SMALL, ROWS)


@pytest.mark.parametrize("name", POLICIES)
def test_no_host_is_ever_over_capacity(name: str, trace: Trace) -> None:
    hosts = 24
    outcome = replay(trace, MIXED, hosts, POLICIES[name])
    assert outcome.refused_ms is None
    each = counts(MIXED, hosts)
    room = [
        [shape.vcpus, shape.memory_mib]
        for shape, n in zip(MIXED, each, strict=True)
        for _ in range(n)
    ]
    ends: list[tuple[int, int]] = []
    for request, row in zip(trace.requests, outcome.rows, strict=True):
        while ends and ends[0][0] <= request.arrival_ms:
            gone = heapq.heappop(ends)[1]
            room[outcome.rows[gone]][0] += trace.requests[gone].vcpus
            room[outcome.rows[gone]][1] += trace.requests[gone].memory_mib
        room[row][0] -= request.vcpus
        room[row][1] -= request.memory_mib
        assert min(room[row]) >= 0, request
        end_ms = trace.ends_ms[request.number]
        if end_ms is not None:
            heapq.heappush(ends, (end_ms, request.number))


def test_nothing_depends_on_when_what_still_runs_will_end(trace: Trace) -> None:
    last_ms = trace.requests[-1].arrival_ms
    otherwise = Trace(
        trace.requests,
        [
            end
            if end is not None and end <= last_ms
            else (None if number % 2 else last_ms + number + 1)
            for number, end in enumerate(trace.ends_ms)
        ],
    )
    assert otherwise.ends_ms != trace.ends_ms
    one, two = (replay(each, MIXED, 24, ours) for each in (trace, otherwise))
    assert one == two


def test_the_same_replay_gives_the_same_hosts(trace: Trace) -> None:
    assert replay(trace, MIXED, 24, ours) == replay(trace, MIXED, 24, ours)


def test_a_fleet_below_the_bound_refuses(trace: Trace) -> None:
    shapes = parse_shapes("96x256")
    least = bound(trace, shapes)
    assert replay(trace, shapes, least - 1, ours).refused_ms is not None


def test_a_mixed_fleet_is_split_by_the_largest_remainder() -> None:
    assert counts(MIXED, 586) == [234, 235, 117] or counts(MIXED, 586) == [235, 234, 117]
    assert sum(counts(MIXED, 7)) == 7
