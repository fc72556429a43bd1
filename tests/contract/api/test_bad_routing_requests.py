"""Malformed requests about routers, floating addresses and load balancers.

Each is refused with its exact words, and changes nothing. The words stand in
`tests/golden/bad_input/routing.json`, as `test_bad_input` has them.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.contract.api.test_bad_input import (
    METHODS,
    Fields,
    Golden,
    World,
    call,
    message,
    words,
)
from tests.contract.api.test_bad_network_requests import (
    changed_port,
    mask,
    network,
    port,
    subnet,
    vlan,
)
from tests.support.any_call import send
from tests.support.served_api import ServedApi

NO_ID = {kind: f"{kind}-" + "0" * 26 for kind in ("net", "sub", "prt", "rtr", "fip", "lbr", "prj")}
LARGEST = (1 << 31) - 1


def router(**changes: object) -> tuple[str, Fields]:
    return "RouterService.CreateRouter", {"router": {"name": "r9", **changes}}


def gateway(network_id: str = "{outside}", **changes: object) -> tuple[str, Fields]:
    return router(gateway={"network_id": network_id, **changes})


def changed_router(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{router}", **changes}
    return "RouterService.UpdateRouter", {"router": fields, "update_mask": mask(*paths)}


def routes(*pairs: tuple[str, str]) -> tuple[str, Fields]:
    said = [{"destination": destination, "next_hop": hop} for destination, hop in pairs]
    return changed_router("routes", routes=said)


def joined(subnet_id: str = "{other subnet}", **changes: object) -> tuple[str, Fields]:
    fields = {"router_id": "{router}", "interface": {"subnet_id": subnet_id, **changes}}
    return "RouterService.AddRouterInterface", fields


def left(subnet_id: str, **changes: object) -> tuple[str, Fields]:
    fields = {"router_id": "{router}", "subnet_id": subnet_id, **changes}
    return "RouterService.RemoveRouterInterface", fields


def floating(**changes: object) -> tuple[str, Fields]:
    return "FloatingIpService.CreateFloatingIp", {"floating_ip": changes}


def moved(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{floating}", **changes}
    return "FloatingIpService.UpdateFloatingIp", {
        "floating_ip": fields,
        "update_mask": mask(*paths),
    }


def balancer(**changes: object) -> tuple[str, Fields]:
    fields = {"name": "lb9", "subnet_id": "{subnet}", **changes}
    return "LoadBalancerService.CreateLoadBalancer", {"load_balancer": fields}


def listening(*listeners: Fields) -> tuple[str, Fields]:
    return balancer(listeners=list(listeners))


def listener(port_number: int = 80, **changes: object) -> Fields:
    return {"protocol": "PROTOCOL_TCP", "port_number": port_number, **changes}


def member(port_id: str = "{port}", **changes: object) -> tuple[str, Fields]:
    return listening(listener(members=[{"port_id": port_id, **changes}]))


def checked(**figures: int) -> tuple[str, Fields]:
    return listening(listener(health_check=figures))


def changed_balancer(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{balancer}", **changes}
    return (
        "LoadBalancerService.UpdateLoadBalancer",
        {"load_balancer": fields, "update_mask": mask(*paths)},
    )


CASES: dict[str, tuple[str, Fields]] = {
    # Routers.
    "router: nothing": ("RouterService.CreateRouter", {}),
    "router: no name": router(name=""),
    "router: capital": router(name="Edge"),
    "router: an id for a name": router(name="{router}"),
    "router: name taken": router(name="edge"),
    "router: label": router(labels={"": "x"}),
    "router: in no project": (
        "RouterService.CreateRouter",
        {
            "router": {"name": "r9"},
            "project_id": NO_ID["prj"],
        },
    ),
    "router: request id of spaces": (
        "RouterService.CreateRouter",
        {
            "router": {"name": "r9"},
            "request_id": "a b",
        },
    ),
    "router: all wrong at once": router(
        name="",
        labels={"": ""},
        gateway={"network_id": "x", "addresses": ["y"]},
        routes=[{"destination": "z", "next_hop": "z"}],
    ),
    "gateway: empty": router(gateway={}),
    "gateway: a name": gateway("public"),
    "gateway: unknown": gateway(NO_ID["net"]),
    "gateway: not external": gateway("{network}"),
    "gateway: no address": gateway(addresses=["x"]),
    "gateway: empty address": gateway(addresses=[""]),
    "gateway: IPv4 in IPv6": gateway(addresses=["::ffff:203.0.113.9"]),
    "gateway: twice the same": gateway(addresses=["203.0.113.9", "203.0.113.9"]),
    "gateway: nine addresses": gateway(addresses=[f"203.0.113.{n}" for n in range(101, 110)]),
    "gateway: address elsewhere": gateway(addresses=["198.51.100.9"]),
    "gateway: broadcast": gateway(addresses=["203.0.113.255"]),
    "gateway: the gateway's address": gateway(addresses=["203.0.113.1"]),
    "gateway: address in use": gateway(addresses=["203.0.113.7"]),
    "gateway: of floating addresses": changed_router("gateway"),
    "routes: 65": routes(*((f"10.{n}.0.0/16", "10.0.0.9") for n in range(65))),
    "routes: host bits": routes(("10.9.0.1/16", "10.0.0.9")),
    "routes: no destination": routes(("", "10.0.0.9")),
    "routes: no next hop": routes(("10.9.0.0/16", "")),
    "routes: two versions": routes(("fd00::/64", "10.0.0.9")),
    "routes: twice the same": routes(("10.9.0.0/16", "10.0.0.9"), ("10.9.0.0/16", "10.0.0.9")),
    "routes: out of reach": routes(("10.9.0.0/16", "172.16.0.9")),
    "routes: to itself": routes(("10.9.0.0/16", "10.0.0.1")),
    "router: change of nothing": changed_router(),
    "router: change of what cannot": changed_router("interfaces"),
    "router: change of a stale one": changed_router("name", name="x", etag="x"),
    "router: change of no id": changed_router("name", id="edge", name="x"),
    "router: change of none": changed_router("name", id=NO_ID["rtr"], name="x"),
    "router: get no id": ("RouterService.GetRouter", {}),
    "router: get none": ("RouterService.GetRouter", {"router_id": NO_ID["rtr"]}),
    "router: list of no project": ("RouterService.ListRouters", {"project_id": "x"}),
    "router: list by a long name": ("RouterService.ListRouters", {"name": "x" * 65}),
    "router: list of -1": ("RouterService.ListRouters", {"page_size": -1}),
    "router: list by another's token": ("RouterService.ListRouters", {"page_token": "{token}"}),
    "router: delete none": ("RouterService.DeleteRouter", {"router_id": NO_ID["rtr"]}),
    "router: delete a stale one": (
        "RouterService.DeleteRouter",
        {"router_id": "{router}", "etag": "x"},
    ),
    "router: delete in use": ("RouterService.DeleteRouter", {"router_id": "{router}"}),
    "interface: nothing": ("RouterService.AddRouterInterface", {}),
    "interface: no subnet": joined(""),
    "interface: unknown subnet": joined(NO_ID["sub"]),
    "interface: no address": joined(address="x"),
    "interface: address elsewhere": joined(address="10.0.0.9"),
    "interface: no gateway": joined("{closed}"),
    "interface: twice": joined("{subnet}"),
    "interface: overlap": joined("{twin}"),
    "interface: of no router": (
        "RouterService.AddRouterInterface",
        {"router_id": NO_ID["rtr"], "interface": {"subnet_id": "{other subnet}"}},
    ),
    "interface: remove nothing": ("RouterService.RemoveRouterInterface", {}),
    "interface: remove where it is not": left("{other subnet}"),
    "interface: remove a stale one": left("{subnet}", etag="x"),
    "interface: remove in use": left("{subnet}"),
    # Floating addresses.
    "floating: capital": floating(name="Web"),
    "floating: name taken": floating(name="way"),
    "floating: label": floating(labels={"": "x"}),
    "floating: network by name": floating(network_id="public"),
    "floating: network unknown": floating(network_id=NO_ID["net"]),
    "floating: network not external": floating(network_id="{network}"),
    "floating: no address": floating(address="x"),
    "floating: IPv6": floating(address="2001:db8::9"),
    "floating: address elsewhere": floating(address="10.0.0.9"),
    "floating: the gateway's address": floating(address="203.0.113.1"),
    "floating: address in use": floating(address="203.0.113.7"),
    "floating: port by name": floating(port_id="eth0"),
    "floating: port unknown": floating(port_id=NO_ID["prt"]),
    "floating: port of a router": floating(port_id="{router port}"),
    "floating: port without a way": floating(port_id="{far port}"),
    "floating: port has one": floating(port_id="{port}"),
    "floating: fixed address of none": floating(fixed_address="10.0.0.7"),
    "floating: fixed address of another": floating(
        port_id="{other port}", fixed_address="10.0.0.7"
    ),
    "floating: all wrong at once": floating(
        name="W", labels={"": ""}, network_id="x", address="x", port_id="x", fixed_address="x"
    ),
    "floating: change of nothing": moved(),
    "floating: change of what cannot": moved("address", address="203.0.113.9"),
    "floating: change of a stale one": moved("name", name="x", etag="x"),
    "floating: change of no id": moved("name", id="way", name="x"),
    "floating: change of none": moved("name", id=NO_ID["fip"], name="x"),
    "floating: moved to no port": moved("port_id", port_id=NO_ID["prt"]),
    "floating: moved to no address": moved("fixed_address", fixed_address="10.0.0.9"),
    "floating: address of nothing": moved("port_id", "fixed_address", fixed_address="10.0.0.7"),
    "floating: get no id": ("FloatingIpService.GetFloatingIp", {}),
    "floating: get none": ("FloatingIpService.GetFloatingIp", {"floating_ip_id": NO_ID["fip"]}),
    "floating: list of no ids": (
        "FloatingIpService.ListFloatingIps",
        {"project_id": "x", "port_id": "x", "instance_id": "x", "name": "\0"},
    ),
    "floating: delete none": (
        "FloatingIpService.DeleteFloatingIp",
        {"floating_ip_id": NO_ID["fip"]},
    ),
    "floating: delete a stale one": (
        "FloatingIpService.DeleteFloatingIp",
        {"floating_ip_id": "{floating}", "etag": "x"},
    ),
    # Load balancers.
    "balancer: nothing": ("LoadBalancerService.CreateLoadBalancer", {}),
    "balancer: name taken": balancer(name="lb"),
    "balancer: label": balancer(labels={"": "x"}),
    "balancer: unknown subnet": balancer(subnet_id=NO_ID["sub"]),
    "balancer: no address": balancer(address="x"),
    "balancer: address elsewhere": balancer(address="10.9.9.9"),
    "balancer: the gateway's address": balancer(address="10.0.0.1"),
    "balancer: address in use": balancer(address="10.0.0.7"),
    "listener: no protocol": listening(listener(protocol=0)),
    "listener: protocol 99": listening(listener(protocol=99)),
    "listener: port 0": listening(listener(0)),
    "listener: port -1": listening(listener(-1)),
    "listener: port 65536": listening(listener(65_536)),
    "listener: port largest": listening(listener(LARGEST)),
    "listener: twice": listening(listener(), listener()),
    "listener: 33": listening(*(listener(1000 + number) for number in range(33))),
    "member: no port": member(""),
    "member: port unknown": member(NO_ID["prt"]),
    "member: port of a router": member("{router port}"),
    "member: without an address of its version": member("{six port}"),
    "member: port number -1": member(port_number=-1),
    "member: port number 65536": member(port_number=65_536),
    "member: twice": listening(
        listener(members=[{"port_id": "{port}"}, {"port_id": "{port}", "port_number": 80}])
    ),
    "member: 65": listening(
        listener(members=[{"port_id": "{port}", "port_number": n} for n in range(1, 66)])
    ),
    "check: interval -1": checked(interval_s=-1),
    "check: interval 3601": checked(interval_s=3601),
    "check: timeout 3601": checked(timeout_s=3601),
    "check: failures 11": checked(failure_count=11),
    "check: successes largest": checked(success_count=LARGEST),
    "check: all wrong at once": checked(
        interval_s=-1, timeout_s=-1, failure_count=-1, success_count=-1
    ),
    "balancer: change of nothing": changed_balancer(),
    "balancer: change of what cannot": changed_balancer("address", address="10.0.0.9"),
    "balancer: change of a stale one": changed_balancer("name", name="x", etag="x"),
    "balancer: change of none": changed_balancer("name", id=NO_ID["lbr"], name="x"),
    "balancer: change to a bad listener": changed_balancer("listeners", listeners=[{}]),
    "balancer: get no id": ("LoadBalancerService.GetLoadBalancer", {}),
    "balancer: get none": (
        "LoadBalancerService.GetLoadBalancer",
        {"load_balancer_id": NO_ID["lbr"]},
    ),
    "balancer: list of no ids": (
        "LoadBalancerService.ListLoadBalancers",
        {"project_id": "x", "subnet_id": "x"},
    ),
    "balancer: list of -1": ("LoadBalancerService.ListLoadBalancers", {"page_size": -1}),
    "balancer: delete none": (
        "LoadBalancerService.DeleteLoadBalancer",
        {"load_balancer_id": NO_ID["lbr"]},
    ),
    "balancer: delete a stale one": (
        "LoadBalancerService.DeleteLoadBalancer",
        {"load_balancer_id": "{balancer}", "etag": "x"},
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A served scheduler with a router between a network and outside, and what leads to ports."""
    with (
        ServedApi(tmp_path_factory.mktemp("bad") / "a") as served,
        grpc.insecure_channel(f"unix:{served.socket}") as channel,
    ):
        served.leader.idle = True
        world = World(served, channel, {})
        _make_networks(world)
        names = world.names
        made = call(world, *router(name="edge", gateway={"network_id": "{outside}"})).router
        names["{router}"] = made.id
        made = call(world, *joined("{subnet}")).router
        names["{router port}"] = made.interfaces[0].port_id
        call(world, *changed_port("name", id="{router port}", name="leg"))
        web = {"name": "way", "address": "203.0.113.7", "port_id": "{port}"}
        names["{floating}"] = call(world, *floating(**web)).floating_ip.id
        spread = [listener(members=[{"port_id": "{port}"}])]
        names["{balancer}"] = call(world, *balancer(name="lb", listeners=spread)).load_balancer.id
        yield world


