"""Simulation: what would come of more instances, more hosts, lost hosts. Pure.

It works on a copy of the fleet, with the engine that decides for real, at one moment of time. All
work comes as generators that yield between pieces of a few microseconds (a few milliseconds where
a kind of request is met for the first time among 10,000 hosts), so that a loop may do other things
between; nothing is simulated until somebody goes on with them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from unkai_scheduler.domain.hosts import Host, HostState, HostUsage
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet, Ints
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.rulebook import OURS, RuleBook
from unkai_scheduler.placement.tally import MADE_UP, StepOutcome, Tally

MAX_MORE = 1000
"""Up to so many it is counted how many more of a kind would fit."""
MAX_CHANGES = 1000
"""Hosts that are told of."""
_FIGURES = ("vcpus", "memory", "disk")
_FOLDED_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class AddHosts:
    """These hosts are there too, up and idle. Their ids are new."""

    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class LoseHosts:
    """These hosts fall silent, all at once; what is on them is placed again, in line."""

    host_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """So many like this one are placed, one after the other."""

    request: PlacementRequest
    count: int


Step = AddHosts | LoseHosts | Place


@dataclass(frozen=True, slots=True)
class Amounts:
    """Virtual CPUs, memory and disk."""

    vcpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What hosts have that take instances: those that are up and not cordoned."""

    host_count: int
    empty_host_count: int
    """Of those, how many nothing is claimed of."""
    claimed: Amounts
    claimable: Amounts


@dataclass(frozen=True, slots=True)
class HostChange:
    """A host that is not as it was."""

    host_id: str
    host_name: str
    added: bool
    lost: bool
    placed_count: int
    before: Amounts
    after: Amounts
    """What is claimed; of a lost host that is what it was."""
    claimable: Amounts


@dataclass(frozen=True, slots=True)
class Simulated:
    """What would come of it."""

    outcomes: tuple[StepOutcome, ...]
    """One for each step."""
    before: Capacity
    after: Capacity
    changes: tuple[HostChange, ...]
    """By name; where there are more than `MAX_CHANGES`, those that are lost or take most."""
    change_count: int
    """How many there are."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What would come of the loss of one host."""

    host_id: str
    host_name: str
    outcome: StepOutcome


