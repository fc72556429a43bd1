"""How few hosts a real workload needs: a trace of VM requests replayed through the packing scores.

A policy is told each request as it comes, and each end when it comes; lifetimes are read by the
queue of ends alone. No overcommit, no migration. A policy's fleet is the smallest on which nothing
is refused. Its density there is the time mean of occupied hosts through the time mean of the bound,
max(vCPUs through a host's, memory through a host's): 1 if nothing were lost. The product's scores
and peers stand in the same run. Prints progress, a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.packing.policies import PEERS, ours  # noqa: E402
from bench.packing.replay import Outcome, Policy, bound, replay  # noqa: E402
from bench.packing.trace import Hosts, HostShape, Trace, parse_shapes, read_trace  # noqa: E402

TRACE = ROOT / "bench" / "data" / "azure_v1_dev.csv.gz"
HOSTS = "96x256"
MIXED = "64x128:2,96x256:2,64x384:1"
NEAR = 2
"""So many sizes below the smallest mixed fleet found are tried as well."""
PolicyOf = Callable[[Hosts], Policy]


@dataclass(frozen=True, slots=True)
class Found:
    """A policy's smallest fleet, and its replay there."""

    fleet: int
    outcome: Outcome

    @property
    def density(self) -> float:
        """Occupied hosts through the bound, both as means over time."""
        return self.outcome.occupied_mean / self.outcome.bound_mean


class Search:
    """Looks for the smallest fleet of one policy on one trace and shape."""

    def __init__(
        self, name: str, trace: Trace, shapes: list[HostShape], policy_of: PolicyOf
    ) -> None:
        self._name, self._trace, self._shapes, self._policy_of = name, trace, shapes, policy_of
        self._tried: dict[int, Outcome] = {}

    def fits(self, hosts: int) -> bool:
        """Replay on so many hosts; say whether nothing was refused."""
        if hosts not in self._tried:
            begun = time.perf_counter()
            outcome = replay(self._trace, self._shapes, hosts, self._policy_of)
            self._tried[hosts] = outcome
            at = outcome.refused_ms
            said = f"refuses at {at / 3.6e6:.1f} h" if at is not None else "holds"
            took_s = time.perf_counter() - begun
            print(f"  {self._name}: {hosts} hosts {said} ({took_s:.0f} s)", flush=True)
        return self._tried[hosts].refused_ms is None

    def smallest(self, least: int) -> Found:
        """Return the smallest fleet that holds, from a bound below which none can."""
        low, high = least - 1, least + max(least // 50, 1)
        while not self.fits(high):
            low, high = high, high + 2 * (high - least)
        # An empty host is opened only where nothing else has room: what was occupied at most is
        # enough where all hosts are alike, and one less is not.
        most = self._tried[high].most_occupied
        for hosts in (most, most - 1):
            if low < hosts < high:
                low, high = (low, hosts) if self.fits(hosts) else (hosts, high)
        while high - low > 1:
            hosts = (low + high) // 2
            low, high = (low, hosts) if self.fits(hosts) else (hosts, high)
        # On hosts of several shapes a smaller fleet has others, and may hold by luck.
        near = range(high - 2, max(high - 2 - NEAR, least - 1), -1) if len(self._shapes) > 1 else ()
        for hosts in near:
            if self.fits(hosts):
                high = hosts
        return Found(high, self._tried[high])


def find(name: str, trace: Trace, shapes: list[HostShape], policy_of: PolicyOf) -> Found:
    """Return a policy's smallest fleet."""
    return Search(name, trace, shapes, policy_of).smallest(bound(trace, shapes))


def row(name: str, hosts: str, least: int, found: Found) -> str:
    """Return a line of the table."""
    share = found.fleet / least - 1
    return f"{name:20}  {hosts:28}  {found.fleet:6}  {100 * share:6.2f}  {found.density:8.4f}"


def measure(trace: Trace, arguments: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """Return the results, and the table's lines."""
    results: dict[str, object] = {}
    lines = [f"{'policy':20}  {'hosts':28}  {'fleet':>6}  {'over %':>6}  {'density':>8}"]
    fleets = [("", arguments.hosts)]
    if arguments.mixed:
        fleets.append(("mixed_", arguments.mixed))
    for prefix, hosts in fleets:
        shapes = parse_shapes(hosts)
        least = bound(trace, shapes)
        print(f"{hosts}: bound {least} hosts", flush=True)
        found = find("ours", trace, shapes, ours)
        lines.append(row("ours", hosts, least, found))
        results[f"{prefix}bound"], results[f"{prefix}fleet"] = least, found.fleet
        results[f"{prefix}density"] = found.density
        results[f"{prefix}occupied_mean"] = found.outcome.occupied_mean
        results[f"{prefix}bound_mean"] = found.outcome.bound_mean
        for name in arguments.peers.split(",") if arguments.peers and not prefix else ():
            found = find(name, trace, shapes, PEERS[name])
            lines.append(row(name, hosts, least, found))
            results[f"{name}_fleet"], results[f"{name}_density"] = found.fleet, found.density
    return results, lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, default=TRACE, help="a trace; see bench/README.md")
    parser.add_argument("--hosts", help=f"vCPUs x GB, and parts: {HOSTS} by default, or {MIXED}")
    parser.add_argument(
        "--mixed", help=f"a second fleet, for our policy alone; {MIXED} unless --hosts is given"
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="peers of the first fleet")
    parser.add_argument("--rows", type=int, help="only so many requests")
    arguments = parser.parse_args()
    if arguments.hosts is None:
        arguments.hosts, arguments.mixed = HOSTS, arguments.mixed or MIXED
    trace = read_trace(arguments.trace, arguments.rows)
    begun = time.perf_counter()
    results, lines = measure(trace, arguments)
    print("\n".join(lines))
    params = {
        "trace": arguments.trace.name,
        "requests": len(trace.requests),
        "hosts": arguments.hosts,
        "mixed_hosts": arguments.mixed,
        "took_s": round(time.perf_counter() - begun),
    }
    print(json.dumps({"bench": "density", "params": params, "results": results}))


if __name__ == "__main__":
    main()