def _make_networks(world: World) -> None:
    names = world.names
    names["{network}"] = call(world, *network(name="blue")).network.id
    names["{subnet}"] = call(world, *subnet(name="s1", cidr="10.0.0.0/24")).subnet.id
    names["{closed}"] = call(
        world, *subnet(name="s2", cidr="10.2.0.0/24", no_gateway=True)
    ).subnet.id
    names["{port}"] = call(
        world, *port(name="eth0", fixed_addresses=[{"address": "10.0.0.7"}])
    ).port.id
    names["{other port}"] = call(
        world, *port(name="eth1", fixed_addresses=[{"address": "10.0.0.8"}])
    ).port.id
    names["{twin network}"] = call(world, *network(name="twin")).network.id
    of_twin = {"network_id": "{twin network}"}
    names["{twin}"] = call(world, *subnet(name="t1", cidr="10.0.0.0/16", **of_twin)).subnet.id
    names["{far network}"] = call(world, *network(name="far")).network.id
    of_far = {"network_id": "{far network}"}
    names["{other subnet}"] = call(
        world, *subnet(name="f1", cidr="10.5.0.0/24", **of_far)
    ).subnet.id
    names["{far port}"] = call(world, *port(name="eth2", **of_far)).port.id
    names["{six network}"] = call(world, *network(name="six")).network.id
    of_six = {"network_id": "{six network}"}
    call(world, *subnet(name="x1", cidr="fd00::/64", **of_six))
    names["{six port}"] = call(world, *port(name="eth3", **of_six)).port.id
    names["{outside}"] = call(world, *vlan(name="public", external=True)).network.id
    of_outside = {"network_id": "{outside}"}
    call(world, *subnet(name="o1", cidr="203.0.113.0/24", **of_outside))
    page = call(world, "NetworkService.ListNetworks", {"page_size": 1})
    names["{token}"] = page.next_page_token


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_request_is_refused_in_its_words_and_changes_nothing(
    world: World, case: str
) -> None:
    method, fields = CASES[case]
    before = world.state()
    request = message(method, world.filled(fields))
    error = send(world.channel, METHODS[method], [request]).error
    assert error is not None, f"{case} was accepted"
    Golden("routing").check(case, words(error, world.names))
    assert world.state() == before


def test_the_table_has_no_word_too_many() -> None:
    assert set(Golden("routing").cases) == set(CASES)
