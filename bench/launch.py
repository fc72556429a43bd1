"""How long from an accepted create to RUNNING, against a bare `virsh create` of the same domain.

A lab of one host, the image in its cache, at least 20 pairs in turn. Ours is timed by the caller:
from the answer of CreateInstance to the answer of WaitOperation. The floor is timed on the host:
`virsh create` of that very domain (own disk and console log, made beforehand). Both start on an
idle host; each guest is gone before the next begins. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import duration_pb2

from unkai.compute.v1 import (
    flavor_service_pb2,
    flavor_service_pb2_grpc,
    instance_pb2,
    instance_service_pb2,
    instance_service_pb2_grpc,
)
from unkai.operation.v1 import operation_pb2, operation_service_pb2, operation_service_pb2_grpc
from unkai.storage.v1 import image_pb2, image_service_pb2, image_service_pb2_grpc
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec
from unkai_lab.teardown import take_down

HOST = "h1"
QEMU_USER = "libvirt-qemu"
SUCCEEDED = operation_pb2.Operation.STATE_SUCCEEDED
ENDED = {SUCCEEDED, operation_pb2.Operation.STATE_FAILED, operation_pb2.Operation.STATE_CANCELLED}


class Cloud:
    """The calls the benchmark makes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._instances = instance_service_pb2_grpc.InstanceServiceStub(channel)
        self._images = image_service_pb2_grpc.ImageServiceStub(channel)
        self._flavors = flavor_service_pb2_grpc.FlavorServiceStub(channel)
        self._operations = operation_service_pb2_grpc.OperationServiceStub(channel)

    def upload(self, file: Path) -> str:
        """Upload an image; return its id."""
        wanted = image_pb2.Image(name="tiny")
        made = self._images.CreateImage(image_service_pb2.CreateImageRequest(image=wanted)).image
        request = image_service_pb2.UploadImageRequest

        def requests() -> Any:
            yield request(open=request.Open(image_id=made.id))
            with file.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    yield request(chunk=piece)

        self._images.UploadImage(requests())
        return made.id

    def flavor(self, name: str) -> str:
        """Return a flavor's id."""
        request = flavor_service_pb2.ListFlavorsRequest(name=name)
        return self._flavors.ListFlavors(request).flavors[0].id

    def launch(self, name: str, image_id: str, flavor_id: str) -> tuple[str, float]:
        """Make an instance; return its id and the seconds from accepted to RUNNING."""
        wanted = instance_pb2.Instance(name=name, image_id=image_id, flavor_id=flavor_id)
        request = instance_service_pb2.CreateInstanceRequest(
            instance=wanted, request_id=str(uuid.uuid4())
        )
        answer = self._instances.CreateInstance(request, timeout=15)
        accepted = time.perf_counter()
        self._wait(answer.operation)
        return answer.instance.id, time.perf_counter() - accepted

    def delete(self, instance_id: str) -> None:
        """Delete an instance and wait until it is gone."""
        request = instance_service_pb2.DeleteInstanceRequest(instance_id=instance_id)
        self._wait(self._instances.DeleteInstance(request, timeout=15).operation)

    def _wait(self, operation: operation_pb2.Operation) -> None:
        request = operation_service_pb2.WaitOperationRequest(
            operation_id=operation.id, timeout=duration_pb2.Duration(seconds=60)
        )
        while operation.state not in ENDED:
            operation = self._operations.WaitOperation(request, timeout=70).operation
        if operation.state != SUCCEEDED:
            sys.exit(f"operation {operation.id}: {operation.error.message}")


class Floor:
    """The same domain by hand: `virsh create` with a disk and a console log of its own."""

    def __init__(self, lab: Lab, xml: str, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._tree = ET.fromstring(xml)
        base = self._tree.find(".//backingStore/source")
        _, seed = self._tree.findall("./devices/disk/source")
        if base is None:
            raise ValueError("the domain names no backing image")
        self._base = base.attrib["file"]
        self._seed = folder / "seed.iso"
        shutil.copy2(seed.attrib["file"], self._seed)
        shutil.chown(self._seed, QEMU_USER, QEMU_USER)

    def create(self, number: int) -> float:
        """Create the domain once; return the seconds `virsh create` took, and destroy it."""
        name = f"floor-{number}"
        disk, log, file = (self._folder / f"{name}.{end}" for end in ("qcow2", "log", "xml"))
        self._tree.find("name").text = name  # type: ignore[union-attr]
        self._tree.find("uuid").text = str(uuid.uuid4())  # type: ignore[union-attr]
        root, seed = self._tree.findall("./devices/disk/source")
        root.attrib["file"], seed.attrib["file"] = str(disk), str(self._seed)
        for console in self._tree.iter("log"):
            console.attrib["file"] = str(log)
        file.write_text(ET.tostring(self._tree, encoding="unicode"))
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self._base]
        self._lab.run(HOST, [*create, str(disk)])
        self._lab.run(HOST, ["chown", f"{QEMU_USER}:", str(disk)])
        timed = f"a=$(date +%s%N); virsh -q create {file} >&2; b=$(date +%s%N); echo $((b - a))"
        done = self._lab.run(HOST, ["sh", "-ec", timed])
        self._lab.virsh(HOST, "destroy", name)
        for made in (disk, log, file):
            made.unlink(missing_ok=True)
        return int(done.stdout) / 1e9


def measure(lab: Lab, image: Path, pairs: int) -> tuple[list[float], list[float]]:
    """Return our seconds and the floor's, pair by pair."""
    ours, floor_s = [], []
    channel = grpc.insecure_channel(f"unix:{lab.paths.scheduler_socket}")
    with channel:
        cloud = Cloud(channel)
        image_id, flavor_id = cloud.upload(image), cloud.flavor("nano")
        warm, _ = cloud.launch("warm", image_id, flavor_id)
        domain = lab.virsh(HOST, "list", "--name").split()[0]
        folder = lab.paths.cell(HOST) / "floor"
        folder.mkdir(mode=0o755)
        floor = Floor(lab, lab.virsh(HOST, "dumpxml", "--inactive", domain), folder)
        floor.create(0)
        cloud.delete(warm)
        print("pair  ours s  virsh s  ratio")
        for number in range(1, pairs + 1):
            ident, took = cloud.launch(f"pair-{number}", image_id, flavor_id)
            cloud.delete(ident)
            ours.append(took)
            floor_s.append(floor.create(number))
            print(f"{number:4}  {ours[-1]:6.3f}  {floor_s[-1]:7.3f}  {ours[-1] / floor_s[-1]:5.2f}")
    return ours, floor_s


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="pairs to time, at least 20 to quote")
    parser.add_argument("--image", type=Path, default=Path("images/build/tiny.qcow2"))
    arguments = parser.parse_args()
    lab = Lab.create(LabSpec(name="bench-launch", hosts=1))
    try:
        lab.up()
        ours, floor_s = measure(lab, arguments.image, arguments.pairs)
    finally:
        take_down(lab.paths)
    ratios = [a / b for a, b in zip(ours, floor_s, strict=True)]
    results = {
        "ratio_p50": round(statistics.median(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "accepted_to_running_s_p50": round(statistics.median(ours), 4),
        "virsh_create_s_p50": round(statistics.median(floor_s), 4),
        "pairs": len(ratios),
    }
    params = {"pairs": arguments.pairs, "image": arguments.image.name, "flavor": "nano"}
    print(json.dumps({"bench": "launch", "params": params, "results": results}))


if __name__ == "__main__":
    main()
