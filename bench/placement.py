"""How many placements a second one core decides, among how many hosts, and what a host costs.

All default filters and scores are on. Each decision is a call of its own, is explained (how many
hosts each filter keeps out, five of them, the nearest miss; every term of the winner and five
runners-up), logged so that it can be replayed, and claims its host; one deletion goes with each.
Meanwhile time is the wall's: every 250 ms the samples of an eighth of all hosts are folded in, so
that each has one in 2 s. Requests have the flavors of the trace in its proportions; what a
constraint more costs is listed.

The floor is one NumPy pass over four columns: does it fit, and which host has least left. Prints a
table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import itertools
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from unkai_scheduler.domain.hosts import Host, HostState, HostUsage
from unkai_scheduler.domain.instances import PlacementPolicy
from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.segments import Segment, seal
from unkai_scheduler.settings import WeightSettings

TRACE = Path(__file__).parent / "data" / "azure_v1_dev_small.csv.gz"
GIB, MIB = 1 << 30, 1 << 20
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHAPES = ((64, 128), (96, 256), (64, 384))
"""CPUs and GiB of memory of the hosts, in turn."""
DISK_BYTES = 4 << 40
FILLED = 0.7
"""Share of a host's resources that is claimed from the start."""
FOLD_S, SAMPLE_S = 0.25, 2.0
ZONES = ("a", "b", "c")
USAGES = 997
"""Different samples, given to hosts in turn; prime, so that a host's samples change."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An instance that is still there."""

    host_id: str
    request: PlacementRequest


def flavors() -> list[PlacementRequest]:
    """Return a request for each row of the trace, in its order."""
    requests = []
    with gzip.open(TRACE, "rt") as lines:
        for row in csv.DictReader(lines):
            vcpus, memory = int(row["vcpus"]), int(float(row["mem_gb"]) * 1024) * MIB
            requests.append(PlacementRequest("", vcpus, memory, 10 * GIB, PlacementPolicy.SPREAD))
    return requests


def usages(chance: random.Random) -> list[HostUsage]:
    """Return samples of hosts that are more or less busy."""
    made = []
    for _ in range(USAGES):
        used = chance.betavariate(2, 5)
        made.append(
            HostUsage(
                sample_time=NOW,
                interval_s=SAMPLE_S,
                cpu_used_cores=used * 64,
                cpu_used_ratio=used,
                cpu_wait_cores=chance.expovariate(2),
                cpu_pressure_ratio=chance.random() * used,
                memory_pressure_ratio=chance.random() / 50,
                memory_full_pressure_ratio=0.0,
                io_pressure_ratio=chance.random() / 5,
                io_full_pressure_ratio=0.0,
                memory_total_bytes=128 * GIB,
                memory_available_bytes=int(chance.uniform(20, 100) * GIB),
                disk_available_bytes=DISK_BYTES,
            )
        )
    return made


def host(number: int) -> Host:
    """Return a host, filled for a part by instances of before."""
    cpus, memory_gib = SHAPES[number % len(SHAPES)]
    return Host(
        id=f"hst-{number:026}",
        name=f"host-{number:06}",
        state=HostState.UP,
        address="127.0.0.1:1",
        tls_name="",
        cpus=cpus,
        memory_bytes=memory_gib * GIB,
        disk_bytes=DISK_BYTES,
        accelerator="kvm",
        traits=("KVM", "CPU_X86_64") if number % 2 else ("KVM", "CPU_X86_64", "SSD"),
        boot_id="b",
        agent_version="1",
        features=(),
        etag="e",
        create_time=NOW,
        update_time=NOW,
        zone=ZONES[number % 7 % 3],
        cordoned=number % 100 == 7,
        claimed_vcpus=int(FILLED * cpus),
        claimed_memory_bytes=int(FILLED * memory_gib) * GIB,
        claimed_disk_bytes=DISK_BYTES // 2,
    )


