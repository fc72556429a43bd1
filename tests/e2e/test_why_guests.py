"""Story: what `why` says of real guests is what they see of each other.

1. Groups and routers. 2. Oneself, and the metadata service. 3. In and out, also to a stopped guest.
4. A second port, and an address that a port may take. 5. Counters of the real path. 6. A dead host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.acceptance import Shows
from tests.support.lab import running_lab, skip_without_a_lab_machine, unique, wait_for
from tests.support.network_user import NetworkUser, outside
from unkai_lab.lab import Lab
from unkai_lab.spec import EXTERNAL_RANGE, FAR_ADDRESS, PHYSICAL_NETWORK, LabSpec

pytestmark = pytest.mark.timeout(900)
AGREE_S = 90.0
"""What was changed is so by then, for packets too."""
METADATA = "169.254.169.254"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, with networks; two of them reach the internet."""
    skip_without_a_lab_machine(networks=True)
    with running_lab(unique(LabSpec(name="why", hosts=3, networks=True))) as made:
        yield made


@pytest.fixture(scope="module")
def user(lab: Lab) -> Iterator[NetworkUser]:
    """A user with guests web and db on one network and far on another, behind one router."""
    made = NetworkUser(lab)
    external = ("--physical-network", PHYSICAL_NETWORK, "--external")
    made("network", "create", "outside", *external, "--subnet", str(EXTERNAL_RANGE))
    made("network", "create", "back", "--subnet", "10.99.0.0/24")
    made.launch("web", host="h1")
    made("router", "add-subnet", "default", "back")
    made("router", "set-gateway", "default", "outside", "--wait")
    made("security-group", "create", "shut", "-r", "egress tcp 9", "--wait")
    made.launch("db", host="h2")
    made.launch("far", host="h3", network="back", groups=["default"])
    for name in ("web", "db", "far"):
        made.shell(name)
    yield made
    made.close()


def test_groups_and_routers_decide(user: NetworkUser, shows: Shows) -> None:
    db, far = user.addresses("db")[4], user.addresses("far")[4]
    agreed = [
        _agree(user, ("web", "db"), lambda: _pings(user, "web", db)),
        _agree(user, ("web", "db:80"), lambda: _reads(user, "web", db)),
        _agree(user, ("web", "far:80"), lambda: _reads(user, "web", far)),
    ]
    _put_in(user, "db", "shut")
    agreed.append(
        _agree(user, ("web", "db:80"), lambda: _reads(user, "web", db), "NO_INGRESS_RULE")
    )
    agreed.append(
        _agree(user, ("db", "web:80"), lambda: _reads(user, "db", "web"), "NO_EGRESS_RULE")
    )
    _put_in(user, "db", "default")
    user("router", "remove-subnet", "default", "back", "--wait")
    agreed.append(_agree(user, ("web", "far:80"), lambda: _reads(user, "web", far), "NO_ROUTE"))
    user("router", "add-subnet", "default", "back", "--wait")
    agreed.append(_agree(user, ("far", "web:80"), lambda: _reads(user, "far", "web")))
    shows("networks 7 guests", "; ".join(agreed))


def test_oneself_and_the_metadata_service(user: NetworkUser) -> None:
    own = user.addresses("web")
    _agree(user, ("web", "web:80"), lambda: _reads(user, "web", own[4]))
    _agree(user, ("web", own[6]), lambda: user.shell("web").succeeds(f"ping6 -c 1 -W 3 {own[6]}"))
    _agree(user, ("web", f"{METADATA}:80"), lambda: _reads(user, "web", METADATA))
    _agree(user, ("web", f"{METADATA}:443"), lambda: False, "NO_LISTENER")
    _put_in(user, "db", "shut")
    # Metadata and names pass whatever the groups say; a ping is what they say it is.
    _agree(user, ("db", f"{METADATA}:80"), lambda: _reads(user, "db", METADATA))
    _agree(user, ("db", METADATA), lambda: _pings(user, "db", METADATA), "NO_EGRESS_RULE")
    _put_in(user, "db", "default")


def test_in_and_out_also_of_a_stopped_guest(lab: Lab, user: NetworkUser) -> None:
    far = str(FAR_ADDRESS)
    found = _said(user, "web", "external:80")
    assert found["verdict"] == "LEAVES_CLOUD"
    _agree(user, ("web", f"{far}:80"), lambda: _reads(user, "web", far))
    user("floating-ip", "create", "front", "--to", "db", "--wait")
    address = user.show("floating-ip", "show", "front")["address"]
    way = ("external", f"{address}:80")
    _agree(user, way, lambda: _read_outside(lab, address), "NO_INGRESS_RULE")
    user("security-group", "rule", "add", "default", "ingress", "tcp", "80", "--wait")
    _agree(user, way, lambda: _read_outside(lab, address))


def test_a_stopped_guest_is_named_behind_whatever_leads_to_it(lab: Lab, user: NetworkUser) -> None:
    address = user.show("floating-ip", "show", "front")["address"]
    way = ("external", f"{address}:80")
    words = ("--subnet", "default", "--listener", "80", "-m", "db", "--wait")
    user("load-balancer", "create", "shop", *words)
    vip = user.show("load-balancer", "show", "shop")["address"]
    _agree(user, ("web", "shop:80"), lambda: _reads(user, "web", vip))
    _agree(user, ("web", "shop:8080"), lambda: False, "NO_LISTENER")
    user.leave("db")
    user("instance", "stop", "db")
    _agree(user, way, lambda: _read_outside(lab, address), "INSTANCE_NOT_RUNNING")
    _agree(user, ("db", "web"), lambda: False, "INSTANCE_NOT_RUNNING")
    _agree(user, ("web", "shop:80"), lambda: _reads(user, "web", vip), "MEMBER_DOWN")
    user("instance", "start", "db")
    user.shell("db")
    _agree(user, way, lambda: _read_outside(lab, address))


