"""What the decision log costs: microseconds and bytes a decision, bytes per host-hour, a replay.

Placements and deletions as in `placement.py`, by the same fleet, once without a journal and once
with one whose segments are closed, sealed and counted in another thread, as the leader does. Then
an hour of a cloud that decides always, and of one that decides once a minute: every host sends a
sample each 2 s, and each decision records those that are new. Last, segments are replayed, and one
decision is looked for in one. Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from placement import FOLD_S, NOW, SAMPLE_S, USAGES, Placed, Run, flavors, host, usages

from unkai_scheduler.placement.allocation import AllocationRatios
from unkai_scheduler.placement.fleet import Fleet
from unkai_scheduler.placement.journal import Journal
from unkai_scheduler.placement.pipeline import Engine
from unkai_scheduler.placement.replay import Player, replay, verify
from unkai_scheduler.placement.requests import PlacementRequest, Weights
from unkai_scheduler.placement.segments import Segment, seal, unseal
from unkai_scheduler.settings import WeightSettings

WEIGHTS = Weights(**WeightSettings().model_dump())
TICK_S = 0.25


class Logged(Run):
    """A run whose decisions are logged."""

    def __init__(self, count: int, requests: list[PlacementRequest]) -> None:
        super().__init__(count, requests)
        self.journal = self.fleet.journal = Journal(self.fleet, WEIGHTS)
        self.pool = ThreadPoolExecutor(1)
        self.sealed: list[Future[bytes]] = []

    def place(self, request: PlacementRequest) -> None:
        """Decide for one request, and log it."""
        self.asked += 1
        wanted = replace(request, instance_id=f"ins-{self.asked:026}")
        verdict = self.engine.judge(wanted)
        # Creates come in batches of some milliseconds, which have one time.
        self.journal.decided(verdict, NOW + timedelta(milliseconds=3 * int(self.now_s / 0.003)))
        if verdict.best:
            self.engine.claim(verdict, self.now_s)
            self.placed.append(Placed(self.fleet.ids[verdict.best[0]], wanted))
        else:
            self.refused += 1
        while self.journal.closed:
            self.sealed.append(self.pool.submit(seal, self.journal.closed.popleft()))


def speed(count: int, seconds: float, requests: list[PlacementRequest]) -> dict[str, Any]:
    """Compare decisions with and without the log, by the processor's time, sealing included."""
    plain, logged = Run(count, requests), Logged(count, requests)
    figures: list[list[float]] = [[], []]
    for _ in range(4):
        for run, into in zip((plain, logged), figures, strict=True):
            run._next_s = run.now_s + FOLD_S
            into.append(run.steady(seconds / 8, run.mixed())["decisions_per_cpu_s"])
    without, with_log = (sorted(rates)[len(rates) // 2] for rates in figures)
    logged.journal.close()
    logged.sealed += [logged.pool.submit(seal, segment) for segment in logged.journal.closed]
    stored = [future.result() for future in logged.sealed]
    segments = [unseal(one) for one in stored]
    decisions = sum(segment.header.decisions for segment in segments)
    return {
        "decisions_per_cpu_s_without": without,
        "decisions_per_cpu_s_logged": with_log,
        "us_for_the_log": round(1e6 / with_log - 1e6 / without, 1),
        "segments": len(segments),
        "bytes_per_decision": round(sum(len(s.records) for s in segments) / decisions),
        "stored_bytes_per_decision": round(sum(map(len, stored)) / decisions),
        **replays(segments[-1]),
    }


def replays(segment: Segment) -> dict[str, Any]:
    """Judge all decisions of a segment again, and look for its last one."""
    began_s = time.perf_counter()
    differences = list(verify(segment))
    took_s = time.perf_counter() - began_s
    last = list(Player(segment).decisions())[-1]
    began_s = time.perf_counter()
    again = replay(segment, last.request.instance_id, last.decide_time)
    assert again is not None
    return {
        "replayed": segment.header.decisions,
        "differences": len(differences),
        "replayed_per_s": round(segment.header.decisions / took_s),
        "one_replay_s": round(time.perf_counter() - began_s, 2),
    }


def bytes_per_host_hour(count: int, simulated_s: int, decide_every_s: float) -> float:
    """Return the stored bytes of an hour, divided by the hosts; time is simulated."""
    fleet, made = Fleet(), usages(random.Random(1))
    for number in range(count):
        fleet.upsert_host(host(number), AllocationRatios(1.0, 1.0, 1.0))
    journal = fleet.journal = Journal(fleet, WEIGHTS)
    engine, plain = Engine(fleet, WEIGHTS), flavors()[0]
    parts, stored, decided = int(SAMPLE_S / TICK_S), 0, 0
    for tick in range(int(simulated_s / TICK_S)):
        now_s = 1000 + tick * TICK_S
        rows = range(tick % parts, count, parts)
        samples = [
            (fleet.ids[row], made[(row + tick) % USAGES], now_s + row * 37 % 256 / 1024)
            for row in rows
        ]
        fleet.fold(samples)
        while decided * decide_every_s <= tick * TICK_S:
            decided += 1
            wanted = replace(plain, instance_id=f"ins-{decided:026}")
            moment: datetime = NOW + timedelta(seconds=now_s)
            engine.decide([wanted], now=moment, now_s=now_s)
        stored += sealed(journal)
    journal.close()
    stored += sealed(journal)
    return stored / count / simulated_s * 3600


def sealed(journal: Journal) -> int:
    """Return the bytes of what is closed."""
    total = sum(len(seal(segment)) for segment in journal.closed)
    journal.closed.clear()
    return total


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--simulated-s", type=int, default=120)
    options = parser.parse_args()
    results: dict[str, Any] = speed(options.hosts, options.seconds, flavors())
    for name, every_s in (("always", 0.25), ("once a minute", 60.0)):
        figure = bytes_per_host_hour(options.hosts, options.simulated_s, every_s)
        results[f"bytes_per_host_hour, deciding {name}"] = round(figure)
    for name, value in results.items():
        print(f"{name:44} {value}")
    print(json.dumps({"bench": "decision_log", "params": vars(options), "results": results}))


if __name__ == "__main__":
    main()
