"""How long instances wait for a CPU because of where they were placed: ours, and those who do not
look at metrics, on the same hosts.

Requests, sizes and lifetimes are Azure's; hosts have 16 CPUs and 128 GB, of which 32 virtual CPUs
and all memory may be claimed. What each instance uses is a row of PlanetLab's, three times as much
and at most all it has; or, smooth, a quarter more than that row's mean, rising and falling with
the hour. A host is in contention while its instances would use more than its 16 CPUs, and so is
each of them. Counted is the last day: the trace begins with an empty cloud. Nobody is ever moved.

Ours is the product's modules: machine loads fed with samples of 2 s or 60 s ago, usage profiles,
and scores. Peers that look at claims only: best fit, Nova's weighers, and other ways to spread; the
oracle knows what everybody will ever use, and until when. A burst is launched within 5 s in a cloud
half full; a peer that trusts the last sample shows what herding is. Prints tables and, as its last
line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from replays.replay import Placed, contention, replay
from replays.trace import COUNTED_S, END_S, Ints, Trace, Usage, read_trace, usages
from replays.ways import BLIND, BestFit, LastSample, LeastClaimed, NovaVcpus, Oracle, Ours, Placing

HOSTS, SMALL_HOSTS = 1600, 165
"""For the whole trace, and for its tenth: about an eighth more than best fit needs for all."""
BURST, BURST_AT_S, BURST_LIFE_S, BURST_S = 500, 48 * 3600, 3600, 5.0
VOID_BELOW = 0.01
OURS = {"contention": 1, "headroom": 1, "pack": 0}
OURS_PACKED = {"contention": 1, "headroom": 0, "pack": 1}


def with_burst(trace: Trace) -> tuple[Trace, Ints]:
    """Return a trace that ends an hour after a burst, and the burst's instances."""
    early = np.flatnonzero(trace.arrival_s < BURST_AT_S + BURST_LIFE_S)
    at_s = BURST_AT_S + np.arange(BURST) * (BURST_S / BURST)
    arrival_s = np.concatenate([trace.arrival_s[early], at_s])
    order = np.argsort(arrival_s, kind="stable")
    size = np.ones(BURST, np.int64)
    made = Trace(
        arrival_s[order],
        np.concatenate([trace.end_s[early], at_s + BURST_LIFE_S])[order],
        np.concatenate([trace.vcpus[early], size])[order],
        np.concatenate([trace.memory_mib[early], size * 1792])[order],
        np.concatenate([trace.batch[early], -size])[order],
    )
    return made, np.flatnonzero(made.batch < 0)


def burst(hosts: int, seed: int) -> dict[str, Any]:
    """Launch many at once in a small cloud half full, on noisy usage."""
    trace, newcomers = with_burst(read_trace("small"))
    usage = usages(len(trace), seed)[0]
    span = (float(BURST_AT_S), float(BURST_AT_S + BURST_LIFE_S))
    ways: list[Placing] = [
        LeastClaimed(),
        NovaVcpus(),
        LastSample(usage, 2),
        *(Ours(usage, age_s, OURS, f"ours, {age_s} s old") for age_s in (2, 60)),
    ]
    results: dict[str, Any] = {"even_share": round(BURST / hosts, 2)}
    for way in ways:
        placed = replay(trace, hosts, way)
        on = np.bincount(placed.host[newcomers][placed.host[newcomers] >= 0], minlength=hosts)
        results[way.name] = {
            "most_on_a_host": int(on.max()),
            "hosts": int((on > 0).sum()),
            "refused": placed.refused,
            "contention": round(contention(trace, placed, hosts, usage, span, newcomers), 5),
        }
        print(f"burst  {way.name:20} {results[way.name]}", flush=True)
    return results


def packing(hosts: int, seed: int) -> dict[str, Any]:
    """Pack the small trace by our terms, and by best fit: hosts in use and contention."""
    trace = read_trace("small")
    usage = usages(len(trace), seed)[0]
    ways: list[Placing] = [BestFit(), Ours(usage, 2, OURS_PACKED, "ours, packed")]
    results = {}
    for way in ways:
        placed = replay(trace, hosts, way)
        figures = row(trace, placed, hosts, [usage])
        results[way.name] = {**figures, "hosts_used": round(placed.hosts_used, 1)}
        print(f"pack   {way.name:20} {results[way.name]}", flush=True)
    return results


def row(trace: Trace, placed: Placed, hosts: int, of: list[Usage]) -> dict[str, float]:
    """Return what a way of placing came to, under some usages."""
    everybody = np.arange(len(trace))
    shares = {
        usage.name: contention(trace, placed, hosts, usage, (COUNTED_S, END_S), everybody)
        for usage in of
    }
    return {
        **{name: round(share, 5) for name, share in shares.items()},
        "refused": placed.refused,
        "seconds": round(placed.seconds, 1),
    }


def measure(trace: Trace, hosts: int, seed: int) -> dict[str, Any]:
    """Compare all ways of placing."""
    kinds = usages(len(trace), seed)
    table: dict[str, dict[str, float]] = {}

    def run(way: Placing, of: list[Usage]) -> None:
        figures = row(trace, replay(trace, hosts, way), hosts, of)
        table.setdefault(way.name, {}).update(figures)
        print(f"{way.name:20} {figures}", flush=True)

    for age_s in (2, 60):
        for usage in kinds:
            run(Ours(usage, age_s, OURS, f"ours, {age_s} s old"), [usage])
        if age_s == 2:
            for blind in BLIND:
                run(blind(), kinds)
    for usage in kinds:
        run(LastSample(usage, 2), [usage])
        run(Oracle(usage), [usage])
    best = {u.name: min((table[b.name][u.name], b.name) for b in BLIND) for u in kinds}
    results: dict[str, Any] = {"ways": table}
    results["best_blind"] = {name: found[1] for name, found in best.items()}
    results["void"] = {name: found[0] < VOID_BELOW for name, found in best.items()}
    for age_s in (2, 60):
        results[f"ratio_{age_s}s"] = {
            name: round(table[f"ours, {age_s} s old"][name] / max(share, 1e-9), 3)
            for name, (share, _) in best.items()
        }
    results["worst_ratio_2s"] = max(results["ratio_2s"].values())
    results["void_count"] = sum(results["void"].values())
    return results


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, default=1, help="of so many batches one is replayed")
    parser.add_argument("--hosts", type=int, help="default: as many as fit the part")
    parser.add_argument("--seed", type=int, default=1, help="who uses what")
    options = parser.parse_args()
    hosts = options.hosts or HOSTS // options.part
    results = measure(read_trace("full", options.part), hosts, options.seed)
    results["burst"] = burst(SMALL_HOSTS, options.seed)
    results["packing"] = packing(SMALL_HOSTS, options.seed)
    params = {"part": options.part, "hosts": hosts, "seed": options.seed}
    print(json.dumps({"bench": "contention", "params": params, "results": results}))


if __name__ == "__main__":
    main()
