"""An agent on a unix socket of which only consoles answer, as tests want them to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from unkai.agent.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
)
from unkai_wire.errors import UnkaiError
from unkai_wire.rpc_errors import STATUS_KEY, status_code, to_status


class ConsoleAgent(
    machine_service_pb2_grpc.MachineServiceServicer, host_service_pb2_grpc.HostServiceServicer
):
    """One host with two machines called `web` and one `db`; consoles name themselves and echo."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._server: grpc.Server | None = None
        self.log = b"booting\r\nready\r\nlogin: "
        self.typed = b""
        """All that was typed on any console."""
        self.pause_s = 0.0
        """How long a guest takes to take in what one message brings."""
        self.closing = threading.Event()
        """Set: every console closes, as when its guest goes off."""
        self.error: UnkaiError | None = None
        """What ends every console, and refuses new ones."""
        self.opened: list[tuple[str, bool]] = []
        """Instance and force of each console opened."""

    def start(self) -> None:
        """Serve."""
        self.closing.clear()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        machine_service_pb2_grpc.add_MachineServiceServicer_to_server(self, self._server)
        host_service_pb2_grpc.add_HostServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self._socket}")
        self._server.start()

    def stop(self) -> None:
        """Be gone, with every connection."""
        self.closing.set()
        if self._server is not None:
            self._server.stop(None).wait(5)
            self._server = None

    def Describe(self, request: Any, context: Any) -> Any:
        answer = host_service_pb2.DescribeResponse()
        answer.host.host_id = "hst-1"
        return answer

    def ListMachines(self, request: Any, context: Any) -> Any:
        answer = machine_service_pb2.ListMachinesResponse()
        for ident, name in (("ins-aaa1", "web"), ("ins-aab2", "web"), ("ins-ccc3", "db")):
            machine = answer.machines.add(instance_id=ident, domain_name=f"{name}.{ident[-4:]}")
            machine.instance.name = name
        return answer

    def ReadConsoleLog(self, request: Any, context: Any) -> Iterator[Any]:
        kind = machine_service_pb2.ReadConsoleLogResponse
        yield kind(output=self.log[-request.tail_bytes :] if request.tail_bytes else self.log)

    def AttachConsole(self, requests: Any, context: Any) -> Iterator[Any]:
        opened = next(requests).open
        kind = machine_service_pb2.AttachConsoleResponse
        self._refuse(context)
        self.opened.append((opened.instance_id, opened.force))
        yield kind(output=b"")
        said = f"{opened.host_id} {opened.instance_id} ".encode()
        inputs: list[bytes] = []
        arrived, ended = threading.Event(), threading.Event()

        def take() -> None:
            try:
                for request in requests:
                    self.closing.wait(self.pause_s)
                    self.typed += request.input
                    inputs.append(request.input)
                    arrived.set()
            except grpc.RpcError:
                pass
            ended.set()

        threading.Thread(target=take, daemon=True).start()
        while not self.closing.is_set() and not (ended.is_set() and not inputs):
            arrived.wait(0.05)
            arrived.clear()
            while inputs:
                yield kind(output=said + inputs.pop(0))
        self._refuse(context)

    def _refuse(self, context: Any) -> None:
        if self.error is not None:
            status = to_status(self.error)
            context.set_trailing_metadata(((STATUS_KEY, status.SerializeToString()),))
            context.abort(status_code(self.error), self.error.message)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConsoleAgent]:
    """The agent of this host as the command finds it; there is no scheduler."""
    socket = tmp_path / "agent.sock"
    made = ConsoleAgent(socket)
    made.start()
    monkeypatch.setenv("UNKAI_AGENT_SOCKET", str(socket))
    monkeypatch.setenv("UNKAI_SOCKET", "/nowhere/api.sock")
    yield made
    made.stop()
