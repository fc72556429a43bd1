"""Story: instances by name, among themselves and from a user's desk.

1. Guests on different hosts find each other by name, over IPv4 and IPv6; a name follows its
   instance. 2. `unkai ssh` goes by the instance's host, over IPv4 and over IPv6 alone, and by its
   floating address; what no rule lets in is refused with the rule to add. 3. `unkai forward` leads
   to a port; a connection ends with who opened it, and says which host went away under it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.acceptance import Shows
from tests.support.guest_shell import GuestShell
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_user import NetworkUser
from unkai_lab.lab import Lab
from unkai_lab.site import installed
from unkai_lab.spec import EXTERNAL, EXTERNAL_RANGE, PHYSICAL_NETWORK, LabSpec

pytestmark = pytest.mark.timeout(300)
"""Bringing it up takes half a minute, on a busy machine longer."""
HOSTS_V4, HOSTS_V6 = "169.254.169.254", "fe80::a9fe:a9fe"
"""Where an instance's host connects from."""
ECHO = 7
WHERE_FROM = "echo $SSH_CONNECTION"
"""Who connected, as the guest's SSH server saw it."""


class Desk(NetworkUser):
    """A user with a key."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab)
        self.key = folder / "key"
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@desk"]
        subprocess.run([*command, "-f", self.key], check=True, timeout=30)
        self("key", "add", "me", f"{self.key}.pub")

    def ssh(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a guest by `unkai ssh`, by way of its host."""
        words = ("ssh", "--via", "forward", "-i", str(self.key), name, "--", *command)
        return self.ask(*words)

    def reached(self, name: str, command: str = WHERE_FROM) -> str:
        """Run a command in a guest as soon as its SSH server is there; return what it printed."""

        def reach() -> str:
            done = self.ssh(name, command)
            assert "FORWARD_BLOCKED" not in done.stderr
            return done.stdout if done.returncode == 0 else ""

        return wait_for(reach, f"{name} answers by SSH", 60)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, with networks."""
    skip_without_a_lab_machine(networks=True)
    with running_lab(unique(LabSpec(name="ssh", hosts=3, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def user(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A user whose guests `left` and `right` are on one network, `six` and `seven` on another.

    The second network has IPv6 alone.
    """
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(folder / "state"))
        made = Desk(lab, folder)
        external = ("--physical-network", PHYSICAL_NETWORK, "--external")
        made("network", "create", "outside", *external, "--subnet", str(EXTERNAL_RANGE))
        made("network", "create", "alone", "--subnet", "fd66::/64")
        made("router", "create", "edge", "--subnet", "alone")
        for name, host, network in (
            ("left", "h1", ""),
            ("right", "h2", ""),
            ("six", "h3", "alone"),
            ("seven", "h1", "alone"),
        ):
            made.launch(name, host=host, network=network, keys=["me"])
        yield made
        made.close()


def test_guests_find_each_other_by_name(user: Desk, shows: Shows) -> None:
    left, right = user.shell("left"), user.shell("right")
    for shell, other in ((left, "right"), (right, "left")):
        for version, command in ((4, "ping -4"), (6, "ping6")):
            printed = shell.run(f"{command} -c 2 -W 5 {other}", 60)
            assert user.addresses(other)[version] in printed
    shows("networks 1 names", "h1 and h2, both ways: ping NAME and ping6 NAME answered")


def test_guests_with_ipv6_alone_find_each_other_by_name(user: Desk, shows: Shows) -> None:
    six = user.shell("six")
    user.shell("seven")
    assert user.addresses("seven")[6] in six.run("ping6 -c 2 -W 5 seven", 60)
    shows("networks 1 names over IPv6 alone", "h3 to h1: ping6 NAME answered")


def test_a_name_follows_its_instance(user: Desk, shows: Shows) -> None:
    left = user.shell("left")
    address = user.addresses("right")[4]
    user("instance", "update", "right", "--name", "starboard")
    wait_for(lambda: left.succeeds("nslookup starboard"), "the new name is known", 30)
    assert address in left.run("ping -4 -c 1 -W 5 starboard")
    wait_for(lambda: not left.succeeds("nslookup right"), "the old name is gone", 30)
    user("instance", "update", "starboard", "--name", "right")
    wait_for(lambda: left.succeeds("nslookup right"), "the first name is back", 30)
    user("launch", "tiny", "brief", "--flavor", "nano")
    wait_for(lambda: left.succeeds("nslookup brief"), "the newcomer has a name", 30)
    user("instance", "delete", "brief")
    wait_for(lambda: not left.succeeds("nslookup brief"), "its name goes with it", 30)
    shows("networks 1 names that change", "renamed: the new name alone; deleted: none")


def test_ssh_that_is_blocked_names_the_rule_that_mends_it(user: Desk, shows: Shows) -> None:
    refused = user.ssh("left", "true")
    assert refused.returncode != 0
    assert "FORWARD_BLOCKED" in refused.stderr
    (rule,) = re.findall(r"fix: unkai (security-group rule add .*)", refused.stderr)
    assert rule == f"security-group rule add default ingress tcp 22 from {HOSTS_V4}"
    user(*rule.split(), "--wait")
    seen = user.reached("left").split()[0]
    assert seen == HOSTS_V4
    done = user.ssh("left", "hostname; exit 7")
    assert (done.stdout, done.returncode) == ("left\n", 7)
    shows("networks ssh", f"refused with the rule to add; with it in from {seen}, exit status 7")


