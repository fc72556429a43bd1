"""Ways to place: by claims alone, by samples, by the product's scores, and by an oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from replays.trace import CPUS, END_S, MEMORY_MIB, STEP_S, VCPUS, Floats, Ints, Trace, Usage
from unkai_scheduler.placement.contention import contention_score, headroom_score
from unkai_scheduler.placement.machine_loads import HOST_COLUMNS, MachineLoads
from unkai_scheduler.placement.signals import FULL
from unkai_scheduler.placement.usage_profiles import UsageProfiles

Bools = npt.NDArray[np.bool_]

YOUNG_S, YOUNG_TICK_S, TICK_S = 600, 20, 60
"""Usage stands still for 300 s, so a sample in 2 s is not drawn: one in 20 s of instances up to ten
minutes old, one a minute of others, each for all the time since the one before."""
ORACLE_STEPS = 64
"""So many steps of a newcomer's life an oracle looks at, evenly apart: more tell it no more."""


class Placing:
    """A way to choose hosts. Told of all that happens, in its order."""

    name = ""

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin with empty hosts."""
        self.trace = trace
        self.claimed_vcpus, self.claimed_mib, self.count = (
            np.zeros(hosts, np.int64) for _ in range(3)
        )

    def tick(self, now_s: float) -> None:
        """Take in what there is to know; called every 20 s."""

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Return how good each host is; the first of the best that fit is taken."""
        raise NotImplementedError

    def fits(self, instance: int) -> Bools:
        """Return which hosts have room."""
        vcpus, memory = self.trace.vcpus.item(instance), self.trace.memory_mib.item(instance)
        return (self.claimed_vcpus <= VCPUS - vcpus) & (self.claimed_mib <= MEMORY_MIB - memory)

    def take(self, instance: int, host: int, sign: int = 1) -> None:
        """Claim for an instance, or give back."""
        self.claimed_vcpus[host] += sign * self.trace.vcpus.item(instance)
        self.claimed_mib[host] += sign * self.trace.memory_mib.item(instance)
        self.count[host] += sign

    def shares(self, instance: int) -> tuple[Floats, Floats]:
        """Return what would be claimed of virtual CPUs and of memory, per host."""
        vcpus, memory = self.trace.vcpus.item(instance), self.trace.memory_mib.item(instance)
        return (self.claimed_vcpus + vcpus) / VCPUS, (self.claimed_mib + memory) / MEMORY_MIB


class BestFit(Placing):
    """Least left over: the smallest sum of squares of free shares."""

    name = "best fit"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the fullest host."""
        vcpus, memory = self.shares(instance)
        return -((1 - vcpus) ** 2) - (1 - memory) ** 2


class WorstFit(BestFit):
    """Most left over, by the same sum."""

    name = "worst fit"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the emptiest host."""
        return -super().merits(instance, now_s)


class LeastClaimed(Placing):
    """Kubernetes' LeastAllocated, of the resource claimed most."""

    name = "least claimed"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the host whose scarcest resource is claimed least."""
        return -np.maximum(*self.shares(instance))


class NovaMemory(Placing):
    """Nova's RAM weigher alone."""

    name = "nova: memory"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the host with most memory free."""
        return -self.claimed_mib


class NovaVcpus(Placing):
    """Nova's CPU weigher alone."""

    name = "nova: vcpus"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the host with most virtual CPUs free."""
        return -self.claimed_vcpus


class Nova(Placing):
    """Nova's CPU and RAM weighers, each stretched to 0..1 over the hosts that fit, and added."""

    name = "nova: both"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer what is free, of both alike."""
        fit = self.fits(instance)
        total = np.zeros(len(fit))
        for claimed in (self.claimed_vcpus, self.claimed_mib):
            free = -claimed.astype(np.float64)
            least = free[fit].min(initial=0.0)
            total += (free - least) / max(free[fit].max(initial=least) - least, 1.0)
        return total


class FewestInstances(Placing):
    """By the number of instances."""

    name = "fewest instances"

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the host with fewest."""
        return -self.count


