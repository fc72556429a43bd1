"""Story: instances on different hosts share a network, and what may reach them is what rules say.

1. They reach each other by address over IPv4 and IPv6, with packets as large as the MTU.
2. TCP obeys security groups in both directions; what no rule allows any more is cut.
3. Two projects use the same range; spoofed senders are dropped; a newcomer is left alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.support.acceptance import Shows
from tests.support.guest_shell import GuestShell
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique
from tests.support.network_user import NetworkUser
from unkai_lab.lab import Lab
from unkai_lab.spec import LabSpec

MTU = 1442
"""Of 1500, after Geneve over IPv4."""
ECHO = 7


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, with networks."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="networks", hosts=3, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def user(lab: Lab) -> Iterator[NetworkUser]:
    """A user whose guests `left` and `right` are on one network, on different hosts."""
    made = NetworkUser(lab)
    made("security-group", "create", "served", "-r", f"ingress tcp {ECHO}")
    made.launch("left", host="h1")
    made.launch("right", host="h2")
    yield made
    made.close()


def test_guests_reach_each_other_by_address(user: NetworkUser, shows: Shows) -> None:
    left, right = user.shell("left"), user.addresses("right")
    user.shell("right")
    for version, command in ((4, "ping"), (6, "ping6")):
        left.run(f"{command} -c 3 -W 5 {right[version]}", 60)
    shows("networks 1 ping", f"h1 to h2 by {right[4]} and {right[6]}: each answered")


def test_packets_as_large_as_the_mtu_pass_in_one_piece(
    lab: Lab, user: NetworkUser, shows: Shows
) -> None:
    left, right = user.shell("left"), user.addresses("right")
    assert left.run("cat /sys/class/net/eth0/mtu").strip() == str(MTU)
    before = [_fragments(lab, host) for host in ("h1", "h2")]
    left.run(f"ping -c 5 -W 5 -s {MTU - 28} {right[4]}", 60)
    left.run(f"ping6 -c 5 -W 5 -s {MTU - 48} {right[6]}", 60)
    assert [_fragments(lab, host) for host in ("h1", "h2")] == before
    assert left.run("grep ^Ip: /proc/net/snmp | tail -1").split()[-1] == "0"
    shows("networks 1 mtu", f"10 packets of {MTU} bytes answered, nothing in fragments")


def test_rules_hold_in_both_directions_and_a_change_cuts_in_time(
    user: NetworkUser, shows: Shows
) -> None:
    user.launch("server", host="h2", groups=["served"])
    server, left = user.addresses("server"), user.shell("left")
    shell = user.shell("server")
    for version in (4, 6):
        assert _connects(left, server[version], ECHO)
        assert not _connects(left, server[version], 22)
    assert not left.succeeds(f"ping -c 1 -W 3 {server[4]}")
    user("security-group", "rule", "add", "served", "ingress", "tcp", "80", "--wait")
    assert _connects(left, server[4], 80)
    kept, cut = "/tmp/kept", "/tmp/cut"
    _talk(left, server[4], ECHO, cut)
    user("security-group", "create", "other", "-r", "ingress tcp 9999")
    _put_in(user, "server", "served", "other")
    shell.begin("while :; do nc -l -p 9999 -e cat; done")
    time.sleep(1)
    _talk(left, server[4], 9999, kept)
    time.sleep(2)
    assert _is_fresh(left, cut)
    assert _is_fresh(left, kept)
    user("security-group", "rule", "remove", "served", "ingress", "tcp", str(ECHO))
    told = _uptime(left)
    time.sleep(5)
    cut_s = _last(left, cut) - told
    assert cut_s <= 2.0
    assert _is_fresh(left, kept)
    assert not _connects(left, server[4], ECHO)

    # Out goes what the group says, once it says something of that direction.
    user("security-group", "create", "mute", "-r", "egress tcp 80")
    _put_in(user, "server", "mute")
    _put_in(user, "right", "default", "served", "other")
    user("security-group", "rule", "add", "other", "ingress", "tcp", "22", "--wait")
    assert _connects(shell, user.addresses("right")[4], 80)
    assert not _connects(shell, user.addresses("right")[4], 22)
    shows(
        "networks 1 rules",
        f"TCP {ECHO} and 80 as ruled in and out, 22 and ICMP not; a rule gone: cut "
        f"{max(cut_s, 0):.1f} s after, another connection lives",
    )


def test_two_projects_share_a_range_without_touching(
    lab: Lab, user: NetworkUser, shows: Shows
) -> None:
    user("project", "create", "twin")
    twin = NetworkUser(lab, "twin")
    try:
        for each, name in ((user, "mine"), (twin, "theirs")):
            each("network", "create", "same", "--subnet", "10.77.0.0/24")
            each.launch(f"{name}-1", host="h1", network="same", addresses=["10.77.0.11"])
        twin.launch("theirs-2", host="h2", network="same", addresses=["10.77.0.12"])
        twin.shell("theirs-2")
        assert not user.shell("mine-1").succeeds("ping -c 2 -W 3 10.77.0.12")
        assert twin.shell("theirs-1").succeeds("ping -c 2 -W 5 10.77.0.12", 60)
        names = [
            each.shell(name).run("wget -qO- http://169.254.169.254/openstack/latest/meta_data.json")
            for each, name in ((user, "mine-1"), (twin, "theirs-1"))
        ]
        assert ['"mine-1"' in names[0], '"theirs-1"' in names[1]] == [True, True]
    finally:
        twin.close()
    shows("networks 2 same range", "10.77.0.11 twice on h1, each hears its own peer and metadata")


def test_spoofed_senders_are_dropped(user: NetworkUser, shows: Shows) -> None:
    left, right = user.shell("left"), user.addresses("right")[4]
    own = user.addresses("left")[4]
    other = re.sub(r"\d+$", "199", own)
    left.run(f"ip addr add {other}/24 dev eth0")
    assert not left.succeeds(f"ping -c 2 -W 3 -I {other} {right}")
    left.run(f"ip addr del {other}/24 dev eth0")
    assert left.succeeds(f"ping -c 2 -W 5 -I {own} {right}")
    mac = left.run("cat /sys/class/net/eth0/address").strip()
    left.run("ip link set eth0 address 02:00:00:be:ef:01")
    assert not left.succeeds(f"ping -c 2 -W 3 {right}")
    left.run(f"ip link set eth0 address {mac}")
    assert left.succeeds(f"ping -c 3 -W 5 {right}")
    shows("networks 2 spoofing", "another address and another MAC: nothing answered; its own: yes")


def test_a_newcomer_is_left_alone(user: NetworkUser, shows: Shows) -> None:
    user("security-group", "create", "alone")
    user.launch("newcomer", host="h3", groups=["alone"])
    newcomer, left = user.shell("newcomer"), user.shell("left")
    address = user.addresses("newcomer")
    before = _received(newcomer)
    for port in (7, 22, 80):
        assert not _connects(left, address[4], port)
        assert not _connects(left, address[6], port)
    assert not left.succeeds(f"ping -c 3 -W 2 {address[4]}")
    assert not left.succeeds(f"ping6 -c 3 -W 2 {address[6]}")
    assert _received(newcomer) == before
    shows("networks 2 newcomer", "12 connections and pings tried: no IP packet came in")


def _put_in(user: NetworkUser, name: str, *groups: str) -> None:
    port = user.show("instance", "show", name)["interfaces"][0]["port_id"]
    words = [word for group in groups for word in ("--security-group", group)]
    user("port", "update", port, *words, "--wait")


def _connects(shell: GuestShell, address: str, port: int) -> bool:
    return bool(shell.succeeds(f"nc.openbsd -z -w 3 {address} {port}"))


def _talk(shell: GuestShell, address: str, port: int, file: str) -> None:
    """Let a guest send its uptime each 0.1 s on one connection, and write down what comes back."""
    loop = f"while cat /proc/uptime; do usleep 100000; done | nc {address} {port} >{file} 2>&1"
    shell.begin(loop)


def _uptime(shell: GuestShell) -> float:
    return float(shell.run("cat /proc/uptime").split()[0])


def _last(shell: GuestShell, file: str) -> float:
    """Return the uptime at which the last line that came back was sent."""
    return float(shell.run(f"tail -n 1 {file}").split()[0])


def _is_fresh(shell: GuestShell, file: str) -> bool:
    return _uptime(shell) - _last(shell, file) < 1.5


def _fragments(lab: Lab, host: str) -> tuple[str, ...]:
    """Return how many packets a host has cut in pieces, or put together again."""
    text = lab.site.run(host, ["cat", "/proc/net/snmp"]).stdout
    names, values = [line.split() for line in text.splitlines() if line.startswith("Ip:")]
    found = dict(zip(names, values, strict=True))
    return tuple(found[name] for name in ("ReasmReqds", "FragOKs", "FragCreates"))


def _received(shell: GuestShell) -> int:
    """Return how many IP packets a guest has taken in, but those of its neighbour discovery."""
    return int(shell.run("grep ^Ip: /proc/net/snmp | tail -1 | cut -d' ' -f10"))