class Simulation:
    """One what-if. `run` is for once; `lose` leaves all as it was."""

    def __init__(
        self,
        fleet: Fleet,
        weights: Weights,
        ratios: AllocationRatios,
        held: Sequence[tuple[str, PlacementRequest]],
        *,
        now: datetime,
        book: RuleBook = OURS,
    ) -> None:
        """`fleet`: a copy, which is changed.

        `held`: what the hosts that will be lost hold, with each its host; who is served first
        comes first, whatever host it is on.
        """
        self._fleet = fleet
        self._engine = Engine(fleet, weights, book)
        self._ratios = ratios
        self._held: dict[str, list[PlacementRequest]] = {}
        for host_id, request in held:
            self._held.setdefault(host_id, []).append(request)
        self._line = {request.instance_id: place for place, (_, request) in enumerate(held)}
        self._now = now
        self._made = 0
        self._placed: Counter[str] = Counter()
        self._lost: set[str] = set()

    def run(self, steps: Iterable[Step]) -> Generator[None, None, Simulated]:
        """Do the steps, in order."""
        fleet = self._fleet
        claimed = [fleet.table(f"claimed_{name}")[: len(fleet)].copy() for name in _FIGURES]
        before = capacity(fleet)
        outcomes = []
        for step in steps:
            outcome = yield from self._step(step)
            outcomes.append(outcome)
        added = fleet.ids[len(claimed[0]) :]
        moved = self._placed.keys() | self._lost | set(added)
        changes = yield from self._changes(moved, claimed)
        return Simulated(tuple(outcomes), before, capacity(fleet), tuple(changes), len(moved))

    def knows(self, host_id: str) -> bool:
        """Tell whether a host is in the fleet."""
        return host_id in self._fleet

    def lose(
        self, host_id: str, requests: Sequence[PlacementRequest]
    ) -> Generator[None, None, Loss]:
        """Say what would come of the loss of a host, then let it be as it was.

        `requests`: of what it holds, who is served first comes first.
        """
        row = self._fleet.row_of(host_id)
        assert row is not None
        was, members = self._fleet.state_of(row), self._fleet.members.on(host_id)
        self._silence(host_id)
        tally = self._tally()
        yield from tally.place(requests)
        yield from tally.take_back()
        self._fleet.set_state(host_id, was)
        self._fleet.members.put(host_id, members)
        return Loss(host_id, self._fleet.names[row], tally.outcome())

    def _step(self, step: Step) -> Generator[None, None, StepOutcome]:
        match step:
            case AddHosts(hosts):
                yield from self._add(hosts)
                return StepOutcome()
            case LoseHosts(host_ids):
                return (yield from self._lose_all(host_ids))
            case Place(request, count):
                return (yield from self._place(request, count))

    def _add(self, hosts: Sequence[Host]) -> Generator[None, None, None]:
        fleet, now_s = self._fleet, self._fleet.now_s
        for host in hosts:
            fleet.upsert_host(replace(host, state=HostState.UP), self._ratios)
            yield
        # A fold looks at the whole fleet, however few samples there are.
        for start in range(0, len(hosts), _FOLDED_AT_ONCE):
            some = hosts[start : start + _FOLDED_AT_ONCE]
            fleet.fold([(host.id, _idle(host, self._now), now_s) for host in some])
            yield

    def _lose_all(self, host_ids: Sequence[str]) -> Generator[None, None, StepOutcome]:
        homeless: list[PlacementRequest] = []
        for host_id in host_ids:
            self._silence(host_id)
            self._lost.add(host_id)
            homeless += self._held.pop(host_id, ())
        homeless.sort(key=self._place_in_line)
        tally = self._tally()
        yield from tally.place(homeless)
        yield from self._keep(tally)
        return tally.outcome()

    def _silence(self, host_id: str) -> None:
        self._fleet.set_state(host_id, HostState.UNKNOWN)
        self._fleet.members.put(host_id, {})

    def _place_in_line(self, request: PlacementRequest) -> tuple[int, str]:
        """Return what orders those who want hosts: those made here come last, as made."""
        return self._line.get(request.instance_id, len(self._line)), request.instance_id

    def _place(self, request: PlacementRequest, count: int) -> Generator[None, None, StepOutcome]:
        tally = self._tally()
        yield from tally.place(self._like(request, count))
        yield from self._keep(tally)
        if tally.refused:
            return tally.outcome()
        more = self._tally()
        yield from more.place(self._like(request, MAX_MORE), until_refused=True)
        yield from more.take_back()
        return replace(tally.outcome(), more_count=len(more.placed))

    def _like(self, request: PlacementRequest, count: int) -> Iterable[PlacementRequest]:
        for _ in range(count):
            self._made += 1
            yield replace(request, instance_id=f"{MADE_UP}{self._made:06}")

    def _tally(self) -> Tally:
        return Tally(self._fleet, self._engine, self._now)

    def _keep(self, tally: Tally) -> Generator[None, None, None]:
        for host_id, request in tally.placed:
            self._placed[host_id] += 1
            self._held.setdefault(host_id, []).append(request)
            yield

    def _changes(
        self, moved: Iterable[str], claimed: Sequence[Ints]
    ) -> Generator[None, None, list[HostChange]]:
        """Tell of hosts that moved. `claimed`: what was claimed of each row at first."""
        fleet, merits = self._fleet, []
        for host_id in moved:
            row = fleet.row_of(host_id)
            assert row is not None
            is_lost = host_id in self._lost
            merits.append((not is_lost, -self._placed[host_id], fleet.names[row], row))
            yield
        changes = []
        for _, _, name, row in sorted(
            heapq.nsmallest(MAX_CHANGES, merits), key=lambda merit: merit[2]
        ):
            host_id, known = fleet.ids[row], row < len(claimed[0])  # added ones come last
            changes.append(
                HostChange(
                    host_id,
                    name,
                    added=not known,
                    lost=host_id in self._lost,
                    placed_count=self._placed[host_id],
                    before=Amounts(*(c.item(row) for c in claimed)) if known else Amounts(),
                    after=_amounts(fleet, "claimed", row),
                    claimable=_amounts(fleet, "claimable", row),
                )
            )
            yield
        return changes


def capacity(fleet: Fleet) -> Capacity:
    """Sum up the hosts that take instances."""
    count = len(fleet)
    rows = np.flatnonzero(fleet.table("up")[:count] & ~fleet.table("cordoned")[:count])
    sums = {
        kind: Amounts(*(sum(fleet.table(f"{kind}_{name}")[rows].tolist()) for name in _FIGURES))
        for kind in ("claimed", "claimable")
    }
    used = np.logical_or.reduce([fleet.table(f"claimed_{name}")[rows] > 0 for name in _FIGURES])
    return Capacity(len(rows), int((~used).sum()), sums["claimed"], sums["claimable"])


def _amounts(fleet: Fleet, kind: str, row: int) -> Amounts:
    return Amounts(*(fleet.table(f"{kind}_{name}").item(row) for name in _FIGURES))


def _idle(host: Host, now: datetime) -> HostUsage:
    """Return the sample of a host on which nothing runs."""
    return HostUsage(
        sample_time=now,
        interval_s=2.0,
        cpu_used_cores=0.0,
        cpu_used_ratio=0.0,
        cpu_wait_cores=0.0,
        cpu_pressure_ratio=0.0,
        memory_pressure_ratio=0.0,
        memory_full_pressure_ratio=0.0,
        io_pressure_ratio=0.0,
        io_full_pressure_ratio=0.0,
        memory_total_bytes=host.memory_bytes,
        memory_available_bytes=host.memory_bytes,
        disk_available_bytes=host.disk_bytes,
    )
