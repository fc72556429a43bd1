"""How long a cloud has no leader when its leader is killed.

Simulated hosts and two schedulers. Again and again, at a random moment, the one that leads gets
SIGKILL; at that very moment a create is asked of the other. Timed is what a user waits for: from
the kill until the new leader has chosen a host for it. The parts are from the new leader's own
log: until it saw that the old one was gone, until it had taken office (all agents asked, a term
taken and announced), until it had placed. The killed one is started again, and stands by. Then the
same with SIGTERM, where the lead is handed over; and with one scheduler alone, which its supervisor
(here the benchmark) starts again at once. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unkai.compute.v1 import instance_pb2
from unkai.storage.v1 import image_pb2
from unkai_cli.client import Client, Patience
from unkai_cli.settings import Context
from unkai_lab.configuration import etcdctl_command
from unkai_lab.lab import Lab
from unkai_lab.spec import CONTROL, DATABASES, SQLITE, LabSpec
from unkai_lab.teardown import take_down
from unkai_wire.cluster_records import LEADER_KEY
from unkai_wire.errors import DeadlineExceeded, Unavailable

IMAGE_BYTES = 1 << 20
GIVE_UP_S = 60.0
LOOK_S = 0.01
QUIET_S = (1.0, 4.0)
"""Between two kills, drawn anew each time: a lease is then at any age."""
PARTS = ("seen", "office", "placed")


class User:
    """Asks one scheduler, by its socket, until it answers."""

    def __init__(self, socket: Path) -> None:
        context = Context("bench", socket=str(socket))
        self._client = Client(context, patience=Patience(timeout_s=2.0))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def call(self, service: str, method: str, **fields: Any) -> Any:
        """Call until it is answered."""
        end_s = time.monotonic() + GIVE_UP_S
        while True:
            try:
                return self._client.call(service, method, **fields)
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() > end_s:
                    raise
                time.sleep(LOOK_S)

    def upload(self) -> str:
        """Upload an image, unless it is there; return its id."""
        for known in self._client.pages("ImageService", "ListImages", name="bench"):
            return str(known.id)
        made = self.call("ImageService", "CreateImage", image=image_pb2.Image(name="bench"))
        request = self._client.messages("ImageService").UploadImageRequest

        def requests() -> Iterator[Any]:
            yield request(open=request.Open(image_id=made.image.id))
            yield request(chunk=b"\1" * IMAGE_BYTES)

        self._client.upload("ImageService", "UploadImage", requests())
        return str(made.image.id)

    def create(self, image_id: str) -> str:
        """Ask for an instance; return its id."""
        wanted = instance_pb2.Instance(
            name=f"i-{time.monotonic_ns()}",
            image_id=image_id,
            vcpus=1,
            memory_bytes=256 << 20,
            disk_bytes=1 << 30,
        )
        return str(self.call("InstanceService", "CreateInstance", instance=wanted).instance.id)

    def wait_placed(self, instance_id: str) -> None:
        """Wait until a host is chosen."""
        end_s = time.monotonic() + GIVE_UP_S
        while not self._instance(instance_id).host_id:
            if time.monotonic() > end_s:
                raise TimeoutError(f"nothing placed within {GIVE_UP_S:g} s")
            time.sleep(LOOK_S)

    def _instance(self, instance_id: str) -> Any:
        return self.call("InstanceService", "GetInstance", instance_id=instance_id).instance

    def delete(self, instance_id: str) -> None:
        """Delete an instance."""
        self.call("InstanceService", "DeleteInstance", instance_id=instance_id)


class Range:
    """A lab whose leader is killed."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self._lab = lab
        self._rng = rng
        names = lab.spec.scheduler_names
        self._users = {name: User(lab.socket(name)) for name in names}
        self._image_id = self._users[names[0]].upload()

    def close(self) -> None:
        """Let go of all connections."""
        for user in self._users.values():
            user.close()

    def kill(self, number: signal.Signals) -> dict[str, float]:
        """End the leader once; return the seconds until the next one did each part."""
        time.sleep(self._rng.uniform(*QUIET_S))
        old = self._leader()
        others = [name for name in self._users if name != old]
        heir = others[0] if others else old
        began_s, began = time.monotonic(), datetime.now(UTC)
        if number is signal.SIGKILL:
            self._lab.kill_scheduler(old)
        else:
            process = self._lab.site.running(self._lab.spec.scheduler_cell(old), "scheduler")
            assert process is not None
            process.kill(number)
        if not others:
            self._lab.start_scheduler(old)
        user = self._users[heir]
        instance_id = user.create(self._image_id)
        user.wait_placed(instance_id)
        took = {"placed": time.monotonic() - began_s, **self._log_of(heir, began)}
        self._lab.kill_scheduler(old, number) if others else None
        self._lab.start_scheduler(old)
        user.delete(instance_id)
        return took

    def _leader(self) -> str:
        command = [
            *etcdctl_command(self._lab.spec, self._lab.paths),
            *("get", LEADER_KEY, "--print-value-only"),
        ]
        end_s = time.monotonic() + GIVE_UP_S
        while not (text := self._lab.run(CONTROL, command, check=False).stdout.strip()):
            if time.monotonic() > end_s:
                raise TimeoutError("nobody leads")
            time.sleep(LOOK_S)
        return str(json.loads(text)["name"])

    def _log_of(self, name: str, began: datetime) -> dict[str, float]:
        """Return when, after a moment, the scheduler wrote that it saw the end and took office."""
        cell = self._lab.spec.scheduler_cell(name)
        found: dict[str, float] = {}
        for line in self._lab.paths.log(cell, "scheduler").read_text().splitlines():
            match = re.match(r"(\S+Z)\s.*\b(leader_gone|office_taken)\b", line)
            if match:
                after_s = (datetime.fromisoformat(match[1]) - began).total_seconds()
                part = "seen" if match[2] == "leader_gone" else "office"
                if after_s >= 0:
                    found.setdefault(part, after_s)
        return found