class RoundRobin(Placing):
    """The next host that fits."""

    name = "round robin"
    last = 0

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the one after the last."""
        return -((np.arange(len(self.count)) - self.last - 1) % len(self.count))

    def take(self, instance: int, host: int, sign: int = 1) -> None:
        """Remember where."""
        super().take(instance, host, sign)
        if sign > 0:
            self.last = host


class Chance(Placing):
    """Any host that fits."""

    name = "random"

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin."""
        super().ready(trace, hosts)
        self._chance = np.random.default_rng(7)

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer nobody."""
        return self._chance.random(len(self.count))


class Live(Placing):
    """Who looks at samples; knows which machines are where since when."""

    def __init__(self, usage: Usage, age_s: int) -> None:
        self.usage, self.age_s = usage, age_s

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin."""
        super().ready(trace, hosts)
        self.host = np.full(len(trace), -1, np.int64)
        self.sampled_s = trace.arrival_s.copy()

    def take(self, instance: int, host: int, sign: int = 1) -> None:
        """Know who is where."""
        super().take(instance, host, sign)
        self.host[instance] = host if sign > 0 else -1

    def running(self) -> Ints:
        """Return who is there."""
        return np.flatnonzero(self.host >= 0)

    def tick(self, now_s: float) -> None:
        """Take in a sample of those that are due."""
        then_s = now_s - self.age_s
        there = self.running()
        if now_s % TICK_S:
            there = there[then_s - self.trace.arrival_s[there] < YOUNG_S]
        there = there[self.sampled_s[there] < then_s]
        if len(there):
            steps_s = then_s - self.sampled_s[there]
            self.sampled_s[there] = then_s
            self.sample(there, self.usage.at(there, int(then_s // STEP_S)), steps_s)

    def sample(self, instances: Ints, shares: Floats, steps_s: Floats) -> None:
        """Take in what some instances use."""
        raise NotImplementedError


class LastSample(Live):
    """Least load in the last sample, and nothing else: what herds."""

    name = "last sample"

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin."""
        super().ready(trace, hosts)
        self.share = np.zeros(len(trace))
        self.load: Floats = np.zeros(hosts)

    def sample(self, instances: Ints, shares: Floats, steps_s: Floats) -> None:
        """Sum up what was seen."""
        self.share[instances] = shares
        there = self.running()
        cores = self.share[there] * self.trace.vcpus[there]
        self.load = np.bincount(self.host[there], cores, len(self.load)).astype(np.float64)

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Prefer the host with least of it."""
        return -self.load


class Ours(Live):
    """The product's scores, by weights."""

    def __init__(self, usage: Usage, age_s: int, weights: dict[str, int], name: str) -> None:
        super().__init__(usage, age_s)
        self.weights, self.name = weights, name

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin."""
        super().ready(trace, hosts)
        columns: dict[str, Any] = {
            name: np.zeros(hosts, dtype) for name, dtype in HOST_COLUMNS.items()
        }
        columns["cpus"] = np.full(hosts, CPUS, np.int64)
        self.profiles = UsageProfiles()
        self.loads = MachineLoads(columns, self.profiles)
        self.row = np.zeros(len(trace), np.int64)
        self.boards: dict[tuple[int, int], tuple[Ints, int]] = {}
        self.moved: list[int] = []

    def key(self, instance: int) -> str:
        """Return who is like it: the trace tells the size alone."""
        return f"{self.trace.vcpus.item(instance)}/{self.trace.memory_mib.item(instance)}"

    def take(self, instance: int, host: int, sign: int = 1) -> None:
        """Place a machine, or let it leave."""
        super().take(instance, host, sign)
        if sign > 0:
            vcpus = self.trace.vcpus.item(instance)
            self.row[instance] = self.loads.place(str(instance), host, vcpus, self.key(instance))
        else:
            self.loads.leave(str(instance))
        self.moved.append(host)

    def sample(self, instances: Ints, shares: Floats, steps_s: Floats) -> None:
        """Fold in what was seen."""
        fixed = (shares * FULL + 0.5).astype(np.int64)
        self.loads.fold_shares(self.row[instances], fixed, (steps_s * 1000).astype(np.int64))
        self.boards.clear()
        self.moved.clear()

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Weigh the terms: as the engine does, anew only of hosts that have moved."""
        shape = self.trace.vcpus.item(instance), self.trace.memory_mib.item(instance)
        board = self.boards.get(shape)
        if board is None:
            merits = self._weighed(instance, slice(None))
        else:
            merits, position = board
            rows = np.array(list(set(self.moved[position:])), np.int64)
            merits[rows] = self._weighed(instance, rows)
        self.boards[shape] = merits, len(self.moved)
        return merits

    def _weighed(self, instance: int, rows: Ints | slice) -> Ints:
        newcomer = self.profiles.newcomer(self.key(instance), self.trace.vcpus.item(instance))
        load, weights = self.loads.loads(rows), self.weights
        total: Ints = weights["contention"] * contention_score(load, newcomer)
        if weights["headroom"]:
            total = total + weights["headroom"] * headroom_score(load, newcomer)
        if weights["pack"]:
            share = np.maximum(*self.shares(instance))[rows] * FULL
            total = total + weights["pack"] * share.astype(np.int64)
        return total


class Oracle(Placing):
    """Hurts fewest over the newcomer's life, knowing what everybody will use until when."""

    name = "oracle"

    def __init__(self, usage: Usage) -> None:
        self.usage = usage

    def ready(self, trace: Trace, hosts: int) -> None:
        """Begin with the future empty: a row per step, a column per host."""
        super().ready(trace, hosts)
        steps = END_S // STEP_S
        self.demand = np.zeros((steps, hosts), np.float32)
        self.there = np.zeros((steps, hosts), np.int16)

    def _future(self, instance: int, now_s: float, most: int) -> tuple[Ints, Floats]:
        """Return steps of an instance's life, up to `most` evenly apart, and its cores in each."""
        first, last = int(now_s // STEP_S), int(self.trace.end_s.item(instance) // STEP_S)
        after = min(last, END_S // STEP_S - 1) + 1
        steps = np.arange(first, after, max((after - first) // most, 1))
        return steps, self.usage.at(np.array(instance), steps) * self.trace.vcpus.item(instance)

    def merits(self, instance: int, now_s: float) -> npt.NDArray[Any]:
        """Count whom it would hurt, step by step; then prefer the host with least load."""
        steps, cores = self._future(instance, now_s, ORACLE_STEPS)
        before = self.demand[steps]
        after = before + cores.astype(np.float32)[:, None]
        hurt = np.where(after > CPUS, np.where(before > CPUS, 1, self.there[steps] + 1), 0)
        crowded = np.maximum(after - CPUS * 3 / 4, 0).sum(axis=0)
        merits: Floats = -hurt.sum(axis=0) - 1e-6 * crowded
        return merits

    def take(self, instance: int, host: int, sign: int = 1) -> None:
        """Write the newcomer into the future; it leaves it by itself."""
        super().take(instance, host, sign)
        if sign > 0:
            when, cores = self._future(instance, self.trace.arrival_s.item(instance), END_S)
            self.demand[when, host] += cores
            self.there[when, host] += 1


BLIND: tuple[type[Placing], ...] = (
    BestFit,
    Nova,
    NovaVcpus,
    NovaMemory,
    LeastClaimed,
    WorstFit,
    FewestInstances,
    RoundRobin,
    Chance,
)
