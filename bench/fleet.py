"""What a cloud of many hosts costs: scheduler and simulated hosts at rest and under creates.

A lab of simulated hosts alone, each the agent's own code on fake drivers, over real gRPC, etcd and
SQLite. Creates come from several callers at once, as fast as they are accepted; each is timed by
its operation, from accepted to RUNNING. Then all are deleted. CPU is a share of one core, memory
what is resident (proc_pid_stat(5), proc_pid_status(5)). Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unkai.compute.v1 import instance_pb2
from unkai.storage.v1 import image_pb2
from unkai_cli.client import Client
from unkai_cli.settings import Context
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, FLEET, LabSpec
from unkai_lab.teardown import take_down

PROGRAMS = {"scheduler": (CONTROL, "scheduler"), "fleet": (FLEET, "agent")}
FINISHED_S = 600.0
IMAGE_BYTES = 1 << 20
VCPUS, MEMORY_BYTES, DISK_BYTES = 1, 512 << 20, 1 << 30
"""What each instance asks for: little, so that all fit wherever they go."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process has used."""

    cpu_s: float
    resident_mib: float

    @classmethod
    def of(cls, pid: int) -> Reading:
        """Read it now."""
        # The second field is the program's name in brackets, and may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        status = Path(f"/proc/{pid}/status").read_text()
        resident_kib = int(status.partition("VmRSS:")[2].split()[0])
        return cls(ticks / os.sysconf("SC_CLK_TCK"), resident_kib / 1024)


class Meter:
    """Measures the lab's processes over one phase after the other."""

    def __init__(self, lab: Lab) -> None:
        self._pids = {name: _pid(lab, *where) for name, where in PROGRAMS.items()}
        self.results: dict[str, float] = {}
        print(
            f"{'phase':16}  {'seconds':>8}", *(f"{n + ' cpu %':>15}  {'MiB':>6}" for n in PROGRAMS)
        )

    def measure(self, phase: str, work: Callable[[], object]) -> float:
        """Do the work, note what it took; return the seconds."""
        before = {name: Reading.of(pid) for name, pid in self._pids.items()}
        begun = time.perf_counter()
        work()
        took_s = time.perf_counter() - begun
        columns = []
        for name, pid in self._pids.items():
            after = Reading.of(pid)
            cpu_s = after.cpu_s - before[name].cpu_s
            self.results[f"{phase}_{name}_cpu_s"] = round(cpu_s, 2)
            self.results[f"{phase}_{name}_cpu_share"] = round(cpu_s / took_s, 3)
            self.results[f"{phase}_{name}_mib"] = round(after.resident_mib, 1)
            columns.append(f"{100 * cpu_s / took_s:15.1f}  {after.resident_mib:6.0f}")
        self.results[f"{phase}_s"] = round(took_s, 2)
        print(f"{phase:16}  {took_s:8.2f}", *columns, flush=True)
        return took_s


class Creates:
    """Many creates and deletes by callers side by side."""

    def __init__(self, client: Client, callers: int) -> None:
        self._client = client
        self._callers = callers
        self._image_id = _upload(client)
        self._operations: list[Any] = []

    def create(self, count: int) -> None:
        """Create instances as fast as they are accepted; wait until all have ended."""
        self._operations = self._each(self._create_one, range(count))

    def _create_one(self, number: int) -> Any:
        wanted = instance_pb2.Instance(
            name=f"bench-{number:05}",
            image_id=self._image_id,
            vcpus=VCPUS,
            memory_bytes=MEMORY_BYTES,
            disk_bytes=DISK_BYTES,
        )
        return self._client.call("InstanceService", "CreateInstance", instance=wanted).operation

    def delete(self) -> None:
        """Delete all instances and wait until they are gone."""
        self._each(self._delete_one, self.instances())

    def _delete_one(self, instance: Any) -> Any:
        answer = self._client.call("InstanceService", "DeleteInstance", instance_id=instance.id)
        return answer.operation

    def instances(self) -> list[Any]:
        """Return all instances."""
        return list(self._client.pages("InstanceService", "ListInstances"))

    def took_s(self) -> list[float]:
        """Return the seconds of each create from accepted to RUNNING, shortest first."""
        return sorted(
            (each.end_time.ToDatetime() - each.create_time.ToDatetime()).total_seconds()
            for each in self._operations
        )

    def _each(self, ask: Callable[[Any], Any], of: Sequence[Any]) -> list[Any]:
        # All are asked for before any is waited for: that is what makes it a burst.
        with ThreadPoolExecutor(self._callers) as callers:
            asked = list(callers.map(ask, of))
            return list(callers.map(self._finish, asked))

    def _finish(self, operation: Any) -> Any:
        return self._client.wait_operation(
            operation, timeout_s=FINISHED_S, progress=lambda line: None
        )


def _upload(client: Client) -> str:
    made = client.call("ImageService", "CreateImage", image=image_pb2.Image(name="bench"))
    request = client.messages("ImageService").UploadImageRequest

    def requests() -> Iterator[Any]:
        yield request(open=request.Open(image_id=made.image.id))
        yield request(chunk=b"\1" * IMAGE_BYTES)

    client.upload("ImageService", "UploadImage", requests())
    return str(made.image.id)


def _pid(lab: Lab, cell: str, program: str) -> int:
    process = lab.site.running(cell, program)
    if process is None:
        sys.exit(f"{program} in {cell} does not run; see 'unkai lab status'")
    return int(process.pid)


def measure(lab: Lab, arguments: argparse.Namespace) -> dict[str, float]:
    """Run all phases on a lab that is up."""
    meter = Meter(lab)
    client = Client(Context("bench", socket=str(lab.paths.scheduler_socket)))
    try:
        creates = Creates(client, arguments.callers)
        meter.measure("rest", lambda: time.sleep(arguments.rest_s))
        seconds = meter.measure("create", lambda: creates.create(arguments.instances))
        placed = Counter(each.host_id for each in creates.instances())
        meter.measure("rest_full", lambda: time.sleep(arguments.rest_s))
        meter.measure("delete", creates.delete)
        took_s = creates.took_s()
    finally:
        client.close()
    return {
        **meter.results,
        "creates_per_s": round(arguments.instances / seconds, 1),
        "accepted_to_running_s_p50": round(statistics.median(took_s), 3),
        "accepted_to_running_s_p99": round(took_s[int(0.99 * (len(took_s) - 1))], 3),
        "hosts_used": len(placed),
        "most_on_a_host": max(placed.values()),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=500, help="simulated hosts")
    parser.add_argument("--instances", type=int, default=1000, help="instances to create")
    parser.add_argument("--callers", type=int, default=32, help="callers at once")
    parser.add_argument("--rest-s", type=float, default=20.0, help="seconds to watch at rest")
    arguments = parser.parse_args()
    lab = Lab.create(LabSpec(name="bench-fleet", hosts=0, simulated=arguments.hosts))
    try:
        begun = time.perf_counter()
        lab.up()
        up_s = time.perf_counter() - begun
        results = {"up_s": round(up_s, 2), **measure(lab, arguments)}
    finally:
        take_down(lab.paths)
    print(json.dumps({"bench": "fleet", "params": vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
