"""The console and its log: bytes as they are, by pipe and by terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.command_line import unkai
from tests.support.served_api import ServedApi
from unkai.agent.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
)
from unkai_cli.commands import consoles

CTRL_BRACKET = b"\x1d"


@pytest.fixture
def placed(cloud: ServedApi) -> ServedApi:
    """A cloud with the instance `web` on a host."""
    cloud.do(cloud.api.create("web"))
    cloud.lead(cloud.leader.settle)
    return cloud


def test_logs_prints_what_the_guest_wrote(placed: ServedApi) -> None:
    placed.api.agents.log = b"boot\r\n\x1b[0m login: "
    outcome = unkai("instance", "logs", "web")
    assert (outcome.code, outcome.out) == (0, "boot\r\n\x1b[0m login: ")


def test_logs_can_begin_with_the_last_bytes(placed: ServedApi) -> None:
    placed.api.agents.log = b"0123456789"
    assert unkai("instance", "logs", "web", "--tail", "4").out == "6789"


def test_logs_of_an_instance_without_a_host_say_what_to_do(cloud: ServedApi) -> None:
    cloud.leader.idle = True
    cloud.do(cloud.api.create("web"))
    outcome = unkai("instance", "logs", "web")
    assert outcome.code == 4
    assert "INSTANCE_NOT_PLACED" in outcome.err


def _console(*more: str) -> list[str]:
    return [sys.executable, "-m", "unkai_cli", "instance", "console", "web", *more]


def test_piped_input_reaches_the_guest_and_its_answer_comes_back(placed: ServedApi) -> None:
    done = subprocess.run(
        _console(), input=b"hello\n", capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, b"echo hello\n")


def test_on_a_terminal_every_key_reaches_the_guest_but_the_one_that_leaves(
    placed: ServedApi,
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(_console(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            _until(ours, b"Ctrl-] leaves")
            os.write(ours, b"\x03")  # Ctrl-C is the guest's
            _until(ours, b"echo \x03")
            os.write(ours, CTRL_BRACKET)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            os.close(ours)


def _until(descriptor: int, wanted: bytes) -> bytes:
    """Read a terminal until something was shown."""
    shown, end = b"", time.monotonic() + 30
    while wanted not in shown:
        assert time.monotonic() < end, shown
        if select.select([descriptor], [], [], 0.1)[0]:
            shown += os.read(descriptor, 4096)
    return shown


class _Agent(
    machine_service_pb2_grpc.MachineServiceServicer, host_service_pb2_grpc.HostServiceServicer
):
    """An agent of one host with two machines called `web` and one `db`; consoles echo."""

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

    def AttachConsole(self, requests: Any, context: Any) -> Iterator[Any]:
        opened = next(requests).open
        kind = machine_service_pb2.AttachConsoleResponse
        yield kind()
        for request in requests:
            text = f"{opened.host_id} {opened.instance_id} ".encode()
            yield kind(output=text + request.input)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    socket = tmp_path / "agent.sock"
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    servicer = _Agent()
    machine_service_pb2_grpc.add_MachineServiceServicer_to_server(servicer, server)
    host_service_pb2_grpc.add_HostServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    monkeypatch.setenv("UNKAI_AGENT_SOCKET", str(socket))
    monkeypatch.setenv("UNKAI_SOCKET", "/nowhere/api.sock")
    yield
    server.stop(None).wait(5)


@pytest.mark.parametrize("name", ["db", "db.ccc3", "ins-ccc3", "ins-cc"])
def test_on_the_host_a_name_a_domain_an_id_and_its_beginning_mean_the_same(name: str) -> None:
    held = _Agent().ListMachines(None, None).machines
    assert consoles.chosen_machine(held, name) == "ins-ccc3"


def test_on_the_host_the_agent_alone_gives_the_console(agent: None) -> None:
    command = ["db" if word == "web" else word for word in _console("--on-host")]
    done = subprocess.run(command, input=b"hi", capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"hst-1 ins-ccc3 hi")


def test_on_the_host_a_name_of_several_machines_is_refused_with_their_ids(agent: None) -> None:
    outcome = unkai("instance", "console", "web", "--on-host")
    assert outcome.code == 2
    assert "ins-aaa1, ins-aab2" in outcome.err


def test_on_the_host_an_unknown_name_is_not_found(agent: None) -> None:
    assert unkai("instance", "console", "nothing", "--on-host").code == 3


def test_without_an_agent_the_fix_is_about_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_AGENT_SOCKET", "/nowhere/agent.sock")
    outcome = unkai("instance", "console", "web", "--on-host")
    assert outcome.code == 6
    assert "start the agent" in outcome.err
