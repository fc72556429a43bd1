"""The console and its log: bytes as they are, by pipe and by terminal."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import unkai
from tests.support.console_agent import ConsoleAgent
from tests.support.fake_api import FakeApi
from tests.support.served_api import ServedApi
from tests.support.terminal import CTRL_BRACKET, Terminal
from unkai.compute.v1 import instance_service_pb2 as pb
from unkai_cli.commands import consoles
from unkai_wire.errors import Unavailable

INSTANCE = "ins-00000000000000000000000001"


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
    with Terminal(_console()) as terminal:
        terminal.shows(b"Ctrl-] leaves")
        terminal.type(b"\x03")  # Ctrl-C is the guest's
        terminal.shows(b"echo \x03")
        terminal.type(CTRL_BRACKET)
        assert terminal.ends() == 0
        assert terminal.settings == terminal.before


def test_the_last_lines_of_the_log_may_come_first(placed: ServedApi) -> None:
    placed.api.agents.log = b"one\r\ntwo\r\nlogin: "
    done = subprocess.run(
        _console("--log", "2"), input=b"x", capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, b"two\r\nlogin: echo x")


def test_a_log_that_cannot_be_read_leaves_the_console_that_was_opened(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    def guest() -> Iterator[Any]:
        yield pb.AttachConsoleResponse()
        while not fake.asked["ReadConsoleLog"] and not left.wait(0.05):
            pass
        yield pb.AttachConsoleResponse(output=b"login: ")
        left.wait()

    fake.script("AttachConsole", guest())
    fake.script("ReadConsoleLog", [Unavailable("the leader is changing")])
    monkeypatch.setenv("UNKAI_SOCKET", f"{fake.socket},{fake.socket}")
    command = [INSTANCE if word == "web" else word for word in _console("--log", "2")]
    try:
        done = subprocess.run(command, input=b"x", capture_output=True, check=False, timeout=60)
    finally:
        left.set()
    assert (done.returncode, done.stdout) == (0, b"login: "), done.stderr
    assert b"the log's last lines cannot be shown: the leader is changing" in done.stderr


@pytest.mark.parametrize("name", ["db", "db.ccc3", "ins-ccc3", "ins-cc"])
def test_on_the_host_a_name_a_domain_an_id_and_its_beginning_mean_the_same(name: str) -> None:
    held = ConsoleAgent(Path("/nowhere")).ListMachines(None, None).machines
    assert consoles.chosen_machine(held, name) == "ins-ccc3"


def test_on_the_host_the_agent_alone_gives_the_console(agent: ConsoleAgent) -> None:
    command = ["db" if word == "web" else word for word in _console("--on-host")]
    done = subprocess.run(command, input=b"hi", capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"hst-1 ins-ccc3 hi")


def test_on_the_host_a_name_of_several_machines_is_refused_with_their_ids(
    agent: ConsoleAgent,
) -> None:
    outcome = unkai("instance", "console", "web", "--on-host")
    assert outcome.code == 2
    assert "ins-aaa1, ins-aab2" in outcome.err


def test_on_the_host_an_unknown_name_is_not_found(agent: ConsoleAgent) -> None:
    assert unkai("instance", "console", "nothing", "--on-host").code == 3


def test_without_an_agent_the_fix_is_about_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNKAI_AGENT_SOCKET", "/nowhere/agent.sock")
    outcome = unkai("instance", "console", "web", "--on-host")
    assert outcome.code == 6
    assert "start the agent" in outcome.err
