"""TCP to an instance by its host: over pipes, over a local port, and as ssh uses it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import unkai
from tests.support.networks import a_group, a_rule, add_network, add_port
from tests.support.served_api import ServedApi
from unkai_scheduler.domain.ports import PortOwner
from unkai_scheduler.domain.security_groups import Protocol, Rule
from unkai_scheduler.services import forwards
from unkai_scheduler.store import security_groups

IN_FROM_HOSTS = "169.254.169.254/32"


def plugged(cloud: ServedApi, *rules: Rule) -> str:
    """Place an instance `web` with a port in a group `web-in` with these rules; return its id."""
    ident = str(cloud.do(cloud.api.create("web")).instance.id)

    def work(conn: object) -> None:
        cloud.leader.settle(conn)
        network, subnet_id = add_network(conn, "10.7.0.0/24")  # type: ignore[arg-type]
        group = a_group(name="web-in", rules=rules)
        security_groups.insert(conn, group)  # type: ignore[arg-type]
        owned = {"owner": PortOwner.INSTANCE, "owner_id": ident, "position": 7}
        add_port(conn, network, subnet_id, security_group_ids=(group.id,), **owned)  # type: ignore[arg-type]

    cloud.lead(work)
    return ident


def a_rule_for_hosts(first: int = 22, last: int = 22) -> Rule:
    return a_rule(
        protocol=Protocol.TCP, port_first=first, port_last=last, remote_cidr=IN_FROM_HOSTS
    )


def _forward(*words: str) -> list[str]:
    return [sys.executable, "-m", "unkai_cli", "forward", *words]


def test_input_reaches_the_instance_whole_and_its_end_too(cloud: ServedApi) -> None:
    plugged(cloud, a_rule_for_hosts())
    sent = os.urandom(3 << 20)
    done = subprocess.run(
        _forward("--stdio", "web", "22"), input=sent, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"hello\necho ")
    assert done.stdout.endswith(f"{len(sent)} bytes\n".encode())
    assert cloud.api.agents.forwards == 0


def test_a_blocked_port_is_refused_with_the_rule_to_add(cloud: ServedApi) -> None:
    plugged(cloud, a_rule_for_hosts(443, 443))

    outcome = unkai("forward", "--stdio", "web", "22")

    assert outcome.code == 4
    assert "FORWARD_BLOCKED" in outcome.err
    assert (
        "unkai security-group rule add default ingress tcp 22 from 169.254.169.254" in outcome.err
    )


def test_the_rule_that_the_refusal_names_lets_it_in(cloud: ServedApi) -> None:
    plugged(cloud)
    refused = unkai("forward", "--stdio", "web", "22")
    line = next(line for line in refused.err.splitlines() if "rule add" in line)
    rule = line[line.index("security-group") :].split()

    assert unkai(*rule, "--no-wait").code == 0

    done = subprocess.run(
        _forward("--stdio", "web", "22"), input=b"x", capture_output=True, check=False, timeout=60
    )
    assert done.stdout.endswith(b"1 bytes\n")


def test_what_the_machine_refuses_is_told(cloud: ServedApi) -> None:
    plugged(cloud, a_rule_for_hosts(1, 65535))
    outcome = unkai("forward", "--stdio", "web", "9")
    assert outcome.code == 4
    assert "FORWARD_REFUSED" in outcome.err


def test_a_host_that_goes_away_is_named(cloud: ServedApi) -> None:
    plugged(cloud, a_rule_for_hosts(1, 65535))
    for gone, reason in ((False, "FORWARD_LOST"), (True, "HOST_UNREACHABLE")):
        cloud.api.agents.gone = gone
        done = subprocess.run(
            _forward("--stdio", "web", "10"),
            stdin=subprocess.PIPE,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == 6
        for word in (reason, "host h1 ", "'unkai host show h1'"):
            assert word in done.stderr


def test_one_projects_connections_leave_room_for_anothers(
    cloud: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugged(cloud, a_rule_for_hosts())
    monkeypatch.setattr(forwards, "CONNECTIONS_EACH", 0)
    outcome = unkai("forward", "--stdio", "web", "22")
    assert "FORWARDS_FULL" in outcome.err
    assert "to this project" in outcome.err


@contextmanager
def listening(*words: str) -> Iterator[tuple[str, int]]:
    """Run the command and give the address that it says it listens on."""
    with subprocess.Popen(_forward(*words), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            host, _, port = process.stderr.readline().split()[0].rpartition(":")
            yield host, int(port)
        finally:
            process.terminate()


def test_a_local_port_leads_to_the_instance_for_several_at_once(cloud: ServedApi) -> None:
    plugged(cloud, a_rule_for_hosts(80, 80))
    with listening("web", "0:80") as where:
        made = [socket.create_connection(where, timeout=30) for _ in range(3)]
        for number, each in enumerate(made):
            each.sendall(b"x" * number)
            each.shutdown(socket.SHUT_WR)
        told = []
        for each in made:
            with each, each.makefile("rb") as answers:
                told.append(answers.read().splitlines()[-1])
    assert told == [b"0 bytes", b"echo x1 bytes", b"echo xx2 bytes"]


def test_ssh_goes_by_the_host_and_knows_the_instance_by_its_id(
    cloud: ServedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = plugged(cloud, a_rule_for_hosts())
    words = tmp_path / "words"
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {words}\nexit 7\n')
    fake.chmod(0o755)
    state = tmp_path / "state of mine"
    environment = os.environ | {
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(state),
    }

    done = subprocess.run(
        [sys.executable, "-m", "unkai_cli", "ssh", "-l", "me", "web", "--", "uname", "-a"],
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (7, b"")
    said = words.read_text().splitlines()
    assert said[-4:] == ["--", ident, "uname", "-a"]
    assert f"HostKeyAlias={ident}" in said
    assert f'UserKnownHostsFile="{state}/unkai/known_hosts/{ident}"' in said
    proxy = next(word for word in said if word.startswith("ProxyCommand="))
    assert proxy.endswith(f"-m unkai_cli forward --stdio {ident} 22")
    assert said[said.index("-l") + 1] == "me"