def test_a_second_port_answers_by_its_own_way(user: NetworkUser) -> None:
    web = user.addresses("web")[4]
    user("port", "create", "web-back", "--network", "back", "--security-group", "default")
    user("port", "attach", "web-back", "web", "--wait")
    (second,) = user.show("port", "show", "web-back")["fixed_addresses"]
    shell = user.shell("web")
    command = f"ip -o addr | grep -qF ' {second['address']}/'"
    wait_for(lambda: shell.succeeds(command) or None, "the second card has its address", 90)
    _agree(user, ("far", "web:80"), lambda: _reads(user, "far", second["address"]))
    _agree(user, ("far", f"{web}:80"), lambda: _reads(user, "far", web), "ANSWER_BY_OTHER_PORT")
    user("port", "detach", "web-back", "--wait")
    _agree(user, ("far", f"{web}:80"), lambda: _reads(user, "far", web))
    found = _said(user, "far", "port/web-back:80")
    assert found["reason"] == "PORT_NOT_PLUGGED"


def test_an_address_that_a_port_may_take(user: NetworkUser) -> None:
    web = user.addresses("web")[4]
    taken = web.rpartition(".")[0] + ".200"
    _agree(user, ("web", f"{taken}:80"), lambda: _reads(user, "web", taken), "ADDRESS_NOT_USED")
    user("port", "update", _port_of(user, "db"), "--allow", f"{taken}/32", "--wait")
    user.shell("db").run(f"ip addr add {taken}/32 dev eth0")
    _agree(user, ("web", f"{taken}:80"), lambda: _reads(user, "web", taken))
    _agree(user, ("far", f"{taken}:80"), lambda: _reads(user, "far", taken))
    _agree(user, ("web", "far:80", "--from", taken), lambda: False, "ANTI_SPOOFING")


def test_counters_say_how_far_guests_packets_come(user: NetworkUser, shows: Shows) -> None:
    db, shell = user.addresses("db")[4], user.shell("web")
    shell.begin(f"ping -i 0.2 -c 900 -q {db}")
    counted = _counted(user, "web", "db")
    assert len(counted) >= 2, counted
    assert min(counted.values()) >= 10, counted
    assert max(counted.values()) <= 2 * min(counted.values()), counted
    _put_in(user, "db", "shut")
    stopped = wait_for(lambda: _dropped(user, "web", "db"), "drops are counted", AGREE_S)
    shell.run("killall ping")
    _put_in(user, "db", "default")
    shows(
        "networks 7 confirm",
        f"web pings db 5 times a second: {counted}; once db lets nothing in: {stopped} dropped",
    )


def test_a_dead_host_is_named(lab: Lab, user: NetworkUser) -> None:
    db = user.addresses("db")[4]
    user.leave("db")
    lab.stop_host("h2")
    _agree(user, ("web", "db"), lambda: _pings(user, "web", db), "HOST_SILENT")
    assert "host h2" in _said(user, "web", "db:80")["summary"]


def _agree(
    user: NetworkUser, words: tuple[str, ...], sees: Callable[[], bool], reason: str = ""
) -> str:
    """Wait until what is said of a way, and what a guest sees of it, are both as they shall be."""
    last: dict[str, Any] = {}

    def holds() -> bool:
        last.update(_said(user, *words), sees=sees())
        says = last["verdict"] != "UNREACHABLE"
        return (last["reason"], says, last["sees"]) == (reason, not reason, not reason)

    try:
        wait_for(holds, " ".join(words), AGREE_S)
    except pytest.fail.Exception as failed:
        raise AssertionError(f"{words}: {last}") from failed
    return f"{' to '.join(words)}: {reason or last['verdict']}"


def _said(user: NetworkUser, *words: str) -> Any:
    done = user.ask("network", "why", *words, "-o", "json")
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


def _counted(user: NetworkUser, *words: str) -> dict[str, int]:
    """Return what the path has counted on the way there, by what counted."""
    hops = _said(user, *words, "--confirm")["hops"]
    return {
        hop["message"]: hop["packet_count"]
        for hop in hops
        if hop["packet_count"] is not None and not hop["answer"]
    }


def _dropped(user: NetworkUser, *words: str) -> int | None:
    """Return how many packets ended where the way does, if some did."""
    last = _said(user, *words, "--confirm")["hops"][-1]
    return (last["dropped"] and last["packet_count"]) or None


def _pings(user: NetworkUser, name: str, address: str) -> bool:
    return user.shell(name).succeeds(f"ping -c 2 -W 3 {address}")


def _reads(user: NetworkUser, name: str, target: str) -> bool:
    """Tell whether a guest reads a page of another one, or at an address."""
    address = target if "." in target else user.addresses(target)[4]
    return user.shell(name).succeeds(f"timeout 5 wget -q -O /dev/null http://{address}/")


def _read_outside(lab: Lab, address: str) -> bool:
    argv = ["timeout", "5", "busybox", "wget", "-q", "-O", "/dev/null", f"http://{address}/"]
    return outside(lab, *argv).returncode == 0


def _port_of(user: NetworkUser, name: str) -> str:
    return str(user.show("instance", "show", name)["interfaces"][0]["port_id"])


def _put_in(user: NetworkUser, name: str, group: str) -> None:
    user("port", "update", _port_of(user, name), "--security-group", group, "--wait")
