"""Scores: how good each host is: an integer array each, 0..65535 for 0..1, more is better.

A load term is flat while a host is merely in use and falls steeply where work starts to wait:
contention is compared, not use. Curves are straight lines between a knee and a full value, in
integers. Pure; cost elementwise in the hosts looked at, which are all, or those that have moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.elementwise import N, at_least, greater, within
from unkai_scheduler.placement.hosts_view import Hosts, Ints, Some
from unkai_scheduler.placement.live_figures import MIB_SHIFT
from unkai_scheduler.placement.moves import Aspect
from unkai_scheduler.placement.requests import PlacementRequest
from unkai_scheduler.placement.signals import FULL, Signal

EXPECTED_MILLICORES_PER_VCPU = 300
"""What a virtual CPU of a machine just placed is expected to use: between an idle guest's few
percent and a booting one's whole core."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How bad a ratio is: not at all up to `knee`, wholly from `full` on. Fixed point."""

    knee: int
    full: int

    def __call__(self, ratios: N) -> N:
        """Return the badness of each ratio, 0..65535."""
        return within((ratios - self.knee) * FULL // (self.full - self.knee), 0, FULL)


def _curve(knee: float, full: float) -> Curve:
    return Curve(int(knee * FULL), int(full * FULL))


CPU_LOAD = _curve(0.25, 0.95)
"""Of CPUs in use: up to a quarter there is room for a guest at once; beyond 95 % there is none.
Between, waiting grows as in any queue (utilisation law; Kleinrock, Queueing Systems I)."""
CPU_WAIT = _curve(0.15, 0.80)
"""Of tasks waiting, in CPUs per CPU (schedstat's run_delay, or half of PSI's cpu `some`, which says
that somebody waits and not how many: Documentation/accounting/psi.rst). Some waiting is normal."""
MEMORY_SHORT = _curve(0.80, 0.97)
"""Of memory in use, what is asked for included: the end of memory is near."""
MEMORY_FOREIGN = _curve(0.30, 0.70)
"""Of memory held by what is not ours: claims do not know of it."""
MEMORY_STALLED = _curve(0.05, 0.40)
"""Of time lost to reclaim and refaults (PSI memory `some`): a healthy host has next to none."""
IO_STALLED = _curve(0.10, 0.60)
"""Of time some task waits for I/O (PSI io `some`): a host at rest has a few percent. A writer that
syncs has 20 % where it must wait for a CPU as well (seen in the lab), and nearly all where not."""


def claimed_share(hosts: Some[N], request: PlacementRequest) -> N:
    """Return the share of each host that would be claimed: of the resource claimed most."""
    vcpus = _share(hosts, "vcpus", request.vcpus, 0)
    memory = _share(hosts, "memory", request.memory_bytes, MIB_SHIFT)
    disk = _share(hosts, "disk", request.disk_bytes, MIB_SHIFT)
    return within(greater(vcpus, greater(memory, disk)), 0, FULL)


def _share(hosts: Some[N], name: str, wanted: int, shift: int) -> N:
    taken = hosts.column("claimed_" + name) + wanted >> shift
    return taken * FULL // at_least(hosts.column("claimable_" + name) >> shift, 1)


_TIES = (Signal.CPU_LOAD, Signal.CPU_WAIT, Signal.MEMORY_PRESSURE, Signal.IO_PRESSURE)
_TIE_SHIFT = 12
MOST_STEPS = (FULL >> _TIE_SHIFT) + 1
"""Sixteenths: finer differences are noise."""


def load_steps(hosts: Hosts) -> Ints:
    """Return the greatest of the live signals as it is, in sixteenths: what breaks ties."""
    steps: Ints = np.maximum.reduce([hosts.recent(signal) for signal in _TIES]) >> _TIE_SHIFT
    return steps


def _policy(hosts: Some[N], request: PlacementRequest) -> N:
    """Score by claims: pack prefers the host claimed most, spread the one claimed least.

    As Kubernetes' MostAllocated and LeastAllocated, of the resource claimed most.
    """
    share = claimed_share(hosts, request)
    return share if request.policy is PlacementPolicy.PACK else FULL - share


def _cpu_load(hosts: Some[N], _request: PlacementRequest) -> N:
    """Score CPU in use, as sampled, and what machines just placed are expected to use."""
    # What is only expected never weighs more than half of a load that is there: it saturates
    # (e / (1 + e), so that more is always worse) instead of drowning the difference.
    good = FULL - CPU_LOAD(hosts.recent(Signal.CPU_LOAD))
    vcpus = hosts.expected("expected_vcpus")
    expected = vcpus * EXPECTED_MILLICORES_PER_VCPU // (hosts.column("cpus") * 1000)
    saturating = expected * FULL // (expected + FULL)
    left: N = good - good * (saturating >> 1) // FULL
    return left


def _cpu_wait(hosts: Hosts, _request: PlacementRequest) -> Ints:
    """Score waiting for CPUs, as sampled: a throttled or crowded host shows it, not in use."""
    return FULL - CPU_WAIT(hosts.recent(Signal.CPU_WAIT))


def _memory_pressure(hosts: Some[N], request: PlacementRequest) -> N:
    """Score memory by the worst of three: it runs out, others hold it, or tasks wait for it."""
    coming = hosts.expected("expected_mib") + (request.memory_bytes >> MIB_SHIFT) * FULL
    total = at_least(hosts.column("total_mib"), 1)
    short = MEMORY_SHORT(hosts.recent(Signal.MEMORY_USED) + coming // total)
    foreign = MEMORY_FOREIGN(hosts.recent(Signal.MEMORY_FOREIGN))
    stalled = MEMORY_STALLED(hosts.recent(Signal.MEMORY_PRESSURE))
    # What is short by use and expectation leaves an eighth to what stalls or is foreign.
    return FULL - greater(short - (short >> 3), greater(foreign, stalled))


def _io_pressure(hosts: Hosts, _request: PlacementRequest) -> Ints:
    """Score waiting for I/O, as sampled; it counts whoever waits, our guests too."""
    return FULL - IO_STALLED(hosts.recent(Signal.IO_PRESSURE))


def _preferred_traits(hosts: Hosts, request: PlacementRequest) -> Ints:
    """Score by the share of the preferred traits that a host has: all of them is 1."""
    found = np.zeros(len(hosts), np.int64)
    for trait in request.preferred_traits:
        found += hosts.having((trait,))
    share: Ints = found * FULL // max(len(request.preferred_traits), 1)
    return share


@dataclass(frozen=True, slots=True)
class Score:
    """One term of how good a host is."""

    name: str
    """As its weight; `policy` is called pack or spread in explanations."""
    of: Callable[[Any, PlacementRequest], Any]
    """0..65535 for 0..1 for each host looked at, more is better."""
    reads: int = Aspect.ALL
    """What of a host it looks at: it is asked again when that moves."""
    of_one: bool = False
    """It can be asked of `OneHost`, too, and gives the same."""
    is_load: bool = False
    """It judges how a host fares, not what is claimed of it or said of it."""
    applies: Callable[[PlacementRequest], bool] = lambda _request: True
    """Whether it counts for a request, by its shape."""


SCORES: tuple[Score, ...] = (
    Score("policy", _policy, Aspect.HOST | Aspect.CLAIMS, of_one=True),
    Score("cpu_load", _cpu_load, of_one=True, is_load=True),
    Score("cpu_wait", _cpu_wait, Aspect.LIVE, is_load=True),
    Score(
        "memory_pressure",
        _memory_pressure,
        Aspect.CLAIMS | Aspect.LIVE,
        of_one=True,
        is_load=True,
    ),
    Score("io_pressure", _io_pressure, Aspect.LIVE, is_load=True),
    Score(
        "preferred_traits",
        _preferred_traits,
        Aspect.HOST,
        applies=lambda request: bool(request.preferred_traits),
    ),
)
