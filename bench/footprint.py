"""What the daemons take while nothing happens: memory, CPU, and writes to etcd.

Two labs, one after the other. In the first a real agent holds 20 running guests; in the second a
scheduler leads 1,000 simulated hosts, each the agent's own code on fake drivers. Once all have
settled they are watched for a minute. The floor is measured in the same run on the same host: a
bare Python process that has imported gRPC, protobuf and libvirt and asks libvirt for the figures
of all guests every 2 s. Memory is what is resident (RSS) and the process's proportional share of
it (PSS, smaps_rollup in proc_pid_smaps(5)); CPU is a share of one core, children excluded and told
by themselves (proc_pid_stat(5)). Writes to etcd are the entries of its log (raftIndex of `etcdctl
endpoint status`): whatever a lease's keepalive costs, it must not be one. Prints a table and, last,
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unkai.compute.v1 import instance_pb2
from unkai.storage.v1 import image_pb2
from unkai_cli.client import Client
from unkai_cli.settings import Context
from unkai_lab.configuration import etcdctl_command
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, FLEET, LabSpec
from unkai_lab.teardown import take_down

HOST = "h1"
IMAGE = Path(__file__).parents[1] / "images" / "build" / "tiny.qcow2"
RUNNING_S = 300.0
FLOOR = """
import time
import google.protobuf.message
import grpc
import libvirt
connection = libvirt.open("qemu:///system")
while True:
    connection.getAllDomainStats()
    time.sleep(2)
"""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process has used, and holds now."""

    cpu_s: float
    children_cpu_s: float
    rss_mib: float
    pss_mib: float
    threads: int

    @classmethod
    def of(cls, pid: int) -> Reading:
        """Read it now."""
        # The second field is the program's name in brackets, and may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system, children_user, children_system = map(int, fields[11:15])
        tick = os.sysconf("SC_CLK_TCK")
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return cls(
            cpu_s=(user + system) / tick,
            children_cpu_s=(children_user + children_system) / tick,
            rss_mib=_kib(rollup, "Rss:") / 1024,
            pss_mib=_kib(rollup, "Pss:") / 1024,
            threads=int(fields[17]),
        )


def _kib(text: str, field: str) -> int:
    return int(text.partition(f"\n{field}")[2].split()[0])


class Watch:
    """Watches processes and etcd's log of one lab for a while, and prints what they took."""

    def __init__(self, lab: Lab, pids: dict[str, int]) -> None:
        self._lab = lab
        self._pids = pids
        self.etcd_writes_per_s = 0.0

    def run(self, seconds: float) -> dict[str, float]:
        """Watch; return each process's figures by name."""
        before = {name: Reading.of(pid) for name, pid in self._pids.items()}
        written, begun = self._etcd_log(), time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - begun
        self.etcd_writes_per_s = round((self._etcd_log() - written) / took_s, 3)
        results: dict[str, float] = {}
        for name, pid in self._pids.items():
            after = Reading.of(pid)
            ratio = (after.cpu_s - before[name].cpu_s) / took_s
            children = (after.children_cpu_s - before[name].children_cpu_s) / took_s
            results[f"{name}_rss_mib"] = round(after.rss_mib, 1)
            results[f"{name}_pss_mib"] = round(after.pss_mib, 1)
            results[f"{name}_threads"] = after.threads
            results[f"{name}_cpu_ratio"] = round(ratio, 4)
            results[f"{name}_children_cpu_ratio"] = round(children, 4)
            print(
                f"{name:10}  {after.rss_mib:7.1f}  {after.pss_mib:7.1f}  {after.threads:7}"
                f"  {100 * ratio:6.2f}  {100 * children:14.2f}",
                flush=True,
            )
        return results

    def _etcd_log(self) -> int:
        access = etcdctl_command(self._lab.spec, self._lab.paths)
        status = [*access, "endpoint", "status", "--write-out=json"]
        answer = json.loads(self._lab.run(CONTROL, status).stdout)
        return int(answer[0]["Status"]["raftIndex"])