@contextmanager
def running(spec: LabSpec) -> Iterator[Lab]:
    """Have a lab for a while."""
    lab = Lab.create(spec)
    try:
        lab.up()
        yield lab
    finally:
        take_down(lab.paths)


def measure(
    name: str, lab: Lab, number: signal.Signals, kills: int, rng: random.Random
) -> dict[str, float]:
    """Kill again and again; print and return the worst and the median of each part."""
    shooting = Range(lab, rng)
    try:
        rounds = [shooting.kill(number) for _ in range(kills)]
    finally:
        shooting.close()
    results = {f"{name}_kills": float(kills)}
    columns = []
    for part in PARTS:
        times = [took[part] for took in rounds if part in took]
        if times:
            results[f"{name}_{part}_worst_s"] = round(max(times), 2)
            results[f"{name}_{part}_median_s"] = round(statistics.median(times), 2)
            columns.append(f"{part} {statistics.median(times):5.2f} / {max(times):5.2f}")
    print(f"{name:10}  {kills:3} kills, median / worst s:  {',  '.join(columns)}", flush=True)
    return results


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=20, help="simulated hosts")
    parser.add_argument("--kills", type=int, default=30, help="of each kind")
    parser.add_argument("--database", choices=DATABASES, default=SQLITE)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    results: dict[str, float] = {}
    two = LabSpec(
        name="bench-take",
        hosts=0,
        simulated=arguments.hosts,
        schedulers=2,
        database=arguments.database,
        shares_file=arguments.database == SQLITE,
    )
    with running(two) as lab:
        results |= measure("two", lab, signal.SIGKILL, arguments.kills, rng)
        results |= measure("handover", lab, signal.SIGTERM, max(1, arguments.kills // 3), rng)
    with running(LabSpec(name="bench-take", hosts=0, simulated=arguments.hosts)) as lab:
        results |= measure("alone", lab, signal.SIGKILL, max(1, arguments.kills // 3), rng)
    # One that is alone has to be started, which takes as long as the machine is slow.
    results["worst_s"] = results["two_placed_worst_s"]
    results["median_s"] = results["two_placed_median_s"]
    print(json.dumps({"bench": "takeover", "params": vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
