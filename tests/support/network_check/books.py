"""Checks of the store's rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address, ip_network

from tests.support.findings import Finding
from tests.support.network_check.findings import Kind
from tests.support.network_check.sight import Cloud, address_of, resources_of


def check_addresses(cloud: Cloud) -> Iterator[Finding]:
    for row in cloud.sight.tables["addresses"]:
        subnet, port = cloud.subnets.get(row["subnet_id"]), cloud.ports.get(row["port_id"])
        address = address_of(row["address"])
        if subnet is None or port is None:
            yield Finding(Kind.ROW_DANGLING, address, "an address of no subnet or port")
            continue
        said = {row["network_id"], subnet["network_id"], port["network_id"]}
        if len(said) > 1 or ip_address(address) not in ip_network(subnet["cidr"]):
            yield Finding(Kind.ADDRESS_ASTRAY, port["id"], f"{address} of {subnet['cidr']}")
    for table, columns in (("addresses", "address"), ("ports", "mac_address")):
        given = Counter((r["network_id"], r[columns]) for r in cloud.sight.tables[table])
        for (network_id, value), times in given.items():
            if times > 1:
                yield Finding(Kind.GIVEN_TWICE, network_id, f"{value} {times} times")


def check_owners(cloud: Cloud) -> Iterator[Finding]:
    places = {row["port_id"] for row in cloud.sight.tables["router_interfaces"]}
    ways_out = {row["gateway_port_id"] for row in cloud.routers.values()}
    holders = {row["holder_port_id"] for row in cloud.floating.values()}
    balanced = {row["port_id"] for row in cloud.balancers.values()}
    holding = {
        "ROUTER": places,
        "GATEWAY": ways_out,
        "FLOATING_IP": holders,
        "LOAD_BALANCER": balanced,
    }
    owners: Mapping[str, Collection[str]] = {
        "INSTANCE": cloud.instances,
        "ROUTER": cloud.routers,
        "GATEWAY": cloud.routers,
        "FLOATING_IP": cloud.floating,
        "LOAD_BALANCER": {*cloud.balancers, *cloud.subnets},
    }
    for ident, port in cloud.ports.items():
        kind, owner = port["owner_kind"], port["owner_id"]
        if kind and owner not in owners[kind]:
            yield Finding(Kind.ROW_DANGLING, ident, f"port of {kind} {owner}")
        elif kind in holding and ident not in holding[kind] and owner not in cloud.subnets:
            yield Finding(Kind.ROW_DANGLING, ident, f"{kind} {owner} has it no more")
        if kind and not cloud.fixed[ident] and kind != "INSTANCE":
            yield Finding(Kind.ROW_DANGLING, ident, f"port of {kind} without an address")


def check_work(cloud: Cloud) -> Iterator[Finding]:
    for row in cloud.sight.tables["ovn_work"]:
        key = f"{row['kind']}:{row['id']}"
        yield Finding(Kind.WORK_LEFT, key, f"attempt {row['attempt']}, {row['reason']}")
    for row in cloud.sight.tables["ovn_tombstones"]:
        if row["id"] in resources_of(cloud, row["kind"]):
            yield Finding(Kind.TOMBSTONE_AT_ODDS, f"{row['kind']}:{row['id']}")
