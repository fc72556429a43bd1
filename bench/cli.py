"""What a person waits for at the prompt: whole-process times of the `unkai` command.

Against a scheduler's real API on a unix socket, with its rows in a real SQLite store. Each command
runs in a process of its own, one after the other and in turn, so that a busy moment of the machine
falls on all alike. The floor is `python -c pass`, in the same run. CPU time is told beside the
clock's, and the load average, because on a machine that does other work only they compare. Prints
a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.builders import a_claim, an_image, an_instance  # noqa: E402
from tests.support.served_api import ServedApi  # noqa: E402
from unkai_scheduler.domain.instances import InstanceState  # noqa: E402
from unkai_scheduler.store import claims, images, instances  # noqa: E402

UNKAI = [str(Path(sys.executable).with_name("unkai"))]
COMMANDS = {
    "floor": [sys.executable, "-c", "pass"],
    "import_grpc": [sys.executable, "-c", "import grpc"],
    "help": [*UNKAI, "--help"],
    "show": [*UNKAI, "instance", "show", "web-0500"],
    "list_1000": [*UNKAI, "instance", "list"],
    "list_1000_json": [*UNKAI, "instance", "list", "-o", "json"],
}


def fill(served: ServedApi, count: int) -> None:
    """Put running instances with labels into the store."""
    image = an_image(name="tiny")
    rows = [
        an_instance(
            name=f"web-{number:04}",
            image_id=image.id,
            state=InstanceState.RUNNING,
            labels={"app": "shop", "number": str(number)},
        )
        for number in range(count)
    ]

    def work(conn: Any) -> None:
        images.insert(conn, image)
        for row in rows:
            instances.insert(conn, row)
        claims.insert(conn, [a_claim(row, served.host) for row in rows])

    served.lead(work)


@dataclass(frozen=True)
class Run:
    """One process: milliseconds by the clock, and of CPU time."""

    wall_ms: float
    cpu_ms: float


def run(command: list[str], environment: dict[str, str]) -> tuple[Run, bytes]:
    """Run a command to its end; return its times and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    wall_s = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s * 1000, cpu_s * 1000), done.stdout


def measure(runs: int, environment: dict[str, str], instance_count: int) -> dict[str, list[Run]]:
    """Return each command's runs; a first round warms caches only."""
    took: dict[str, list[Run]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            times, printed = run(command, environment)
            if number:
                took[name].append(times)
            if name.startswith("list") and printed.count(b"web-") != instance_count:
                raise AssertionError(f"{name} did not list all instances")
    return took


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs of each, at least 15 to quote")
    parser.add_argument("--instances", type=int, default=1000, help="instances in the store")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unkai-bench-") as folder:
        root = Path(folder)
        with ServedApi(root / "cloud") as served:
            fill(served, arguments.instances)
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith("UNKAI_")},
                "UNKAI_SOCKET": str(served.socket),
                "XDG_CONFIG_HOME": str(root / "config"),
            }
            took = measure(arguments.runs, environment, arguments.instances)
    print(f"{'command':16}  {'p50 ms':>7}  {'min':>7}  {'max':>7}  {'cpu p50':>7}")
    results: dict[str, float] = {}
    for name, times in took.items():
        wall = [each.wall_ms for each in times]
        figures = statistics.median(wall), min(wall), max(wall)
        cpu_ms = statistics.median(each.cpu_ms for each in times)
        results[f"{name}_ms_p50"], results[f"{name}_ms_min"], _ = (round(f, 1) for f in figures)
        results[f"{name}_cpu_ms_p50"] = round(cpu_ms, 1)
        print(f"{name:16}", *(f"{figure:7.1f}" for figure in (*figures, cpu_ms)), sep="  ")
    results["load_average"] = round(os.getloadavg()[0], 1)
    params = {"runs": arguments.runs, "instances": arguments.instances}
    print(json.dumps({"bench": "cli", "params": params, "results": results}))


if __name__ == "__main__":
    main()
