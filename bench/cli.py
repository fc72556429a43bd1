"""What a person waits for at the prompt: whole-process times of the `unkai` command.

Against a scheduler's real API on a unix socket, with its rows in a real SQLite store. Each command
runs in a process of its own, one after the other and in turn, so that a busy moment of the machine
falls on all alike. The floor is `python -c pass`, in the same run. Prints a table and, last, one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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


def measure(runs: int, environment: dict[str, str]) -> dict[str, list[float]]:
    """Return each command's milliseconds, run by run; the first round warms caches only."""
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            if number:
                took[name].append((time.perf_counter() - begun) * 1000)
            if name.startswith("list") and done.stdout.count(b"web-") < 1000:
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
            took = measure(arguments.runs, environment)
    print(f"{'command':16}  {'p50 ms':>7}  {'min':>7}  {'max':>7}")
    results: dict[str, float] = {}
    for name, times in took.items():
        results[f"{name}_ms_p50"] = round(statistics.median(times), 1)
        results[f"{name}_ms_max"] = round(max(times), 1)
        print(f"{name:16}  {statistics.median(times):7.1f}  {min(times):7.1f}  {max(times):7.1f}")
    params = {"runs": arguments.runs, "instances": arguments.instances}
    print(json.dumps({"bench": "cli", "params": params, "results": results}))


if __name__ == "__main__":
    main()