def run_guests(lab: Lab, count: int) -> None:
    """Make instances and wait until all run."""
    client = Client(Context("bench", socket=str(lab.paths.scheduler_socket)))
    try:
        image_id = _upload(client)
        made = [
            client.call(
                "InstanceService",
                "CreateInstance",
                instance=instance_pb2.Instance(
                    name=f"idle-{number}",
                    image_id=image_id,
                    vcpus=1,
                    memory_bytes=128 * MIB,
                    disk_bytes=256 * MIB,
                ),
            )
            for number in range(count)
        ]
        for answer in made:
            client.wait_operation(answer.operation, timeout_s=RUNNING_S, progress=lambda line: None)
    finally:
        client.close()


def _upload(client: Client) -> str:
    made = client.call("ImageService", "CreateImage", image=image_pb2.Image(name="tiny"))
    request = client.messages("ImageService").UploadImageRequest

    def requests() -> Iterator[Any]:
        yield request(open=request.Open(image_id=made.image.id))
        with IMAGE.open("rb") as stream:
            while piece := stream.read(MIB):
                yield request(chunk=piece)

    client.upload("ImageService", "UploadImage", requests())
    return str(made.image.id)


@contextmanager
def running(spec: LabSpec) -> Iterator[Lab]:
    """Have a lab for a while."""
    lab = Lab.create(spec)
    try:
        lab.up()
        yield lab
    finally:
        take_down(lab.paths)


def pid_of(lab: Lab, cell: str, program: str) -> int:
    """Return a program's process."""
    process = lab.site.running(cell, program)
    if process is None:
        sys.exit(f"{program} in {cell} does not run; see 'unkai lab status'")
    return int(process.pid)


def measure_host(arguments: argparse.Namespace) -> dict[str, float]:
    """Watch an agent with running guests, and the floor beside it."""
    guests = arguments.machines
    spec = LabSpec(name="bench-foot", hosts=1, host_cpus=max(2, guests), host_memory_bytes=8 << 30)
    with running(spec) as lab:
        run_guests(lab, guests)
        floor = lab.site.start(HOST, "floor", [sys.executable, "-c", FLOOR])
        time.sleep(arguments.settle_s)
        pids = {"agent": pid_of(lab, HOST, "agent"), "floor": int(floor.pid)}
        watch = Watch(lab, pids)
        results = watch.run(arguments.watch_s)
    return {**results, "host_etcd_writes_per_s": watch.etcd_writes_per_s}


def measure_fleet(arguments: argparse.Namespace) -> dict[str, float]:
    """Watch a scheduler that leads many simulated hosts."""
    with running(LabSpec(name="bench-foot", hosts=0, simulated=arguments.hosts)) as lab:
        time.sleep(arguments.settle_s)
        pids = {
            "scheduler": pid_of(lab, CONTROL, "scheduler"),
            "fleet": pid_of(lab, FLEET, "agent"),
        }
        watch = Watch(lab, pids)
        results = watch.run(arguments.watch_s)
    return {**results, "fleet_etcd_writes_per_s": watch.etcd_writes_per_s}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=20, help="guests of the real agent")
    parser.add_argument("--hosts", type=int, default=1000, help="simulated hosts")
    parser.add_argument("--settle-s", type=float, default=30.0, help="seconds until all is at rest")
    parser.add_argument("--watch-s", type=float, default=60.0, help="seconds watched")
    arguments = parser.parse_args()
    print(
        f"{'process':10}  {'RSS MiB':>7}  {'PSS MiB':>7}  {'threads':>7}  {'cpu %':>6}"
        f"  {'children cpu %':>14}"
    )
    results = measure_host(arguments)
    results |= measure_fleet(arguments)
    writes = max(results["host_etcd_writes_per_s"], results["fleet_etcd_writes_per_s"])
    results["etcd_writes_per_s"] = writes
    print(
        f"etcd: {results['host_etcd_writes_per_s']} writes/s with a host,"
        f" {results['fleet_etcd_writes_per_s']} with {arguments.hosts} hosts"
    )
    print(json.dumps({"bench": "footprint", "params": vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
