"""The topology as a tree: what is below what, each network once."""

from __future__ import annotations

import json
from typing import Any

from tests.support.command_line import unkai
from tests.support.fake_networks import FakeNetworks
from unkai.network.v1 import network_pb2, router_pb2, subnet_pb2
from unkai_cli.commands.topologies import drawn
from unkai_cli.records import record


def a_network(name: str, *subnets: str, **fields: Any) -> dict[str, Any]:
    """Return a gathered network."""
    row = record(network_pb2.Network(id=f"net-{name}", name=name, **fields))
    row["subnets"] = [
        record(subnet_pb2.Subnet(id=f"sub-{each}", name=each, network_id=row["id"], cidr="c"))
        for each in subnets
    ]
    return row | {"ports": [], "free_addresses": []}


def a_router(name: str, *subnets: str, gateway: str = "") -> dict[str, Any]:
    """Return a gathered router."""
    places = [router_pb2.Router.Interface(subnet_id=f"sub-{each}") for each in subnets]
    out = router_pb2.Router.Gateway(network_id=f"net-{gateway}") if gateway else None
    return record(router_pb2.Router(name=name, interfaces=places, gateway=out))


def test_a_network_of_two_routers_is_drawn_whole_once() -> None:
    found = {
        "networks": [a_network("back", "back"), a_network("front", "front")],
        "routers": [a_router("one", "back"), a_router("two", "front", "back")],
    }
    lines = "\n".join(drawn(found))
    assert lines.count("subnet back") == 1
    assert lines.count("network back") == 2
    assert "network back  see above" in lines


def test_what_has_a_way_out_is_below_the_network_outside() -> None:
    outside = a_network("outside", external=True)
    found = {
        "networks": [outside, a_network("back", "back"), a_network("alone")],
        "routers": [a_router("edge", "back", gateway="outside"), a_router("inner")],
    }
    tops = [line.split("  ")[0] for line in drawn(found) if line and line[0] not in "├└│ "]
    assert tops == ["network outside", "router inner", "network alone"]


def test_a_subnet_of_another_project_is_named_by_its_id() -> None:
    found = {"networks": [], "routers": [a_router("edge", "theirs")]}
    assert "network sub-theirs  of another project" in "\n".join(drawn(found))


def test_what_ovn_has_not_followed_says_so() -> None:
    found = {"networks": [a_network("back", reconciling=True)], "routers": []}
    assert drawn(found)[0].endswith("(OVN follows)")


def test_a_project_without_networks_says_how_to_make_one() -> None:
    assert "'unkai network create" in drawn({"networks": [], "routers": []})[0]


def test_the_data_has_no_ports_when_none_are_wanted(networks: FakeNetworks) -> None:
    back = networks.add("network", name="back")
    networks.add("port", name="front", network_id=back.id)
    assert "port front" in unkai("network", "topology").out
    assert "port front" not in unkai("network", "topology", "--no-ports").out
    found = json.loads(unkai("network", "topology", "-o", "json").out)
    assert [port["name"] for port in found["networks"][0]["ports"]] == ["front"]
    assert unkai("network", "topology", "-o", "name").out == "back\n"
