"""A replay: ends and arrivals in the order of time, each arrival placed by a policy."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from bench.packing.trace import Hosts, HostShape, Request, Trace


class Policy(Protocol):
    """Chooses hosts. It may look at the hosts' columns, and is told what was placed and ended."""

    def choose(self, request: Request) -> int:
        """Return the row of the best host with room, or -1."""

    def placed(self, request: Request, row: int) -> None:
        """Note that a request is on a host; the columns say so already."""

    def ended(self, request: Request, row: int, now_ms: int) -> None:
        """Note that an instance has ended; the columns say so already."""


class Ends:
    """The queue of ends. Nothing else reads when an instance ends."""

    def __init__(self, ends_ms: list[int | None]) -> None:
        self._ends_ms = ends_ms
        self._queue: list[tuple[int, int]] = []

    def started(self, number: int) -> None:
        """Queue the end of an instance that was placed."""
        end_ms = self._ends_ms[number]
        if end_ms is not None:
            heapq.heappush(self._queue, (end_ms, number))

    def due(self, now_ms: int) -> Iterator[tuple[int, int]]:
        """Yield time and number of each instance that ends up to a moment, in order."""
        while self._queue and self._queue[0][0] <= now_ms:
            yield heapq.heappop(self._queue)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a replay."""

    rows: list[int]
    """The host of each request, as far as it went."""
    refused_ms: int | None
    """When a request found no host, which ends the replay."""
    most_occupied: int
    occupied_mean: float
    """Hosts with an instance, over the time from the start to the last arrival."""
    bound_mean: float
    """What the demand would fill if nothing were lost, over the same time."""


class Meter:
    """Sums occupied hosts and the bound over time."""

    def __init__(self, hosts: Hosts) -> None:
        # Host-milliseconds of demand in units of 1 / (all vCPUs x all MiB): no rounding.
        self._hosts = len(hosts)
        self._all_vcpus, self._all_mib = int(hosts.vcpus.sum()), int(hosts.memory_mib.sum())
        self.vcpus = self.memory_mib = self.occupied = self.most_occupied = 0
        self._since_ms = self._occupied_ms = self._bound_ms = 0

    def pass_to(self, now_ms: int) -> None:
        """Let the time pass with things as they are."""
        passed = now_ms - self._since_ms
        if passed:
            self._since_ms = now_ms
            self._occupied_ms += self.occupied * passed
            self._bound_ms += passed * self.filled()

    def filled(self) -> int:
        """Return the demand in hosts of the fleet's mean size x all vCPUs x all MiB / hosts."""
        return max(self.vcpus * self._all_mib, self.memory_mib * self._all_vcpus)

    def note(self, request: Request, sign: int, newly: int) -> None:
        """Note a placement (1) or an end (-1), and hosts newly occupied by it, or no more."""
        self.vcpus += sign * request.vcpus
        self.memory_mib += sign * request.memory_mib
        self.occupied += newly
        self.most_occupied = max(self.most_occupied, self.occupied)

    def outcome(self, rows: list[int], refused_ms: int | None) -> Outcome:
        """Return the means so far."""
        span_ms = max(self._since_ms, 1)
        per_host = self._all_vcpus * self._all_mib / self._hosts
        return Outcome(
            rows,
            refused_ms,
            self.most_occupied,
            self._occupied_ms / span_ms,
            self._bound_ms / span_ms / per_host,
        )


def replay(
    trace: Trace, shapes: list[HostShape], hosts: int, policy_of: Callable[[Hosts], Policy]
) -> Outcome:
    """Replay a trace on so many hosts, until the last arrival or the first refusal."""
    fleet = Hosts(shapes, hosts)
    policy, ends, meter = policy_of(fleet), Ends(trace.ends_ms), Meter(fleet)
    rows: list[int] = []
    for request in trace.requests:
        for end_ms, number in ends.due(request.arrival_ms):
            meter.pass_to(end_ms)
            gone, row = trace.requests[number], rows[number]
            fleet.take(row, gone, -1)
            meter.note(gone, -1, -int(fleet.instances[row] == 0))
            policy.ended(gone, row, end_ms)
        meter.pass_to(request.arrival_ms)
        row = policy.choose(request)
        if row < 0:
            return meter.outcome(rows, request.arrival_ms)
        fleet.take(row, request)
        meter.note(request, 1, int(fleet.instances[row] == 1))
        policy.placed(request, row)
        rows.append(row)
        ends.started(request.number)
    return meter.outcome(rows, None)


def bound(trace: Trace, shapes: list[HostShape]) -> int:
    """Return the fewest hosts that hold the greatest demand, if nothing were lost: a floor."""
    parts = sum(shape.parts for shape in shapes)
    all_vcpus = sum(shape.vcpus * shape.parts for shape in shapes)
    all_mib = sum(shape.memory_mib * shape.parts for shape in shapes)
    ends = Ends(trace.ends_ms)
    vcpus = memory_mib = most = 0
    for request in trace.requests:
        for _, number in ends.due(request.arrival_ms):
            vcpus -= trace.requests[number].vcpus
            memory_mib -= trace.requests[number].memory_mib
        vcpus += request.vcpus
        memory_mib += request.memory_mib
        ends.started(request.number)
        most = max(most, -(-vcpus * parts // all_vcpus), -(-memory_mib * parts // all_mib))
    return most
