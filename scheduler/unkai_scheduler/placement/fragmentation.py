"""Fragmentation: how much of a host no flavor can use, and which host a request harms least.

What a host has left is worth what the flavors that are asked for here can make of it. Each flavor
of the observed mix is laid into the leftover as often as it fits; what remains then, of virtual
CPUs and of memory, is unusable to it. The mean over the mix is the host's unusable share, and the
best host is the one where a request makes it grow least, or shrink most.

After "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
Descent" (FGD; Weng et al., USENIX ATC 2023), whose fragment is what a task cannot use; here it is
what is left over when as many as fit have come, so that it tells near misses apart.

Pure. Integers and elementwise, so that any CPU gives the same bits. All memory is in MiB.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unkai_scheduler.placement.flavor_mix import WHOLE_BITS, Mix
from unkai_scheduler.placement.signals import FULL

Ints = npt.NDArray[np.int64]


def unusable_share(
    free_vcpus: Ints, free_memory_mib: Ints, vcpus: Ints, memory_mib: Ints, mix: Mix
) -> Ints:
    """Return how much of each host its leftover's unusable part is: 0..65535 for 0..1.

    All arrays: one per host, same order; `vcpus` and `memory_mib` are what may be claimed of it,
    `free_` what of that is not. The mean of both resources' shares, weighted by the mix.
    An empty mix makes nothing unusable. Cost O(hosts x flavors) elementwise.
    """
    return _shares(np.array((free_vcpus, free_memory_mib)), np.array((vcpus, memory_mib)), mix)


def fragmentation_score(
    free_vcpus: Ints,
    free_memory_mib: Ints,
    vcpus: Ints,
    memory_mib: Ints,
    *,
    wanted_vcpus: int,
    wanted_memory_mib: int,
    mix: Mix,
) -> Ints:
    """Return how little a request would add to each host's unusable share, 0..65535.

    The middle, 32767, is a host whose unusable share stays as it is; more is better: it shrinks.
    Arrays as for `unusable_share`; a host that cannot hold the request has some score, too.
    """
    before = np.array((free_vcpus, free_memory_mib))
    after = before - np.array(((wanted_vcpus,), (wanted_memory_mib,)))
    whole = np.array((vcpus, memory_mib))
    # Both in one go: for one to three hosts the calls cost more than the figures.
    shares = _shares(np.hstack((before, after)), np.hstack((whole, whole)), mix)
    hosts = len(free_vcpus)
    score: Ints = (FULL + shares[:hosts] - shares[hosts:]) >> 1
    return score


def fullness_score(
    free_vcpus: Ints,
    free_memory_mib: Ints,
    vcpus: Ints,
    memory_mib: Ints,
    *,
    wanted_vcpus: int,
    wanted_memory_mib: int,
) -> Ints:
    """Return how full each host would be with a request, 0..65535; arrays as for `unusable_share`.

    65535 less the fourth power of the free share that is left, of the resource left most: among
    full hosts it hardly differs, and leaves the choice to fragmentation; where there is room, hosts
    that are nearly empty are left to become so.
    """
    left_vcpus = (free_vcpus - wanted_vcpus) * FULL // np.maximum(vcpus, 1)
    left_mib = (free_memory_mib - wanted_memory_mib) * FULL // np.maximum(memory_mib, 1)
    left = np.clip(np.maximum(left_vcpus, left_mib), 0, FULL)
    square = left * left // FULL
    score: Ints = FULL - square * square // FULL
    return score


def _shares(free: Ints, whole: Ints, mix: Mix) -> Ints:
    """Return unusable shares; both arrays: virtual CPUs and memory x hosts."""
    left = np.maximum(free, 0)[:, :, None]
    sizes = mix.sizes[:, None, :]
    times = (left // sizes).min(axis=0)
    # Sums over the mix first, so that one division a host and resource rounds, and no more.
    wasted = (left - times * sizes) @ mix.weights
    shares = (wasted * FULL // np.maximum(whole, 1)).sum(axis=0) >> (WHOLE_BITS + 1)
    share: Ints = np.minimum(shares, FULL)
    return share
