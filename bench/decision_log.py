"""What the decision log costs: microseconds and bytes a decision, bytes per host-hour, a replay.

Placements and deletions as in `placement.py`, by turns on a fleet with a journal and on one
without. Then
an hour of a cloud that decides always, and of one that decides once a minute: every host sends a
sample each 2 s, and each decision records those that are new. Last, segments are replayed, and one
decision is looked for in one. Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from placement import NOW, SAMPLE_S, USAGES, Run, flavors, host, usages

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
BLOCK = 50
"""Placements and deletions timed together."""
FOLD_EVERY = 40
"""Blocks between folds: 250 ms at 8,000 placements a second."""


def speed(count: int, blocks: int, requests: list[PlacementRequest]) -> dict[str, Any]:
    """Compare placing with and without the log, by the thread's time; replay what was logged.

    By turns in short blocks, so that whatever else the machine does meets both alike.
    """
    plain, logged = Run(count, requests), Run(count, requests)
    plain.fleet.journal = None
    runs = [(run, run.constrained(), list[float]()) for run in (plain, logged)]
    segments: list[Segment] = []
    for number in range(blocks):
        for run, wanted, took_us in runs:
            if number % FOLD_EVERY == 0:
                run.fold()
            began_ns = time.thread_time_ns()
            for request in itertools.islice(wanted, BLOCK):
                run.place(request)
                run.delete()
            took_us.append((time.thread_time_ns() - began_ns) / 1000 / BLOCK)
        segments += logged.journal.closed
        logged.journal.closed.clear()
    logged.journal.close()
    segments += logged.journal.closed
    without, with_log = (statistics.median(took_us) for _, _, took_us in runs)
    stored = [seal(segment) for segment in segments]
    return {
        "us_without": round(without, 1),
        "us_logged": round(with_log, 1),
        "log_share": round((with_log - without) / with_log, 3),
        "bytes_per_decision": round(sum(len(s.records) for s in segments) / blocks / BLOCK),
        "stored_bytes_per_decision": round(sum(map(len, stored)) / blocks / BLOCK),
        **replays(unseal(stored[0])),
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
    parser.add_argument("--blocks", type=int, default=2000)
    parser.add_argument("--simulated-s", type=int, default=120)
    options = parser.parse_args()
    results: dict[str, Any] = speed(options.hosts, options.blocks, flavors())
    for name, every_s in (("always", 0.25), ("once a minute", 60.0)):
        figure = bytes_per_host_hour(options.hosts, options.simulated_s, every_s)
        results[f"bytes_per_host_hour, deciding {name}"] = round(figure)
    for name, value in results.items():
        print(f"{name:44} {value}")
    print(json.dumps({"bench": "decision_log", "params": vars(options), "results": results}))


if __name__ == "__main__":
    main()
