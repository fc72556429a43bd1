"""Contention: whom a placement would make wait for a CPU, from what each machine is known to use.

A host is in contention while its machines ask for more than it has. What they will ask for is not
their last sample: it is the sum of what each is known to use, give or take the sum of their
variances (machine_loads.py), and what is known of a newcomer is what its like use
(usage_profiles.py). Pure integers, elementwise: any CPU gives the same bits.

Two terms come of it. `contention_score` is whom the placement hurts: it tells hosts apart that are
near contention, and those alone. `headroom_score` is how far off a host would stay: it tells the
others apart, too. Who packs weighs the first beside what is claimed; who wants quiet, both.

The trap: means add up and so do variances, but standard deviations do not. Ten machines that each
swing by a core make a host swing by three, not by ten; one of ten cores makes it swing by all ten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Protocol, overload

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.elementwise import N, at_least, within
from unkai_scheduler.placement.hosts_view import Figure_co
from unkai_scheduler.placement.signals import FULL

Ints = npt.NDArray[np.int64]

CORE = 1 << 10
"""The unit of loads: a 1,024th of a core; variances are in its square."""
ONE = 1 << 20
"""Fixed point of probabilities and of expected instances: 1.0."""
STEPS = 64
"""Steps of one standard deviation in which a host's headroom is looked up."""
_MOST = 8 * STEPS
LEAST_VARIANCE = CORE * CORE // 16
"""What no host is ever known better than: a quarter of a core, squared. It keeps a host whose few
machines have been steady so far from passing for certain."""
HEADROOM_FULL = 6 * STEPS
"""So many deviations free are as good as any more: one chance in 10⁹."""


def _tails() -> Ints:
    # Upper tail of the normal distribution, Q(z) = erfc(z / sqrt 2) / 2 (DLMF 7.2.2), z from -8 to
    # 8. Rounded to 2^-20, whatever the C library's last bit; a test pins the sum.
    values = (math.erfc(k / STEPS / math.sqrt(2)) / 2 for k in range(-_MOST, _MOST + 1))
    return np.array([int(value * ONE + 0.5) for value in values], np.int64)


_TAILS = _tails()


@dataclass(frozen=True, slots=True)
class Load(Generic[N]):
    """What one host, or each of many, is expected to be asked for."""

    capacity: N
    """What it has, in `CORE`."""
    mean: N
    """Sum of what its machines use on average, and of what others use there; in `CORE`."""
    variance: N
    """Sum of the machines' variances, in `CORE` squared: they swing apart from each other."""
    machines: N
    """How many would wait if it came to contention."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What is expected of an instance that is to be placed; units as `Load`."""

    mean: int
    variance: int


class LoadColumns(Protocol[Figure_co]):
    """Columns of one host, or of many: of `Hosts` and `OneHost`, say."""

    def column(self, name: str) -> Figure_co:
        """Return an integer column."""


def load_of(hosts: LoadColumns[N]) -> Load[N]:
    """Return the load of hosts from their columns (`machine_loads.HOST_COLUMNS`)."""
    return Load(
        hosts.column("cpus") * CORE,
        hosts.column("load_mean") + hosts.column("load_foreign"),
        hosts.column("load_variance"),
        hosts.column("load_machines"),
    )


def deviations(capacity: N, mean: N, variance: N) -> N:
    """Return how many standard deviations are free on a host, in `STEPS`, -8 to 8."""
    return within((capacity - mean) * STEPS // _root(variance + LEAST_VARIANCE), -_MOST, _MOST)


def overload_chance(capacity: N, mean: N, variance: N) -> N:
    """Return the probability that a host's machines ask for more than it has, in `ONE`.

    The central limit theorem's: demand is the sum of many, so it is nearly normal.
    """
    return _tail(deviations(capacity, mean, variance))


def instances_hurt(load: Load[N], newcomer: Newcomer) -> N:
    """Return how many instances more are expected to be in contention, in `ONE`.

    The newcomer itself, by the chance it meets (what it would feel), and all that are there by the
    growth of theirs (what it would cause). Never below 0.
    """
    before = overload_chance(load.capacity, load.mean, load.variance)
    after = overload_chance(
        load.capacity, load.mean + newcomer.mean, load.variance + newcomer.variance
    )
    # A host that is beyond its capacity gets likelier to be within it by a newcomer that swings:
    # nobody is helped by that.
    return after + load.machines * at_least(after - before, 0)


def contention_score(load: Load[N], newcomer: Newcomer) -> N:
    """Score whom the placement hurts: 65535 nobody, 32767 one instance, 21845 two.

    1 / (1 + hurt), so that more is always worse. It says nothing among hosts that are all far from
    contention: there the other terms decide, or `headroom_score`.
    """
    return FULL * ONE // (ONE + instances_hurt(load, newcomer))


def headroom_score(load: Load[N], newcomer: Newcomer) -> N:
    """Score how far from contention the host would be: 0 at its capacity, 65535 six deviations off.

    The distance is in standard deviations of what its machines ask for, so a host of few big
    machines needs more free cores than one of many small ones to be as good.
    """
    free = deviations(load.capacity, load.mean + newcomer.mean, load.variance + newcomer.variance)
    return within(free, 0, HEADROOM_FULL) * FULL // HEADROOM_FULL


@overload
def _root(values: int) -> int: ...
@overload
def _root(values: Ints) -> Ints: ...
def _root(values: int | Ints) -> int | Ints:
    """Return the square root of each, rounded down; values are below 2^52.

    IEEE 754 wants a float's root rounded correctly (5.4.1), so it is the same on any CPU, and below
    2^52 it never reaches the next integer.
    """
    if isinstance(values, int):
        return math.isqrt(values)
    return np.sqrt(values.astype(np.float64)).astype(np.int64)


def _tail(steps: N) -> N:
    if isinstance(steps, int):
        return _TAILS.item(steps + _MOST)
    return _TAILS[steps + _MOST]