def test_ssh_over_ipv6_alone(user: Desk, shows: Shows) -> None:
    refused = user.ssh("six", "true")
    (rule,) = re.findall(r"fix: unkai (security-group rule add .*)", refused.stderr)
    user(*rule.split(), "--wait")
    seen = user.reached("six").split()[0]
    assert seen.partition("%")[0] == HOSTS_V6
    shows("networks ssh IPv6", f"a network without IPv4: in from {seen}")


def test_an_ipv4_that_is_blocked_does_not_hold_up_ipv6(user: Desk, shows: Shows) -> None:
    user("security-group", "create", "by-six", "-r", f"ingress tcp 22 from {HOSTS_V6}")
    port = user.show("instance", "show", "right")["interfaces"][0]["port_id"]
    user("port", "update", port, "--security-group", "by-six", "--wait")
    assert user.reached("right").partition("%")[0].split()[0] == HOSTS_V6
    took = []
    for _ in range(3):
        begun = time.monotonic()
        assert user.ssh("right", "true").returncode == 0
        took.append(time.monotonic() - begun)
    assert min(took) < 5.0  # half of what silence may take
    shows("networks ssh IPv4 blocked", f"in by IPv6, {min(took):.1f} s for all of it")


def test_ssh_by_a_floating_address(lab: Lab, user: Desk, shows: Shows) -> None:
    user("router", "set-gateway", "default", "outside", "--wait")
    rule = f"ingress tcp 22 from {EXTERNAL_RANGE}"
    user("security-group", "rule", "add", "default", *rule.split(), "--wait")
    user("floating-ip", "create", "front", "--to", "left", "--wait")
    words = ["ssh", "-i", str(user.key), "left", "--", WHERE_FROM]
    argv = ["env", f"UNKAI_SOCKET={lab.paths.scheduler_socket}", installed("unkai"), *words]

    def reach() -> str:
        return lab.site.run(EXTERNAL, argv, check=False, timeout_s=60).stdout

    seen = wait_for(lambda: _in_range(reach()), "the floating address leads in", 60)
    shows("networks ssh floating", f"from the internet by the floating address, as {seen}")


def _in_range(printed: str) -> str:
    """Return who connected, if that was from the internet's side."""
    seen = printed.split()[:1]
    return seen[0] if seen and seen[0] == str(EXTERNAL_RANGE[1]) else ""


def test_forward_leads_to_a_port_and_ends_with_who_opened_it(user: Desk, shows: Shows) -> None:
    _let_in(user, 80, ECHO)
    shell = user.shell("left")
    with forwarding(user, "left", "0:80") as (_, local):
        assert urlopen(f"http://127.0.0.1:{local}/", timeout=60).read().strip() == b"left"
    with forwarding(user, "left", f"0:{ECHO}") as (process, local), talking(local) as say:
        assert say("hello") == "hello"
        assert _echoes(shell) == 1
        process.kill()
        wait_for(lambda: _echoes(shell) == 0, "the guest's end is closed", 30)
    shows("networks forward", "port 80 read; the command killed: closed in the guest")


def test_a_host_that_goes_away_under_a_connection_is_named(
    lab: Lab, user: Desk, shows: Shows
) -> None:
    _let_in(user, ECHO)
    user.leave("six")  # its console would end, too
    with forwarding(user, "six", f"0:{ECHO}") as (process, local), talking(local) as say:
        assert say("hello") == "hello"
        lab.kill_agent("h3")
        assert process.stderr is not None
        said = process.stderr.readline().strip()
        assert say("and now?") == ""
    lab.start_agent("h3")
    assert "host h3 went away" in said
    assert "unkai host show h3" in said
    shows("networks forward lost", said)


def _let_in(user: Desk, *ports: int) -> None:
    """Have a rule for each of these ports."""
    for port in ports:
        rule = ("ingress", "tcp", str(port))
        done = user.ask("security-group", "rule", "add", "default", *rule, "--wait")
        assert done.returncode == 0 or "SECURITY_GROUP_RULE_EXISTS" in done.stderr


@contextmanager
def forwarding(user: Desk, name: str, ports: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `unkai forward`; give it, and the local port that it says it listens on."""
    environment = {**os.environ, "UNKAI_SOCKET": str(user.lab.paths.scheduler_socket)}
    command = [installed("unkai"), "forward", name, ports]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            where = process.stderr.readline().split()[0]
            yield process, int(where.rpartition(":")[2])
        finally:
            process.kill()


@contextmanager
def talking(port: int) -> Iterator[Callable[[str], str]]:
    """Connect to a local port; give who says a line and returns the one that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as made:
        answers = made.makefile("r")

        def say(text: str) -> str:
            made.sendall(f"{text}\n".encode())
            return answers.readline().strip()

        yield say


def _echoes(shell: GuestShell) -> int:
    """Return how many connections a guest's echo service has (proc_net_tcp: 01 is ESTABLISHED)."""
    found = shell.run("cat /proc/net/tcp /proc/net/tcp6 | grep -cE ':0007 [0-9A-F:]+ 01 ' || true")
    return int(found)
