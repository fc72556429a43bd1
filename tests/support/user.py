"""A user of a running cloud: the public API as tests need it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import duration_pb2

from tests.support.images import built_tiny
from tests.support.lab import wait_for
from unkai.compute.v1 import instance_pb2
from unkai.storage.v1 import image_pb2
from unkai_cli.client import Client
from unkai_cli.records import record
from unkai_cli.settings import Context

State = instance_pb2.Instance.State
SAY_HELLO = b'#!/bin/sh\necho "hello from $(hostname)"\n'
CONVERSATION = (
    (b"\n", b"login:"),
    (b"root\n", b":/root# "),
    (b"echo typed-$((40 + 2))\n", b"typed-42"),
)
"""Lines to type on a console, each with what is awaited next: getty drops what comes too early."""


def tiny_image() -> Path:
    """Return the tiny image's file, built when it is not there or its recipe is newer."""
    return built_tiny()


class User:
    """One user, by the scheduler's unix socket."""

    def __init__(self, socket: Path, project: str = "") -> None:
        self.client = Client(Context("test", socket=str(socket), project=project))
        self._owner: dict[str, Any] = {"project_id": self.client.project_id} if project else {}

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()

    def upload(self, name: str, file: Path) -> str:
        """Upload an image, unless it is there; return its id."""
        for known in self.client.pages("ImageService", "ListImages", name=name):
            return str(known.id)
        image = image_pb2.Image(name=name, visibility=image_pb2.Image.VISIBILITY_PUBLIC)
        made = self.client.call("ImageService", "CreateImage", image=image)
        request = self.client.messages("ImageService").UploadImageRequest

        def requests() -> Iterator[Any]:
            yield request(open=request.Open(image_id=made.image.id))
            with file.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    yield request(chunk=piece)

        self.client.upload("ImageService", "UploadImage", requests())
        return str(made.image.id)

    def create(self, name: str, *, flavor: str = "nano", image: str = "tiny", **fields: Any) -> Any:
        """Ask for an instance; return the answer, with instance and operation."""
        wait_s = fields.pop("capacity_wait_s", 0)
        request_id = fields.pop("request_id", None)
        wanted = instance_pb2.Instance(
            name=name,
            image_id=self.client.resolve("image", image),
            flavor_id=self.client.resolve("flavor", flavor),
            **fields,
        )
        more = {"request_id": request_id} if request_id else {}
        return self.client.call(
            "InstanceService",
            "CreateInstance",
            instance=wanted,
            capacity_wait=duration_pb2.Duration(seconds=wait_s),
            **self._owner,
            **more,
        )

    def finish(self, operation: Any, timeout_s: float = 120.0) -> Any:
        """Wait until an operation has ended well; raise what it failed with."""
        return self.client.wait_operation(
            operation, timeout_s=timeout_s, progress=lambda line: None
        )

    def launch(self, name: str, **fields: Any) -> Any:
        """Make an instance and wait until it runs; return it."""
        answer = self.create(name, **fields)
        self.finish(answer.operation)
        return self.get(answer.instance.id)

    def get(self, instance_id: str) -> Any:
        """Return an instance."""
        return self.client.call("InstanceService", "GetInstance", instance_id=instance_id).instance

    def list(self) -> list[Any]:
        """Return all instances."""
        return list(self.client.pages("InstanceService", "ListInstances"))

    def act(self, verb: str, instance_id: str, *, wait: bool = True, **fields: Any) -> Any:
        """Start, Stop, Reboot or Delete an instance; return the operation."""
        answer = self.client.call(
            "InstanceService", f"{verb}Instance", instance_id=instance_id, **fields
        )
        return self.finish(answer.operation) if wait else answer.operation

    def delete_all(self) -> None:
        """Delete every instance and wait until they are gone."""
        operations = [self.act("Delete", each.id, wait=False) for each in self.list()]
        for operation in operations:
            self.finish(operation)

    def state(self, instance_id: str) -> str:
        """Return an instance's state as text."""
        return str(State.Name(self.get(instance_id).state)).removeprefix("STATE_")

    def wait_state(self, instance_id: str, state: str, deadline_s: float = 60.0) -> Any:
        """Wait until an instance is in a state; return it."""
        wait_for(
            lambda: self.state(instance_id) == state,
            f"{instance_id} is {state} (it is {self.state(instance_id)})",
            deadline_s,
        )
        return self.get(instance_id)

    def known_state(self, instance_id: str) -> str:
        """Return an instance's state once it is known: a host on a busy machine may be silent."""

        def known() -> str:
            state = self.state(instance_id)
            return state if state != "UNKNOWN" else ""

        return wait_for(known, f"the state of {instance_id} is known", 60)

    def log(self, instance_id: str) -> str:
        """Return an instance's console log."""
        answers = self.client.stream("InstanceService", "ReadConsoleLog", instance_id=instance_id)
        return b"".join(a.output for a in answers).decode(errors="replace").replace("\r", "")

    def wait_log(self, instance_id: str, text: str, deadline_s: float = 60.0) -> str:
        """Wait until a text is in the console log; return the log."""
        wait_for(lambda: text in self.log(instance_id), f"{text!r} on the console", deadline_s)
        return self.log(instance_id)

    def explain(self, instance_id: str) -> dict[str, Any]:
        """Return the last decision for an instance, as plain values."""
        answer = self.client.call("PlacementService", "Explain", instance_id=instance_id)
        return record(answer.decision)

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Return all hosts by name, as plain values."""
        found = self.client.pages("HostService", "ListHosts")
        return {message.name: record(message) for message in found}
