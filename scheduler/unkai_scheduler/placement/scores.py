"""Scores: how good each host is: an integer array each, 0..65535 for 0..1, more is better.

A load term is flat while a host is merely in use and falls steeply where work starts to wait:
contention is compared, not use. Curves are straight lines between a knee and a full value, in
integers. Pure; cost O(hosts) elementwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.fleet import Fleet, Ints
from unkai_scheduler.placement.live_figures import MIB_SHIFT
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

    def __call__(self, ratios: Ints) -> Ints:
        """Return the badness of each ratio, 0..65535."""
        bad: Ints = np.clip((ratios - self.knee) * FULL // (self.full - self.knee), 0, FULL)
        return bad


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


def claimed_share(fleet: Fleet, request: PlacementRequest) -> Ints:
    """Return the share of each host that would be claimed: of the resource claimed most."""
    shares = [
        ((fleet.column(f"claimed_{name}") + wanted >> shift) * FULL)
        // np.maximum(fleet.column(f"claimable_{name}") >> shift, 1)
        for name, wanted, shift in (
            ("vcpus", request.vcpus, 0),
            ("memory", request.memory_bytes, MIB_SHIFT),
            ("disk", request.disk_bytes, MIB_SHIFT),
        )
    ]
    share: Ints = np.clip(np.maximum.reduce(shares), 0, FULL)
    return share


_TIES = (Signal.CPU_LOAD, Signal.CPU_WAIT, Signal.MEMORY_PRESSURE, Signal.IO_PRESSURE)
_TIE_SHIFT = 12
MOST_STEPS = (FULL >> _TIE_SHIFT) + 1
"""Sixteenths: finer differences are noise."""


@dataclass(frozen=True, slots=True)
class Loads:
    """How bad each host's live figures are, 0..65535: the same for a whole batch."""

    cpu: Ints
    cpu_wait: Ints
    memory: Ints
    io: Ints
    steps: Ints
    """The greatest of the live signals as it is, in sixteenths: what breaks ties."""

    @classmethod
    def of(cls, fleet: Fleet) -> Loads:
        """Judge the recent signals of all hosts."""
        foreign = MEMORY_FOREIGN(fleet.recent(Signal.MEMORY_FOREIGN))
        stalled = MEMORY_STALLED(fleet.recent(Signal.MEMORY_PRESSURE))
        return cls(
            CPU_LOAD(fleet.recent(Signal.CPU_LOAD)),
            CPU_WAIT(fleet.recent(Signal.CPU_WAIT)),
            np.maximum(foreign, stalled),
            IO_STALLED(fleet.recent(Signal.IO_PRESSURE)),
            np.maximum.reduce([fleet.recent(signal) for signal in _TIES]) >> _TIE_SHIFT,
        )


def _policy(fleet: Fleet, request: PlacementRequest, _loads: Loads, _now_s: float) -> Ints:
    """Score by claims: pack prefers the host claimed most, spread the one claimed least.

    As Kubernetes' MostAllocated and LeastAllocated, of the resource claimed most.
    """
    share = claimed_share(fleet, request)
    return share if request.policy is PlacementPolicy.PACK else FULL - share


def _cpu_load(fleet: Fleet, _request: PlacementRequest, loads: Loads, now_s: float) -> Ints:
    """Score CPU in use, as sampled, and what machines just placed are expected to use."""
    # What is only expected never weighs more than half of a load that is there: it saturates
    # (e / (1 + e), so that more is always worse) instead of drowning the difference.
    good = FULL - loads.cpu
    vcpus = fleet.expected("expected_vcpus", now_s)
    rows = np.flatnonzero(vcpus)
    expected = vcpus[rows] * EXPECTED_MILLICORES_PER_VCPU // (fleet.column("cpus")[rows] * 1000)
    saturating = expected * FULL // (expected + FULL)
    good[rows] -= good[rows] * (saturating >> 1) // FULL
    return good


def _cpu_wait(_fleet: Fleet, _request: PlacementRequest, loads: Loads, _now_s: float) -> Ints:
    """Score waiting for CPUs, as sampled: a throttled or crowded host shows it, not in use."""
    return FULL - loads.cpu_wait


def _memory_pressure(fleet: Fleet, request: PlacementRequest, loads: Loads, now_s: float) -> Ints:
    """Score memory by the worst of three: it runs out, others hold it, or tasks wait for it."""
    coming = fleet.expected("expected_mib", now_s) + (request.memory_bytes >> MIB_SHIFT) * FULL
    total = np.maximum(fleet.column("total_mib"), 1)
    short = MEMORY_SHORT(fleet.recent(Signal.MEMORY_USED) + coming // total)
    # What is short by use and expectation leaves an eighth to what stalls or is foreign.
    bad: Ints = np.maximum(short - (short >> 3), loads.memory)
    return FULL - bad


def _io_pressure(_fleet: Fleet, _request: PlacementRequest, loads: Loads, _now_s: float) -> Ints:
    """Score waiting for I/O, as sampled; it counts whoever waits, our guests too."""
    return FULL - loads.io


def preferred_traits(fleet: Fleet, request: PlacementRequest, _loads: Loads, _now_s: float) -> Ints:
    """Score by the share of the preferred traits that a host has: all of them is 1."""
    found = np.zeros(len(fleet), np.int64)
    for trait in request.preferred_traits:
        mask = fleet.trait_mask((trait,))
        if mask is not None:
            found += (fleet.column("traits") & mask).any(axis=1)
    share: Ints = found * FULL // max(len(request.preferred_traits), 1)
    return share


Score = Callable[[Fleet, PlacementRequest, Loads, float], Ints]

SCORES: tuple[tuple[str, Score], ...] = (
    ("policy", _policy),
    ("cpu_load", _cpu_load),
    ("cpu_wait", _cpu_wait),
    ("memory_pressure", _memory_pressure),
    ("io_pressure", _io_pressure),
)
"""Each named as its weight; `policy` is called pack or spread in explanations."""
WISHES: tuple[tuple[str, Score], ...] = (*SCORES, ("preferred_traits", preferred_traits))
"""Those of a request that prefers some hosts to others."""
