"""A replay: all requests placed in their order, and who was in contention for how long."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from replays.trace import COUNTED_S, CPUS, STEP_S, Ints, Trace, Usage
from replays.ways import YOUNG_TICK_S, Placing


@dataclass(frozen=True, slots=True)
class Placed:
    """Where everybody went."""

    host: Ints
    """-1: refused."""
    refused: int
    hosts_used: float
    """Hosts with an instance, on average over arrivals of the last day."""
    seconds: float


def replay(trace: Trace, hosts: int, placing: Placing) -> Placed:
    """Place all requests of a trace in order."""
    began_s = time.perf_counter()
    placing.ready(trace, hosts)
    host = np.full(len(trace), -1, np.int64)
    ends: list[tuple[float, int]] = []
    next_s = float(YOUNG_TICK_S)
    used: list[int] = []
    least = -(1 << 40)
    for instance, now_s in enumerate(trace.arrival_s.tolist()):
        while (ends and ends[0][0] <= now_s) or next_s <= now_s:
            if ends and ends[0][0] <= next_s:
                _, gone = heappop(ends)
                placing.take(gone, host.item(gone), -1)
            else:
                placing.tick(next_s)
                next_s += YOUNG_TICK_S
        fits = placing.fits(instance)
        if not fits.any():
            continue
        merits = placing.merits(instance, now_s)
        chosen = int(np.where(fits, merits, least).argmax())
        host[instance] = chosen
        placing.take(instance, chosen)
        heappush(ends, (trace.end_s.item(instance), instance))
        if now_s >= COUNTED_S:
            used.append(int(np.count_nonzero(placing.count)))
    took_s = time.perf_counter() - began_s
    return Placed(host, int((host < 0).sum()), float(np.mean(used or [0])), took_s)


def contention(
    trace: Trace, placed: Placed, hosts: int, usage: Usage, span: tuple[float, float], who: Ints
) -> float:
    """Return the share of some instances' time in a span that they were in contention.

    Exact: a host's demand moves when an instance comes or goes and at every 300 s. `who`: instances
    counted, of all that were placed.
    """
    counted = np.zeros(len(trace), np.int64)
    counted[who] = 1
    there = np.flatnonzero((placed.host >= 0) & (trace.end_s > span[0]))
    there = there[trace.arrival_s[there] < span[1]]
    hurt_s = all_s = 0.0
    for step in range(int(span[0] // STEP_S), math.ceil(span[1] / STEP_S)):
        begin_s, end_s = max(step * STEP_S, span[0]), min((step + 1) * STEP_S, span[1])
        now = there[(trace.arrival_s[there] < end_s) & (trace.end_s[there] > begin_s)]
        cores = usage.at(now, step) * trace.vcpus[now]
        # Comings and goings as changes of their host, and each host's end of the step.
        at_s = np.concatenate(
            [
                np.maximum(trace.arrival_s[now], begin_s),
                np.minimum(trace.end_s[now], end_s),
                np.full(hosts, end_s),
            ]
        )
        where = np.concatenate([placed.host[now], placed.host[now], np.arange(hosts)])
        change = np.concatenate([cores, -cores, np.zeros(hosts)])
        one = counted[now]
        ones = np.concatenate([one, -one, np.zeros(hosts, np.int64)])
        order = np.lexsort((at_s, where))
        at_s, where = at_s[order], where[order]
        # Each host's changes add up to nothing, so one running sum serves all.
        demand, count = np.cumsum(change[order])[:-1], np.cumsum(ones[order])[:-1]
        lasts_s = np.where(where[1:] == where[:-1], np.diff(at_s), 0.0) * count
        hurt_s += float(lasts_s[demand > CPUS + 1e-6].sum())
        all_s += float(lasts_s.sum())
    return hurt_s / all_s
