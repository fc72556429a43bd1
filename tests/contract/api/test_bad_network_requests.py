"""Malformed requests about networks: each is refused with its exact words, and changes nothing.

The words stand in `tests/golden/bad_input/networks.json`, as `test_bad_input` has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import grpc
import pytest

from tests.contract.api.test_bad_input import (
    HUGE,
    METHODS,
    Fields,
    Golden,
    World,
    call,
    message,
    words,
)
from tests.support.any_call import send
from tests.support.served_api import ServedApi

NO_ID = {kind: f"{kind}-" + "0" * 26 for kind in ("net", "sub", "prt", "sgp", "sgr", "ins", "prj")}


def mask(*paths: str) -> str:
    """Write a field mask as JSON has it."""
    return ",".join(re.sub("_(.)", lambda found: found[1].upper(), path) for path in paths)


def network(**changes: object) -> tuple[str, Fields]:
    return "NetworkService.CreateNetwork", {"network": {"name": "green", **changes}}


def vlan(**changes: object) -> tuple[str, Fields]:
    return network(**{"type": "TYPE_VLAN", "physical_network": "public", "vlan_id": 9, **changes})


def changed_network(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{network}", **changes}
    return "NetworkService.UpdateNetwork", {"network": fields, "update_mask": mask(*paths)}


def subnet(**changes: object) -> tuple[str, Fields]:
    fields = {"name": "s9", "network_id": "{network}", "cidr": "10.9.0.0/24", **changes}
    return "SubnetService.CreateSubnet", {"subnet": fields}


def subnet6(**changes: object) -> tuple[str, Fields]:
    return subnet(**{"cidr": "fd00:9::/64", **changes})


def changed_subnet(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{subnet}", **changes}
    return "SubnetService.UpdateSubnet", {"subnet": fields, "update_mask": mask(*paths)}


def run(first: str, last: str) -> Fields:
    return {"first": first, "last": last}


def route(destination: str, next_hop: str = "10.9.0.9") -> Fields:
    return {"destination": destination, "next_hop": next_hop}


def port(**changes: object) -> tuple[str, Fields]:
    return "PortService.CreatePort", {"port": {"network_id": "{network}", **changes}}


def fixed(*wanted: Fields) -> tuple[str, Fields]:
    return port(fixed_addresses=list(wanted))


def pairs(*wanted: Fields) -> tuple[str, Fields]:
    return port(allowed_address_pairs=list(wanted))


def changed_port(*paths: str, **changes: object) -> tuple[str, Fields]:
    fields = {"id": "{port}", **changes}
    return "PortService.UpdatePort", {"port": fields, "update_mask": mask(*paths)}


def group(**changes: object) -> tuple[str, Fields]:
    fields = {"name": "sg9", **changes}
    return "SecurityGroupService.CreateSecurityGroup", {"security_group": fields}


def rule(**changes: object) -> tuple[str, Fields]:
    said = {"direction": "DIRECTION_INGRESS", "protocol": "PROTOCOL_TCP", **changes}
    fields = {"security_group_id": "{security_group}", "rule": said}
    return "SecurityGroupService.AddSecurityGroupRule", fields


def icmp(**changes: object) -> tuple[str, Fields]:
    return rule(protocol="PROTOCOL_ICMP", **changes)


SSH: Fields = {"direction": "DIRECTION_INGRESS", "protocol": "PROTOCOL_TCP", "port_first": 22}
CASES: dict[str, tuple[str, Fields]] = {
    # Networks.
    "network: nothing": ("NetworkService.CreateNetwork", {}),
    "network: no name": network(name=""),
    "network: an id for a name": network(name="{network}"),
    "network: name taken": network(name="blue"),
    "network: label": network(labels={"": "x"}),
    "network: type 99": network(type=99),
    "network: mtu 575": network(mtu=575),
    "network: mtu -1": network(mtu=-1),
    "network: mtu above the tunnels'": network(mtu=1443),
    "network: mtu above the operator's": vlan(mtu=1501),
    "network: domain of capitals": network(dns_domain="Shop.Example"),
    "network: domain with a dot at its end": network(dns_domain="shop."),
    "network: domain of 190": network(dns_domain=("a" * 63 + ".") * 2 + "a" * 62),
    "network: domain of a space": network(dns_domain="a b"),
    "network: overlay on a physical network": network(physical_network="public"),
    "network: overlay with a tag": network(vlan_id=1),
    "network: external overlay": network(external=True),
    "network: flat without its network": network(type="TYPE_FLAT"),
    "network: flat with a tag": network(type="TYPE_FLAT", physical_network="public", vlan_id=1),
    "network: tag 0": vlan(vlan_id=0),
    "network: tag 4095": vlan(vlan_id=4095),
    "network: tag taken": vlan(vlan_id=7),
    "network: unknown physical network": vlan(physical_network="x" * 100),
    "network: all wrong at once": network(
        name="Green", mtu=1, dns_domain="-", vlan_id=5, external=True, physical_network="public"
    ),
    "network: unknown project": (
        "NetworkService.CreateNetwork",
        {"network": {"name": "green"}, "project_id": NO_ID["prj"]},
    ),
    "network: request id of a line": (
        "NetworkService.CreateNetwork",
        {"network": {"name": "green"}, "request_id": "a\n"},
    ),
    "network: change of nothing": changed_network(),
    "network: change of its type": changed_network("type"),
    "network: change of what it has not": changed_network("color"),
    "network: change to a taken name": changed_network("name", name="seven"),
    "network: change to an mtu too large": changed_network("mtu", mtu=9000),
    "network: change by an old etag": changed_network("name", name="x", etag="old"),
    "network: change of none": (
        "NetworkService.UpdateNetwork",
        {"network": {"id": NO_ID["net"], "name": "x"}, "update_mask": "name"},
    ),
    "network: get no id": ("NetworkService.GetNetwork", {}),
    "network: get a subnet": ("NetworkService.GetNetwork", {"network_id": "{subnet}"}),
    "network: get none": ("NetworkService.GetNetwork", {"network_id": NO_ID["net"]}),
    "network: list of no project": ("NetworkService.ListNetworks", {"project_id": "x"}),
    "network: list of pages of -1": ("NetworkService.ListNetworks", {"page_size": -1}),
    "network: list by no token": ("NetworkService.ListNetworks", {"page_token": "1.1"}),
    "network: list by another's token": ("PortService.ListPorts", {"page_token": "{token}"}),
    "network: delete by an old etag": (
        "NetworkService.DeleteNetwork",
        {"network_id": "{network}", "etag": "old"},
    ),
    # Subnets.
    "subnet: nothing": ("SubnetService.CreateSubnet", {}),
    "subnet: name taken": subnet(name="s1"),
    "subnet: network unknown": subnet(network_id=NO_ID["net"]),
    "subnet: cidr of an address": subnet(cidr="10.9.0.5/24"),
    "subnet: cidr of 31 bits": subnet(cidr="10.9.0.0/31"),
    "subnet: cidr of 7 bits": subnet(cidr="10.0.0.0/7"),
    "subnet: cidr of 127 bits": subnet(cidr="fd00::/127"),
    "subnet: cidr of 16 bits of IPv6": subnet(cidr="fd00::/16"),
    "subnet: cidr of a scope": subnet(cidr="fe80::1%eth0/64"),
    "subnet: cidr of link-local": subnet(cidr="169.254.0.0/16"),
    "subnet: cidr of multicast": subnet(cidr="239.0.0.0/24"),
    "subnet: cidr of zeros": subnet(cidr="010.9.0.0/24"),
    "subnet: cidr of a mask": subnet(cidr="10.9.0.0/255.255.255.0"),
    "subnet: overlap": subnet(cidr="10.0.0.128/25"),
    "subnet: gateway outside": subnet(gateway_address="10.8.0.1"),
    "subnet: gateway of broadcast": subnet(gateway_address="10.9.0.255"),
    "subnet: gateway and none": subnet(gateway_address="10.9.0.1", no_gateway=True),
    "subnet: range outside": subnet(allocation_ranges=[run("10.9.0.5", "10.9.1.5")]),
    "subnet: range backwards": subnet(allocation_ranges=[run("10.9.0.9", "10.9.0.5")]),
    "subnet: range of the gateway": subnet(allocation_ranges=[run("10.9.0.1", "10.9.0.5")]),
    "subnet: ranges overlap": subnet(
        allocation_ranges=[run("10.9.0.5", "10.9.0.9"), run("10.9.0.9", "10.9.0.20")]
    ),
    "subnet: 33 ranges": subnet(
        allocation_ranges=[run(f"10.9.0.{n}", f"10.9.0.{n}") for n in range(10, 43)]
    ),
    "subnet: mode of IPv4": subnet(ipv6_mode="IPV6_MODE_SLAAC"),
    "subnet: mode 99": subnet(ipv6_mode=99),
    "subnet: SLAAC in 80 bits": subnet6(cidr="fd00:9::/80", ipv6_mode="IPV6_MODE_SLAAC"),
    "subnet: stateless in 80 bits": subnet6(
        cidr="fd00:9::/80", ipv6_mode="IPV6_MODE_DHCPV6_STATELESS"
    ),
    "subnet: another mode than its neighbour's": subnet6(ipv6_mode="IPV6_MODE_DHCPV6_STATEFUL"),
    "subnet: 9 name servers": subnet(dns_servers=[f"192.0.2.{n}" for n in range(9)]),
    "subnet: name servers of all sorts": subnet(
        dns_servers=["x", "2001:db8::1", "224.0.0.1", "192.0.2.1", "192.0.2.1"]
    ),
    "subnet: name server of IPv4 by IPv6": subnet6(dns_servers=["192.0.2.1"]),
    "subnet: 33 routes": subnet(host_routes=[route(f"192.0.2.{n}") for n in range(33)]),
    "subnet: routes of all sorts": subnet(
        host_routes=[
            route("192.0.2.1/24"),
            route("2001:db8::/32"),
            route("192.0.2.0/24", "10.8.0.1"),
            route("198.51.100.0/24"),
            route("198.51.100.0/24"),
        ]
    ),
    "subnet: routes of IPv6": subnet6(host_routes=[route("2001:db8::/32", "fd00:9::9")]),
    "subnet: all wrong at once": subnet(name="S", network_id="x", cidr="y"),
    "subnet: change of its cidr": changed_subnet("cidr", cidr="10.0.0.0/25"),
    "subnet: change to ranges outside": changed_subnet(
        "allocation_ranges", allocation_ranges=[run("10.0.1.1", "10.0.1.2")]
    ),
    "subnet: change of all wrongly": changed_subnet(
        "allocation_ranges",
        "dns_servers",
        "host_routes",
        allocation_ranges=[run("10.0.0.9", "10.0.0.8")],
        dns_servers=["x"],
        host_routes=[route("x")],
    ),
    "subnet: change by an old etag": changed_subnet("name", name="x", etag="old"),
    "subnet: get none": ("SubnetService.GetSubnet", {"subnet_id": NO_ID["sub"]}),
    "subnet: list of a port": ("SubnetService.ListSubnets", {"network_id": "{port}"}),
    "subnet: delete in use": ("SubnetService.DeleteSubnet", {"subnet_id": "{subnet}"}),
    # Ports.
    "port: nothing": ("PortService.CreatePort", {}),
    "port: name": port(name="Eth0"),
    "port: name taken": port(name="eth0"),
    "port: MAC of 5 bytes": port(mac_address="02:00:00:00:01"),
    "port: MAC of many": port(mac_address="01:00:5e:00:00:01"),
    "port: MAC of zeros": port(mac_address="00:00:00:00:00:00"),
    "port: MAC taken": port(mac_address="02:00:00:00:00:07"),
    "port: address in use": fixed({"address": "10.0.0.7"}),
    "port: address named twice": fixed({"address": "fd00::5"}, {"address": "FD00:0::5"}),
    "port: address of the gateway": fixed({"address": "10.0.0.1"}),
    "port: address of the network": fixed({"address": "10.0.0.0"}),
    "port: address of IPv4 in IPv6": fixed({"address": "::ffff:10.0.0.9"}),
    "port: address not of its MAC": port(
        mac_address="02:00:00:00:00:09", fixed_addresses=[{"address": "fd00::9"}]
    ),
    "port: addresses elsewhere": fixed({"address": "10.8.0.1"}, {"subnet_id": NO_ID["sub"]}),
    "port: address and another subnet": fixed({"subnet_id": "{six}", "address": "10.0.0.9"}),
    "port: 17 addresses": fixed(*[{"address": f"10.0.0.{n}"} for n in range(20, 37)]),
    "port: groups twice": port(security_group_ids=["{security_group}", "{security_group}"]),
    "port: 17 groups": port(security_group_ids=["{security_group}"] * 17),
    "port: group unknown": port(security_group_ids=[NO_ID["sgp"]]),
    "port: group of no id": port(security_group_ids=["default", "{port}"]),
    "port: groups and none": port(security_group_ids=["{security_group}"], no_security_groups=True),
    "port: pairs of all sorts": pairs(
        {"cidr": ""}, {"cidr": "10.0.0.1/8"}, {"cidr": "10.0.0.0/8", "mac_address": "x"}
    ),
    "port: pair twice": pairs({"cidr": "10.0.0.5"}, {"cidr": "10.0.0.5/32"}),
    "port: 17 pairs": pairs(*[{"cidr": f"10.0.0.{n}"} for n in range(17)]),
    "port: limits below 0": port(qos={"egress_bits_per_s": -1, "ingress_bits_per_s": HUGE}),
    "port: burst without a limit": port(qos={"ingress_burst_bits": 1}),
    "port: all wrong at once": port(
        network_id="x", name="X", mac_address="y", fixed_addresses=[{"address": "z"}]
    ),
    "port: change of its MAC": changed_port("mac_address", mac_address="02:00:00:00:00:08"),
    "port: change to a name of nothing": changed_port("name"),
    "port: change to an address in use": changed_port(
        "fixed_addresses", fixed_addresses=[{"address": "10.0.0.8"}]
    ),
    "port: change by an old etag": changed_port("name", name="x", etag="old"),
    "port: get none": ("PortService.GetPort", {"port_id": NO_ID["prt"]}),
    "port: list of all wrong": ("PortService.ListPorts", {"security_group_id": "{network}"}),
    "port: attach to nothing": ("PortService.AttachPort", {}),
    "port: attach to an unknown instance": (
        "PortService.AttachPort",
        {"port_id": "{port}", "instance_id": NO_ID["ins"]},
    ),
    "port: attach no port": (
        "PortService.AttachPort",
        {"port_id": "eth0", "instance_id": "{instance}"},
    ),
    "port: detach": ("PortService.DetachPort", {"port_id": "{port}"}),
    # Security groups.
    "group: nothing": ("SecurityGroupService.CreateSecurityGroup", {}),
    "group: default": group(name="default"),
    "group: name taken": group(name="web"),
    "group: description of 256": group(description="x" * 256),
    "group: the same rule twice": group(rules=[SSH, {**SSH, "port_last": 22}]),
    "group: 257 rules": group(rules=[{**SSH, "port_first": n} for n in range(1, 258)]),
    "group: rules of all sorts": group(
        name="Web",
        rules=[
            {},
            {**SSH, "port_first": 65_536},
            {**SSH, "remote_cidr": "10.0.0.1/8"},
            {**SSH, "protocol": "PROTOCOL_UNSPECIFIED"},
        ],
    ),
    "rule: direction 99": rule(direction=99),
    "rule: version 5": rule(ip_version=5),
    "rule: version of another's": rule(ip_version="IP_VERSION_6", remote_cidr="10.0.0.0/8"),
    "rule: protocol 99": rule(protocol=99),
    "rule: port -1": rule(port_first=-1),
    "rule: last before first": rule(port_first=80, port_last=79),
    "rule: last alone": rule(port_last=80),
    "rule: ports of ICMP": icmp(port_first=80),
    "rule: type of TCP": rule(icmp_type=8),
    "rule: type 256": icmp(icmp_type=256),
    "rule: code without a type": icmp(icmp_code=0),
    "rule: two remotes": rule(remote_cidr="10.0.0.0/8", remote_group_id="{security_group}"),
    "rule: remote of no id": rule(remote_group_id="web"),
    "rule: remote unknown": rule(remote_group_id=NO_ID["sgp"]),
    "rule: description of a NUL": rule(description="a\0"),
    "rule: said already": rule(port_first=22),
    "rule: of no group": (
        "SecurityGroupService.AddSecurityGroupRule",
        {"security_group_id": NO_ID["sgp"], "rule": SSH},
    ),
    "rule: remove no id": ("SecurityGroupService.RemoveSecurityGroupRule", {}),
    "rule: remove none": (
        "SecurityGroupService.RemoveSecurityGroupRule",
        {"rule_id": NO_ID["sgr"]},
    ),
    "group: change of nothing": (
        "SecurityGroupService.UpdateSecurityGroup",
        {"security_group": {"id": "{security_group}"}},
    ),
    "group: get none": (
        "SecurityGroupService.GetSecurityGroup",
        {"security_group_id": NO_ID["sgp"]},
    ),
    "group: delete in use": (
        "SecurityGroupService.DeleteSecurityGroup",
        {"security_group_id": "{security_group}"},
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A served scheduler with a network, its subnets, two ports and a group in use."""
    with (
        ServedApi(tmp_path_factory.mktemp("bad") / "a") as served,
        grpc.insecure_channel(f"unix:{served.socket}") as channel,
    ):
        served.leader.idle = True
        created = served.do(served.api.create("web"))
        world = World(served, channel, {"{instance}": created.instance.id})
        names = world.names
        names["{network}"] = call(world, *network(name="blue")).network.id
        call(world, *vlan(name="seven", vlan_id=7))
        page = call(world, "NetworkService.ListNetworks", {"page_size": 1})
        names["{token}"] = page.next_page_token
        names["{subnet}"] = call(world, *subnet(name="s1", cidr="10.0.0.0/24")).subnet.id
        names["{six}"] = call(world, *subnet6(name="s6", cidr="fd00::/64")).subnet.id
        made = call(world, *group(name="web", rules=[SSH])).security_group
        names["{security_group}"], names["{rule}"] = made.id, made.rules[0].id
        member = {"security_group_ids": ["{security_group}"], "name": "eth0"}
        taken = {"mac_address": "02:00:00:00:00:07", "fixed_addresses": [{"address": "10.0.0.7"}]}
        names["{port}"] = call(world, *port(**member, **taken)).port.id
        other = call(world, *port(name="eth1", fixed_addresses=[{"address": "10.0.0.8"}]))
        names["{other port}"] = other.port.id
        yield world


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_request_is_refused_in_its_words_and_changes_nothing(
    world: World, case: str
) -> None:
    method, fields = CASES[case]
    before = world.state()
    request = message(method, world.filled(fields))
    error = send(world.channel, METHODS[method], [request]).error
    assert error is not None, f"{case} was accepted"
    Golden("networks").check(case, words(error, world.names))
    assert world.state() == before


def test_the_table_has_no_word_too_many() -> None:
    assert set(Golden("networks").cases) == set(CASES)
