"""Story: instances and the internet, and a load balancer inside.

1. What goes out has the router's address. 2. A floating address leads in, and is moved while it is
pinged. 3. A load balancer spreads over its members, and drops a dead one.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_user import NetworkUser, outside
from unkai_lab.lab import Lab
from unkai_lab.spec import EXTERNAL, EXTERNAL_RANGE, FAR_ADDRESS, PHYSICAL_NETWORK, LabSpec

_MOVE_S = 3.0
"""A floating address that is moved may be silent so long."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, with networks; two of them reach the internet."""
    skip_without_a_lab_machine()
    with running_lab(unique(LabSpec(name="gateways", hosts=3, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def user(lab: Lab) -> Iterator[NetworkUser]:
    """A user with two web servers and a client, whose router leads out."""
    made = NetworkUser(lab)
    external = ("--physical-network", PHYSICAL_NETWORK, "--external")
    made("network", "create", "outside", *external, "--subnet", str(EXTERNAL_RANGE))
    made.launch("web-1", host="h1")
    made.launch("web-2", host="h2")
    made.launch("client", host="h3")
    made("router", "set-gateway", "default", "outside", "--wait")
    for rule in (("tcp", "80"), ("icmp",)):
        made("security-group", "rule", "add", "default", "ingress", *rule, "--wait")
    yield made
    made.close()


def test_what_goes_out_has_the_routers_address(user: NetworkUser, shows: Shows) -> None:
    (own,) = user.show("router", "show", "default")["gateway"]["addresses"][:1]
    seen = _page(user, "client", str(FAR_ADDRESS))
    assert own in seen
    shows("networks 3 snat", f"the internet saw the client as {own}")


def test_a_floating_address_leads_in_and_out_and_is_moved(
    lab: Lab, user: NetworkUser, shows: Shows
) -> None:
    user("floating-ip", "create", "front", "--to", "web-1", "--wait")
    address = user.show("floating-ip", "show", "front")["address"]
    user.shell("web-1"), user.shell("web-2")
    wait_for(lambda: _asked(lab, address) == "web-1" or None, "web-1 is reached", 30)
    assert address in _page(user, "web-1", str(FAR_ADDRESS))

    argv = lab.site.command(EXTERNAL, ["ping", "-i", "0.1", "-w", "15", address])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as pings:
        time.sleep(5)
        user("floating-ip", "move", "front", "web-2", "--wait")
        printed, _ = pings.communicate(timeout=60)
    assert _asked(lab, address) == "web-2"
    assert address in _page(user, "web-2", str(FAR_ADDRESS))
    numbers = [int(found) for found in re.findall(r"icmp_seq=(\d+) ttl", printed)]
    sent = re.search(r"(\d+) packets transmitted", printed)
    assert sent
    lost = int(sent[1]) - len(set(numbers))
    assert max(numbers) > int(sent[1]) - 30  # they come again, and to the end
    assert lost <= _MOVE_S / 0.1
    shows(
        "networks 3 floating address",
        f"in and out as {address}; moved from web-1 to web-2: {lost} of {sent[1]} pings lost",
    )


def test_a_load_balancer_spreads_and_drops_a_dead_member(user: NetworkUser, shows: Shows) -> None:
    members = ("-m", "web-1", "-m", "web-2")
    user("load-balancer", "create", "shop", "--subnet", "default", "--listener", "80", *members)
    user("load-balancer", "update", "shop", "--label", "app=shop", "--wait")
    address = user.show("load-balancer", "show", "shop")["address"]
    wait_for(lambda: _page(user, "client", address) or None, "the balancer answers", 30)
    spread = Counter(_page(user, "client", address).strip() for _ in range(30))
    assert spread["web-1"] + spread["web-2"] == 30
    assert min(spread["web-1"], spread["web-2"]) >= 3

    user("load-balancer", "delete", "shop")
    words = ("--subnet", "default", "--listener", "80", *members, "--check", "--wait")
    user("load-balancer", "create", "shop-2", *words)
    address = user.show("load-balancer", "show", "shop-2")["address"]
    user.shell("web-1").run("killall httpd")
    dead_s = time.monotonic()
    wait_for(
        lambda: all(_page(user, "client", address).strip() == "web-2" for _ in range(6)) or None,
        "the dead member gets nothing",
        90,
    )
    took = time.monotonic() - dead_s
    answers = [_answer(user, address) for _ in range(10)]
    assert set(answers) == {"web-2"}
    shows(
        "networks 3 load balancer",
        f"30 calls: {spread['web-1']} and {spread['web-2']}; a dead member got none after "
        f"{took:.0f} s",
    )


def _answer(user: NetworkUser, address: str) -> str:
    """Return who answers; on a busy machine the last member may miss a check, too."""
    return wait_for(lambda: _page(user, "client", address).strip() or None, "an answer", 60)


def _page(user: NetworkUser, name: str, address: str) -> str:
    """Return what a guest reads at an address; empty when it does not come."""
    status, text = user.shell(name).ask(f"timeout 8 wget -q -O - http://{address}/ 2>/dev/null")
    return text if status == 0 else ""


def _asked(lab: Lab, address: str) -> str:
    """Return what is read at an address from outside."""
    argv = ["timeout", "8", "busybox", "wget", "-q", "-O", "-", f"http://{address}/"]
    return outside(lab, *argv).stdout.strip()