class Run:
    """A fleet under load. Times are the wall's, by `time.perf_counter`."""

    def __init__(self, count: int, requests: list[PlacementRequest]) -> None:
        self._chance = random.Random(count)
        self._requests = requests
        self._usages = usages(self._chance)
        self.fleet = Fleet()
        for number in range(count):
            self.fleet.upsert_host(host(number), AllocationRatios(1.0, 1.0, 1.0))
        weights = Weights(**WeightSettings().model_dump())
        self.engine = Engine(self.fleet, weights)
        self.journal = self.fleet.journal = Journal(self.fleet, weights)
        self.logged_bytes = 0
        self.segment: Segment | None = None
        """The last that was closed."""
        self.placed: list[Placed] = []
        self.asked = self.refused = 0
        self._part = 0
        self._began_s = time.perf_counter()
        for _ in range(int(SAMPLE_S / FOLD_S)):
            self.fold()
        self._next_s = self.now_s + FOLD_S

    @property
    def now_s(self) -> float:
        """Return the time of the fleet."""
        return 1000.0 + time.perf_counter() - self._began_s

    def fold(self) -> None:
        """Fold in the samples of an eighth of the hosts."""
        parts = int(SAMPLE_S / FOLD_S)
        now_s, ids, made = self.now_s, self.fleet.ids, self._usages
        rows = range(self._part % parts, len(ids), parts)
        shift = self._part
        self._part += 1
        self.fleet.advance(now_s)
        self.fleet.fold([(ids[row], made[(row + shift) % USAGES], now_s) for row in rows])

    def place(self, request: PlacementRequest) -> None:
        """Decide for one request."""
        self.asked += 1
        wanted = PlacementRequest(
            f"ins-{self.asked:026}",
            request.vcpus,
            request.memory_bytes,
            request.disk_bytes,
            request.policy,
            required_traits=request.required_traits,
            preferred_traits=request.preferred_traits,
            forbidden_traits=request.forbidden_traits,
            zone=request.zone,
            excluded_host_ids=request.excluded_host_ids,
        )
        verdict = self.engine.place(wanted, now=NOW, now_s=self.now_s)
        if verdict.best:
            self.placed.append(Placed(self.fleet.ids[verdict.best[0]], wanted))
        else:
            self.refused += 1

    def delete(self) -> None:
        """Remove one instance by chance."""
        placed = self.placed
        if not placed:
            return
        index = self._chance.randrange(len(placed))
        placed[index], placed[-1] = placed[-1], placed[index]
        gone = placed.pop()
        request = gone.request
        self.fleet.release(
            gone.host_id,
            request.vcpus,
            request.memory_bytes,
            request.disk_bytes,
            instance_id=request.instance_id,
        )

    def steady(self, seconds: float, requests: Iterable[PlacementRequest]) -> dict[str, float]:
        """Place and delete in turn for so long; fold when it is time."""
        began_s, cpu_s, done, folding_s = time.perf_counter(), time.process_time(), 0, 0.0
        slowest_s = 0.0
        for request in requests:
            at_s = time.perf_counter()
            if self.now_s >= self._next_s:
                self.fold()
                self._next_s += FOLD_S
                folding_s += time.perf_counter() - at_s
                self.take_segments()
                at_s = time.perf_counter()
            if at_s - began_s >= seconds:
                break
            self.place(request)
            slowest_s = max(slowest_s, time.perf_counter() - at_s)
            self.delete()
            done += 1
        took_s = time.perf_counter() - began_s
        return {
            "decisions_per_s": round(done / took_s, 1),
            "decisions_per_cpu_s": round(done / (time.process_time() - cpu_s), 1),
            "fold_share": round(folding_s / took_s, 3),
            "slowest_ms": round(slowest_s * 1000, 2),
        }

    def take_segments(self) -> None:
        """Take what was logged, as whoever stores it does in a thread beside."""
        while self.journal.closed:
            segment = self.journal.closed.popleft()
            self.logged_bytes += len(segment.records)
            self.segment = segment

    def mixed(self) -> Iterable[PlacementRequest]:
        """Yield requests for ever: those of the trace."""
        return itertools.cycle(self._requests)

    def constrained(self) -> Iterable[PlacementRequest]:
        """Yield requests for ever: those of the trace, one in ten with a trait or in a zone."""
        for number, request in enumerate(self.mixed()):
            if number % 20 == 3:
                yield replace(request, required_traits=("SSD",))
            elif number % 20 == 7:
                yield replace(request, zone=ZONES[number // 20 % len(ZONES)])
            else:
                yield request


def floor_us(count: int) -> float:
    """Return what one plain pass over four columns takes."""
    chance = np.random.default_rng(1)
    free_vcpus, free_memory, free_disk, load = (
        chance.integers(0, 1000, count, dtype=np.int64) for _ in range(4)
    )
    times = []
    for _ in range(200):
        began_s = time.perf_counter()
        fits = (free_vcpus >= 4) & (free_memory >= 8) & (free_disk >= 10)
        int(np.where(fits, free_vcpus * 4 + load, 1 << 40).argmin())
        times.append(time.perf_counter() - began_s)
    return sorted(times)[len(times) // 2] * 1e6


CONSTRAINTS: dict[str, Callable[[PlacementRequest], PlacementRequest]] = {
    "none": lambda r: r,
    "required trait": lambda r: replace(r, required_traits=("SSD",)),
    "forbidden trait": lambda r: replace(r, forbidden_traits=("SSD",)),
    "preferred trait": lambda r: replace(r, preferred_traits=("SSD",)),
    "zone": lambda r: replace(r, zone="a"),
    "packed": lambda r: replace(r, policy=PlacementPolicy.PACK),
    "not on a host that failed it": lambda r: replace(r, excluded_host_ids=("hst-" + "0" * 26,)),
}


def constraint_costs(run: Run, seconds: float) -> dict[str, float]:
    """Return microseconds a decision and deletion, for requests that all have one constraint."""
    plain = run._requests[0]
    costs = {}
    for name, change in CONSTRAINTS.items():
        request = change(plain)
        figures = run.steady(seconds, iter(lambda: request, None))  # noqa: B023 - used at once
        costs[name] = round(1e6 / figures["decisions_per_s"], 1)
    figures = run.steady(seconds, run.constrained())
    costs["all flavors, a trait or a zone for one in ten"] = round(
        1e6 / figures["decisions_per_s"], 1
    )
    return costs


def log_figures(run: Run, decisions: int) -> dict[str, Any]:
    """Return what the log of so many decisions took, and by how much storing packs it."""
    assert run.segment is not None
    began_s = time.perf_counter()
    packed = len(seal(run.segment))
    return {
        "logged_bytes_per_decision": round(run.logged_bytes / decisions),
        "log_packs_to": round(packed / len(run.segment.records), 3),
        "log_packing_mib_per_s": round(
            len(run.segment.records) / MIB / (time.perf_counter() - began_s), 1
        ),
    }


def measure(count: int, seconds: float, requests: list[PlacementRequest]) -> dict[str, Any]:
    """Run one size."""
    warm = Run(8, requests)  # so that modules loaded at first use are not counted
    warm.steady(0.2, warm.constrained())
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run = Run(count, requests)
    run.steady(1.0, run.mixed())
    run.journal.close()
    run.take_segments()
    run.segment = None
    gc.collect()
    own = sum(
        sum(map(sys.getsizeof, (p, p.request, p.request.instance_id))) + 8 for p in run.placed
    )
    bytes_per_host = (tracemalloc.get_traced_memory()[0] - before - own) / count
    tracemalloc.stop()
    run.steady(2.0, run.mixed())
    run.journal.close()
    run.take_segments()
    run.logged_bytes, asked = 0, run.asked
    figures: dict[str, Any] = run.steady(seconds, run.mixed())
    run.journal.close()
    run.take_segments()
    figures |= log_figures(run, run.asked - asked)
    figures["bytes_per_host"] = round(bytes_per_host)
    figures["refused"] = run.refused
    figures["floor_pass_us"] = round(floor_us(count), 1)
    figures["us_per_decision"] = round(1e6 / figures["decisions_per_s"], 1)
    figures["ratio_to_floor"] = round(figures["us_per_decision"] / figures["floor_pass_us"], 2)
    figures["constraints_us"] = constraint_costs(run, min(seconds / 4, 2.0))
    return figures


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="1000,10000,100000")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    requests = flavors()
    results = {}
    for count in map(int, options.hosts.split(",")):
        results[str(count)] = figures = measure(count, options.seconds, requests)
        print(f"{count} hosts: {json.dumps(figures)}", flush=True)
    params = {"hosts": options.hosts, "seconds": options.seconds}
    print(json.dumps({"bench": "placement", "params": params, "results": results}))


if __name__ == "__main__":
    main()
